"""A project is exported whole: dataset, model and card, from a fake Label Studio and real rounds."""

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import yaml
from backend_run import environment_of
from click.testing import CliRunner
from fake_label_studio import TOKEN, FakeLabelStudio, choices_config, running
from huggingface_hub import ModelCard
from PIL import Image
from torchvision.datasets import ImageFolder

from coreset_backend import model
from coreset_backend.arrays import Resize
from coreset_backend.backend import Backend, open_backend
from coreset_backend.cli.main import main
from coreset_backend.decoding import decoded_pixels
from coreset_backend.errors import ExportError
from coreset_backend.export.run import Exported, export_project
from coreset_backend.finish.proposal import propose
from coreset_backend.finish.session import (
    Audited,
    FinishState,
    Kind,
    Session,
    forget_session,
    keep_proposal,
    keep_session,
)
from coreset_backend.rounds.run import run_round
from coreset_backend.settings import Settings

HOSTILE = ("=cmd()|' /C calc'!A0", "con", "Cat", "cat", "a/b\\c: *?", "../up", "Å", "A\u030a")


@dataclass
class Project:
    studio: FakeLabelStudio
    backend: Backend
    project_id: int

    @property
    def task_ids(self) -> list[int]:
        return [task["id"] for task in self.studio.tasks_of(self.project_id)]

    def export(self, place: Path, **given: Any) -> Exported:
        return export_project(self.backend, self.project_id, place, **given)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Iterator[Project]:
    """Forty images, of which people have labelled 16, skipped one, and answered one unreadably; one round."""
    with running() as studio:
        backend = open_backend(
            Settings(
                redis_url=redis_url,
                model_dir=tmp_path_factory.mktemp("data"),
                label_studio_url=studio.url,
                label_studio_api_key=TOKEN,
                backbone="small_cnn",
                image_size=16,
                batch_size=4,
            )
        )
        made = Project(studio, backend, studio.create_project(40))
        studio.projects[made.project_id]["title"] = "Cats | <b>dogs</b>\n---"
        for place, task_id in enumerate(made.task_ids[:16]):
            studio.annotate(task_id, ("cat", "dog")[place % 2])
        studio.annotate(made.task_ids[0], "dog")
        studio.tasks[made.task_ids[1]]["annotations"][0]["ground_truth"] = True
        studio.annotate(made.task_ids[16], None, cancelled=True)
        studio.annotate(made.task_ids[17], "bird")
        run_round(backend, made.project_id)
        yield made
        backend.close()


