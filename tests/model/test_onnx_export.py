"""A classifier as ONNX gives torch's probabilities from pixels, and says nothing of this machine."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_files
import onnxruntime
import pytest
import torch
from training_images import SMALL, shapes

from coreset_backend import model
from coreset_backend.errors import ModelError
from coreset_backend.model.backbones import backbone_named
from coreset_backend.model.onnx_export import AGREES, run_onnx, write_onnx

NAMES = ("square", "stripe", "=3")


def classifier_on(chosen: model.ChosenBackbone, pixels: np.ndarray, multiple: bool) -> model.Classifier:
    """With a random head, and prepared as a round prepares what others have trained."""
    torch.manual_seed(0)
    frozen = replace(model.untrained(chosen, pixels, seed=0, device="cpu"), runtime=None, exact=True)
    if chosen.backbone.published:
        frozen = replace(frozen, preparation=model.fit_preparation(model.embed(frozen, pixels), 0))
    head = torch.nn.Linear(frozen.dimension, len(NAMES)).requires_grad_(False)
    return replace(frozen, head=head, multiple=multiple, temperature=0.7)


@pytest.mark.parametrize(
    ("name", "multiple"),
    [pytest.param("auto", False, marks=pytest.mark.slow), ("small_cnn", True), ("small_cnn", False)],
)
def test_from_pixels_to_torchs_probabilities(name: str, multiple: bool, tmp_path: Path) -> None:
    """One image alone, and as many as come; by the checker of ONNX it is a whole file."""
    pixels = shapes(12, size=64)[0]
    classifier = classifier_on(model.choose_backbone(name, None), pixels, multiple)
    path = tmp_path / "model.onnx"
    assert write_onnx(classifier, NAMES, pixels[:3], path) <= AGREES
    expected = model.predict(classifier, pixels)
    assert expected is not None and np.ptp(expected, axis=0).max() > 0.001
    for n in (1, 12):
        np.testing.assert_allclose(run_onnx(path, pixels[:n]), expected[:n], atol=AGREES)
    onnx.checker.check_model(onnx.load(path), full_check=True)
    told = onnxruntime.InferenceSession(path).get_modelmeta().custom_metadata_map
    assert json.loads(told["classes"]) == list(NAMES)
    assert b"coreset_backend" not in path.read_bytes() and b"site-packages" not in path.read_bytes()


def test_features_of_its_own_learned_on_a_pool_are_written_too(tmp_path: Path) -> None:
    pixels = shapes(4)[0]
    torch.manual_seed(0)
    backbone = backbone_named("self_supervised")
    network = backbone.build().to_empty(device="cpu").eval().requires_grad_(False)
    for value in network.state_dict().values():
        if value.is_floating_point():
            torch.nn.init.uniform_(value, 0.01, 0.02)
    small = classifier_on(SMALL, pixels, False)
    head = torch.nn.Linear(backbone.dimension, len(NAMES)).requires_grad_(False)
    classifier = replace(small, backbone=backbone, network=network, head=head)
    assert write_onnx(classifier, NAMES, pixels, tmp_path / "model.onnx") <= AGREES


def test_what_differs_from_torch_is_not_kept(tmp_path: Path) -> None:
    """A network that is exported as another one stands for whatever an exporter gets wrong."""
    pixels = shapes(4)[0]
    classifier = classifier_on(SMALL, pixels, False)
    network = torch.nn.Sequential(classifier.network, _OtherwiseExported())
    with pytest.raises(ModelError, match="differ by"):
        write_onnx(replace(classifier, network=network), NAMES, pixels, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


class _OtherwiseExported(torch.nn.Module):
    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return -features if torch.compiler.is_exporting() else features


NHWC = onnx_files.operation("Transpose", "x", "turned", integers={"perm": [0, 3, 1, 2]})


@pytest.mark.parametrize(
    "content",
    [
        onnx_files.onnx_file(),
        onnx_files.onnx_file((1, 3, 32, 32)),
        onnx_files.onnx_file(operations=onnx_files.averages("x", "y"), outputs={"y": 4}),
        onnx_files.onnx_file(
            ("n", 32, 32, 3), operations=[NHWC, *onnx_files.averages("turned", "y")], outputs={"y": 4}
        ),
    ],
    ids=["vectors", "one image", "maps", "NHWC"],
)
def test_a_backbone_of_onnx_and_its_head_become_one_file(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "mine.onnx").write_bytes(content)
    pixels = shapes(12)[0]
    classifier = classifier_on(model.choose_backbone(str(tmp_path / "mine.onnx"), None), pixels, False)
    path = tmp_path / "model.onnx"
    assert write_onnx(classifier, NAMES, pixels, path) <= AGREES
    np.testing.assert_allclose(run_onnx(path, pixels[:1]), model.predict(classifier, pixels[:1]), atol=AGREES)
    onnx.checker.check_model(onnx.load(path), full_check=True)
