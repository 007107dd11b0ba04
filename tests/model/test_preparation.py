"""What makes embeddings of features: standardised, principal components, unit length."""

import numpy as np
import pytest

from coreset_backend.model import fit_preparation, prepared
from coreset_backend.model.preparation import COMPONENTS, GROWN, LEAST_NEWCOMERS

RNG = np.random.default_rng(0)


def features(n: int, dimension: int = 1200, seed: int = 0) -> np.ndarray:
    """float32[n, dimension] of 20 hidden directions, with features of very different scale."""
    rng = np.random.default_rng(seed)
    hidden = np.random.default_rng(9).normal(size=(20, dimension))
    scale = np.geomspace(1e-3, 1e3, dimension)
    noise = 0.05 * rng.normal(size=(n, dimension))
    return ((rng.normal(size=(n, 20)) @ hidden + noise) * scale + 7).astype(np.float32)


def test_embeddings_have_unit_length_and_do_not_depend_on_the_scale_of_a_feature() -> None:
    given = features(400)
    embeddings = prepared(fit_preparation(given, 0), given)
    assert embeddings.shape == (400, COMPONENTS) and embeddings.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, rtol=1e-5)
    stretched = given * np.where(np.arange(1200) % 2, 100, 1).astype(np.float32)
    again = prepared(fit_preparation(stretched, 0), stretched)
    np.testing.assert_allclose(again @ again.T, embeddings @ embeddings.T, atol=2e-3)


def test_they_are_the_principal_components_of_the_standardised_features() -> None:
    given = features(400).astype(np.float64)
    scaled = (given - given.mean(0)) / given.std(0)
    _, values, directions = np.linalg.svd(scaled, full_matrices=False)
    expected = scaled @ directions[:COMPONENTS].T
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    embeddings = prepared(fit_preparation(features(400), 0), features(400))
    np.testing.assert_allclose(embeddings @ embeddings.T, expected @ expected.T, atol=2e-3)
    assert values[19] > 5 * values[20]


@pytest.mark.parametrize("n", [1, 2, 30])
def test_a_pool_of_few_images_has_embeddings_too(n: int) -> None:
    given = features(n)
    embeddings = prepared(fit_preparation(given, 0), given)
    assert np.isfinite(embeddings).all()
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, rtol=1e-5)
    assert len(np.unique(embeddings.round(3), axis=0)) == n


def test_equal_images_have_equal_embeddings() -> None:
    given = np.repeat(features(1), 5, axis=0)
    embeddings = prepared(fit_preparation(given, 0), given)
    assert (embeddings == embeddings[0]).all() and np.linalg.norm(embeddings[0]) == 1


def test_it_serves_until_the_pool_has_grown_by_half_or_newcomers_are_of_another_kind() -> None:
    preparation = fit_preparation(features(400), 0)
    alike = features(LEAST_NEWCOMERS, seed=1)
    assert preparation.fits(features(0), 400)
    assert preparation.fits(alike, 450)
    assert not preparation.fits(alike, int(GROWN * 400))
    other = RNG.normal(size=alike.shape).astype(np.float32) * 1e3
    assert not preparation.fits(other, 450)
    assert preparation.fits(other[: LEAST_NEWCOMERS - 1], 449)  # too few to tell


def test_the_same_pool_gives_the_same_preparation() -> None:
    first, second = (fit_preparation(features(400), 3).state_dict() for _ in range(2))
    assert all((first[name] == second[name]).all() for name in first)
