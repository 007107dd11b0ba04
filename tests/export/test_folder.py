"""What a folder of an export leaves alone, whatever stopped the export before."""

import subprocess
import sys
from pathlib import Path

import pytest

from coreset_backend.errors import ExportError
from coreset_backend.export.class_folders import LONGEST, class_folders
from coreset_backend.export.folder import drafted_folder


def write(place: Path, content: str, project_id: int = 7) -> None:
    with drafted_folder(place, project_id) as folder:
        (folder / "labels.csv").write_text(content)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_new_export_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    write(tmp_path / "a", "old")
    write(tmp_path / "a", "new")
    assert (tmp_path / "a/labels.csv").read_text() == "new"
    assert names(tmp_path) == ["a"] and names(tmp_path / "a") == ["SHA256SUMS", "export.json", "labels.csv"]
    checked = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=tmp_path / "a", capture_output=True)
    assert checked.returncode == 0


@pytest.mark.parametrize("is_swapped", [False, True])
def test_an_export_killed_in_its_last_steps_loses_neither(tmp_path: Path, is_swapped: bool) -> None:
    """The old one stands aside; the new one is still beside its place, or in it."""
    write(tmp_path / "a", "old")
    (tmp_path / "a").rename(tmp_path / ".a.old")
    if is_swapped:
        write(tmp_path / "b", "new")
        (tmp_path / "b").rename(tmp_path / "a")
    with pytest.raises(KeyboardInterrupt), drafted_folder(tmp_path / "a", 7):
        assert (tmp_path / "a/labels.csv").read_text() == ("new" if is_swapped else "old")
        raise KeyboardInterrupt
    assert names(tmp_path) == ["a"]


def test_what_is_in_the_way_beside_it_stays(tmp_path: Path) -> None:
    for name in (".a.part", ".b.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine").touch()
    for name in ("a", "b"):
        with pytest.raises(ExportError, match="is no"):
            write(tmp_path / name, "new")
    assert names(tmp_path) == [".a.part", ".b.old"]
    assert (tmp_path / ".a.part/mine").exists() and (tmp_path / ".b.old/mine").exists()


def test_two_exports_into_one_place_do_not_mix(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from coreset_backend.export.folder import drafted_folder\n"
    code += "with drafted_folder(Path(sys.argv[1]), 7): print('here', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, tmp_path / "a"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout and other.stdout.readline() == b"here\n"
        with pytest.raises(ExportError, match="Another export is writing"):
            write(tmp_path / "a", "mine")
        other.communicate()
    write(tmp_path / "a", "mine")


def test_a_link_leads_to_the_folder_and_the_folder_one_is_in_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    write(tmp_path / "link", "new")
    assert (tmp_path / "disk/labels.csv").read_text() == "new" and (tmp_path / "link").is_symlink()
    monkeypatch.chdir(tmp_path / "disk")
    with pytest.raises(ExportError, match="while it is in use"):
        write(Path(), "new")


@pytest.mark.parametrize(
    ("given", "folders"),
    [
        (["cat", "dog 2", "猫"], ["cat", "dog 2", "猫"]),
        (["Cat", "cat", "CAT"], ["Cat", "cat-2", "CAT-3"]),
        (["Å", "A\u030a"], ["Å", "Å-2"]),
        (["a / b", "a_b"], ["a_b", "a_b-2"]),
        ([".", "..", "../x", "-rf", "~"], ["_", "_-2", "_x", "_rf", "_-3"]),
        (["con", "LPT1.txt", "nul.", "content"], ["con_", "LPT1.txt_", "nul_", "content"]),
        (["x.", " x ", "x\n"], ["x", "x-2", "x_"]),
        (["\u202egnp", "\ud83d", ""], ["_gnp", "_", "_-2"]),
    ],
)
def test_every_class_has_a_folder_that_file_systems_take(given: list[str], folders: list[str]) -> None:
    assert list(class_folders(given).values()) == folders


def test_a_long_name_is_cut_between_characters() -> None:
    made = list(class_folders(["ä" * 200, "ä" * 201]).values())
    assert made == ["ä" * (LONGEST // 2), "ä" * (LONGEST // 2) + "-2"]
