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


@pytest.mark.parametrize(("name", "multiple"), [("auto", False), ("small_cnn", True), ("small_cnn", False)])
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


def test_a_backbone_of_onnx_is_not_merged_and_the_error_says_what_to_use(tmp_path: Path) -> None:
    (tmp_path / "mine.onnx").write_bytes(onnx_files.onnx_file())
    pixels = shapes(4)[0]
    classifier = classifier_on(model.choose_backbone(str(tmp_path / "mine.onnx"), None), pixels, False)
    with pytest.raises(ModelError, match=r"mine\.onnx is a file of ONNX already"):
        write_onnx(classifier, NAMES, pixels, tmp_path / "model.onnx")
