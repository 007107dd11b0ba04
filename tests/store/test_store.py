import hashlib
import json
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from paths import SUPPORT
from saved_rounds import flip_a_byte, record, save

from coreset_backend.errors import CorruptRound, RoundNotFound
from coreset_backend.evaluation.predictions import Answers
from coreset_backend.evaluation.scores import named_classes
from coreset_backend.project import Labels
from coreset_backend.reports import Publication
from coreset_backend.store.record import Evaluation, Interval
from coreset_backend.store.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "data")


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


def test_a_draft_that_is_not_saved_leaves_nothing(store: Store) -> None:
    with pytest.raises(KeyError), store.draft(7) as draft:
        (draft.path / "half.npy").write_bytes(b"half")
        raise KeyError
    assert store.numbers(7) == []
    assert list((store.root / "projects/7").iterdir()) == []


def test_what_a_killed_worker_left_is_removed_by_the_next_draft(store: Store) -> None:
    store.register(7)
    torn = store.root / "projects/7/.draft-1-dead"
    torn.mkdir()
    save(store)
    assert not torn.exists()
    assert store.numbers(7) == [1]


@pytest.mark.parametrize("name", ["round.json", "task_ids.npy"])
def test_a_flipped_byte_is_noticed(store: Store, name: str) -> None:
    flip_a_byte(save(store).path / name)
    with pytest.raises(CorruptRound, match=name):
        store.open(7, 1).array("task_ids")


