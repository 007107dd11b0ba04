"""Files of the store that are altered, cut short or missing: said, passed over, made again."""

import copy
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from buckets import InBucket, S3Server, flip_in, running_s3
from fake_label_studio import TOKEN, FakeLabelStudio, running
from paths import SUPPORT
from saved_rounds import flip_a_byte
from worker_site import assert_nothing_lost

from coreset_backend import model
from coreset_backend.backend import Backend, open_backend
from coreset_backend.evaluation.comparison import keep_replay
from coreset_backend.rounds.due import round_due
from coreset_backend.rounds.run import run_round
from coreset_backend.settings import Settings
from coreset_backend.web.app import create_app
from coreset_backend.web.pages import TABS

pytestmark = pytest.mark.slow
ARRAYS = (
    *(
        "task_ids",
        "states",
        "scores",
        "embedded_task_ids",
        "embeddings",
        "image_keys",
        "probabilities",
        "predicted",
    ),
    *("layout", "label_codes", "pick_neighbors", "pick_distances"),
    *("suspects", "suspect_sets", "suspect_shares", "label_quality", "duplicate_groups", "clusters"),
)
OF_A_ROUND = (
    *("round.json", "published.json", "model.safetensors", "neighbors.ann", "neighbors.json"),
    *(f"{name}.npy" for name in ARRAYS),
)
BESIDE = (
    *(
        f"projects/1/{name}"
        for name in (
            *("history.json", "history-copy.json", "extra-params.json", "held.json", "replay.json"),
            *("tasks.json", "refresh.json"),
            *("pretraining/checkpoint.safetensors", "pretraining/features.safetensors"),
        )
    ),
    "webhook-secret",
    "images/*/*",
    "images/revisions.sqlite3",
)
"""Files beside the rounds, as patterns from the store's folder; of several that match one is damaged."""
SMALL = {"backbone": "small_cnn", "image_size": 16, "batch_size": 4, "keep_rounds": 2}


@pytest.fixture(scope="module")
def three_rounds(
    tmp_path_factory: pytest.TempPathFactory, redis_url: str
) -> Iterator[tuple[Path, FakeLabelStudio]]:
    """A store in which round 1 is pruned, and its Label Studio."""
    folder = tmp_path_factory.mktemp("store")
    with running() as studio:
        project_id = studio.create_project(16)
        given = {"redis_url": redis_url, "model_dir": folder, "label_studio_url": studio.url}
        backend = open_backend(Settings(**given, **SMALL, label_studio_api_key=TOKEN))  # type: ignore[arg-type]
        tasks = [task["id"] for task in studio.tasks_of(project_id)]
        for number in range(3):
            for place, task_id in enumerate(tasks[4 * number : 4 * number + 4]):
                studio.annotate(task_id, ("cat", "dog")[place % 2])
            run_round(backend, project_id)
        fill_what_is_beside(backend, project_id)
        backend.close()
        yield folder, studio


def fill_what_is_beside(backend: Backend, project_id: int) -> None:
    store, pixels = backend.store, np.zeros((8, 16, 16, 3), np.uint8)
    store.keep_extra_params(project_id, {"batch_size": 4})
    store.hold(project_id, "A person cancelled the last round.")
    store.refresh(project_id)
    store.webhook_secret()
    keep_replay(store, project_id, [], "Nothing was compared.")
    recipe = model.PretrainingRecipe(epochs=1, least_images=0, batch=8)
    folder = store.pretraining(project_id)
    model.pretrain(pixels, np.eye(8, 32, dtype=np.uint8), folder, seed=0, device="cpu", recipe=recipe)


@pytest.fixture
def copied(
    three_rounds: tuple[Path, FakeLabelStudio], make_backend: Callable[..., Backend], tmp_path: Path
) -> Iterator[tuple[Backend, FakeLabelStudio]]:
    """A copy of the store of its own, and the Label Studio as the three rounds have left it."""
    folder, studio = three_rounds
    shutil.copytree(folder, tmp_path / "data")
    predictions, projects = copy.deepcopy((studio.predictions, studio.projects))
    yield make_backend(label_studio_url=studio.url, label_studio_api_key=TOKEN, **SMALL), studio
    studio.predictions, studio.projects = predictions, projects


