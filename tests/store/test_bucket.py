"""What can happen to a store in a bucket, on a real server of S3."""

import os
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from buckets import InBucket, S3Server, environment_to, running_s3
from paths import ROOT, SUPPORT
from saved_rounds import record, save
from tcp_proxy import TcpProxy, proxied
from waiting import wait_until

from coreset_backend.errors import CorruptRound, StorageError, StoreError, Unwritable
from coreset_backend.store.bucket import Bucket
from coreset_backend.store.store import Store

FIRST = "projects/7/round-00001"


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with running_s3() as server:
        yield server


@pytest.fixture
def place(s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> InBucket:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    return InBucket(f"s3://rounds/{tmp_path.name}", tmp_path)


@pytest.fixture
def wire(s3: S3Server, place: InBucket, monkeypatch: pytest.MonkeyPatch) -> Iterator[TcpProxy]:
    """What leads to the server from now on; ``place`` keeps its own way."""
    with proxied(lambda: socket.create_connection(("127.0.0.1", s3.port))) as wire:
        monkeypatch.setenv("AWS_ENDPOINT_URL", environment_to(wire.port)["AWS_ENDPOINT_URL"])
        yield wire


def test_of_two_hosts_that_save_the_same_round_one_does(place: InBucket) -> None:
    said = []

    def host(value: int, both: threading.Barrier) -> None:
        with place_of[value].draft(7) as draft:
            both.wait()
            try:
                draft.save(record(draft.number), {"task_ids": np.full(3_000_000, value)})
            except StoreError as error:
                said.append(str(error))

    for number in (1, 2, 3):
        place_of, both = {1: place.store, 2: place.store}, threading.Barrier(2)
        hosts = [threading.Thread(target=host, args=(value, both)) for value in place_of]
        for each in hosts:
            each.start()
        for each in hosts:
            each.join()
        found = place.store.open(7, number)
        assert len(set(found.array("task_ids").tolist())) == 1, "its files are of one host"
    assert len(said) == 3 and all("was saved by another host meanwhile" in each for each in said)


KILLED = """
import sys
from pathlib import Path
import numpy as np
from saved_rounds import record
from coreset_backend.store.bucket import Bucket
from coreset_backend.store.store import Store

with Store(Bucket(sys.argv[1], Path(sys.argv[2]))).draft(7) as draft:
    draft.save(record(draft.number), {"embeddings": np.zeros((2, 2)), "task_ids": np.arange(2)})
"""


@pytest.fixture
def killed_in_upload(place: InBucket, wire: TcpProxy, tmp_path: Path) -> None:
    """A host has uploaded some files of round 1, and was killed."""
    held = wire.hold(b"PUT /rounds/" + f"{tmp_path.name}/{FIRST}/task_ids.npy".encode())
    environment = environment_to(wire.port) | {"PYTHONPATH": f"{ROOT}:{SUPPORT}"}
    command = [sys.executable, "-c", KILLED, place.address, str(tmp_path / "killed")]
    with subprocess.Popen(command, env=environment) as process:
        assert held.reached.wait(60)
        process.send_signal(signal.SIGKILL)


@pytest.mark.usefixtures("killed_in_upload")
def test_half_a_round_is_absent_and_swept_when_it_is_old(place: InBucket, tmp_path: Path) -> None:
    assert [each.key for each in place.objects.below(FIRST)] == [
        f"{FIRST}/embeddings.npy",
        f"{FIRST}/task_ids.npy",
    ]
    store = place.store
    assert store.numbers(7) == [] and store.latest(7) is None
    assert save(store).record.number == 2, "it may still come, so its number is taken"
    store.prune(7, keep=2)
    assert place.objects.below(FIRST), "a young one may still be uploaded"
    late = Store(Bucket(place.address, tmp_path / "late", abandoned_after=timedelta(0)))

    def swept() -> bool:
        save(late)
        late.prune(7, keep=50)
        return not place.objects.below(FIRST)

    wait_until(swept, "the clock of the server to go on by a second")
    assert place.objects.get(f"{FIRST}.claim") is None
    assert late.numbers(7)[0] == 2


def test_whoever_uploads_for_so_long_that_it_is_swept_stops(
    place: InBucket, wire: TcpProxy, tmp_path: Path
) -> None:
    slow, said = place.store, list[str]()
    held = wire.hold(b"PUT /rounds/" + f"{tmp_path.name}/{FIRST}/task_ids.npy".encode())

    def upload() -> None:
        try:
            save(slow)
        except StoreError as error:
            said.append(str(error))

    uploads = threading.Thread(target=upload)
    uploads.start()
    assert held.reached.wait(60)
    other = Store(Bucket(place.address, tmp_path / "other", abandoned_after=timedelta(0)))

    def swept() -> bool:
        save(other)
        other.prune(7, keep=50)
        return not place.objects.below(FIRST)

    wait_until(swept, "the clock of the server to go on by a second")
    held.release()
    uploads.join()
    assert said and "was saved by another host meanwhile" in said[0]
    assert 1 not in other.numbers(7)


def test_a_lost_answer_to_the_last_file_loses_no_round(
    place: InBucket, wire: TcpProxy, tmp_path: Path
) -> None:
    store = Store(Bucket(place.address, tmp_path / "one", patient=True))
    held = wire.hold(b"PUT /rounds/" + f"{tmp_path.name}/{FIRST}/round.json".encode())
    saved = []
    saving = threading.Thread(target=lambda: saved.append(save(store)))
    saving.start()
    assert held.reached.wait(60)
    wait_until(lambda: place.objects.get(f"{FIRST}/round.json"), "the file to be there")
    wire.cut()
    held.release()
    wire.heal()
    saving.join()
    assert saved and place.store.numbers(7) == [1]


def test_an_outage_of_seconds_is_waited_for_and_a_longer_one_is_told(
    place: InBucket, wire: TcpProxy, tmp_path: Path
) -> None:
    patient = Store(Bucket(place.address, tmp_path / "one", patient=True))
    impatient = place.store
    wire.cut()
    with pytest.raises(StorageError, match="It does not answer as an S3 does"):
        impatient.latest(7)
    with pytest.raises(StorageError, match="tried again"), impatient.draft(7):
        pytest.fail("without a number there is no round")
    threading.Timer(1.0, wire.heal).start()
    assert save(patient).record.number == 1
    assert impatient.numbers(7) == [1]


def test_an_outage_in_the_middle_of_a_round_loses_nothing(
    place: InBucket, wire: TcpProxy, tmp_path: Path
) -> None:
    save(place.store)
    store = Store(Bucket(place.address, tmp_path / "one"))
    held = wire.hold(b"PUT /rounds/" + f"{tmp_path.name}/projects/7/round-00002/task_ids.npy".encode())
    said = []

    def attempt() -> None:
        try:
            save(store)
        except StorageError as error:
            said.append(error)

    saving = threading.Thread(target=attempt)
    saving.start()
    assert held.reached.wait(60)
    wire.cut()
    saving.join()
    wire.heal()
    assert said and store.numbers(7) == [1]
    assert save(store).record.number == 3
    assert not list(tmp_path.rglob(".draft-*")), "nothing half-written fills the disk"


@pytest.mark.parametrize(
    ("address", "variables", "said"),
    [
        ("s3://no-such-bucket/x", {}, "There is no such bucket"),
        ("s3://rounds", {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "Check AWS_ENDPOINT_URL and the network"),
    ],
)
def test_what_is_set_wrong_is_told_with_a_fix(
    place: InBucket,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    address: str,
    variables: dict[str, str],
    said: str,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    store = Store(Bucket(address, tmp_path))
    with pytest.raises(StorageError, match=said):
        store.projects()
    if "AWS_ENDPOINT_URL" not in variables:  # else each waits for some seconds
        for attempt in (store.probe, store.webhook_secret, lambda: store.register(7)):
            with pytest.raises(StorageError, match=said):
                attempt()


class Refusing(BaseHTTPRequestHandler):
    """An S3 that answers everything with ``status`` and ``code``."""

    status: int
    code: str

    def do_GET(self) -> None:
        body = f"<Error><Code>{self.code}</Code><Message>No.</Message></Error>".encode()
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_PUT = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (403, "SignatureDoesNotMatch", "AWS_SECRET_ACCESS_KEY does not belong to AWS_ACCESS_KEY_ID"),
        (400, "ExpiredToken", "AWS_SESSION_TOKEN has expired"),
        (403, "RequestTimeTooSkewed", "The clock of this machine is wrong"),
        (403, "AccessDenied", "The credentials may not do that. Allow s3:ListBucket"),
        (400, "AuthorizationHeaderMalformed", "The bucket is in another region than AWS_REGION says"),
        (301, "PermanentRedirect", "The bucket is in another region than AWS_REGION says"),
        (501, "NotImplemented", "It lacks a part of S3 that the store needs"),
        (404, "<html>Not an S3", "It does not answer as an S3 does"),
        (200, "<html>Not an S3", "It does not answer as an S3 does"),
    ],
)
def test_what_an_s3_refuses_is_told_with_a_fix(
    place: InBucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, code: str, said: str
) -> None:
    answers = type("Answers", (Refusing,), {"status": status, "code": code})
    with ThreadingHTTPServer(("127.0.0.1", 0), answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        with pytest.raises(StorageError) as raised:
            Store(Bucket("s3://rounds", tmp_path)).projects()
        server.shutdown()
    assert said in str(raised.value)


def test_a_host_without_credentials_is_told_so(
    place: InBucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    answers = type("Answers", (Refusing,), {"status": 404, "code": "no roles here"})
    with ThreadingHTTPServer(("127.0.0.1", 0), answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_METADATA_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        with pytest.raises(StorageError, match="There are no credentials"):
            Store(Bucket("s3://rounds", tmp_path)).projects()
        server.shutdown()


def test_wrong_credentials_are_told(s3: S3Server, place: InBucket) -> None:
    store = place.store
    s3.require_credentials(required=True)
    try:
        for attempt in (store.projects, store.probe, store.webhook_secret):
            with pytest.raises(StorageError, match="Nobody has that AWS_ACCESS_KEY_ID there"):
                attempt()
    finally:
        s3.require_credentials(required=False)


class Forgetful(BaseHTTPRequestHandler):
    """An S3 that ignores all conditions, as some do."""

    objects: dict[str, bytes]

    def do_PUT(self) -> None:
        self.objects[self.path] = self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(200)

    def do_GET(self) -> None:
        found = self.objects.get(self.path)
        self._answer(200 if found is not None else 404, found or b"<Code>NoSuchKey</Code>")

    def do_DELETE(self) -> None:
        self.objects.pop(self.path, None)
        self._answer(204)

    def _answer(self, status: int, body: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("ETag", '"one"')
        self.send_header("Last-Modified", "Mon, 30 Nov 2026 07:00:00 GMT")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def test_an_s3_without_conditional_writes_is_refused(
    place: InBucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), type("One", (Forgetful,), {"objects": {}})) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        with pytest.raises(StoreError, match=r"ignores the condition If-None-Match.*AWS and MinIO"):
            Store(Bucket("s3://rounds", tmp_path)).probe()
        server.shutdown()


STRAYS = (
    "",
    "projects/",
    "projects/5",
    "projects/007/connection.json",
    "projects/7/",
    "projects/7/round-00001/",
    "projects/7/round-00001/sub/deep",
    "projects/7/round-00001.bak/round.json",
    "projects/7/round-00009",
    "projects/7/round-old/round.json",
    "projects/7/pretraining/",
    "gone/",
    "gone/7-old/round.json",
)


def test_what_is_not_ours_is_ignored(s3: S3Server, place: InBucket, tmp_path: Path) -> None:
    store = place.store
    saved = save(store)
    for key in STRAYS:
        s3.put_stray(f"{tmp_path.name}/{key}")
    store = place.store
    latest = store.latest(7, verified=True)
    assert store.projects() == [7] and store.numbers(7) == [1] and latest and latest.record == saved.record
    assert not list(store.pretraining(7).glob("*"))
    store.empty_gone(seconds=-1)
    assert save(store).record.number == 10, "the name of a round is taken"
    store.prune(7, keep=1)
    assert store.numbers(7) == [10]
    assert place.folders("gone") == ["7-old"], "what is not ours is not removed"


def test_a_key_that_is_no_path_is_named(s3: S3Server, place: InBucket, tmp_path: Path) -> None:
    save(place.store)
    s3.put_stray(f"{tmp_path.name}/projects/7//x")
    with pytest.raises(StorageError, match=r"An object there has an empty part.*projects/7//x"):
        place.store.latest(7)


def test_readers_go_on_while_another_host_prunes(place: InBucket) -> None:
    one, two = place.store, place.store
    save(one)
    with_copies, without = two.open(7, 1), place.store.open(7, 1)
    assert with_copies.array("task_ids").tolist() == [1, 2, 3]
    for _ in range(3):
        save(one)
    one.prune(7, keep=2)
    assert two.numbers(7) == [3, 4]
    assert with_copies.array("task_ids").tolist() == [1, 2, 3]
    with pytest.raises(CorruptRound, match=r"round-00001 cannot be used: task_ids\.npy is missing"):
        without.array("task_ids")
    latest = two.latest(7, verified=True)
    assert latest and latest.record.number == 4


def test_a_file_is_fetched_once_and_a_damaged_copy_again(place: InBucket) -> None:
    save(place.store)
    store = place.store
    first = store.open(7, 1)
    first.array("task_ids")
    content = place.read(f"{FIRST}/task_ids.npy")
    place.objects.delete([f"{FIRST}/task_ids.npy"])
    assert store.open(7, 1).array("task_ids").tolist() == [1, 2, 3]
    (first.path / "task_ids.npy").write_bytes(b"torn")
    with pytest.raises(CorruptRound, match=r"task_ids\.npy is missing"):
        store.open(7, 1).array("task_ids")
    place.write(f"{FIRST}/task_ids.npy", content)
    assert store.open(7, 1).array("task_ids").tolist() == [1, 2, 3]


def test_no_copy_of_a_project_that_was_made_anew_is_used(place: InBucket) -> None:
    one, two = place.store, place.store
    save(one)
    assert two.open(7, 1).array("task_ids").tolist() == [1, 2, 3]
    one.forget(7)
    with one.draft(7) as draft:
        draft.save(record(draft.number), {"task_ids": np.array([4, 5])})
    assert two.open(7, 1).array("task_ids").tolist() == [4, 5]


def test_a_folder_is_copied_into_a_bucket_and_back(place: InBucket, tmp_path: Path) -> None:
    folder = Store(tmp_path / "data")
    save(folder)
    folder.hold(7, "A person cancelled the last round.")
    for path in (tmp_path / "data").rglob("*"):
        if path.is_file():
            place.write(str(path.relative_to(tmp_path / "data")), path.read_bytes())
    store = place.store
    held = store.held(7)
    assert store.projects() == [7] and held and held.reason == "A person cancelled the last round."
    assert store.open(7, 1).array("task_ids").tolist() == [1, 2, 3]
    assert save(store).record.number == 2
    for each in place.objects.below("projects"):
        path = tmp_path / "back" / each.key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(place.read(each.key))
    back = Store(tmp_path / "back")
    assert back.numbers(7) == [1, 2]
    back.open(7, 2).verify()
    assert save(back).record.number == 3


def test_a_full_disk_of_this_machine_is_told(place: InBucket) -> None:
    with place.store.draft(7) as draft:
        draft.save(record(), {"task_ids": np.arange(50_000)})
    stored = place.store.open(7, 1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(Unwritable, match="Free disk space there"):
            stored.array("task_ids")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(stored.path.glob("*")), "nothing half-written fills the disk"
    assert len(stored.array("task_ids")) == 50_000


def test_a_large_record_is_read_in_pieces(place: InBucket) -> None:
    content = np.arange(3_000_000).tobytes()
    place.write("projects/7/tasks.json", content)
    assert place.read("projects/7/tasks.json") == content


def test_a_large_file_goes_in_pieces_both_ways(place: InBucket) -> None:
    rows = np.arange(5_000_000)
    with place.store.draft(7) as draft:
        draft.save(record(), {"task_ids": rows})
    assert np.array_equal(place.store.open(7, 1).array("task_ids"), rows)


def test_a_pretraining_goes_on_at_another_host(place: InBucket) -> None:
    one, two = place.store, place.store
    folder = one.pretraining(7)
    folder.mkdir(parents=True)
    (folder / "checkpoint.safetensors").write_bytes(b"after slice 1")
    assert one.pretraining(7) == folder and (folder / "checkpoint.safetensors").is_file(), (
        "it is not kept yet"
    )
    one.keep_pretraining(7)
    there = two.pretraining(7) / "checkpoint.safetensors"
    assert there.read_bytes() == b"after slice 1"
    there.write_bytes(b"after slice 2")
    assert two.pretraining(7) == there.parent and there.read_bytes() == b"after slice 2"
    two.keep_pretraining(7)
    assert (one.pretraining(7) / "checkpoint.safetensors").read_bytes() == b"after slice 2"
    one.forget(7)
    assert not (two.pretraining(7) / "checkpoint.safetensors").exists()


def test_copies_of_rounds_that_are_gone_do_not_fill_the_disk(place: InBucket) -> None:
    store = place.store
    first = save(store)
    long_ago = 1_700_000_000
    for _ in range(2):
        save(store)
    os.utime(first.path, (long_ago, long_ago))
    store.prune(7, keep=2)
    gone = first.path.parent.with_name("8")
    gone.mkdir()
    os.utime(gone, (long_ago, long_ago))
    save(store)
    assert not first.path.exists() and not gone.exists()
