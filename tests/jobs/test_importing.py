"""Predictions from elsewhere are imported, choose a batch, and are removed, on the fake Label Studio."""

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from fake_label_studio import TOKEN, FakeLabelStudio

from coreset_backend.backend import Backend
from coreset_backend.cli.main import main
from coreset_backend.cli.status import status_lines
from coreset_backend.errors import ImportRefused
from coreset_backend.evaluation.imported import read_imported, usable_import
from coreset_backend.jobs.importing import import_version, import_words
from coreset_backend.jobs.status import project_status
from coreset_backend.rounds.run import run_round
from coreset_backend.web.app import create_app

POOL = 16


@pytest.fixture
def backend(make_backend: Callable[..., Backend], studio: FakeLabelStudio) -> Backend:
    return make_backend(
        label_studio_url=studio.url,
        label_studio_api_key=TOKEN,
        image_size=16,
        batch_size=4,
        random_slice=0.0,
        strategy="margin",
        backbone="small_cnn",
        device="cpu",
    )


@pytest.fixture
def typed(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """What the command prints, errors included."""
    settings = backend.settings
    monkeypatch.setenv("REDIS_URL", settings.redis_url)
    monkeypatch.setenv("MODEL_DIR", str(settings.model_dir))
    monkeypatch.setenv("LABEL_STUDIO_URL", settings.label_studio_url)
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", TOKEN)

    def type_command(*words: str) -> str:
        return CliRunner().invoke(main, ["import-predictions", "--project", *words]).output

    return type_command


def test_the_first_batch_is_chosen_by_what_was_imported_and_page_and_status_say_so(
    backend: Backend, studio: FakeLabelStudio, typed: Callable[..., str], tmp_path: Path
) -> None:
    project_id = studio.create_project(POOL)
    task_ids = [task["id"] for task in studio.tasks_of(project_id)]
    unsure = task_ids[5:9]
    table = tmp_path / "old.csv"
    lines = [f"{task_id},cat,{0.5 if task_id in unsure else 0.99}" for task_id in task_ids[:-2]]
    table.write_text("\n".join(["task,class,probability", *lines]))
    assert "14 predictions are imported (old.csv" in typed(str(project_id), "--csv", str(table))
    assert backend.store.projects() == []  # it is not connected by that
    first = run_round(backend, project_id)
    assert first.record.strategy == "margin" and set(first.record.batch) == set(unsure)
    assert first.record.imported and first.record.imported.used and first.record.imported.tasks == POOL - 2
    assert "was chosen by the uncertainty of the imported predictions (old.csv) on 14 images" in (
        "\n".join(status_lines(project_status(backend, project_id)))
    )
    page = create_app(backend).test_client().get(f"/projects/{project_id}").text
    assert "the uncertainty of the imported predictions (old.csv)" in page
    assert first.record.imported.why in typed(str(project_id))
    assert "are removed" in typed(str(project_id), "--remove")
    assert "nothing to remove" in typed(str(project_id), "--remove")
    assert "No predictions from elsewhere" in typed(str(project_id))


def test_a_version_in_label_studio_is_imported_by_its_scores(
    backend: Backend, studio: FakeLabelStudio, typed: Callable[..., str]
) -> None:
    project_id = studio.create_project(3)
    first, second, third = [task["id"] for task in studio.tasks_of(project_id)]
    backend.store.register(project_id)

    def predict(task_id: int, choice: str, score: float | None, own: float | None = None) -> None:
        value = {"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": [choice]}}
        studio.predictions.append(
            {
                "task": task_id,
                "project": project_id,
                "id": studio.next_id(),
                "model_version": "theirs",
                "score": score,
                "result": [value if own is None else {**value, "score": own}],
            }
        )

    predict(first, "cat", 0.1)
    predict(first, "dog", 0.7)  # the newer one counts
    predict(second, "cat", 0.2, 0.6)  # the region's own score
    predict(third, "pig", 0.9)
    assert "2 predictions are imported (version theirs" in typed(str(project_id), "--model-version", "theirs")
    imported = read_imported(backend.store, project_id)
    assert imported and imported.task_ids == (first, second)
    assert [round(odds, 3) for each in imported.probabilities for odds in each] == [0.3, 0.7, 0.6, 0.4]
    with pytest.raises(ImportRefused, match=r"No prediction of version 'mine' .* in the project: 'theirs'"):
        import_version(backend, project_id, "mine")
    assert read_imported(backend.store, project_id) == imported


def test_a_refused_file_changes_nothing_and_a_damaged_import_is_told(
    backend: Backend, studio: FakeLabelStudio, typed: Callable[..., str], tmp_path: Path
) -> None:
    project_id = studio.create_project(2)
    backend.store.register(project_id)
    table = tmp_path / "wrong.csv"
    table.write_bytes("task,class,probability\n1,Füchse,1\n".encode("latin-1"))
    assert "cannot be read as text in UTF-8" in typed(str(project_id), "--csv", str(table))
    table.write_text("task,class,probability\n2,cat,0.5\n2,pig,0.5\n")
    assert "Line 3: 'pig' is no class of the project" in typed(str(project_id), "--csv", str(table))
    assert read_imported(backend.store, project_id) is None
    assert "exclude each other" in typed(str(project_id), "--csv", str(table), "--remove")
    table.write_text("task,class,probability\n2,cat,0.5\n")
    assert "1 predictions are imported" in typed(str(project_id), "--csv", str(table))
    path = next(backend.settings.model_dir.rglob("imported-predictions.json"))
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ImportRefused, match="Import them again"):
        import_words(backend, project_id)
    assert usable_import(backend.store, project_id) is None  # a round goes on without
