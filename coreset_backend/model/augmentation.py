"""Random views of images: crops in other colours, drawn for a whole batch at once.

Crop and mirror are one affine map an image, brightness, contrast, saturation, hue and grey one 3 x 3 matrix:
3 % of the time of a training step.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from coreset_backend.model.backbones import OWN
from coreset_backend.model.classifier import images_from

LUMA = (0.299, 0.587, 0.114)


def random_views(images: Tensor, side: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """A random view of each image, uint8[k, size, size, 3], as a float32[k, 3, side, side] input.

    A crop of a quarter to all of the area, mirrored or not, in other colours, sometimes grey.
    """
    count = len(images)
    grids = F.affine_grid(_crops(count, generator), [count, 3, side, side], align_corners=False)
    turn, offset = _colors(count, generator)
    inputs = images_from(images, OWN["self_supervised"], device)
    cropped = F.grid_sample(inputs, grids.to(device), padding_mode="reflection", align_corners=False)
    grey = (cropped.mean((2, 3)) @ torch.tensor(LUMA, device=device))[:, None]
    # Contrast turns around the image's own mean, brightness around black.
    shift = (offset[:, :1].to(device) + offset[:, 1:].to(device) * grey)[:, :, None]
    colored = torch.baddbmm(shift, turn.to(device), cropped.flatten(2))
    return colored.reshape(cropped.shape)


def _crops(count: int, generator: torch.Generator) -> Tensor:
    """float32[count, 2, 3]: affine maps to a crop of 1/4 to all of the image, half of them mirrored."""
    area, shape, across, down, flip = torch.rand((5, count), generator=generator)
    side = (0.25 + 0.75 * area).sqrt()
    ratio = torch.exp((2 * shape - 1) * 0.2877)  # 3:4 to 4:3
    width, height = (side * ratio.sqrt()).clamp_max(1), (side / ratio.sqrt()).clamp_max(1)
    maps = torch.zeros(count, 2, 3)
    maps[:, 0, 0] = torch.where(flip < 0.5, -width, width)
    maps[:, 1, 1] = height
    maps[:, 0, 2], maps[:, 1, 2] = (2 * across - 1) * (1 - width), (2 * down - 1) * (1 - height)
    return maps


def _colors(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Other colours as matrices float32[count, 3, 3] and offsets float32[count, 2].

    One matrix holds brightness, contrast and saturation (24 %), hue (6 %) and, in a fifth, grey; 20 % of
    the images keep their colours. The first offset is added as it is, the second times the mean grey.
    """
    draw = torch.rand((6, count), generator=generator)
    jittered = draw[4] < 0.8
    bright, contrast, saturation = (1 + torch.where(jittered, (2 * d - 1) * 0.24, 0) for d in draw[:3])
    angle = torch.where(jittered, (2 * draw[3] - 1) * 0.06, 0) * 2 * torch.pi
    saturation = torch.where(draw[5] < 0.2, 0, saturation)
    luma = torch.tensor(LUMA).expand(3, 3)
    color = saturation[:, None, None] * torch.eye(3) + (1 - saturation)[:, None, None] * luma
    turn = (_hue(angle) @ color) * (bright * contrast)[:, None, None]
    # In the backbone's units black is -2, so scaling around black adds 2 (bright - 1).
    return turn, torch.stack([2 * (bright - 1) * contrast, (1 - contrast) * bright], 1)


def _hue(angle: Tensor) -> Tensor:
    """float32[k, 3, 3]: rotations of the colours around the grey axis by the angles float32[k]."""
    axis = torch.full((3,), 3**-0.5)
    cross = torch.linalg.cross(torch.eye(3), axis.expand(3, 3))
    cosine, sine = angle.cos()[:, None, None], angle.sin()[:, None, None]
    turn: Tensor = cosine * torch.eye(3) + sine * cross + (1 - cosine) * axis[:, None] * axis
    return turn