@pytest.fixture(scope="module")
def exported(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("home") / "deep" / "pets"
    project.export(place)
    return place


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "dataset/labels.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "dataset/labels.jsonl").read_text().splitlines()]


def test_every_task_has_one_line_with_its_label_and_its_source(project: Project, exported: Path) -> None:
    found = {line["task_id"]: line for line in lines(exported)}
    assert list(found) == project.task_ids
    first, second, skipped, unread, bare = (found[project.task_ids[at]] for at in (0, 1, 16, 17, 18))
    assert (first["label"], first["source"], first["annotators"]) == ("dog", "person", 1)
    assert second["ground_truth"] and second["label"] == "dog" and second["agreement"] == 1
    assert (skipped["status"], skipped["label"], skipped["source"]) == ("skipped", None, None)
    assert unread["status"] == "unread" and "'bird' is not a choice" in unread["note"]
    assert (bare["status"], bare["label"], bare["confidence"]) == ("unlabelled", None, None)
    assert bare["image"] == f"/data/upload/{project.project_id}/18.png"
    for row, line in zip(rows(exported), found.values(), strict=True):
        assert {name: value or None for name, value in row.items()} == {
            name: str(value).lower()
            if isinstance(value, bool)
            else str(value)
            if value not in ("", None)
            else None
            for name, value in line.items()
        }


def test_images_lie_in_folders_of_their_classes_byte_for_byte(project: Project, exported: Path) -> None:
    found = ImageFolder(str(exported / "dataset/images"))
    assert found.classes == ["cat", "dog"] and len(found) == 16
    for line in lines(exported):
        if line["file"]:
            content = (exported / "dataset" / line["file"]).read_bytes()
            assert content == project.studio.files[line["image"]]
            assert line["file"].split("/")[1] == line["label"]
    assert not list(exported.parent.glob(".*"))


def test_onnx_gives_torchs_probabilities_and_the_script_prints_them(
    project: Project, exported: Path, tmp_path: Path
) -> None:
    """Of the pool's images, and of large JPEGs, one that a camera turned and one that only its XMP would."""
    config = json.loads((exported / "config.json").read_text())
    turned = Image.Exif()
    turned[0x0112] = 6
    clouds = np.random.default_rng(0).integers(0, 256, (9, 13, 3), dtype=np.uint8)
    photo = Image.fromarray(clouds).resize((301, 503), Image.Resampling.BICUBIC)
    photo.save(tmp_path / "photo.jpg", exif=turned)
    photo.save(tmp_path / "upright.jpg", xmp=b'<rdf:Description tiff:Orientation="6"/>')
    files = [*sorted((exported / "dataset/images").rglob("*.png")), *sorted(tmp_path.glob("*.jpg"))]
    resize = Resize(config["image_size"], config["interpolation"])
    pixels = np.stack([decoded_pixels(file.read_bytes(), resize, 10**8) for file in files])
    session = onnxruntime.InferenceSession(exported / "model.onnx")
    found = session.run(None, {"pixels": pixels})[0]
    classifier = model.load_classifier(exported / "model.safetensors", "cpu", exact=True)
    expected = model.predict(classifier, pixels)
    assert expected is not None and np.abs(found - expected).max() <= 1e-4
    printed = subprocess.run(
        [sys.executable, exported / "predict.py", *files], capture_output=True, text=True, check=True
    )
    for line, probabilities in zip(printed.stdout.splitlines(), found, strict=True):
        said = [json.loads(line)[name] for name in config["id2label"].values()]
        np.testing.assert_allclose(said, probabilities, atol=2e-5)


def test_the_card_is_one_that_the_hub_reads_and_shows_foreign_text_as_it_is(
    project: Project, exported: Path
) -> None:
    text = (exported / "README.md").read_text()
    fields = yaml.safe_load(text.split("---\n")[1])
    assert fields["pipeline_tag"] == "image-classification" and fields["license"] == "other"
    [result] = ModelCard(text).data.to_dict()["model-index"][0]["results"]
    newest = project.backend.store.latest(project.project_id)
    assert newest and newest.record.evaluation
    assert result["metrics"][0]["value"] == round(newest.record.evaluation.accuracy.value, 4)
    assert "# Cats \\| \\<b\\>dogs\\</b\\>\\\\n---\n" in text
    for told in ("| labelled by people | 16 |", "| skipped by people | 1 |", "95 % interval", "| cat | 7 |"):
        assert told in text, told
    assert model.load_classifier(exported / "model.safetensors").description in text.replace("\\", "")
    for secret in (TOKEN, project.studio.url, "127.0.0.1", str(project.backend.settings.model_dir)):
        assert not [
            path for path in exported.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()
        ]


def test_an_export_again_replaces_an_unchanged_one_and_nothing_else(
    project: Project, exported: Path, tmp_path: Path
) -> None:
    place = tmp_path / "pets"
    shutil.copytree(exported, place)
    project.export(place, with_images=False, with_model=False)
    assert not (place / "model.onnx").exists() and not (place / "dataset/images").exists()
    (place / "README.md").write_text("mine")
    (place / "notes.txt").write_text("mine")
    with pytest.raises(ExportError, match=r"added or changed since its export: README.md, notes.txt\. "):
        project.export(place)
    assert (place / "notes.txt").read_text() == "mine"


def test_what_is_no_export_of_the_project_stays(project: Project, exported: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    foreign, empty, other = (tmp_path / name for name in ("foreign", "empty", "other"))
    for folder in (foreign, empty, other):
        folder.mkdir()
    (foreign / "photo.jpg").write_text("mine")
    (other / "export.json").write_text('{"export_format": 1, "project": 999}')
    for place, told in (
        (tmp_path / "file", "is a file"),
        (foreign, "is not empty and holds no export"),
        (other, "holds an export of project 999"),
    ):
        with pytest.raises(ExportError, match=told):
            project.export(place)
    assert (foreign / "photo.jpg").read_text() == "mine" and len(list(tmp_path.iterdir())) == 4
    project.export(empty, with_images=False, with_model=False)
    assert (empty / "README.md").exists()


def test_a_stopped_export_goes_on_with_the_images_that_it_has(project: Project, tmp_path: Path) -> None:
    place = tmp_path / "pets"

    def stop(phase: str, done: int, total: int) -> None:
        if (phase, done) == ("images", 9):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        project.export(place, progress=stop)
    assert not place.exists()
    had = {path.name for path in (tmp_path / ".pets.part").rglob("*.png")}
    assert len(had) >= 9
    moved = next((tmp_path / ".pets.part").rglob("*.png"))
    moved.rename(moved.parent.parent / moved.name)  # as if its label had been another
    project.studio.asked.clear()
    project.export(place)
    asked = {path.rsplit("/", 1)[-1] for _, path in project.studio.asked if "/data/upload/" in path}
    assert len({path.name for path in place.rglob("*.png")}) == 16
    assert len(asked) <= 16 - len(had)
    assert len(ImageFolder(str(place / "dataset/images"))) == 16


def test_images_that_cannot_be_read_are_listed_and_too_many_end_the_export(
    project: Project, tmp_path: Path
) -> None:
    files, wanted = project.studio.files, f"/data/upload/{project.project_id}/%d.png"
    kept = dict(files)
    try:
        files[wanted % 3] = b"<html>log in</html>"
        done = project.export(tmp_path / "a", with_model=False)
        [failure] = done.unreadable
        assert failure.task_id == project.task_ids[3] and done.images == 15
        [line] = [line for line in lines(tmp_path / "a") if line["task_id"] == failure.task_id]
        assert line["label"] == "dog" and line["file"] is None and line["note"] == failure.reason
        for number in range(2, 16, 2):  # every cat
            files[wanted % number] = b"<html>log in</html>"
        assert len(project.export(tmp_path / "c", with_model=False).unreadable) == 8
        assert ImageFolder(str(tmp_path / "c/dataset/images")).classes == ["dog"]
        for number in range(12):
            files[wanted % number] = b"<html>log in</html>"
        with pytest.raises(ExportError, match="14 of 16 labelled images could not be read"):
            project.export(tmp_path / "b")
    finally:
        files.update(kept)
    assert not (tmp_path / "b").exists()


def test_labels_by_the_model_carry_confidence_and_bound_and_a_persons_comes_first(
    project: Project, tmp_path: Path
) -> None:
    stored = project.backend.store.latest(project.project_id)
    assert stored
    proposal = propose(stored)
    accepted = (*proposal.task_ids[:5], project.task_ids[0])
    session = Session(
        round=1,
        version="finish-1",
        wrong=0.05,
        confidence=0.9,
        most=300,
        per_class=False,
        started="2026-01-01T00:00:00+00:00",
        state=FinishState.WRITTEN,
        accepted=accepted,
        audited=(Audited("", 22, 10, 0, 10, 1, 10, 0, by_model=5),),
    )
    copies = replace(
        proposal,
        task_ids=proposal.task_ids[-2:],
        answers=proposal.answers[-2:],
        doubts=(0.0, 0.0),
        order=(0, 1),
    )
    store, project_id = project.backend.store, project.project_id
    keep_proposal(store, project_id, Kind.MODEL, proposal)
    keep_session(store, project_id, session)
    keep_proposal(store, project_id, Kind.COPIES, copies)
    bound = Audited("", 2, 1, 0, 2, 1, 2, 0, by_model=4)
    keep_session(
        store,
        project_id,
        replace(session, kind=Kind.COPIES, accepted=copies.task_ids[:1], audited=(bound,), confidence=0.95),
    )
    project.export(tmp_path / "pets", with_model=False)
    found = {line["task_id"]: line for line in lines(tmp_path / "pets")}
    for row, task_id in enumerate(proposal.task_ids[:5]):
        line = found[task_id]
        assert (line["status"], line["source"], line["label"]) == ("labelled", "model", *proposal.named(row))
        assert line["confidence"] == pytest.approx(1 - proposal.doubts[row], abs=1e-6)
        assert (line["wrong_at_most"], line["bound_confidence"]) == (0.2, 0.9)
    assert found[project.task_ids[0]]["source"] == "person"
    copy = found[copies.task_ids[0]]
    assert (copy["source"], copy["confidence"], copy["wrong_at_most"]) == ("copy", None, 0.25)
    assert found[copies.task_ids[1]]["status"] == "unlabelled"
    assert (
        "Of 5 images labelled by the model, at most 20.0% have a wrong label"
        in (tmp_path / "pets/README.md").read_text()
    )
    keep_session(store, project_id, replace(session, state=FinishState.WRITING))
    [remark] = project.export(tmp_path / "b", with_model=False).remarks
    assert remark == "Labels of the model are left out: they are not written whole (writing)."
    for kind in Kind:
        forget_session(store, project_id, kind)


@pytest.fixture
def bare(make_backend: Callable[..., Backend], studio: FakeLabelStudio) -> Project:
    """A project without a round."""
    backend = make_backend(label_studio_url=studio.url, label_studio_api_key=TOKEN)
    return Project(studio, backend, studio.create_project(8))


def test_hostile_names_of_classes_make_safe_folders_and_cells(bare: Project, tmp_path: Path) -> None:
    studio = bare.studio
    studio.projects[bare.project_id]["label_config"] = choices_config(HOSTILE)
    for task_id, name in zip(bare.task_ids, HOSTILE, strict=True):
        studio.annotate(task_id, name)
    studio.add_task(bare.project_id, {"image": "https://user:secret@h.example/a.png?sig=verysecret&n=1"})
    done = bare.export(tmp_path / "x")
    assert done.images == 8 and done.remarks == ["There is no model: no round of the project has one."]
    classes = json.loads((tmp_path / "x/dataset/classes.json").read_text())
    assert [each["name"] for each in classes] == list(HOSTILE)
    folders = [path.name for path in (tmp_path / "x/dataset/images").iterdir()]
    assert len(folders) == len({name.casefold() for name in folders}) == 8
    assert sorted(folders) == sorted(each["folder"] for each in classes)
    assert {"con_", "Cat", "cat-2", "a_b_c_", "_up"} <= set(folders)
    assert rows(tmp_path / "x")[0]["label"] == f"'{HOSTILE[0]}"
    assert [line["label"] for line in lines(tmp_path / "x")[:8]] == list(HOSTILE)
    assert lines(tmp_path / "x")[8]["image"] == "https://***@h.example/a.png?sig=***&n=1"


MULTIPLE = """<View><Image name="image" value="$image"/>
<Choices name="label" toName="image" choice="multiple">
<Choice value="cat"/><Choice value="dog"/></Choices></View>"""


def test_multiple_choice_has_one_folder_and_a_table_of_classes(bare: Project, tmp_path: Path) -> None:
    bare.studio.projects[bare.project_id]["label_config"] = MULTIPLE
    region = {"from_name": "label", "to_name": "image", "type": "choices"}
    for task_id, names in zip(bare.task_ids, (["cat", "dog"], ["dog"], []), strict=False):
        bare.studio.add_annotation(
            task_id, {"result": [region | {"value": {"choices": names}}] if names else []}
        )
    bare.export(tmp_path / "x")
    assert [line["label"] for line in lines(tmp_path / "x")[:4]] == [["cat", "dog"], ["dog"], [], None]
    assert [row["label"] for row in rows(tmp_path / "x")[:4]] == ['["cat", "dog"]', '["dog"]', "[]", ""]
    images = tmp_path / "x/dataset/images"
    told = [json.loads(line) for line in (images / "metadata.jsonl").read_text().splitlines()]
    assert [each["labels"] for each in told] == [["cat", "dog"], ["dog"], []]
    assert sorted(path.name for path in images.iterdir()) == sorted(
        ["metadata.jsonl", *(each["file_name"] for each in told)]
    )


def test_the_command_prints_what_it_wrote(bare: Project, tmp_path: Path) -> None:
    typed = CliRunner().invoke(
        main,
        ["export", "--project", str(bare.project_id), "--to", str(tmp_path / "x"), "--json"],
        env=environment_of(bare.backend.settings),
        catch_exceptions=False,
    )
    assert typed.exit_code == 0, typed.output
    assert json.loads(typed.stdout)["tasks"] == {"unlabelled": 8}
    assert "tasks 8 of 8" in typed.stderr
