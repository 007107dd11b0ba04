"""Settings: one frozen value, read once from the environment; names that nobody knows are refused."""

import os
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from coreset_backend.errors import ConfigError

PREFIX = "CORESET_"
SECRETS = ("label_studio_api_key", "redis_password", "basic_auth_pass", "webhook_secret")


def _environment(*names: str) -> AliasChoices:
    return AliasChoices(*names)


class Settings(BaseSettings):
    """What the environment says; every field's description is its line in the README's table.

    A secret can also be given as ``<NAME>_FILE``, the path of a file that holds it.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, populate_by_name=True, extra="forbid", env_ignore_empty=True
    )

    label_studio_url: str | None = Field(
        None,
        validation_alias=_environment("LABEL_STUDIO_URL", "LABEL_STUDIO_HOST"),
        description="Address of Label Studio as this process reaches it, with any sub-path",
    )
    label_studio_api_key: SecretStr | None = Field(
        None,
        validation_alias=_environment("LABEL_STUDIO_API_KEY", "LABEL_STUDIO_ACCESS_TOKEN"),
        description="Legacy token or personal access token of a user who may edit the project",
    )
    verify_ssl: bool = Field(
        True, validation_alias=_environment("VERIFY_SSL"), description="Check TLS certificates"
    )
    redis_url: str | None = Field(
        None,
        validation_alias=_environment("REDIS_URL"),
        description="Redis to use; unset: `run` starts a private one",
    )
    redis_password: SecretStr | None = Field(
        None,
        validation_alias=_environment("REDIS_PASSWORD"),
        description="Password of that Redis, where REDIS_URL holds none",
    )
    queue_name: str = Field(
        "coreset", validation_alias=_environment("RQ_QUEUE_NAME"), description="Name of the RQ queue"
    )
    model_dir: Path = Field(
        Path("data"),
        validation_alias=_environment("MODEL_DIR"),
        description="Folder for rounds, the image cache and secrets; shared by web and worker",
    )
    basic_auth_user: str | None = Field(
        None,
        validation_alias=_environment("BASIC_AUTH_USER"),
        description="User name asked of Label Studio and of people",
    )
    basic_auth_pass: SecretStr | None = Field(
        None, validation_alias=_environment("BASIC_AUTH_PASS"), description="Password for it"
    )
    require_auth: bool = Field(
        True,
        description="Refuse to serve others than this machine without BASIC_AUTH_USER and BASIC_AUTH_PASS",
    )
    trusted_proxies: int = Field(
        0, ge=0, le=10, description="Reverse proxies in front whose X-Forwarded-* headers are believed"
    )
    local_files_document_root: Path | None = Field(
        None,
        validation_alias=_environment("LOCAL_FILES_DOCUMENT_ROOT"),
        description="Label Studio's local files, where this process can read them itself",
    )
    host: str = Field("127.0.0.1", validation_alias=_environment("HOST"), description="Address to serve on")
    port: int = Field(
        9090, ge=1, le=65535, validation_alias=_environment("PORT"), description="Port to serve on"
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", validation_alias=_environment("LOG_LEVEL"), description="Least severe message logged"
    )
    log_format: Literal["text", "json"] = Field(
        "text", description="`json`: an object a line, with the project and round it is about"
    )
    url: str = Field(
        default_factory=lambda known: f"http://localhost:{known.get('port', 9090)}",
        description="Address of this backend as Label Studio reaches it; unset: this machine's, on PORT",
    )
    label_studio_browser_url: str | None = Field(
        None,
        description="Address of Label Studio in a person's browser, for links; unset: LABEL_STUDIO_URL",
    )
    webhook_secret: SecretStr | None = Field(
        None, description="Secret on annotation webhooks; unset: made once and kept in MODEL_DIR"
    )
    batch_size: int = Field(50, ge=1, description="Tasks in a batch")
    strategy: str = Field(
        "uncertainty_herding", description="How the batch is chosen: a name, or `package.module:function`"
    )
    backbone: str = Field(
        "auto",
        description="Network: `auto` takes a pretrained one if its weights are at hand, else learns one "
        "on the pool; `small_cnn`: from labels only",
    )
    weights: Path | None = Field(None, description="File of pretrained weights for the backbone")
    image_size: int | None = Field(
        None, ge=16, le=1024, description="Side of the images in pixels; unset: what the backbone expects"
    )
    device: str = Field("auto", description="`auto`, `cpu` or `cuda`")
    seed: int = Field(0, ge=0, description="Seed of everything random")
    holdout: float = Field(
        0.2, ge=0, le=0.5, description="Share of each class's labels kept from training to measure accuracy"
    )
    random_slice: float = Field(
        0.0, ge=0, le=0.5, description="Share of each batch drawn at random, to measure the model on the pool"
    )
    group_duplicates: bool = Field(
        True,
        description="Of near-duplicate images at most one in a batch, and none once one of them is labelled",
    )
    outlier_share: float = Field(
        1.0,
        ge=0,
        le=1,
        description="Share of a batch that may come from the 5 % of the pool farthest from the rest; 1: any",
    )
    trigger: Literal["auto", "manual"] = Field(
        "auto", description="`auto`: rounds start by themselves; `manual`: only on Start Training"
    )
    batch_done: float = Field(
        1.0, gt=0, le=1, description="Share of the batch that must be labelled before the next round starts"
    )
    new_labels: int | None = Field(
        None,
        ge=1,
        validation_alias=_environment("CORESET_NEW_LABELS", "START_TRAINING_EACH_N_UPDATES"),
        description="Labels since the last round that start one, batch done or not; unset: the batch size",
    )
    preannotate: Literal["auto", "on", "off"] = Field(
        "auto",
        description="Show the model's answer on the tasks of a batch: `auto` where it is at least 90 % sure "
        "and was right on 80 % of the hold-out",
    )
    debounce_seconds: float = Field(
        3.0, ge=0, description="Wait after an event, so that a burst makes one job"
    )
    poll_seconds: float = Field(
        60.0, ge=1, description="How often the worker looks for what a lost webhook missed"
    )
    job_timeout: int = Field(6 * 3600, ge=60, description="Seconds after which a round is given up")
    override_version: bool = Field(
        True, description="Replace a prediction version that somebody chose in the project's settings"
    )
    keep_rounds: int = Field(5, ge=2, description="Rounds kept for each project")
    cache_gb: float = Field(20.0, gt=0, description="Size of the image cache in GB")
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Private hosts or networks that images may come from, separated by commas"
    )

    @field_validator("label_studio_url", "label_studio_browser_url", "url")
    @classmethod
    def _http_address(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("http://", "https://")):
            raise ValueError(f"'{value}' is no address; write it with its scheme, as in http://{value}")
        return value.rstrip("/") if value else value

    @field_validator("allowed_hosts", mode="before")
    @classmethod
    def _separated_by_commas(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(host.strip() for host in value.split(",") if host.strip())
        return value

    @model_validator(mode="after")
    def _both_or_neither(self) -> Self:
        if (self.basic_auth_user is None) != (self.basic_auth_pass is None):
            raise ValueError("set both BASIC_AUTH_USER and BASIC_AUTH_PASS, or neither")
        if ":" in (self.basic_auth_user or ""):
            raise ValueError("BASIC_AUTH_USER holds a colon, which HTTP lets no user name have")
        return self

    @property
    def reserve_size(self) -> int:
        """Tasks published behind the batch, so that a batch locked by others never leaves anyone idle."""
        return max(self.batch_size, 20)

    @property
    def labels_for_a_round(self) -> int:
        """New labels that start a round even while the batch is not done."""
        return self.new_labels or self.batch_size


def environment_names() -> dict[str, tuple[str, ...]]:
    """Field -> the environment variables that set it, preferred name first."""
    names = {}
    for field, info in Settings.model_fields.items():
        alias = info.validation_alias
        choices = alias.choices if isinstance(alias, AliasChoices) else [PREFIX + field.upper()]
        names[field] = tuple(str(choice) for choice in choices)
    return names


def read_settings(**given: Any) -> Settings:
    """The settings of this process's environment, with ``given`` on top.

    Raises ConfigError naming each variable that is unknown or malformed, what came and what is known.
    """
    names = environment_names()
    _refuse_unknown({name for group in names.values() for name in group})
    try:
        return Settings(**{**_secrets_from_files(), **given})
    except ValidationError as error:
        raise ConfigError("\n".join(_complaint(item, names) for item in error.errors())) from None


def _refuse_unknown(known: set[str]) -> None:
    known_or_file = known | {f"{name}_FILE" for name in known}
    unknown = sorted(name for name in os.environ if name.startswith(PREFIX) and name not in known_or_file)
    if unknown:
        ours = ", ".join(sorted(name for name in known if name.startswith(PREFIX)))
        raise ConfigError(f"Unknown settings: {', '.join(unknown)}. Known are: {ours}.")


def secret_files() -> dict[str, Path]:
    """The files that this process's environment names as those of secrets, by the variable's name."""
    names = environment_names()
    asked = [f"{name}_FILE" for field in SECRETS for name in names[field]]
    return {name: Path(os.environ[name]) for name in asked if os.environ.get(name)}


def _secrets_from_files() -> dict[str, str]:
    names = environment_names()
    field_of = {f"{name}_FILE": field for field in SECRETS for name in names[field]}
    return {field_of[name]: _read_secret(name, path) for name, path in secret_files().items()}


def _read_secret(name: str, path: Path) -> str:
    try:
        secret = path.read_text().strip()
    except OSError as error:
        raise ConfigError(f"{name} names {path}, which cannot be read: {error.strerror}.") from None
    if not secret:
        raise ConfigError(f"{name} names {path}, which is empty.")
    return secret


def _complaint(item: Any, names: dict[str, tuple[str, ...]]) -> str:
    field = str(item["loc"][0]) if item["loc"] else ""
    name = names.get(field, (field,))[0]
    came = "" if field in SECRETS or not field else f" (it is {str(item['input'])[:80]!r})"
    return f"{name or 'Settings'}: {item['msg'].removeprefix('Value error, ')}{came}"