def newest(backend: Backend) -> Path:
    return backend.store.root / "projects/1/round-00003"


def test_every_file_of_the_store_is_among_the_damaged(copied: tuple[Backend, FakeLabelStudio]) -> None:
    backend, _ = copied
    assert {path.name for path in newest(backend).iterdir()} == set(OF_A_ROUND)
    root = backend.store.root
    files = {path for path in root.rglob("*") if path.is_file() and not path.parent.match("round-*")}
    assert all(list(root.glob(pattern)) for pattern in BESIDE)
    assert files == {path for pattern in BESIDE for path in root.glob(pattern)}


def assert_answers(backend: Backend, project_id: int = 1) -> None:
    """Label Studio, people and Prometheus get answers from what is whole."""
    client = create_app(backend).test_client()
    for path in ("status", "overview", "progress", "history"):
        assert client.get(f"/api/projects/{project_id}/{path}").status_code == 200, path
    for path in ("/projects", *(f"/projects/{project_id}?tab={tab}" for tab in TABS), "/metrics"):
        assert client.get(path).status_code == 200, path
    assert client.post("/setup", json={"project": project_id}).status_code == 200
    answer = client.post("/predict", json={"project": project_id, "tasks": [{"id": 2}, {"id": 10**6}]})
    results = (answer.json or {})["results"]
    whole = [stored.record.pool_version for stored in backend.store.readable(project_id)]
    assert results[0]["model_version"] in whole


def test_a_folder_of_an_early_release_answers_and_the_next_round_is_made_on_top(
    make_backend: Callable[..., Backend], tmp_path: Path
) -> None:
    with running() as studio:
        while (project_id := studio.create_project(8 if len(studio.projects) == 6 else 0)) < 7:
            pass
        tasks = [task["id"] for task in studio.tasks_of(project_id)]
        with tarfile.open(SUPPORT / "saved/round-saved-by-8b533be.tar.gz") as packed:
            packed.extractall(tmp_path / "data", filter="data")
        backend = make_backend(label_studio_url=studio.url, label_studio_api_key=TOKEN, **SMALL)
        assert_answers(backend, 7)
        studio.annotate(tasks[0], "cat")
        studio.annotate(tasks[1], "dog")
        round_due(backend, 7)
        made = run_round(backend, 7)
        assert made.record.number == 2
        assert_answers(backend, 7)
        assert [record.number for record in backend.store.history(7)] == [1, 2]
        assert_nothing_lost(backend, studio, 7, [1, 2])


def flipped(path: Path) -> None:
    flip_a_byte(path)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def missing(path: Path) -> None:
    path.unlink()


def half_written(path: Path) -> None:
    """A round folder that appeared before its files did, and what a killed worker had begun."""
    (path.parent / "round-00004").mkdir()
    (path.parent / ".draft-5-dead").mkdir()
    (path.parent / ".draft-5-dead/embeddings.npy").write_bytes(b"half")


def fault(damage: Callable[[Path], None], name: str, what: str) -> Any:
    return pytest.param(damage, name, marks=pytest.mark.fault(what, "between"))


DAMAGES = [
    *(
        fault(flipped, name, f"a flipped byte in each of a round's {len(OF_A_ROUND)} files")
        for name in OF_A_ROUND
    ),
    *(fault(flipped, name, "a flipped byte in any file beside the rounds") for name in BESIDE),
    fault(cut_short, "round.json", "a file of a round is cut short"),
    fault(missing, "states.npy", "a file of a round is missing"),
    fault(half_written, "", "a half-written round"),
]
QUICK = (("flipped", "states.npy"), ("flipped", "round.json"), ("half_written", ""))


def damaged(backend: Backend, damage: Callable[[Path], None], name: str) -> None:
    folder = newest(backend)
    damage(next(backend.store.root.glob(name)) if name in BESIDE else folder / name if name else folder)


