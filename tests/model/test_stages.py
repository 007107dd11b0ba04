"""EfficientNet-Lite0's features: those of timm's network, and what they say of where things are."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch import nn

from coreset_backend import model
from coreset_backend.arrays import Resize
from coreset_backend.model.backbones import lite0
from coreset_backend.model.stages import STAGED_DIM
from coreset_backend.model.weights import loaded, pretrained_network


@pytest.fixture(scope="module")
def chosen() -> model.ChosenBackbone:
    return model.choose_backbone("efficientnet_lite0", None)


@torch.inference_mode()
def test_the_first_features_are_those_of_timms_network(chosen: model.ChosenBackbone) -> None:
    network = pretrained_network(chosen)
    with torch.random.fork_rng(devices=[]):
        timms: nn.Module = timm.create_model("tf_efficientnet_lite0", num_classes=0)
    timms.load_state_dict(network.state_dict())
    images = torch.randn(3, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    features = network(images)
    assert features.shape == (3, STAGED_DIM) == (3, lite0().dimension)
    torch.testing.assert_close(features[:, :1280], timms.eval()(images))


def test_its_images_are_resized_as_before_the_configuration_decided(chosen: model.ChosenBackbone) -> None:
    """By which it is right more often, and projects keep their pixels and embeddings."""
    assert chosen.backbone.resize() == Resize(224, "bilinear")
    assert model.backbone_named("timm/tf_efficientnet_lite0").resize() == Resize(224, "bicubic")


@torch.inference_mode()
@pytest.mark.parametrize("size", [16, 33, 96, 224])
def test_an_image_of_any_size_has_as_many_features(chosen: model.ChosenBackbone, size: int) -> None:
    assert pretrained_network(chosen)(torch.zeros(1, 3, size, size)).shape == (1, STAGED_DIM)


@torch.inference_mode()
def test_the_quarters_tell_where_in_the_image_something_is(chosen: model.ChosenBackbone) -> None:
    left = torch.zeros(1, 3, 128, 128)
    left[:, :, 48:80, 8:40] = 1
    here, there = pretrained_network(chosen)(torch.cat([left, left.flip(3)]))
    quarters = here[-448:].reshape(112, 2, 2), there[-448:].reshape(112, 2, 2)
    mirrored = (quarters[0] - quarters[1].flip(2)).norm()
    assert mirrored < 0.5 * (quarters[0] - quarters[1]).norm()


def test_a_saved_network_reads_its_weights_again(chosen: model.ChosenBackbone, tmp_path: Path) -> None:
    pixels = np.zeros((4, 64, 64, 3), np.uint8)
    pixels[1:, :, :32] = 200
    frozen = model.untrained(chosen, pixels, seed=0, device="cpu")
    model.save_classifier(frozen, tmp_path / "model.safetensors")
    again = model.load_classifier(tmp_path / "model.safetensors", "cpu")
    by_torch = replace(frozen, runtime=None)
    assert np.array_equal(model.embed(again, pixels), model.embed(by_torch, pixels))
    torch.save(frozen.network.state_dict(), tmp_path / "lite0.pth")
    named = loaded(lite0(), tmp_path / "lite0.pth")
    assert named.state_dict().keys() == frozen.network.state_dict().keys()
