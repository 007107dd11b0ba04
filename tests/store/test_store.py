import hashlib
import json
import stat
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from buckets import InBucket, InFolder, S3Server, flip_in, running_s3
from paths import SUPPORT
from saved_rounds import record, save

from coreset_backend.errors import CorruptRound, RoundNotFound
from coreset_backend.evaluation.predictions import Answers
from coreset_backend.evaluation.scores import named_classes
from coreset_backend.project import Labels
from coreset_backend.reports import Publication
from coreset_backend.store.record import Evaluation, Interval
from coreset_backend.store.saved_round import StoredRound, computed_once
from coreset_backend.store.store import Store


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with running_s3() as server:
        yield server


@pytest.fixture(params=["folder", "bucket"])
def place(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> InFolder | InBucket:
    if request.param == "folder":
        return InFolder(tmp_path / "data")
    s3: S3Server = request.getfixturevalue("s3")
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    return InBucket(f"s3://rounds/a b/ü+{tmp_path.name}", tmp_path)


@pytest.fixture
def store(place: InFolder | InBucket) -> Store:
    return place.store


def test_nested_choices_and_remarks_are_read_back_as_they_were(store: Store) -> None:
    nested = Labels("label", "image", ("warm / red", "cool"), True, (("warm", "red"), ("cool",)))
    save(store, labels=nested, remarks=("2 annotated tasks hold no answer.",))
    read = store.latest(7)
    assert read and read.record.labels == nested
    assert read.record.remarks == ("2 annotated tasks hold no answer.",)


def test_a_class_is_named_above_a_half_and_none_may_be(store: Store) -> None:
    spots = Labels("label", "image", ("a", "b"), multiple=True)
    odds = np.array([[0.5, 0.51], [0.5, 0.5], [0.1, 0.2]], dtype=np.float32)
    with store.draft(7) as draft:
        ids = np.array([1, 2, 3])
        arrays = {"task_ids": ids, "embedded_task_ids": ids, "scores": odds[:, 0], "probabilities": odds}
        stored = draft.save(record(labels=spots), arrays)
    said = [Answers(stored).answer(task_id) for task_id in ids]
    assert [answer and answer[0] for answer in said] == [("b",), (), ()]
    assert [answer and round(answer[1], 2) for answer in said] == [0.5, 0.5, 0.8]
    assert named_classes(odds, multiple=True).tolist() == [[False, True], [False, False], [False, False]]


def test_a_round_comes_back_as_it_was_saved(store: Store) -> None:
    saved = save(store)
    found = store.open(7, 1)
    assert found.record == saved.record
    assert found.array("task_ids").tolist() == [1, 2, 3]
    assert found.publication is None
    found.mark_published(Publication(sent=3))
    assert store.open(7, 1).publication == Publication(sent=3)


def test_a_record_is_checked_once_until_another_is_in_its_place(
    place: InFolder | InBucket, store: Store
) -> None:
    save(store)
    read = store.open(7, 1).record
    assert store.open(7, 1).record is read
    store.forget(7)
    save(store, strategy="random")
    assert store.open(7, 1).record.strategy == "random"
    flip_in(place, "projects/7/round-00001/round.json")
    with pytest.raises(CorruptRound):
        store.open(7, 1)


def test_what_is_computed_of_a_round_is_computed_again_once_a_file_changed(tmp_path: Path) -> None:
    stored, counted = save(Store(tmp_path)), []

    def count(stored: StoredRound) -> int:
        counted.append(len(stored.array("task_ids")))
        return counted[-1]

    assert [computed_once(count, stored) for _ in range(3)] == [3, 3, 3] and counted == [3]
    assert computed_once(count, replace(stored, record=replace(stored.record, batch=(2,)))) == 3
    assert counted == [3, 3]
    (stored.path / "task_ids.npy").write_bytes(b"torn")
    with pytest.raises(CorruptRound):
        computed_once(count, stored)


def test_a_draft_that_is_not_saved_leaves_nothing(store: Store) -> None:
    with pytest.raises(KeyError), store.draft(7) as draft:
        (draft.path / "half.npy").write_bytes(b"half")
        raise KeyError
    assert store.numbers(7) == []
    assert list((store.root / "projects/7").iterdir()) == []


def test_what_a_killed_worker_left_is_removed_by_the_next_draft(store: Store) -> None:
    store.register(7)
    torn = store.root / "projects/7/.draft-1-dead"
    torn.mkdir(parents=True)
    save(store)
    assert not torn.exists()
    assert store.numbers(7) == [1]


@pytest.mark.parametrize("name", ["round.json", "task_ids.npy"])
def test_a_flipped_byte_is_noticed(place: InFolder | InBucket, name: str) -> None:
    save(place.store)
    flip_in(place, f"projects/7/round-00001/{name}")
    with pytest.raises(CorruptRound, match=name):
        place.store.open(7, 1).array("task_ids")


def test_latest_passes_over_a_corrupt_round(
    place: InFolder | InBucket, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    save(store)
    save(store)
    place.write("projects/7/round-00002/round.json", b"{}")
    latest = store.latest(7)
    assert latest and latest.record.number == 1
    assert "ignored: " in caplog.text


def test_prune_keeps_the_newest_and_numbers_go_on(store: Store) -> None:
    for _ in range(4):
        save(store)
    store.prune(7, keep=2)
    assert store.numbers(7) == [3, 4]
    assert save(store).record.number == 5


def test_a_round_that_is_not_there_is_named(store: Store) -> None:
    with pytest.raises(RoundNotFound, match="Project 7 has no round 9"):
        store.open(7, 9)


def test_the_webhook_secret_is_made_once(place: InFolder | InBucket) -> None:
    secret = place.store.webhook_secret()
    assert len(secret) > 30
    assert place.store.webhook_secret() == secret


def test_the_webhook_secret_in_a_folder_is_private(tmp_path: Path) -> None:
    Store(tmp_path).webhook_secret()
    assert stat.S_IMODE((tmp_path / "webhook-secret").stat().st_mode) == 0o600


@pytest.mark.parametrize("left", [b"", b"half", b"\xff" * 43, b"\0" * 43])
def test_what_a_crash_left_of_the_webhook_secret_is_replaced(
    place: InFolder | InBucket, store: Store, caplog: pytest.LogCaptureFixture, left: bytes
) -> None:
    store.webhook_secret()
    place.write("webhook-secret", left)
    secret = store.webhook_secret()
    assert len(secret) == 43
    assert "connect each project again" in caplog.text
    assert place.store.webhook_secret() == secret


def test_no_array_is_read_as_a_pickle(store: Store) -> None:
    with pytest.raises(ValueError, match="pickle"), store.draft(7) as draft:
        draft.save(record(), {"task_ids": np.array([object()])})
    assert store.numbers(7) == []


def test_the_record_is_plain_json(place: InFolder | InBucket) -> None:
    save(place.store)
    body = place.read("projects/7/round-00001/round.json").partition(b"\n")[2]
    assert json.loads(body)["batch"] == [3, 1]


def test_what_pruned_rounds_measured_stays_without_their_lists(store: Store) -> None:
    measured = Evaluation(Interval(0.5, 0.3, 0.7, 20), Interval(0.4, 0.2, 0.6, 20))
    for _ in range(3):
        save(store, evaluation=measured, holdout=(1,))
    before = store.history(7)
    for _ in range(2):
        store.prune(7, keep=2)
        save(store)
    assert store.numbers(7) == [3, 4, 5]
    assert [record.number for record in store.history(7)] == [1, 2, 3, 4, 5]
    assert store.history(7)[:3] == before
    assert before[0].evaluation == measured
    assert before[0].batch == before[0].holdout == ()


@pytest.mark.parametrize("at", [0, 0.02, 0.5, 1])
def test_a_damaged_history_costs_no_round_since_there_are_two(
    place: InFolder | InBucket, store: Store, caplog: pytest.LogCaptureFixture, at: float
) -> None:
    for _ in range(6):
        save(store)
        store.prune(7, keep=2)
    before = store.history(7)
    flip_in(place, "projects/7/history.json", at)
    assert store.history(7) == before
    assert "history.json does not match its hash" in caplog.text
    save(store)
    store.prune(7, keep=2)
    assert [record.number for record in store.history(7)] == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("at", [0, 0.3, 0.5, 1])
def test_a_damaged_publication_is_none_and_damaged_settings_are_the_common_ones(
    place: InFolder | InBucket, store: Store, caplog: pytest.LogCaptureFixture, at: float
) -> None:
    saved = save(store)
    saved.mark_published(Publication(sent=3))
    flip_in(place, "projects/7/round-00001/published.json", at)
    assert saved.publication is None
    store.keep_extra_params(7, {"batch_size": 3})
    assert store.extra_params(7) == {"batch_size": 3}
    flip_in(place, "projects/7/extra-params.json", at)
    assert store.extra_params(7) == {}
    assert "uses the settings of the environment" in caplog.text
    store.keep_extra_params(7, {"batch_size": 3})
    assert store.extra_params(7) == {"batch_size": 3}


def test_a_file_of_an_early_release_without_a_hash_is_read(place: InFolder | InBucket, store: Store) -> None:
    saved = save(store)
    place.write("projects/7/round-00001/published.json", b'{"sent": 3}')
    place.write("projects/7/extra-params.json", b'{"batch_size": 3}')
    assert saved.publication == Publication(sent=3)
    assert store.extra_params(7) == {"batch_size": 3}


def test_a_deleted_project_is_put_aside_and_can_be_put_back_for_a_week(
    place: InFolder | InBucket, store: Store
) -> None:
    saved = save(store)
    store.forget(7)
    store.forget(7)
    assert store.projects() == [] and store.latest(7) is None
    store.empty_gone()
    (aside,) = place.folders("gone")
    place.move(f"gone/{aside}", "projects/7")
    latest = store.latest(7)
    assert latest and latest.record == saved.record
    store.forget(7)
    store.empty_gone(seconds=-1)
    assert not place.folders("gone")


def rewrite(place: InFolder | InBucket, key: str, change: Callable[[Any], None]) -> None:
    """Change the fields of a sealed file as another release would have written them."""
    fields = json.loads(place.read(key).partition(b"\n")[2])
    change(fields)
    body = json.dumps(fields).encode()
    place.write(key, hashlib.sha256(body).hexdigest().encode() + b"\n" + body)


def test_a_round_saved_before_a_field_was_added_still_opens(place: InFolder | InBucket, store: Store) -> None:
    def without(fields: Any) -> None:
        del fields["evaluation"], fields["title"]

    save(store)
    rewrite(place, "projects/7/round-00001/round.json", without)
    assert store.open(7, 1).record.evaluation is None


def test_after_a_way_back_from_a_newer_release_its_rounds_open(
    place: InFolder | InBucket, store: Store
) -> None:
    def with_more(fields: Any) -> None:
        fields["a_new_figure"] = 0.5
        if "labels" in fields:
            fields["labels"]["a_new_kind"] = True

    for _ in range(3):
        save(store)
    store.prune(7, keep=2)
    store.hold(7, "Rolled back to round 2 by hand.", 2)
    before = store.history(7)
    for name in ("round-00002/round.json", "round-00003/round.json", "held.json"):
        rewrite(place, f"projects/7/{name}", with_more)
    for name in ("history.json", "history-copy.json"):
        rewrite(place, f"projects/7/{name}", lambda fields: with_more(fields["rounds"][0]))
    assert store.history(7) == before
    latest = store.latest(7, verified=True)
    assert latest and latest.record.number == 2


def test_a_round_saved_by_an_early_release_opens_and_still_answers(tmp_path: Path) -> None:
    """The folder was written by the code of commit 8b533be."""
    archive = SUPPORT / "saved/round-saved-by-8b533be.tar.gz"
    with tarfile.open(archive) as packed:
        packed.extractall(tmp_path, filter="data")
    found = Store(tmp_path).latest(7)
    assert found and found.record.batch == (3, 1) and found.publication and found.publication.sent == 3
    found.verify()
    prediction = Answers(found).prediction(3, 0.0, "v", "on")
    assert prediction.label == ("dog",) and prediction.confidence == pytest.approx(0.95)
    assert save(Store(tmp_path)).record.number == 2


def test_a_hold_outlives_the_process_and_a_damaged_one_still_holds(
    place: InFolder | InBucket, store: Store
) -> None:
    for _ in range(3):
        save(store)
    store.hold(7, "Rolled back to round 1 by hand.", 1)
    latest = place.store.latest(7)
    assert latest and latest.record.number == 1
    store.prune(7, keep=2)
    assert store.numbers(7) == [1, 3]
    assert save(store).record.number == 4
    assert store.newest_first(7) == [4, 3, 1]
    flip_in(place, "projects/7/held.json")
    held = store.held(7)
    assert held and "held.json does not match its hash" in held.reason
    assert store.newest_first(7) == [4, 3, 1]
    store.release(7)
    assert store.held(7) is None


@pytest.mark.parametrize("name", ["round.json", "task_ids.npy", "model.safetensors", "neighbors.ann"])
def test_verify_names_the_file_that_was_altered(place: InFolder | InBucket, store: Store, name: str) -> None:
    with store.draft(7) as draft:
        for artefact in ("model.safetensors", "neighbors.ann"):
            (draft.path / artefact).write_bytes(bytes(range(200)))
        draft.save(record(), {"task_ids": np.array([1, 2, 3])})
    place.store.open(7, 1).verify()
    flip_in(place, f"projects/7/round-00001/{name}", 0.95)
    with pytest.raises(CorruptRound, match=f"{name} does not match its hash"):
        place.store.open(7, 1).verify()
