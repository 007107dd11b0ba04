"""OpenVINO in torch's place: used where it is installed and agrees, and never mixed with torch in silence."""

import logging
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from training_images import textures

from coreset_backend import model
from coreset_backend.model import openvino_runtime, runtimes
from coreset_backend.model.backbone import Backbone, load_exactly
from coreset_backend.model.classifier import images_from
from coreset_backend.model.saving import features_name

needs_openvino = pytest.mark.skipif(
    not openvino_runtime.is_installed(), reason="OpenVINO is not installed: pip install openvino"
)


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.repeat(np.repeat(textures(40)[0], 2, 1), 2, 2)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("converted")


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    caplog.set_level(logging.INFO, "coreset_backend.model.runtimes")
    yield caplog


def by_torch(pixels: np.ndarray, cache: Path) -> model.Classifier:
    """The classifier of these images with torch computing its features."""
    return replace(untrained(pixels, cache), runtime=None)


def untrained(pixels: np.ndarray, cache: Path) -> model.Classifier:
    return model.untrained(model.choose_backbone("auto", None), pixels, seed=0, device="cpu", cache=cache)


@needs_openvino
def test_openvino_computes_what_torch_computes_and_is_named(
    pixels: np.ndarray, cache: Path, said: pytest.LogCaptureFixture
) -> None:
    classifier = untrained(pixels, cache)
    assert classifier.runtime
    assert "OpenVINO" in classifier.arithmetic and classifier.arithmetic in classifier.description
    assert [record.message.split(";")[0] for record in said.records] == [
        f"{classifier.arithmetic} computes efficientnet_lite0"
    ]
    with torch.inference_mode():
        exact = classifier.network(images_from(pixels, classifier.backbone, torch.device("cpu")))
    cosines = torch.cosine_similarity(torch.from_numpy(model.embed(classifier, pixels)), exact)
    assert len(cosines) == len(pixels)
    assert cosines.mean() > runtimes.AGREES and cosines.min() > 0.97


@needs_openvino
def test_any_number_of_images_is_embedded_alike(pixels: np.ndarray, cache: Path) -> None:
    classifier = untrained(pixels, cache)
    whole = model.embed(classifier, pixels)
    np.testing.assert_allclose(model.embed(classifier, pixels, batch=7), whole, rtol=0.05, atol=0.02)
    assert model.embed(classifier, pixels[:0]).shape == (0, 3328)


@needs_openvino
def test_what_openvino_has_computed_is_not_taken_for_torchs(pixels: np.ndarray, cache: Path) -> None:
    """Kept embeddings are found again by these names."""
    classifier = untrained(pixels, cache)
    torchs = replace(classifier, runtime=None)
    assert model.features_name(classifier) != model.features_name(torchs)
    preparation = model.fit_preparation(model.embed(torchs, pixels), seed=0)
    prepared = [replace(c, preparation=preparation) for c in (classifier, torchs)]
    assert model.network_name(prepared[0]) != model.network_name(prepared[1])
    assert model.network_name(prepared[0]) == model.network_name(
        replace(untrained(pixels, cache), preparation=preparation)
    )


@pytest.mark.slow
@needs_openvino
def test_where_it_differs_torch_computes_and_it_is_converted_anew(
    pixels: np.ndarray, tmp_path: Path, said: pytest.LogCaptureFixture
) -> None:
    torchs = by_torch(pixels, tmp_path)
    openvino_runtime.forget_network(features_name(torchs), tmp_path)
    keep_another_network(torchs, tmp_path)
    said.clear()
    classifier = untrained(pixels, tmp_path)
    assert classifier.runtime is None and classifier.arithmetic.startswith("torch")
    [record] = said.records
    assert record.levelname == "WARNING"
    assert (
        "torch computes efficientnet_lite0, since OpenVINO differs: mean cosine to float32 on 16 images"
        in record.message
    )
    assert untrained(pixels, tmp_path).runtime


def keep_another_network(classifier: model.Classifier, cache: Path) -> None:
    """A network of other weights where the converted one of ``classifier`` is looked for."""
    with torch.device("cpu"):
        network = classifier.backbone.build().to_empty(device="cpu").eval()
    for number, values in enumerate(network.state_dict().values()):
        if values.is_floating_point():
            values.copy_(torch.rand(values.shape, generator=torch.Generator().manual_seed(number)) * 0.1)
    openvino_runtime.compile_network(
        network, classifier.backbone, classifier.size, features_name(classifier), cache, half=False
    )


@pytest.mark.slow
@needs_openvino
def test_a_damaged_conversion_is_made_anew_and_few_are_kept(pixels: np.ndarray, tmp_path: Path) -> None:
    whole = model.embed(untrained(pixels, tmp_path), pixels)
    [weights] = tmp_path.rglob("network.bin")
    weights.write_bytes(weights.read_bytes()[:1000])
    for number in range(openvino_runtime.KEPT + 2):
        (tmp_path / f"other-{number}").mkdir()
    classifier = untrained(pixels, tmp_path)
    assert classifier.runtime
    np.testing.assert_array_equal(model.embed(classifier, pixels), whole)
    assert len(list(tmp_path.iterdir())) == openvino_runtime.KEPT
    assert weights.stat().st_size > 1_000_000


class Stubborn(nn.Module):
    """A network that torch runs and no tracer can."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, images: Tensor) -> Tensor:
        if torch.jit.is_tracing():
            raise RuntimeError("this network cannot be traced")
        return images.mean((2, 3)) * self.weight


@needs_openvino
def test_a_network_that_cannot_be_converted_is_computed_by_torch(
    pixels: np.ndarray, tmp_path: Path, said: pytest.LogCaptureFixture
) -> None:
    save_file({"weight": torch.ones(3)}, tmp_path / "stubborn.safetensors")

    def build() -> nn.Module:
        with torch.device("meta"):
            return Stubborn()

    stubborn = Backbone("stubborn", 64, 3, build, lambda state: load_exactly(build(), state))
    chosen = model.ChosenBackbone(stubborn, tmp_path / "stubborn.safetensors", "stubborn")
    classifier = model.untrained(chosen, pixels, seed=0, device="cpu", cache=tmp_path / "converted")
    assert classifier.runtime is None and classifier.description == "stubborn"
    assert model.embed(classifier, pixels).shape == (len(pixels), 3)
    [record] = said.records
    assert record.message.startswith("torch computes stubborn, since OpenVINO cannot:")
    assert "this network cannot be traced" in record.message


@pytest.mark.slow
def test_without_it_torch_computes_and_says_what_the_extra_gains() -> None:
    code = """
import logging, sys
sys.modules["openvino"] = None
import numpy as np
from coreset_backend import model
logging.basicConfig(level=logging.INFO, stream=sys.stdout)
pixels = np.zeros((2, 64, 64, 3), np.uint8)
chosen = model.choose_backbone("auto", None)
print(model.untrained(chosen, pixels, seed=0, device="cpu").arithmetic)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    line, arithmetic = done.stdout.splitlines()
    assert line.endswith("OpenVINO (the extra `fast`) takes less than half the time")
    assert arithmetic.startswith("torch")


def test_openvino_reports_to_nobody() -> None:
    """Installed with `openvino-telemetry`, it would say so to its maker when it is imported."""
    assert "coreset_backend.model.openvino_runtime" in sys.modules
    assert sys.modules["openvino_telemetry"] is None
