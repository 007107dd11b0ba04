"""Slow, idle, greedy and garbled clients of the web process, over real connections."""

import contextlib
import http.client
import itertools
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import WebProcess, web_process
from waiting import wait_until

from coreset_backend.web.callers import caller_of
from coreset_backend.web.sockets import (
    COMPUTING,
    MOST_CONNECTIONS,
    MOST_FOR_AN_ADDRESS,
    PATIENCE_S,
    ClientSocket,
    Phase,
)

HEAD = b"GET /projects HTTP/1.1\r\nHost: localhost\r\n"
POST = b"POST /setup HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
BODY = POST + b"Content-Length: 1000\r\n\r\n{"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
SLOW = {"idle": b"", "slow head": HEAD, "slow body": BODY}


@pytest.fixture(scope="module")
def web(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebProcess]:
    with web_process(redis_url, tmp_path_factory.mktemp("web")) as web:
        yield web


@contextlib.contextmanager
def opened(
    web: WebProcess, count: int, sent: bytes = b"", source: str = "127.0.0.1"
) -> Iterator[list[socket.socket]]:
    """Connections that sent so much and then nothing."""
    with contextlib.ExitStack() as stack:
        found = []
        for _ in range(count):
            address = ("127.0.0.1", web.port)
            connection = stack.enter_context(socket.create_connection(address, 60, (source, 0)))
            connection.sendall(sent)
            found.append(connection)
        yield found


