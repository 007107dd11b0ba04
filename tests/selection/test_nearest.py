"""Nearest centers and nearest others, against all distances computed one by one."""

import numpy as np
import pytest

from coreset_backend.errors import NotFinite
from coreset_backend.selection import nearest_center_distances, nearest_others


def cloud(n: int = 700, d: int = 9, offset: float = 0.0) -> np.ndarray:
    return (np.random.default_rng(2).normal(size=(n, d)) + offset).astype(np.float32)


def all_distances(vectors: np.ndarray) -> np.ndarray:
    exact = vectors.astype(np.float64)
    return np.linalg.norm(exact[:, None] - exact[None], axis=2)


@pytest.mark.parametrize("precise", [False, True])
@pytest.mark.parametrize("count", [1, 130])
def test_distances_are_those_of_the_nearest_center(count: int, precise: bool) -> None:
    vectors = cloud()
    centers = np.random.default_rng(0).permutation(len(vectors))[:count]
    found = nearest_center_distances(vectors, centers, precise=precise)
    assert found.dtype == np.float32
    assert not found[centers].any()
    np.testing.assert_allclose(found, all_distances(vectors)[:, centers].min(1), rtol=1e-5, atol=1e-6)


def test_precise_distances_keep_their_digits_far_from_each_other() -> None:
    vectors = cloud()
    vectors[::2] += 3000  # two clouds: the distances within one are small beside those to the middle of both
    centers = np.array([0, 1])
    exact = all_distances(vectors)[:, centers].min(1)
    np.testing.assert_allclose(nearest_center_distances(vectors, centers, precise=True), exact, rtol=1e-6)


def test_without_centers_every_row_is_infinitely_far() -> None:
    assert np.isinf(nearest_center_distances(cloud(), np.empty(0, np.int64))).all()


def test_values_that_cannot_be_compared_are_refused() -> None:
    vectors = cloud()
    vectors[5, 3] = np.nan
    with pytest.raises(NotFinite, match="row 5"):
        nearest_center_distances(vectors, np.array([0]))
    with pytest.raises(NotFinite, match="row 5"):
        nearest_others(vectors, 3)


@pytest.mark.parametrize("among", [None, np.array([600, 3, 77, 40, 41, 5]), np.array([9])])
def test_nearest_others_are_those_of_brute_force(among: np.ndarray | None) -> None:
    vectors = cloud()
    rows, distances = nearest_others(vectors, 4, among=among)
    looked_among = np.arange(len(vectors)) if among is None else among
    exact = all_distances(vectors)
    np.fill_diagonal(exact, np.inf)
    width = min(4, len(looked_among) - 1)
    expected = np.argsort(exact[:, looked_among], axis=1, kind="stable")[:, :width]
    assert rows.dtype == np.int64 and rows.shape == distances.shape == (len(vectors), width)
    assert (rows == looked_among[expected]).all()
    np.testing.assert_allclose(distances, np.take_along_axis(exact, rows, 1), rtol=1e-4)