def test_latest_passes_over_a_corrupt_round(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    save(store)
    (save(store).path / "round.json").write_text("{}")
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


def test_the_webhook_secret_is_made_once_and_is_private(store: Store) -> None:
    secret = store.webhook_secret()
    assert len(secret) > 30
    assert Store(store.root).webhook_secret() == secret
    assert stat.S_IMODE((store.root / "webhook-secret").stat().st_mode) == 0o600


@pytest.mark.parametrize("left", [b"", b"half", b"\xff" * 43, b"\0" * 43])
def test_what_a_crash_left_of_the_webhook_secret_is_replaced(
    store: Store, caplog: pytest.LogCaptureFixture, left: bytes
) -> None:
    store.webhook_secret()
    (store.root / "webhook-secret").write_bytes(left)
    secret = store.webhook_secret()
    assert len(secret) == 43
    assert "connect each project again" in caplog.text
    assert Store(store.root).webhook_secret() == secret


def test_no_array_is_read_as_a_pickle(store: Store) -> None:
    with pytest.raises(ValueError, match="pickle"), store.draft(7) as draft:
        draft.save(record(), {"task_ids": np.array([object()])})
    assert store.numbers(7) == []


def test_the_record_is_plain_json(store: Store) -> None:
    body = (save(store).path / "round.json").read_bytes().partition(b"\n")[2]
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


@pytest.mark.parametrize("place", [0, 0.02, 0.5, 1])
def test_a_damaged_history_costs_no_round_since_there_are_two(
    store: Store, caplog: pytest.LogCaptureFixture, place: float
) -> None:
    for _ in range(6):
        save(store)
        store.prune(7, keep=2)
    before = store.history(7)
    flip_a_byte(store.root / "projects/7/history.json", place)
    assert store.history(7) == before
    assert "history.json does not match its hash" in caplog.text
    save(store)
    store.prune(7, keep=2)
    assert [record.number for record in store.history(7)] == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("place", [0, 0.3, 0.5, 1])
def test_a_damaged_publication_is_none_and_damaged_settings_are_the_common_ones(
    store: Store, caplog: pytest.LogCaptureFixture, place: float
) -> None:
    saved = save(store)
    saved.mark_published(Publication(sent=3))
    flip_a_byte(saved.path / "published.json", place)
    assert saved.publication is None
    store.keep_extra_params(7, {"batch_size": 3})
    assert store.extra_params(7) == {"batch_size": 3}
    flip_a_byte(store.root / "projects/7/extra-params.json", place)
    assert store.extra_params(7) == {}
    assert "uses the settings of the environment" in caplog.text
    store.keep_extra_params(7, {"batch_size": 3})
    assert store.extra_params(7) == {"batch_size": 3}


def test_a_file_of_an_early_release_without_a_hash_is_read(store: Store) -> None:
    saved = save(store)
    (saved.path / "published.json").write_text('{"sent": 3}')
    (store.root / "projects/7/extra-params.json").write_text('{"batch_size": 3}')
    assert saved.publication == Publication(sent=3)
    assert store.extra_params(7) == {"batch_size": 3}


def test_a_deleted_project_is_put_aside_and_can_be_put_back_for_a_week(store: Store) -> None:
    saved = save(store)
    store.forget(7)
    store.forget(7)
    assert store.projects() == [] and store.latest(7) is None
    store.empty_gone()
    (aside,) = (store.root / "gone").iterdir()
    aside.rename(store.root / "projects/7")
    latest = store.latest(7)
    assert latest and latest.record == saved.record
    store.forget(7)
    store.empty_gone(seconds=-1)
    assert not list((store.root / "gone").iterdir())


def rewrite(path: Path, change: Callable[[Any], None]) -> None:
    """Change the fields of a sealed file as another release would have written them."""
    fields = json.loads(path.read_bytes().partition(b"\n")[2])
    change(fields)
    body = json.dumps(fields).encode()
    path.write_bytes(hashlib.sha256(body).hexdigest().encode() + b"\n" + body)


def test_a_round_saved_before_a_field_was_added_still_opens(store: Store) -> None:
    def without(fields: Any) -> None:
        del fields["evaluation"], fields["title"]

    rewrite(save(store).path / "round.json", without)
    assert store.open(7, 1).record.evaluation is None


def test_after_a_way_back_from_a_newer_release_its_rounds_open(store: Store) -> None:
    def with_more(fields: Any) -> None:
        fields["a_new_figure"] = 0.5
        if "labels" in fields:
            fields["labels"]["a_new_kind"] = True

    for _ in range(3):
        save(store)
    store.prune(7, keep=2)
    store.hold(7, "Rolled back to round 2 by hand.", 2)
    before = store.history(7)
    folder = store.root / "projects/7"
    for path in (folder / "round-00002/round.json", folder / "round-00003/round.json", folder / "held.json"):
        rewrite(path, with_more)
    for name in ("history.json", "history-copy.json"):
        rewrite(folder / name, lambda fields: with_more(fields["rounds"][0]))
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


def test_a_hold_outlives_the_process_and_a_damaged_one_still_holds(store: Store) -> None:
    for _ in range(3):
        save(store)
    store.hold(7, "Rolled back to round 1 by hand.", 1)
    latest = Store(store.root).latest(7)
    assert latest and latest.record.number == 1
    store.prune(7, keep=2)
    assert store.numbers(7) == [1, 3]
    assert save(store).record.number == 4
    assert store.newest_first(7) == [4, 3, 1]
    flip_a_byte(store.root / "projects/7/held.json")
    held = store.held(7)
    assert held and "held.json does not match its hash" in held.reason
    assert store.newest_first(7) == [4, 3, 1]
    store.release(7)
    assert store.held(7) is None


@pytest.mark.parametrize("name", ["round.json", "task_ids.npy", "model.safetensors", "neighbors.ann"])
def test_verify_names_the_file_that_was_altered(store: Store, name: str) -> None:
    with store.draft(7) as draft:
        for artefact in ("model.safetensors", "neighbors.ann"):
            (draft.path / artefact).write_bytes(bytes(range(200)))
        path = draft.save(record(), {"task_ids": np.array([1, 2, 3])}).path / name
    store.open(7, 1).verify()
    flip_a_byte(path, 0.95)
    with pytest.raises(CorruptRound, match=f"{name} does not match its hash"):
        store.open(7, 1).verify()
