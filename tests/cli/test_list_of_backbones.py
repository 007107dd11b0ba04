"""`coreset-backend backbones`: what there is, what it costs here, and what `auto` takes."""

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from fake_hub import timm_folder

from coreset_backend.cli.main import main
from coreset_backend.store.record import BackboneChoice
from coreset_backend.store.store import Store


def printed(*words: str, **environment: str) -> str:
    result = CliRunner().invoke(main, ["backbones", *words], env=environment)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.slow
def test_the_table_and_the_json_say_what_is_at_hand_its_licence_and_how_long_the_pool_takes(
    tmp_path: Path,
) -> None:
    folder = timm_folder(tmp_path / "tiny", license="cc-by-nc-4.0")
    set_to = f"local-dir:{folder}"
    given = {"MODEL_DIR": str(tmp_path), "CORESET_BACKBONE": set_to, "CORESET_DOWNLOAD": "never"}
    told = printed("--images", "300", **given)
    assert re.search(r"efficientnet_lite0 +on this machine +14 +224 +Apache-2.0 +[\d.]+ +\d+ (s|min)", told)
    assert re.search(
        r"vit_small_patch14_dinov2.lvd142m +to download +88 +224 +Apache-2.0 +~[\d.]+ +~\d+", told
    )
    assert re.search(r"dinov3.lvd1689m +to download .* dinov3-license \(restricted\)", told)
    assert re.search(rf"{re.escape(set_to)} +on this machine .* CC-BY-NC-4.0 \(restricted\)", told)
    assert "300 images. auto takes efficientnet_lite0: " in told and "downloads are forbidden." in told
    assert f"CORESET_BACKBONE={set_to} is used instead." in told
    store = Store(tmp_path)
    store.keep_backbone_choice(1, BackboneChoice("efficientnet_lite0", "the labels say so"))
    answer = json.loads(printed("--images", "20000", "--project", "1", "--json", MODEL_DIR=str(tmp_path)))
    assert answer["images"] == 20_000
    assert answer["auto"] == {
        "name": "efficientnet_lite0",
        "why": "chosen for the project: the labels say so",
    }
    lite = answer["backbones"][0]
    assert (lite["name"], lite["at_hand"], lite["measured"]) == ("efficientnet_lite0", True, True)
    assert lite["seconds"] == pytest.approx(20_000 / lite["images_per_second"], rel=0.01)


def test_a_search_lists_names_without_building_anything(tmp_path: Path) -> None:
    found = json.loads(printed("--search", "DINOv2", "--json", MODEL_DIR=str(tmp_path)))
    names = {each["name"]: each for each in found}
    assert names["timm/vit_small_patch14_dinov2.lvd142m"]["licence"] == "Apache-2.0"
    assert names["timm/vit_small_patch14_dinov2.lvd142m"]["pixels"] == 518
    assert "No name of timm or torchvision contains" in printed("--search", "qwertz", MODEL_DIR=str(tmp_path))


def test_a_project_without_a_round_has_no_pool_yet(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["backbones", "--project", "7"], env={"MODEL_DIR": str(tmp_path)})
    assert result.exit_code == 2
    assert "Project 7 has no round yet. Give the size of its pool by --images." in result.output
