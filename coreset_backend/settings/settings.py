"""Settings: one frozen value for the whole process."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    AliasChoices,
    Field,
    SecretStr,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from coreset_backend.settings.hourly_cost import WrittenCost
from coreset_backend.settings.model_dir import copies_of, folder_or_bucket
from coreset_backend.settings.values import clean, refuse_control_characters, refuse_unsendable

PREFIX = "CORESET_"
SECRETS = ("label_studio_api_key", "redis_password", "basic_auth_pass", "webhook_secret", "ray_token")
SENT_AS_HEADERS = ("label_studio_api_key", "webhook_secret")
ADDRESSES = ("label_studio_url", "label_studio_browser_url", "url", "redis_url")
PATHS = ("model_dir", "local_files_document_root", "weights")


class Settings(BaseSettings):
    """The settings of the environment; the description of a field is its row in docs/settings.md.

    A secret can also be given as ``<NAME>_FILE``, the path of a file that holds it. Around every value
    white space, line ends, a byte order mark and one pair of quotation marks are dropped; a value that is
    empty then counts as not set.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, populate_by_name=True, extra="forbid", env_ignore_empty=True
    )

    label_studio_url: str | None = Field(
        None,
        validation_alias=AliasChoices("LABEL_STUDIO_URL", "LABEL_STUDIO_HOST"),
        description="Address at which this process reaches Label Studio, including any sub-path",
    )
    label_studio_api_key: SecretStr | None = Field(
        None,
        validation_alias=AliasChoices("LABEL_STUDIO_API_KEY", "LABEL_STUDIO_ACCESS_TOKEN"),
        description="Legacy token or personal access token of a user who may edit the project",
    )
    verify_ssl: bool = Field(
        True, validation_alias=AliasChoices("VERIFY_SSL"), description="Check TLS certificates"
    )
    label_studio_proxy: str | None = Field(
        None,
        description="Proxy for requests to Label Studio: its address, or `environment` to use "
        "HTTPS_PROXY or HTTP_PROXY; unset: no proxy",
    )
    redis_url: str | None = Field(
        None,
        repr=False,
        validation_alias=AliasChoices("REDIS_URL"),
        description="Address of Redis; unset: `run` starts a private one",
    )
    redis_password: SecretStr | None = Field(
        None,
        validation_alias=AliasChoices("REDIS_PASSWORD"),
        description="Password of Redis, if REDIS_URL contains none",
    )
    queue_name: str = Field(
        "coreset", validation_alias=AliasChoices("RQ_QUEUE_NAME"), description="Name of the RQ queue"
    )
    model_dir: Path | str = Field(
        Path("data"),
        validation_alias=AliasChoices("MODEL_DIR"),
        description="Folder for rounds, the image cache and secrets, shared by web and worker; or "
        "`s3://bucket/prefix`, shared by several hosts",
    )
    basic_auth_user: str | None = Field(
        None,
        validation_alias=AliasChoices("BASIC_AUTH_USER"),
        description="User name with which Label Studio and people log in",
    )
    basic_auth_pass: SecretStr | None = Field(
        None, validation_alias=AliasChoices("BASIC_AUTH_PASS"), description="Password of BASIC_AUTH_USER"
    )
    require_auth: bool = Field(
        True, description="Refuse to serve other machines unless BASIC_AUTH_USER and BASIC_AUTH_PASS are set"
    )
    trusted_proxies: int = Field(
        0,
        ge=0,
        le=10,
        description="Number of reverse proxies in front whose X-Forwarded-* headers are trusted",
    )
    local_files_document_root: Path | None = Field(
        None,
        validation_alias=AliasChoices("LOCAL_FILES_DOCUMENT_ROOT"),
        description="Folder of Label Studio's local files, if this process can read it directly",
    )
    host: str = Field("127.0.0.1", validation_alias=AliasChoices("HOST"), description="Address to listen on")
    port: int = Field(
        9090, ge=1, le=65535, validation_alias=AliasChoices("PORT"), description="Port to listen on"
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", validation_alias=AliasChoices("LOG_LEVEL"), description="Lowest log level that is written"
    )
    log_format: Literal["text", "json"] = Field(
        "text", description="`json`: one object per line, with project and round"
    )
    url: str = Field(
        default_factory=lambda known: _own_address(known.get("host", ""), known.get("port", 9090)),
        description="Address at which Label Studio reaches this backend; unset: HOST (or localhost) and PORT",
    )
    label_studio_browser_url: str | None = Field(
        None,
        description="Address of Label Studio in a browser, for links and for image addresses in "
        "tasks; unset: LABEL_STUDIO_URL",
    )
    webhook_secret: SecretStr | None = Field(
        None,
        description="Secret that Label Studio sends with each webhook; unset: generated once "
        "and kept in MODEL_DIR",
    )
    batch_size: int = Field(50, ge=1, description="Tasks in a batch")
    strategy: str = Field(
        "uncertainty_herding", description="Selection strategy: a name, or `package.module:function`"
    )
    backbone: str = Field(
        "auto",
        description="Network: `auto`, a name of timm or torchvision, `hf-hub:org/name`, `local-dir:/folder` "
        "or a file; `self_supervised` is pretrained on the pool; `small_cnn` is trained on the labels only",
    )
    download: Literal["auto", "never"] = Field(
        "auto",
        description="`auto`: download weights that are not on this machine; `never`: ask no hub for anything",
    )
    weights: Path | None = Field(None, description="File of pretrained weights for the backbone")
    image_size: int | None = Field(
        None, ge=16, le=1024, description="Side of the images in pixels; unset: what the backbone expects"
    )
    device: str = Field("auto", description="`auto`, `cpu` or `cuda`")
    seed: int = Field(0, ge=0, description="Random seed")
    holdout: float = Field(
        0.2,
        ge=0,
        le=0.5,
        description="Share of the labels of each class that is held out from training to measure accuracy",
    )
    random_slice: float = Field(
        0.0,
        ge=0,
        le=0.5,
        description="Share of each batch that is sampled at random, to measure the accuracy on the pool",
    )
    group_duplicates: bool = Field(
        True,
        description="Select at most one image of each group of near-duplicates, and none if one is labelled",
    )
    outlier_share: float = Field(
        1.0,
        ge=0,
        le=1,
        description="Largest share of a batch from the 5 % of the pool that lie farthest from "
        "the rest; 1: no limit",
    )
    trigger: Literal["auto", "manual"] = Field(
        "auto", description="`auto`: rounds start automatically; `manual`: a person starts all but the first"
    )
    batch_done: float = Field(
        1.0, gt=0, le=1, description="Share of the batch that must be labelled before the next round starts"
    )
    new_labels: int | None = Field(
        None,
        ge=1,
        validation_alias=AliasChoices("CORESET_NEW_LABELS", "START_TRAINING_EACH_N_UPDATES"),
        description="Number of new labels that start a round before the batch is done; unset: the batch size",
    )
    control: str | None = Field(
        None,
        description="Name of the `<Choices>` to train on; unset: the first one about the image "
        "that does more than decide which questions follow",
    )
    preannotate: Literal["auto", "on", "off"] = Field(
        "auto",
        description="Show the model's answer on the tasks of a batch: `auto` if it is at least "
        "90 % sure and, by the hold-out, at least 80 % of such answers are correct (lower 95 % bound)",
    )
    second_opinion: Literal["auto", "off"] = Field(
        "auto", description="`auto`: if many labels are wrong, doubtful ones are asked of one more annotator"
    )
    hourly_cost: WrittenCost | None = Field(None, description="Cost of an hour of labelling, as in `25 EUR`")
    debounce_seconds: float = Field(
        3.0, ge=0, description="Seconds to wait after a webhook, so that a burst of them makes one job"
    )
    poll_seconds: float = Field(
        60.0, ge=1, description="Seconds between two polls for changes whose webhook was lost"
    )
    job_timeout: int = Field(6 * 3600, ge=60, description="Seconds after which a round is stopped as failed")
    override_version: bool = Field(
        True, description="Replace a prediction version that a person chose in the project's settings"
    )
    keep_rounds: int = Field(5, ge=2, description="Rounds kept for each project")
    cache_gb: float = Field(20.0, gt=0, description="Size of the image cache in GB")
    image_mb: float = Field(50.0, gt=0, le=2000, description="Largest image file in MB")
    image_megapixels: float = Field(
        50.0,
        gt=0,
        le=2000,
        description="Largest image in megapixels that is decoded at full size; decoding takes "
        "at most 7.3 MB of memory per megapixel",
    )
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Private hosts or networks from which images may be fetched, comma-separated"
    )

    cluster: Literal["ray"] | None = Field(
        None, description="`ray`: Ray fetches and embeds the new images of a round; unset: the worker itself"
    )
    ray_address: str | None = Field(
        None,
        description="Address of a Ray cluster's head, `host:port`; unset: a Ray of the round's own, on all "
        "cores or GPUs of this machine",
    )
    ray_token: SecretStr | None = Field(None, description="Token without which the Ray cluster admits nobody")

    @model_validator(mode="before")
    @classmethod
    def _without_what_surrounds_values(cls, values: Mapping[str, object]) -> dict[str, object]:
        cleaned = {name: clean(v) if isinstance(v, str) else v for name, v in values.items()}
        return {name: value for name, value in cleaned.items() if value != ""}

    @field_validator("model_dir", mode="before")
    @classmethod
    def _folder_or_bucket(cls, value: object) -> object:
        return folder_or_bucket(value) if isinstance(value, str) else value

    @field_validator(*PATHS)
    @classmethod
    def _absolute(cls, value: Path | str | None) -> Path | str | None:
        """The same folder for every process, also one that changes its directory."""
        return value.expanduser().absolute() if isinstance(value, Path) else value

    @field_validator("label_studio_url", "label_studio_browser_url", "url")
    @classmethod
    def _http_address(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("http://", "https://")):
            raise ValueError(f"'{value}' is not an address; write it with its scheme, as in http://{value}")
        return value.rstrip("/") if value else value

    @field_validator("host")
    @classmethod
    def _without_brackets(cls, value: str) -> str:
        """``::1`` for the ``[::1]`` of an address."""
        return value[1:-1] if value.startswith("[") and value.endswith("]") else value

    @field_validator("allowed_hosts", mode="before")
    @classmethod
    def _separated_by_commas(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(host.strip() for host in value.split(",") if host.strip())
        return value

    @field_validator("*", mode="before")  # the last is run first
    @classmethod
    def _printable(cls, value: object, about: ValidationInfo) -> object:
        if isinstance(value, str):
            refuse_control_characters(value)
            if about.field_name in SENT_AS_HEADERS:
                refuse_unsendable(value)
        return value

    @field_validator("ray_address")
    @classmethod
    def _host_and_port(cls, value: str | None) -> str | None:
        host, _, port = (value or "").rpartition(":")
        if value is not None and not (host and port.isascii() and port.isdigit() and "/" not in host):
            raise ValueError(f"'{value}' is not host:port; write the head's address as in ray-head:6379")
        return value

    @model_validator(mode="after")
    def _no_cluster_without_a_token(self) -> Self:
        if self.cluster and self.ray_address and not self.ray_token:
            raise ValueError(
                "CORESET_RAY_ADDRESS is set without CORESET_RAY_TOKEN. Whoever reaches a Ray cluster without "
                "a token runs code on it: start it with RAY_AUTH_MODE=token, and give its token here"
            )
        return self

    @model_validator(mode="after")
    def _both_or_neither(self) -> Self:
        if (self.basic_auth_user is None) != (self.basic_auth_pass is None):
            raise ValueError("set both BASIC_AUTH_USER and BASIC_AUTH_PASS, or neither")
        if ":" in (self.basic_auth_user or ""):
            raise ValueError("BASIC_AUTH_USER contains a colon, which HTTP does not allow in a user name")
        return self

    @property
    def local_dir(self) -> Path:
        """The folder of this machine for what need not be shared: MODEL_DIR itself, if it is a folder."""
        return copies_of(self.model_dir) if isinstance(self.model_dir, str) else self.model_dir

    @property
    def reserve_size(self) -> int:
        """Number of tasks published behind the batch: annotators get these while others hold the batch."""
        return max(self.batch_size, 20)

    @property
    def labels_choose_backbone(self) -> bool:
        """Whether an audition may choose the backbone: neither it nor a weights file is named."""
        return self.backbone == "auto" and self.weights is None

    @property
    def labels_for_a_round(self) -> int:
        """New labels that start a round even while the batch is not done."""
        return self.new_labels or self.batch_size


def in_an_address(host: str) -> str:
    """``host`` as it stands in a URL: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host


def _own_address(host: str, port: int) -> str:
    everywhere = ("", "0.0.0.0", "::", "127.0.0.1")
    return f"http://{'localhost' if host in everywhere else in_an_address(host)}:{port}"
