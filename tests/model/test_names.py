"""The names that CORESET_BACKBONE takes, and the input that each network expects."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision  # type: ignore[import-untyped]
from fake_hub import TINY, timm_folder
from training_images import shapes

from coreset_backend import model
from coreset_backend.arrays import Resize
from coreset_backend.errors import ConfigError
from coreset_backend.model.names import Kind, Name, parsed
from coreset_backend.model.saving import read_tensors, write_tensors


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("efficientnet_lite0", Name(Kind.OURS, "efficientnet_lite0")),
        ("resnet18", Name(Kind.TORCHVISION, "resnet18")),
        ("torchvision/swin_t", Name(Kind.TORCHVISION, "swin_t")),
        ("timm/resnet18", Name(Kind.TIMM, "resnet18")),
        ("timm/resnet18.a1_in1k", Name(Kind.TIMM, "resnet18.a1_in1k")),
        ("vit_small_patch14_dinov2.lvd142m", Name(Kind.TIMM, "vit_small_patch14_dinov2.lvd142m")),
        ("vit_small_patch14_dinov2", Name(Kind.TIMM, "vit_small_patch14_dinov2")),
        ("hf-hub:org/a.name", Name(Kind.HUB, "org/a.name")),
        ("hf_hub:org/name@v1.0", Name(Kind.HUB, "org/name", "v1.0")),
        ("local-dir:/a/b", Name(Kind.FOLDER, "/a/b")),
        ("/a/b.safetensors", Name(Kind.FILE, "/a/b.safetensors")),
        ("b.PTH", Name(Kind.FILE, "b.PTH")),
        ("/a/b.onnx", Name(Kind.ONNX, "/a/b.onnx")),
    ],
)
def test_a_name_says_where_its_network_comes_from(name: str, expected: Name) -> None:
    assert parsed(name) == expected


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("resnet19", "The nearest are: resnet18"),
        ("ResNet-18", "The nearest are: resnet18"),
        ("timm/vit_small_patch14_dinov3", r"The nearest are: .*vit_small_patch14_dinov2"),
        ("vit_small_patch14_dinov2.lvd142", "The nearest are: vit_small_patch14_dinov2.lvd142m"),
        ("efficientnet-lite0", "The nearest are: efficientnet_lite0"),
        ("facebook/dinov2-small", "Then write hf-hub:facebook/dinov2-small"),
        ("/models/mine", "Then write local-dir:/models/mine"),
        ("hf-hub:dinov2", "expected was hf-hub:org/name@revision"),
        ("qwertzuiop", "There is no backbone 'qwertzuiop'. Expected was auto, "),
        ("vit_small_patch14_dinov2.nobody", "There is no backbone"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(name: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        model.choose_backbone(name, None)


def test_the_input_is_that_of_the_network_s_own_configuration() -> None:
    dino = model.backbone_named("timm/vit_small_patch14_dinov2.lvd142m")
    assert (dino.size, dino.dimension, dino.interpolation, dino.licence) == (
        518,
        384,
        "bicubic",
        "apache-2.0",
    )
    assert dino.any_size, "a vision transformer takes other sizes too"
    perception = model.backbone_named("timm/vit_pe_core_tiny_patch16_384.fb")
    assert (perception.size, perception.mean) == (384, (0.5, 0.5, 0.5))
    swin = model.backbone_named("swin_v2_t")
    assert (swin.size, swin.interpolation) == (256, "bicubic")
    assert model.backbone_named("vit_h_14").licence.startswith("CC-BY-NC-4.0")
    with pytest.raises(ConfigError, match="768 x 1024 pixels; expected was a square"):
        model.backbone_named("timm/vit_base_patch16_sapiens2.fb")


@pytest.mark.parametrize(
    ("given", "taken"),
    [("lanczos", "lanczos"), ("random", "bicubic"), (None, "bicubic"), ("Bilinear", "bilinear")],
)
def test_the_interpolation_is_that_of_the_configuration(given: str, taken: str, tmp_path: Path) -> None:
    folder = timm_folder(tmp_path / "tiny", interpolation=given)
    backbone = model.backbone_named(f"local-dir:{folder}")
    assert backbone.resize() == Resize(160, taken)
    assert backbone.resize(64) == Resize(64, taken)


def test_an_unknown_interpolation_is_refused_with_those_that_are_known(tmp_path: Path) -> None:
    folder = timm_folder(tmp_path / "tiny", interpolation="cubic")
    with pytest.raises(ConfigError, match="names the interpolation 'cubic'; expected was one of bilinear, b"):
        model.backbone_named(f"local-dir:{folder}")


def test_a_classifier_of_before_says_that_its_images_were_resized_bilinearly(tmp_path: Path) -> None:
    """Its file names no interpolation, and its network's configuration another one."""
    folder = timm_folder(tmp_path / "tiny", interpolation="bicubic")
    chosen = model.choose_backbone(f"local-dir:{folder}", None)
    before = replace(chosen, backbone=replace(chosen.backbone, interpolation="bilinear"))
    pixels, _ = shapes(3, size=160)
    now, then = (model.untrained(each, pixels, seed=0, device="cpu") for each in (chosen, before))
    path = tmp_path / "model.safetensors"
    for classifier, interpolation in ((now, "bicubic"), (then, "bilinear")):
        model.save_classifier(classifier, path)
        loaded = model.load_classifier(path, "cpu")
        assert loaded.backbone.resize(loaded.size) == Resize(160, interpolation)
    assert model.features_name(now) != model.features_name(then)
    manifest, tensors = read_tensors(path)
    del manifest["interpolation"]
    write_tensors(path, manifest, tensors)
    again = model.load_classifier(path, "cpu")
    assert again.backbone.resize(again.size) == Resize(160)
    assert model.load_preparation(path, model.features_name(then)) is None  # it has none, and is not refused
    np.testing.assert_array_equal(
        model.embed(again, pixels), model.embed(replace(then, runtime=None), pixels)
    )


