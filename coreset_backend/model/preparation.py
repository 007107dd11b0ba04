"""What stands between a frozen network and everything that reads embeddings: standardise, PCA, unit length.

Distances between raw features are ruled by the few of largest variance. Fitted on the pool, a preparation
stays as it is from round to round, so that known images keep their embeddings, until it no longer fits.
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from coreset_backend.arrays import Floats, Rows

COMPONENTS = 256
FITTED_ON = 10_000
"""Most images that a preparation is fitted on."""
GROWN = 1.5
"""A pool this many times as large as the one it was fitted on wants another."""
LEAST_KEPT = 0.8
"""The share of newcomers' variance that it keeps, over that of its own pool's: below it, fit another."""
LEAST_NEWCOMERS = 50
ROUNDING = 1e-5
"""Variance below this share of the largest is what float32 makes of none."""


class Preparation(nn.Module):
    """float32[k, dimension] to float32[k, 256] of unit length; the components beyond the pool's rank are 0.

    ``images``: how many images the pool had. ``kept``: the share of their variance that the components hold.
    """

    mean: Tensor
    deviation: Tensor
    components: Tensor
    images: Tensor
    kept: Tensor

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dimension))
        self.register_buffer("deviation", torch.ones(dimension))
        self.register_buffer("components", torch.zeros(COMPONENTS, dimension))
        self.register_buffer("images", torch.zeros((), dtype=torch.int64))
        self.register_buffer("kept", torch.zeros(()))

    def forward(self, features: Tensor) -> Tensor:
        projected = ((features - self.mean) / self.deviation) @ self.components.T
        length = projected.norm(dim=1, keepdim=True)
        # An image that is the mean itself has no direction; it gets one, since selection needs lengths of 1.
        first = torch.eye(1, COMPONENTS).to(projected)
        return torch.where(length > 1e-6, projected / length.clamp_min(1e-6), first)

    def fits(self, newcomers: Floats, pool: int) -> bool:
        """Whether it serves a pool of that size, of which ``newcomers`` float32[m, dimension] are new."""
        if pool >= GROWN * int(self.images):
            return False
        if len(newcomers) < LEAST_NEWCOMERS:
            return True
        return self._share_kept(torch.from_numpy(newcomers)) >= LEAST_KEPT * float(self.kept)

    def _share_kept(self, features: Tensor) -> float:
        scaled = (features - self.mean) / self.deviation
        whole = float(scaled.square().sum())
        return float((scaled @ self.components.T).square().sum()) / whole if whole else 1.0


def fitted_rows(n: int, seed: int) -> Rows:
    """The images, of a pool of n, that a preparation is fitted on: int64[<= 10,000], ascending."""
    rows: Rows = np.sort(np.random.default_rng(seed).permutation(n)[:FITTED_ON])
    return rows


def fit_preparation(features: Floats, seed: int) -> Preparation:
    """The preparation of a pool by its features float32[n, dimension], fitted on at most 10,000 of them."""
    return preparation_by(features[fitted_rows(len(features), seed)], len(features))


@torch.inference_mode()
def preparation_by(features: Floats, pool: int) -> Preparation:
    """The preparation of a pool of so many images, by features float32[m, dimension] of ``fitted_rows``."""
    sample = torch.from_numpy(features)
    made = Preparation(features.shape[1])
    mean = sample.double().mean(0)
    deviation = sample.double().std(0, correction=0).clamp_min(1e-6)
    components = _principal_components(((sample - mean) / deviation).float())
    made.mean.copy_(mean)
    made.deviation.copy_(deviation)
    made.components[: len(components)] = components
    made.images.fill_(pool)
    made.kept.fill_(made._share_kept(sample))
    return made


def _principal_components(scaled: Tensor) -> Tensor:
    """float32[<= 256, d] of float32[n, d]: directions of unit length, the one of largest variance first.

    By the smaller of the two products, n x n or d x d, whose eigenvalues other than 0 are the same.
    """
    rows, columns = scaled.shape
    values, vectors = torch.linalg.eigh(scaled @ scaled.T if rows < columns else scaled.T @ scaled)
    kept = values.flip(0)[:COMPONENTS] > ROUNDING * values[-1].clamp_min(1e-12)
    directions = vectors.flip(1)[:, :COMPONENTS][:, kept].T
    return F.normalize(directions @ scaled) if rows < columns else directions


@torch.inference_mode()
def prepared(preparation: Preparation, features: Floats) -> Floats:
    """float32[n, 256] of float32[n, dimension], on the CPU."""
    embeddings = np.empty((len(features), COMPONENTS), np.float32)
    for start in range(0, len(features), 8192):
        block = torch.from_numpy(features[start : start + 8192])
        embeddings[start : start + 8192] = preparation(block).numpy()
    return embeddings
