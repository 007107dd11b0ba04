import re
from pathlib import Path

import pytest
from paths import ROOT
from pydantic import SecretStr

from coreset_backend.errors import ConfigError
from coreset_backend.settings import Settings, read_settings
from coreset_backend.settings.environment import absolute_paths, environment_names
from coreset_backend.settings.settings import SECRETS


def test_every_field_is_read_from_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABEL_STUDIO_HOST", "http://ls.example/studio/")
    monkeypatch.setenv("CORESET_BATCH_SIZE", "7")
    monkeypatch.setenv("CORESET_ALLOWED_HOSTS", "10.0.0.0/8, files.internal")
    settings = read_settings()
    assert settings.label_studio_url == "http://ls.example/studio"
    assert settings.batch_size == 7
    assert settings.allowed_hosts == ("10.0.0.0/8", "files.internal")


def test_an_unknown_setting_is_refused_and_the_known_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORESET_BATCHSIZE", "7")
    with pytest.raises(ConfigError, match=r"CORESET_BATCHSIZE\. Known are: .*CORESET_BATCH_SIZE"):
        read_settings()


def test_what_kubernetes_says_of_a_service_is_no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Service called coreset-web, in each pod that starts after it."""
    for name, value in (
        ("SERVICE_HOST", "10.96.4.2"),
        ("SERVICE_PORT", "9090"),
        ("SERVICE_PORT_HTTP", "9090"),
        ("PORT", "tcp://10.96.4.2:9090"),
        ("PORT_9090_TCP", "tcp://10.96.4.2:9090"),
        ("PORT_9090_TCP_PROTO", "tcp"),
        ("PORT_9090_TCP_PORT", "9090"),
        ("PORT_9090_TCP_ADDR", "10.96.4.2"),
    ):
        monkeypatch.setenv(f"CORESET_WEB_{name}", value)
    read_settings()
    monkeypatch.setenv("CORESET_WEB_PORT", "9090")
    with pytest.raises(ConfigError, match=r"CORESET_WEB_PORT\. Known are"):
        read_settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CORESET_BATCH_SIZE", "many"),
        ("PORT", "0"),
        ("LABEL_STUDIO_URL", "ls.example"),
        ("CORESET_PREANNOTATE", "maybe"),
    ],
)
def test_a_malformed_setting_says_its_name_and_what_came(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=f"{name}: .*{value}"):
        read_settings()


def test_a_secret_comes_from_a_file_and_is_never_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "key").write_text("seeded-secret\n")
    monkeypatch.setenv("LABEL_STUDIO_API_KEY_FILE", str(tmp_path / "key"))
    settings = read_settings()
    assert settings.label_studio_api_key
    assert settings.label_studio_api_key.get_secret_value() == "seeded-secret"
    assert "seeded-secret" not in repr(settings)


def test_a_missing_secret_file_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BASIC_AUTH_PASS_FILE", "/nowhere/password")
    with pytest.raises(ConfigError, match="BASIC_AUTH_PASS_FILE names /nowhere/password"):
        read_settings()


def test_half_a_login_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BASIC_AUTH_USER", "ops")
    with pytest.raises(ConfigError, match="both BASIC_AUTH_USER and BASIC_AUTH_PASS"):
        read_settings()


SAMPLES = {
    "hourly_cost": "25 EUR",
    "allowed_hosts": "10.0.0.0/8,files.internal",
    "basic_auth_user": "ops",
    "image_size": "64",
    "label_studio_url": "http://ls.example",
    "label_studio_browser_url": "https://ls.example/studio",
    "local_files_document_root": "/srv/files",
    "new_labels": "7",
    "redis_url": "redis://redis:6379/0",
    "url": "http://backend.example:9090",
    "cluster": "ray",
    "ray_address": "ray.example:6379",
    "weights": "/srv/weights.safetensors",
} | {secret: f"seeded-{secret}" for secret in SECRETS}


def samples() -> dict[str, str]:
    """A valid value for every setting, as it stands in the environment."""
    defaults = {name: field.default for name, field in Settings.model_fields.items()}
    return {name: str(value) for name, value in defaults.items()} | SAMPLES


def shown(settings: Settings) -> dict[str, object]:
    values = {name: getattr(settings, name) for name in Settings.model_fields}
    return {name: v.get_secret_value() if isinstance(v, SecretStr) else v for name, v in values.items()}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "\r\n"),
        ("", "\r"),
        ("\ufeff", "\n"),
        ("  ", "\t "),
        ("\u200b\u00a0", "\u00a0"),
        ('"', '"'),
        ("'", "'\r\n"),
    ],
)
def test_what_surrounds_the_value_of_any_setting_is_dropped(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, before: str, after: str
) -> None:
    names = environment_names()
    for field, value in samples().items():
        monkeypatch.setenv(names[field][0], value)
    plain = shown(read_settings())
    assert plain["label_studio_api_key"] == "seeded-label_studio_api_key"
    for field, value in samples().items():
        monkeypatch.setenv(names[field][0], f"{before}{value}{after}")
    assert shown(read_settings()) == plain
    for field in SECRETS:
        monkeypatch.delenv(names[field][0])
        (tmp_path / field).write_bytes(f"{before}{samples()[field]}{after}".encode())
        monkeypatch.setenv(f"{names[field][0]}_FILE", f"{before}{tmp_path / field}{after}")
    assert shown(read_settings()) == plain


def test_a_value_of_nothing_but_spaces_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PORT", "REDIS_URL", "LABEL_STUDIO_API_KEY", "CORESET_IMAGE_SIZE"):
        monkeypatch.setenv(name, " \r\n")
    settings = read_settings()
    assert (settings.port, settings.redis_url, settings.label_studio_api_key) == (9090, None, None)


@pytest.mark.parametrize("character", ["\r\n", "\n", "\t", "\x1b", "\u2028"])
def test_a_control_character_within_a_value_is_refused_and_no_secret_is_shown(
    monkeypatch: pytest.MonkeyPatch, character: str
) -> None:
    for field, value in samples().items():
        name, half = environment_names()[field][0], len(value) // 2
        with monkeypatch.context() as only_this:
            only_this.setenv(name, f"{value[:half] or 'x'}{character}{value[half:]}")
            with pytest.raises(ConfigError, match=rf"^{name}: character \d+ of \d+ is") as refused:
                read_settings()
        assert str(refused.value).count("\n") == 0 and "one value on one line" in str(refused.value)
        assert field not in SECRETS or value[half:] not in str(refused.value)


@pytest.mark.parametrize(
    "value", ["two words", "schlüssel", "Token 0123456789abcdef", "0123456789abcdef\u200b0123456789abcdef"]
)
def test_what_no_header_can_hold_is_refused_in_a_token(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", value)
    with pytest.raises(ConfigError, match=r"LABEL_STUDIO_API_KEY: character \d+ of \d+ is") as refused:
        read_settings()
    assert value not in str(refused.value)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_secret_file_written_on_windows_is_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, encoding: str
) -> None:
    (tmp_path / "password").write_bytes("pässword\r\n".encode(encoding))
    monkeypatch.setenv("BASIC_AUTH_USER", "ops")
    monkeypatch.setenv("BASIC_AUTH_PASS_FILE", str(tmp_path / "password"))
    password = read_settings().basic_auth_pass
    assert password and password.get_secret_value() == "pässword"


def test_a_secret_file_of_another_encoding_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "password").write_bytes("pässword".encode("latin-1"))
    monkeypatch.setenv("BASIC_AUTH_PASS_FILE", str(tmp_path / "password"))
    with pytest.raises(ConfigError, match=r"BASIC_AUTH_PASS_FILE names .*password, which is not UTF-8 text"):
        read_settings()


def test_a_malformed_address_is_shown_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABEL_STUDIO_URL", "ann:seeded-password@ls.example")
    with pytest.raises(ConfigError, match=r"LABEL_STUDIO_URL: 'ann:\*\*\*@ls.example' is not an address"):
        read_settings()


@pytest.mark.parametrize(
    ("given", "folder"),
    [(None, "data"), ("mine", "mine"), ("./mine/../mine", "mine"), ("~/mine", "home/mine")],
)
def test_every_process_has_the_same_folder_wherever_it_goes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: str | None, folder: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    if given:
        monkeypatch.setenv("MODEL_DIR", given)
    monkeypatch.setenv("LABEL_STUDIO_API_KEY_FILE", "key")
    (tmp_path / "key").write_text("seeded-secret")
    here = read_settings()
    assert here.model_dir.resolve() == tmp_path / folder
    for name, path in absolute_paths().items():
        monkeypatch.setenv(name, path)
    monkeypatch.chdir("/")
    assert read_settings() == here


def test_every_setting_is_in_the_readme_with_its_description() -> None:
    rows = re.findall(r"^\| `(\w+)` \|.*\| (.*) \|$", (ROOT / "docs/settings.md").read_text(), re.MULTILINE)
    names = {field: variables[0] for field, variables in environment_names().items()}
    described = {name: Settings.model_fields[field].description for field, name in names.items()}
    assert dict(rows) == described
    assert set(environment_names()) == set(Settings.model_fields)


def test_a_cluster_without_a_token_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORESET_CLUSTER", "ray")
    monkeypatch.setenv("CORESET_RAY_ADDRESS", "ray-head:6379")
    with pytest.raises(ConfigError, match="CORESET_RAY_ADDRESS is set without CORESET_RAY_TOKEN"):
        read_settings()
    monkeypatch.setenv("CORESET_RAY_TOKEN", "of-the-cluster")
    assert read_settings().ray_address == "ray-head:6379"
    assert "of-the-cluster" not in repr(read_settings())


@pytest.mark.parametrize("address", ["ray-head", "ray://head:10001", ":6379", "head:port"])
def test_the_address_of_a_cluster_is_host_and_port(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("CORESET_RAY_ADDRESS", address)
    with pytest.raises(ConfigError, match="is not host:port; write the head's address as in ray-head:6379"):
        read_settings()