@pytest.mark.parametrize("name", ["googlenet", "swin_t", "squeezenet1_1", "regnet_y_400mf", "vit_b_32"])
def test_a_network_of_torchvision_embeds_as_torchvision_would(name: str, tmp_path: Path) -> None:
    """Up to its last layer, on weights in torchvision's own format."""
    arguments = {"init_weights": False, "transform_input": True} if name == "googlenet" else {}
    torch.manual_seed(0)
    theirs = torchvision.models.get_model(name, weights=None, **arguments).eval()
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    chosen = model.choose_backbone(name, tmp_path / "weights.pth")
    images = torch.rand(1, 3, 224, 224)
    with torch.inference_mode():
        vectors = chosen.backbone.load(theirs.state_dict()).eval()(images)
        assert vectors.shape == (1, chosen.backbone.dimension)
        if isinstance(last := list(theirs.modules())[-1], torch.nn.Linear):
            torch.testing.assert_close(last(vectors), theirs(images))


@pytest.mark.parametrize("size", [160, 96, 100])
def test_a_folder_as_timm_saves_it_embeds_as_timm_does(size: int, tmp_path: Path) -> None:
    folder = timm_folder(tmp_path / "tiny", mean=[0.1, 0.2, 0.3], interpolation="bilinear", license="mit")
    chosen = model.choose_backbone(f"local-dir:{folder}", None)
    assert chosen.backbone.mean == (0.1, 0.2, 0.3)
    assert chosen.backbone.interpolation == "bilinear"
    assert chosen.description.endswith("licence MIT")
    pixels, _ = shapes(3, size=size)
    classifier = model.untrained(chosen, pixels, seed=0, device="cpu")
    vectors = model.embed(classifier, pixels)
    assert vectors.shape == (3, 64)
    theirs = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0).eval()
    if size == 160:
        inputs = (torch.tensor(pixels) / 255 - torch.tensor([0.1, 0.2, 0.3])) / torch.tensor(
            chosen.backbone.deviation
        )
        with torch.inference_mode():
            np.testing.assert_allclose(vectors, theirs(inputs.permute(0, 3, 1, 2)), rtol=0.1, atol=0.1)


def test_a_saved_classifier_is_read_after_its_folder_is_gone(tmp_path: Path) -> None:
    folder = timm_folder(tmp_path / "tiny")
    pixels, _ = shapes(3, size=160)
    classifier = model.untrained(
        model.choose_backbone(f"local-dir:{folder}", None), pixels, seed=0, device="cpu"
    )
    model.save_classifier(classifier, tmp_path / "model.safetensors")
    for path in folder.iterdir():
        path.unlink()
    again = model.load_classifier(tmp_path / "model.safetensors", "cpu")
    by_torch = replace(classifier, runtime=None)  # as it computes what was loaded
    np.testing.assert_array_equal(model.embed(again, pixels), model.embed(by_torch, pixels))


def test_weights_of_timm_are_taken_from_a_file_too(tmp_path: Path) -> None:
    folder = timm_folder(tmp_path / "tiny")
    chosen = model.choose_backbone(f"timm/{TINY}", folder / "model.safetensors")
    assert chosen.backbone.name == f"timm/{TINY}"
    with pytest.raises(ConfigError, match="does not hold the weights of timm/test_resnet"):
        model.choose_backbone("timm/test_resnet", folder / "model.safetensors")


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
        (
            lambda folder: (folder / "model.safetensors").unlink(),
            "holds no weights; expected was config.json",
        ),
        (lambda folder: (folder / "config.json").write_text("{"), "cannot be read as JSON"),
        (
            lambda folder: (folder / "config.json").write_text('{"model_type": "dinov2"}'),
            "must name an architecture of timm; it names 'none'",
        ),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x"), "cannot be read"),
    ],
)
def test_a_folder_that_is_none_of_timm_is_refused_with_what_is_missing(
    spoil: object, told: str, tmp_path: Path
) -> None:
    folder = timm_folder(tmp_path / "tiny")
    spoil(folder)  # type: ignore[operator]
    with pytest.raises(ConfigError, match=told):
        chosen = model.choose_backbone(f"local-dir:{folder}", None)
        model.untrained(chosen, shapes(1, size=160)[0], seed=0, device="cpu")
