from pathlib import Path

import pytest

from coreset_backend.errors import ConfigError
from coreset_backend.settings import Settings, environment_names, read_settings


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


def test_every_setting_is_in_the_readme() -> None:
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    missing = [names[0] for names in environment_names().values() if f"`{names[0]}`" not in readme]
    assert not missing
    assert set(environment_names()) == set(Settings.model_fields)
