"""Reads the settings from the environment and from files of secrets; unknown names are refused."""

import base64
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from pydantic import AliasChoices, ValidationError
from pydantic_core import ErrorDetails

from coreset_backend.errors import ConfigError
from coreset_backend.redaction import keep_secret, redacted
from coreset_backend.settings.model_dir import A_SCHEME
from coreset_backend.settings.settings import ADDRESSES, PATHS, PREFIX, SECRETS, Settings
from coreset_backend.settings.values import clean, decoded

SERVICE_LINK = re.compile(r"_SERVICE_(HOST|PORT(_\w+)?)$|_PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?$")
AWS_SECRETS = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_TOKEN", "AWS_SSE_CUSTOMER_KEY_BASE64")


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

    Raises ConfigError naming each unknown or malformed variable, its value and the known names. From then on
    no error and no log line shows a secret of the settings.
    """
    names = environment_names()
    _refuse_unknown({name for group in names.values() for name in group})
    _prepare_for_bucket()
    _keep_secrets_of_the_environment(names)
    try:
        settings = Settings(**{**_secrets_from_files(), **given})
    except ValidationError as error:
        wrong = [item for item in error.errors() if item["type"] != "default_factory_not_called"]
        first, *others = (_complaint(item, names) for item in wrong)
        raise ConfigError(first, lines=others) from None
    keep_secrets_of(settings)
    return settings


def _keep_secrets_of_the_environment(names: Mapping[str, tuple[str, ...]]) -> None:
    """Keep secrets also of malformed values: the error must not show them."""
    for field in SECRETS:
        keep_secret(*(clean(os.environ.get(name, "")) for name in names[field]))
    keep_secret(*(os.environ.get(name, "").strip() for name in AWS_SECRETS))
    variables = [name for field in (*ADDRESSES, "model_dir") for name in names[field]]
    variables += [name for name in os.environ if name.lower().endswith("_proxy")]
    _keep_passwords(os.environ.get(name, "") for name in variables)


def keep_secrets_of(settings: Settings) -> None:
    """Tell `redacted` every secret of the settings, those in addresses and in a Basic login too."""
    held = [getattr(settings, field) for field in SECRETS]
    keep_secret(*(secret.get_secret_value() for secret in held if secret))
    _keep_passwords(getattr(settings, field) or "" for field in ADDRESSES)
    if settings.basic_auth_user and settings.basic_auth_pass:
        pair = f"{settings.basic_auth_user}:{settings.basic_auth_pass.get_secret_value()}"
        keep_secret(base64.b64encode(pair.encode()).decode())


def _keep_passwords(addresses: Iterable[str]) -> None:
    """Of addresses like ``scheme://user:password@host``, of malformed ones too."""
    for address in addresses:
        login = address.rpartition("@")[0].rpartition("://")[2]
        password = login.partition(":")[2]
        keep_secret(password, unquote(password))


def absolute_paths() -> dict[str, str]:
    """The variables of this environment that name files or folders, for a process with another directory."""
    names = environment_names()
    variables = [name for field in PATHS for name in names[field]]
    variables += [f"{name}_FILE" for field in SECRETS for name in names[field]]
    found = {name: clean(os.environ[name]) for name in variables if name in os.environ}
    made = {name: _absolute(path) for name, path in found.items() if path}
    return {"MODEL_DIR": str(Path("data").absolute())} | made


def _absolute(path: str) -> str:
    return path if A_SCHEME.match(path) else str(Path(path).expanduser().absolute())


def _prepare_for_bucket() -> None:
    """The library that opens a bucket reads AWS_* itself; an empty value counts as not set there, too."""
    for name in [name for name in os.environ if name.startswith("AWS_") and not os.environ[name].strip()]:
        del os.environ[name]
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT"):
        value = os.environ.get(name, "https://")
        if not value.startswith(("http://", "https://")):
            raise ConfigError(f"{name}: '{value}' is not an address; write it as in https://{value}")


def _refuse_unknown(known: set[str]) -> None:
    known_or_file = known | {f"{name}_FILE" for name in known}
    ours_by_name = {name: value for name, value in os.environ.items() if name.startswith(PREFIX)}
    strange = {name for name, value in ours_by_name.items() if not _is_service_link(name, value)}
    if unknown := sorted(strange - known_or_file):
        ours = ", ".join(sorted(name for name in known if name.startswith(PREFIX)))
        raise ConfigError(f"Unknown settings: {', '.join(unknown)}. Known are: {ours}.")


def _is_service_link(name: str, value: str) -> bool:
    """Whether Kubernetes made the variable for a Service, as CORESET_WEB_PORT for one called coreset-web."""
    return bool(SERVICE_LINK.search(name)) or (name.endswith("_PORT") and "://" in value)


def secret_files() -> dict[str, Path]:
    """The files that this process's environment names as those of secrets, by the variable's name."""
    names = environment_names()
    asked = [f"{name}_FILE" for field in SECRETS for name in names[field]]
    found = {name: clean(os.environ.get(name, "")) for name in asked}
    return {name: Path(path).expanduser() for name, path in found.items() if path}


def _secrets_from_files() -> dict[str, str]:
    names = environment_names()
    field_of = {f"{name}_FILE": field for field in SECRETS for name in names[field]}
    return {field_of[name]: _read_secret(name, path) for name, path in secret_files().items()}


def _read_secret(name: str, path: Path) -> str:
    try:
        secret = clean(decoded(path.read_bytes()))
    except OSError as error:
        raise ConfigError(f"{name} names {path}, which cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{name} names {path}, which is not UTF-8 text. Save it again as UTF-8.") from None
    if not secret:
        raise ConfigError(f"{name} names {path}, which is empty. Write the secret into it.")
    keep_secret(secret)
    return secret


def _complaint(item: ErrorDetails, names: Mapping[str, tuple[str, ...]]) -> str:
    came_as = str(item["loc"][0]) if item["loc"] else ""
    field = next((field for field, known in names.items() if came_as in (field, *known)), "")
    name = came_as if came_as != field else names[field][0] if field else "Settings"
    came = "" if field in SECRETS or not field else f" (it is {redacted(str(item['input']))[:80]!r})"
    return f"{name}: {item['msg'].removeprefix('Value error, ')}{came}"
