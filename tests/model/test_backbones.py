"""torchvision's backbones from a file, checked by hash; precision, memory layout and device."""

import hashlib
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision  # type: ignore[import-untyped]
from safetensors.torch import save_file
from training_images import SMALL, shapes

from coreset_backend import model
from coreset_backend.errors import ConfigError


def random_weights(name: str, path: Path) -> Path:
    """A file as torchvision publishes it, with random weights, called after its own hash."""
    torch.manual_seed(0)
    torch.save(torchvision.models.get_model(name, weights=None).state_dict(), path / "new.pth")
    digest = hashlib.sha256((path / "new.pth").read_bytes()).hexdigest()
    return (path / "new.pth").rename(path / f"{name}-{digest[:8]}.pth")


@pytest.fixture(scope="module")
def mobile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_weights("mobilenet_v3_small", tmp_path_factory.mktemp("weights"))


@pytest.mark.parametrize("name", ["auto", "mobilenet_v3_small"])
def test_a_weights_file_is_known_by_its_content_and_described_by_its_hash(mobile: Path, name: str) -> None:
    chosen = model.choose_backbone(name, mobile)
    assert chosen.backbone.name == "mobilenet_v3_small"
    assert hashlib.sha256(mobile.read_bytes()).hexdigest()[:16] in chosen.description


def test_a_file_that_does_not_match_the_hash_in_its_name_is_refused(mobile: Path, tmp_path: Path) -> None:
    altered = bytearray(mobile.read_bytes())
    altered[len(altered) // 2] ^= 1
    (tmp_path / mobile.name).write_bytes(altered)
    with pytest.raises(ConfigError, match="is damaged or was altered: its SHA-256 begins with"):
        model.choose_backbone("mobilenet_v3_small", tmp_path / mobile.name)


def test_a_file_of_another_network_is_refused_with_what_does_not_fit(mobile: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"does not hold the weights of resnet18: .* is missing"):
        model.choose_backbone("resnet18", mobile)
    save_file({"x": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(ConfigError, match="belongs to none of the known backbones"):
        model.choose_backbone("auto", tmp_path / "other.safetensors")
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(ConfigError, match="cannot be read"):
        model.choose_backbone("resnet18", tmp_path / "text.pth")
    with pytest.raises(ConfigError, match="small_cnn is trained from scratch"):
        model.choose_backbone("small_cnn", mobile)


class Trap:
    """Makes a folder when it is loaded from a pickle."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("name", ["zipped.pth", "bare.pth", "bare.safetensors"])
def test_a_weights_file_that_carries_code_is_refused_and_runs_nothing(tmp_path: Path, name: str) -> None:
    pickle.loads(pickle.dumps(Trap(tmp_path / "control")))
    assert (tmp_path / "control").exists()
    trap = {"conv1.weight": Trap(tmp_path / "sprung")}
    if name.startswith("zipped"):
        torch.save(trap, tmp_path / name)
    else:
        (tmp_path / name).write_bytes(pickle.dumps(trap, protocol=2))
    with pytest.raises(ConfigError, match="cannot be read"):
        model.choose_backbone("resnet18", tmp_path / name)
    assert not (tmp_path / "sprung").exists()


def test_a_frozen_torchvision_network_gets_a_head(mobile: Path) -> None:
    pixels, targets = shapes(40, size=64)
    holdout = np.arange(40) >= 30
    classifier, report = model.fit(
        model.choose_backbone("auto", mobile),
        pixels,
        targets,
        multiple=False,
        holdout=holdout,
        seed=0,
        device="cpu",
    )
    assert (report.n_train, report.n_holdout, report.device) == (30, 10, "cpu")
    given = torch.load(mobile, weights_only=True)
    for name, value in classifier.network.state_dict().items():
        assert torch.equal(value, given[name]), name
    vectors, probabilities = model.embed_and_predict(classifier, pixels)
    assert vectors.shape == (40, 576) and probabilities is not None and probabilities.shape == (40, 2)


def test_a_forward_pass_uses_what_the_processor_has() -> None:
    """bfloat16 where it computes with it, float32 elsewhere; channels last either way."""
    pixels, _ = shapes(4)
    classifier = model.untrained(SMALL, pixels, seed=0, device="cpu")
    seen: list[torch.Tensor] = []
    first = next(layer for layer in classifier.network.modules() if isinstance(layer, torch.nn.Conv2d))
    first.register_forward_hook(lambda _layer, _inputs, output: seen.append(output))
    embeddings = model.embed(classifier, pixels)
    flags = Path("/proc/cpuinfo").read_text()
    able = "avx512_bf16" in flags or "amx_bf16" in flags
    assert seen[0].dtype == (torch.bfloat16 if able else torch.float32)
    assert seen[0].is_contiguous(memory_format=torch.channels_last)
    assert embeddings.dtype == np.float32


def test_a_device_that_is_not_there_is_refused_with_the_known_ones() -> None:
    pixels, _ = shapes(4)
    with pytest.raises(ConfigError, match=r"torch cannot use the device 'warp'.*auto, cpu, cuda"):
        model.untrained(SMALL, pixels, seed=0, device="warp")
