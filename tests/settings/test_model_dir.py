import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coreset_backend.errors import ConfigError
from coreset_backend.redaction import redacted
from coreset_backend.settings import read_settings
from coreset_backend.settings.environment import absolute_paths
from coreset_backend.settings.model_dir import bucket_and_prefix, copies_of, folder_or_bucket


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("s3://rounds", "s3://rounds"),
        ("S3://rounds/", "s3://rounds"),
        ("s3://rounds//a///b/", "s3://rounds/a/b"),
        ("s3://my.rounds-1/a b/ü+%41#?", "s3://my.rounds-1/a b/ü+%41#?"),
        ("data", Path("data")),
        ("/srv/s3:/data", Path("/srv/s3:/data")),
        ("s3:/rounds", Path("s3:/rounds")),
    ],
)
def test_an_address_loses_needless_slashes_and_a_path_stays_one(written: str, read: str | Path) -> None:
    assert folder_or_bucket(written) == read


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("gs://rounds", "neither a folder nor the address of a bucket, as in s3://bucket/prefix"),
        ("https://s3.eu-west-1.amazonaws.com/rounds", "neither a folder"),
        ("s3://", "3 to 63 letters"),
        ("s3://ab/prefix", "3 to 63 letters"),
        ("s3://key:secret@rounds/x", "credentials are given by AWS_ACCESS_KEY_ID"),
        ("s3://rounds/../x", "'.' or '..'"),
        ("s3://rounds/./x", "'.' or '..'"),
    ],
)
def test_what_is_no_bucket_is_refused_in_words(
    monkeypatch: pytest.MonkeyPatch, written: str, said: str
) -> None:
    monkeypatch.setenv("MODEL_DIR", written)
    with pytest.raises(ConfigError) as raised:
        read_settings()
    assert said in str(raised.value) and str(raised.value).startswith("MODEL_DIR: ")


@settings(deadline=None)
@given(st.lists(st.text(st.characters(exclude_characters="/"), min_size=1), max_size=3))
def test_an_address_is_read_back_as_it_is_written(prefix: list[str]) -> None:
    if not {".", ".."} & set(prefix):
        address = folder_or_bucket("/".join(["s3://rounds", *prefix]))
        assert isinstance(address, str) and folder_or_bucket(address) == address
        assert bucket_and_prefix(address) == ("rounds", "/".join(prefix))


def test_copies_lie_in_the_users_cache_folder_by_bucket_and_prefix(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    places = {copies_of(address) for address in ("s3://rounds", "s3://rounds/a", "s3://rounds/b")}
    assert len(places) == 3
    assert {place.parent for place in places} == {tmp_path / "coreset-backend"}
    monkeypatch.setenv("MODEL_DIR", "s3://rounds/a")
    settings = read_settings()
    assert (settings.model_dir, settings.local_dir) == ("s3://rounds/a", copies_of("s3://rounds/a"))
    assert absolute_paths()["MODEL_DIR"] == "s3://rounds/a"


def test_an_empty_variable_of_aws_counts_as_not_set_and_a_wrong_endpoint_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", " ")
    read_settings()
    assert "AWS_ENDPOINT_URL" not in os.environ
    monkeypatch.setenv("AWS_ENDPOINT_URL", "minio:9000")
    with pytest.raises(ConfigError, match="AWS_ENDPOINT_URL: 'minio:9000' is not an address"):
        read_settings()


def test_the_secret_key_is_kept_out_of_every_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
    read_settings()
    assert "K7MDENG" not in redacted("error: wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
