"""The features of a pretrained EfficientNet from several of its stages, not from its last layer alone.

Digits, letters and surfaces differ in texture and in the position of lines. The last layer holds neither: it
is trained to tell the classes of ImageNet apart. docs/learning.md has the table.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MIDDLE_STAGE = 4
STAGED_DIM = 1280 + 320 + 4 * 320 + 4 * 112
"""EfficientNet-Lite0: last layer, last stage, four quarters of the last stage, four of the middle stage."""


class StagedFeatures(nn.Module):
    """One of timm's EfficientNets: float[k, 3, size, size] to float32[k, 3328] for Lite0.

    Means of the last layer and the last stage over the image, then of the last and the middle stage over each
    quarter of the image. Names and order of the weights are timm's.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.conv_stem = network.get_submodule("conv_stem")
        self.bn1 = network.get_submodule("bn1")
        self.blocks = network.get_submodule("blocks")
        self.conv_head = network.get_submodule("conv_head")
        self.bn2 = network.get_submodule("bn2")

    def forward(self, images: Tensor) -> Tensor:
        features = self.bn1(self.conv_stem(images))
        of_stage = []
        for stage in self.blocks.children():
            features = stage(features)
            of_stage.append(features)
        last = self.bn2(self.conv_head(features))
        parts = [_whole(last), _whole(features), _quarters(features), _quarters(of_stage[MIDDLE_STAGE])]
        return torch.cat([part.float() for part in parts], 1)


def _whole(features: Tensor) -> Tensor:
    """float[k, c]: the mean of float[k, c, height, width] over the image."""
    return features.mean((2, 3))


def _quarters(features: Tensor) -> Tensor:
    """float[k, 4 c]: the means over each quarter of the image."""
    return F.adaptive_avg_pool2d(features, 2).flatten(1)
