"""No secret in any text, however it is written there."""

import base64
import json
from collections.abc import Callable, Iterator
from urllib.parse import quote

import httpx
import pytest
from rq.serializers import JSONSerializer

from coreset_backend import redaction
from coreset_backend.backend import Backend, OurJob
from coreset_backend.errors import CoresetError, ProjectGone, Rejected, Unreachable
from coreset_backend.jobs.keys import ROUND_JOB
from coreset_backend.jobs.worker import RoundWorker
from coreset_backend.label_studio.auth import TokenAuth
from coreset_backend.redaction import keep_secret, redacted
from coreset_backend.settings import Settings
from coreset_backend.settings.environment import keep_secrets_of

SECRET = "päss/word+ä'\"<9>"


@pytest.fixture(autouse=True)
def _nothing_kept(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(redaction, "_kept", set())
    yield


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Authorization: Token 0123456789abcdef0123", "Authorization: Token ***"),
        ("Illegal header value b'Token 0123456789abcdef0123\\r'", "Illegal header value b'Token ***\\r'"),
        ("bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc-_", "bearer ***"),
        ("got eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc-_ back", "got *** back"),
        (
            "http://h/a.jpg?X-Amz-Signature=abc&X-Amz-Date=1",
            "http://h/a.jpg?X-Amz-Signature=***&X-Amz-Date=1",
        ),
        ("http://h/a?sv=1&sig=a%2Bb", "http://h/a?sv=1&sig=***"),
        ("?next=http%3A%2F%2Fh%2Fa%3Fsig%3Da%2Bb%26sv%3D1", "?next=http%3A%2F%2Fh%2Fa%3Fsig%3D***%26sv%3D1"),
        ("redis://user:pass@host:6379/0", "redis://***@host:6379/0"),
        ('{"access_token": "a\\"b", "id": 7}', '{"access_token": "***", "id": 7}'),
        ("{'password': 'abc'}", "{'password': '***'}"),
        ("Token is not accepted; round 7 of project 3", "Token is not accepted; round 7 of project 3"),
    ],
)
def test_what_looks_like_a_secret_is_hidden(text: str, shown: str) -> None:
    assert redacted(text) == shown


@pytest.mark.parametrize(
    "form",
    [
        SECRET,
        repr(SECRET)[1:-1],
        repr(SECRET.encode())[2:-1],
        json.dumps(SECRET)[1:-1],
        quote(SECRET),
        quote(SECRET, safe=""),
        quote(SECRET, safe="").lower(),
        base64.b64encode(f"ops:{SECRET}".encode()).decode(),
        base64.b64encode(f"op:{SECRET}:x".encode()).decode(),
        base64.urlsafe_b64encode(f"o:{SECRET}".encode()).decode(),
    ],
)
def test_a_secret_is_hidden_in_every_form(form: str) -> None:
    keep_secret(SECRET)
    assert redacted(f"came: {form}; go on") == "came: ***; go on"


def test_a_long_secret_is_hidden_inside_a_word_and_a_short_one_only_as_a_word() -> None:
    keep_secret("longer-secret", "pass", "abc")
    assert redacted("xlonger-secrety") == "x***y"
    assert redacted("the password 'pass' of abc") == "the password '***' of abc"


def test_of_two_secrets_the_longer_is_hidden_whole() -> None:
    keep_secret("secret-one", "secret-one-and-more")
    assert redacted("secret-one-and-more") == "***"


def test_a_secret_that_has_died_is_forgotten() -> None:
    keep_secret("access-token-1")
    keep_secret("access-token-2", instead_of="access-token-1")
    assert redacted("access-token-1 access-token-2") == "access-token-1 ***"


def test_an_error_of_ours_holds_no_secret_and_no_half_of_one() -> None:
    keep_secret("0123456789abcdef")
    assert str(CoresetError("it was 0123456789abcdef.")) == "it was ***."
    assert "0123" not in repr(CoresetError("it was 0123456789abcdef."))
    echoed = "x" * 190 + "0123456789abcdef"
    for error in (Rejected(400, echoed), ProjectGone(404, echoed, "project 7")):
        assert "0123" not in str(error) + error.body


def test_the_secrets_of_the_settings_are_kept() -> None:
    settings = Settings(
        label_studio_api_key="the-api-key",
        basic_auth_user="ops",
        basic_auth_pass="pwd7",
        redis_url="redis://:p%40ss/word@host/0",
        label_studio_url="http://ann:annpassword@ls.example",
    )
    keep_secrets_of(settings)
    pair = base64.b64encode(b"ops:pwd7").decode()
    for secret in ("the-api-key", "pwd7", pair, "p%40ss/word", "p@ss/word", "annpassword"):
        assert secret not in redacted(f"it is {secret} indeed")
    assert "p%40ss" not in repr(settings)


def personal_token() -> str:
    claims = base64.urlsafe_b64encode(b'{"token_type": "refresh"}').decode().rstrip("=")
    return f"eyJhbGciOiJIUzI1NiJ9.{claims}.signature"


def test_a_bought_access_token_is_hidden_and_cleaned() -> None:
    flow = TokenAuth("http://ls.example", personal_token()).sync_auth_flow(httpx.Request("GET", "http://h/"))
    bought = httpx.Response(200, json={"access": "bought-token-1\r\n"}, request=next(flow))
    assert flow.send(bought).headers["Authorization"] == "Bearer bought-token-1"
    assert redacted("it is bought-token-1") == "it is ***"


@pytest.mark.parametrize("access", ["a\nb", "schlüssel"])
def test_a_bought_access_token_that_no_header_holds_is_refused_and_not_shown(access: str) -> None:
    flow = TokenAuth("http://ls.example", personal_token()).sync_auth_flow(httpx.Request("GET", "http://h/"))
    with pytest.raises(Unreachable, match="something that is not an access token") as refused:
        flow.send(httpx.Response(200, json={"access": access}, request=next(flow)))
    assert access not in str(refused.value)


def test_the_traceback_that_rq_keeps_in_redis_holds_no_secret(make_backend: Callable[..., Backend]) -> None:
    backend = make_backend()
    keep_secret("seeded-secret")
    job = backend.queue.enqueue(ROUND_JOB, 7)
    worker = RoundWorker([backend.queue], connection=backend.redis, serializer=JSONSerializer)
    worker.backend = backend
    worker.handle_job_failure(job, backend.queue, exc_string="httpx.LocalProtocolError: b'seeded-secret'")
    kept = OurJob.fetch(job.id, connection=backend.redis, serializer=JSONSerializer).latest_result()
    assert kept and kept.exc_string == "httpx.LocalProtocolError: b'***'"