@pytest.mark.parametrize(("damage", "name"), DAMAGES)
def test_what_is_damaged_is_answered_around(
    copied: tuple[Backend, FakeLabelStudio], damage: Callable[[Path], None], name: str
) -> None:
    backend, _ = copied
    damaged(backend, damage, name)
    assert_answers(backend)
    due = round_due(backend, 1).reason
    assert name not in ("states.npy", "task_ids.npy") or (due and "round 3 is damaged" in due)
    assert [record.number for record in backend.store.history(1)] == [1, 2, 3]


@pytest.mark.parametrize(
    ("damage", "name"),
    [
        pytest.param(
            *each.values, marks=[] if (each.values[0].__name__, each.values[1]) in QUICK else pytest.mark.soak
        )
        for each in DAMAGES
    ],
)
def test_the_next_round_is_whole(
    copied: tuple[Backend, FakeLabelStudio], damage: Callable[[Path], None], name: str
) -> None:
    backend, studio = copied
    damaged(backend, damage, name)
    made = run_round(backend, 1).record.number
    assert made == {"published.json": 3, "": 5}.get(name, 4)
    assert [record.number for record in backend.store.history(1)] == [1, 2, 3, *([made] if made > 3 else [])]
    assert_answers(backend)
    # A round that cannot be read is not counted among those that are kept, and stays.
    kept = {"published.json": [2, 3], "round.json": [2, 3, 4], "": [3, 4, 5]}.get(name, [3, 4])
    assert_nothing_lost(backend, studio, 1, kept, damaged={3, 4} - {made})


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with running_s3() as server:
        yield server


@pytest.fixture
def in_bucket(
    three_rounds: tuple[Path, FakeLabelStudio],
    s3: S3Server,
    make_backend: Callable[..., Backend],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[tuple[Backend, FakeLabelStudio, InBucket]]:
    """The three rounds in a bucket of their own, opened by a host that has no copies yet."""
    folder, studio = three_rounds
    for name, value in {**s3.environment, "XDG_CACHE_HOME": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    place = InBucket(f"s3://rounds/{tmp_path.name}", tmp_path)
    for path in folder.rglob("*"):
        if path.is_file() and "images" not in path.parts:
            place.write(path.relative_to(folder).as_posix(), path.read_bytes())
    predictions, projects = copy.deepcopy((studio.predictions, studio.projects))
    given = {"label_studio_url": studio.url, "label_studio_api_key": TOKEN, **SMALL}
    yield make_backend(model_dir=place.address, **given), studio, place
    studio.predictions, studio.projects = predictions, projects


IN_BUCKET = [("flip", f"projects/1/round-00003/{name}") for name in OF_A_ROUND]
IN_BUCKET += [("flip", name.replace("*", "1")) for name in BESIDE if not name.startswith("images")]
IN_BUCKET += [(how, f"projects/1/round-00003/{name}") for how in ("cut", "remove") for name in OF_A_ROUND]
IN_BUCKET_QUICK = {("flip", "states.npy"), ("remove", "round.json")}


@pytest.mark.parametrize(
    ("how", "key"),
    [
        pytest.param(
            *each,
            marks=[] if (each[0], each[1].rpartition("/")[2]) in IN_BUCKET_QUICK else pytest.mark.soak,
        )
        for each in IN_BUCKET
    ],
)
@pytest.mark.fault("a file in the bucket is altered, cut short or removed", "between")
def test_what_is_damaged_in_a_bucket_is_answered_around_and_the_next_round_is_whole(
    in_bucket: tuple[Backend, FakeLabelStudio, InBucket], how: str, key: str
) -> None:
    backend, studio, place = in_bucket
    content = place.read(key)
    if how == "flip":
        flip_in(place, key)
    elif how == "cut":
        place.write(key, content[: len(content) // 2])
    else:
        place.objects.delete([key])
    assert_answers(backend)
    assert [record.number for record in backend.store.history(1)][:2] == [1, 2]
    made, name = run_round(backend, 1).record, key.rpartition("/")[2]
    assert made.number == (3 if name == "published.json" else 4)
    assert_answers(backend)
    backend.store.open(1, made.number).verify()
    labeled = sum(bool(task["annotations"]) for task in studio.tasks_of(1))
    assert made.counts["labeled"] == labeled and sum(made.counts.values()) == len(studio.tasks_of(1))
    assert studio.queue(1)[: len(made.batch)] == list(made.batch)