def is_open(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(1) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


def answer_to(web: WebProcess, sent: bytes) -> bytes:
    """Everything that comes back until the web process closes."""
    with opened(web, 1, sent) as (connection,):
        return b"".join(iter(lambda: connection.recv(65536), b""))


# ---------------------------------------------------------------- slow and many


def test_two_hundred_clients_of_each_slow_kind_stop_nobody(web: WebProcess) -> None:
    with contextlib.ExitStack() as stack:
        crowd = [each for sent in SLOW.values() for each in stack.enter_context(opened(web, 200, sent))]
        for path in ("/health", "/projects", "/static/style.css", "/openapi.json") * 5:
            assert web.client.get(path).status_code == 200
        wait_until(lambda: sum(map(is_open, crowd)) <= MOST_FOR_AN_ADDRESS, "the bound for an address", 60)
        assert sum(map(is_open, crowd)) > MOST_FOR_AN_ADDRESS / 2, "more were closed than had to be"


def test_the_slow_ones_of_an_address_cost_no_other_address_a_connection(web: WebProcess) -> None:
    # In the middle of a body, for which they have a minute: a head would be cut off after ten seconds.
    with opened(web, 5, BODY, "127.0.0.2") as others, opened(web, MOST_FOR_AN_ADDRESS + 50, BODY) as crowd:
        wait_until(lambda: sum(map(is_open, crowd)) <= MOST_FOR_AN_ADDRESS, "the bound for an address", 60)
        assert all(map(is_open, others))
        for connection in others:
            connection.setblocking(True)
            connection.sendall(b" " * 999)
            assert connection.recv(65536).startswith(b"HTTP/1.1 400")  # it is no JSON


def test_of_too_many_addresses_the_busiest_pays(web: WebProcess) -> None:
    with contextlib.ExitStack() as stack:
        few = stack.enter_context(opened(web, 20, BODY, "127.0.1.1"))
        crowd = []
        for last in range(2, 2 + MOST_CONNECTIONS // 100 + 1):
            crowd += stack.enter_context(opened(web, 100, BODY, f"127.0.1.{last}"))
        wait_until(lambda: sum(map(is_open, crowd)) + len(few) <= MOST_CONNECTIONS, "the bound in all", 60)
        assert all(map(is_open, few))
        assert web.client.get("/projects").status_code == 200


def test_clients_that_do_not_read_their_answers_hold_nothing_that_others_need(web: WebProcess) -> None:
    tasks = json.dumps({"project": 7, "tasks": [{"id": 1, "data": {"image": ""}}] * 100_000}).encode()
    request = POST.replace(b"setup", b"predict") + b"Content-Length: %d\r\n\r\n" % len(tasks) + tasks
    with opened(web, COMPUTING + 2, request):
        assert web.client.get("/projects").status_code == 200


@pytest.mark.parametrize("phase", [Phase.LEAVE, Phase.HEAD, Phase.BODY])
def test_a_phase_ends_in_time_however_steadily_the_bytes_drip(phase: Phase) -> None:
    ours, theirs = socket.socketpair()
    with theirs, ClientSocket(fileno=ours.detach()) as client:
        client.expect(phase)
        client.since -= PATIENCE_S[phase] - 0.3
        stop = threading.Event()

        def drip() -> None:
            while not stop.wait(0.02):
                with contextlib.suppress(OSError):
                    theirs.send(b"x")

        dripping = threading.Thread(target=drip)
        dripping.start()
        try:
            with pytest.raises(ConnectionResetError, match="too slow"):
                while client.recv(100):
                    assert time.monotonic() < client.since + PATIENCE_S[phase] + 10
        finally:
            stop.set()
            dripping.join()


def test_what_waits_for_its_client_lends_its_slot_to_others() -> None:
    ours, theirs = socket.socketpair()
    slots = threading.Semaphore(1)

    def use_the_slot_then_send() -> None:
        if slots.acquire(timeout=60):
            theirs.send(b"x")
            slots.release()

    with theirs, ClientSocket(fileno=ours.detach()) as client:
        client.expect(Phase.BODY)
        client.slots = slots
        client.take_slot()
        other = threading.Thread(target=use_the_slot_then_send)
        other.start()
        assert client.recv(1) == b"x"
        other.join()
        assert not slots.acquire(blocking=False)


def test_an_answer_that_is_not_read_is_given_up_in_time() -> None:
    ours, theirs = socket.socketpair()
    with theirs, ClientSocket(fileno=ours.detach()) as client:
        client.expect(Phase.TAKE_ANSWER)
        client.since -= PATIENCE_S[Phase.TAKE_ANSWER] - 0.3
        with pytest.raises(ConnectionResetError, match="too slow"):
            client.sendall(b"x" * 50_000_000)


@pytest.mark.slow
def test_a_steady_head_is_cut_off_and_a_slow_but_timely_one_is_answered(web: WebProcess) -> None:
    began = time.monotonic()
    with opened(web, 2, HEAD) as (endless, timely):
        for number in itertools.count():
            try:
                endless.sendall(b"X-%d: y\r\n" % number)
            except OSError:
                break
            if number == 3:
                timely.sendall(b"Connection: close\r\n\r\n")
            assert time.monotonic() < began + PATIENCE_S[Phase.HEAD] + 30
            time.sleep(0.2)
        assert time.monotonic() >= began + PATIENCE_S[Phase.HEAD] - 1
        assert timely.recv(65536).startswith(b"HTTP/1.1 200")


def test_a_stop_waits_for_no_slow_client(redis_url: str, tmp_path: Path) -> None:
    with (
        web_process(redis_url, tmp_path) as web,
        opened(web, 20),
        opened(web, 20, HEAD),
        opened(web, 20, BODY),
    ):
        web.process.terminate()
        assert web.process.wait(60) == 0
        assert "SIGKILL" not in web.log.read_text()


# ---------------------------------------------------------------- garbled


GARBLED = {
    "a TLS handshake": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"400"),
    "a size that is no number": (CHUNKED + b"zz\r\n{}\r\n0\r\n\r\n", b"400"),
    "a negative size": (CHUNKED + b"-2\r\n{}\r\n0\r\n\r\n", b"400"),
    "a chunk without its end": (CHUNKED + b"2\r\n{}xx0\r\n\r\n", b"400"),
    "a size line without an end": (CHUNKED + b"1;" + b"a" * 20_000, b"400"),
    "a trailer that is no header": (CHUNKED + b"2\r\n{}\r\n0\r\nno header\r\n\r\n", b"400"),
    "two lengths": (POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", b"400"),
    "a length and chunks": (POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}", b"400"),
    "a length that is no number": (POST + b"Content-Length: 2x\r\n\r\n{}", b"400"),
    "a negative length": (POST + b"Content-Length: -2\r\n\r\n{}", b"400"),
    "an unknown expectation": (POST + b"Expect: 200-ok\r\nContent-Length: 2\r\n\r\n{}", b"417"),
    "a line without a carriage return": (b"GET /health HTTP/1.1\nHost: localhost\n\n", b"400"),
    "a NUL in the path": (b"GET /\x00 HTTP/1.1\r\nHost: localhost\r\n\r\n", b"400"),
    "a NUL in a header": (HEAD + b"X: a\x00b\r\n\r\n", b"400"),
    "a line of 100 kB": (b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n", b"414"),
    "a header of 100 kB": (HEAD + b"X: " + b"a" * 100_000 + b"\r\n\r\n", b"4"),
}


@pytest.mark.parametrize("what", GARBLED)
def test_what_is_no_request_gets_a_clear_answer_and_no_traceback(web: WebProcess, what: str) -> None:
    sent, status = GARBLED[what]
    said = web.log.stat().st_size
    assert answer_to(web, sent).startswith(b"HTTP/1.1 " + status)
    told = web.log.read_bytes()[said:].decode()
    assert "Traceback" not in told
    assert len(told.splitlines()) <= 2
    assert max(map(len, told.splitlines()), default=0) < 3000


@pytest.mark.parametrize(
    "header", [b"SCRIPT_NAME: /x", b"PATH_INFO: /x", b"X-Forwarded-Ssl: on\r\nX-Forwarded-Proto: http"]
)
def test_gunicorn_believes_no_header_of_a_caller(web: WebProcess, header: bytes) -> None:
    got = answer_to(web, HEAD + header + b"\r\nConnection: close\r\n\r\n")
    assert got.startswith(b"HTTP/1.1 200")


def test_a_body_that_breaks_off_leaves_no_trace(web: WebProcess) -> None:
    said = web.log.stat().st_size
    for sent in (BODY, CHUNKED + b"5\r\n{", CHUNKED + b"2\r\n{}\r\n0\r\nX: y\r\n", HEAD):
        with opened(web, 1, sent) as (connection,):
            connection.shutdown(socket.SHUT_WR)
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
            assert not answer or answer.startswith(b"HTTP/1.1 400"), answer
    assert "Traceback" not in web.log.read_bytes()[said:].decode()


def test_requests_in_one_packet_are_answered_in_order(web: WebProcess) -> None:
    chunked = CHUNKED.replace(b"Connection: close\r\n", b"") + b"2\r\n{}\r\n0\r\nX: y\r\n\r\n"
    got = answer_to(web, chunked + HEAD + b"\r\n" + HEAD + b"Connection: close\r\n\r\n")
    assert re.findall(rb"HTTP/1\.1 (\d+)", got) == [b"400", b"200", b"200"]


def test_who_asks_whether_to_continue_is_told_so(web: WebProcess) -> None:
    body = b'{"project": 7, "schema": "<View/>"}'
    head = POST + b"Expect: 100-continue\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
    with opened(web, 1, head) as (connection,):
        assert connection.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(body)
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")


def test_a_client_that_is_still_sending_gets_its_refusal(web: WebProcess) -> None:
    spaces = itertools.repeat(b" " * 1_000_000)
    headers = {"Content-Type": "application/json"}
    for _ in range(5):
        answer = web.client.post("/setup", content=itertools.islice(spaces, 20), headers=headers)
        assert answer.status_code == 413


@pytest.mark.parametrize(
    ("path", "framing", "status"),
    [
        ("/setup", b"Content-Length: 5000000", b"413"),
        ("/setup", b"Content-Length: 5000000\r\nExpect: 100-continue", b"413"),
        ("/nowhere", b"Content-Length: 100000", b"404"),
        ("/projects", b"Content-Length: 100000", b"405"),
        ("/setup", b"Transfer-Encoding: chunked\r\nOrigin: https://evil.example", b"403"),
        ("/setup", b"Transfer-Encoding: chunked", b"400"),
    ],
)
def test_who_is_answered_before_the_body_is_read_is_told_that_the_connection_ends(
    web: WebProcess, path: str, framing: bytes, status: bytes
) -> None:
    head = POST.replace(b"/setup", path.encode()) + framing + b"\r\n\r\n"
    with opened(web, 1, head + b"malformed\r\n") as (connection,):
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n").startswith(b"HTTP/1.1 " + status), answer
    assert b"\r\nConnection: close\r\n" in answer


@pytest.mark.parametrize("chunked", [False, True])
def test_a_connection_whose_body_was_read_is_used_again(web: WebProcess, chunked: bool) -> None:
    body = b'{"project": 7, "schema": "<View/>"}'
    connection = http.client.HTTPConnection("127.0.0.1", web.port, timeout=20)
    with contextlib.closing(connection):
        for _ in range(3):
            sent = iter([body[:9], body[9:]]) if chunked else body
            connection.request("POST", "/setup", sent, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            assert (answer.status, answer.headers["Connection"]) == (200, "keep-alive")
            answer.read()


# ---------------------------------------------------------------- who it is


@pytest.mark.parametrize(
    ("written", "caller"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("192.0.2.7:51234", "192.0.2.7"),
        (" 192.0.2.7 ", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("::FFFF:c000:0207", "192.0.2.7"),
        ("::ffff:192.0.2.7:443", "192.0.2.7"),
        ("[::ffff:192.0.2.7]:443", "192.0.2.7"),
        ("64:ff9b::192.0.2.7", "192.0.2.7"),
        ("2002:c000:0207::1", "192.0.2.7"),
        ("2001:db8:0:1::7", "2001:db8:0:1::/64"),
        ("2001:0DB8:0000:0001::8", "2001:db8:0:1::/64"),
        ("[2001:db8:0:1::7]:443", "2001:db8:0:1::/64"),
        ('"[2001:db8:0:1::7]:443"', "2001:db8:0:1::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("[fe80::1%25eth0]:443", "fe80::/64"),
        *((junk, "") for junk in ("", "unknown", "_hidden", "192.0.2", "192.0.2.7, 192.0.2.8", "\x00", "[")),
    ],
)
def test_a_caller_has_one_name_however_its_address_is_written(written: str, caller: str) -> None:
    assert caller_of(written) == caller
