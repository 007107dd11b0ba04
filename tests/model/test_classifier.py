import threading
from pathlib import Path

import numpy as np
import pytest
from training_images import SMALL, shapes, trained

from coreset_backend import model
from coreset_backend.errors import ConfigError, CorruptRound, ImageError, TooFewLabels
from coreset_backend.reports import TrainingReport

SHORT = model.Recipe(images=3000)


@pytest.fixture(scope="module")
def fitted() -> tuple[model.Classifier, TrainingReport]:
    pixels, targets = shapes(120)
    holdout = np.arange(120) >= 80
    return model.fit(
        SMALL, pixels, targets, multiple=False, holdout=holdout, seed=1, device="cpu", recipe=SHORT
    )


def test_a_fit_beats_chance_on_what_it_never_saw(
    fitted: tuple[model.Classifier, TrainingReport],
) -> None:
    classifier, report = fitted
    assert report.n_train == 80 and report.n_holdout == 40
    pixels, targets = shapes(120)
    probabilities = model.predict(classifier, pixels[80:])
    assert probabilities is not None
    assert (probabilities.argmax(1) == targets[80:].argmax(1)).mean() > 0.8


def test_embeddings_follow_the_rows_and_probabilities_add_up(
    fitted: tuple[model.Classifier, TrainingReport],
) -> None:
    pixels, _ = shapes(50, seed=9)
    order = np.random.default_rng(0).permutation(50)
    vectors, probabilities = model.embed_and_predict(fitted[0], pixels)
    moved, _ = model.embed_and_predict(fitted[0], pixels[order])
    assert vectors.dtype == np.float32 and len(vectors) == 50
    assert probabilities is not None
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-3)
    np.testing.assert_allclose(moved, vectors[order], rtol=0.05, atol=0.02)


def test_a_saved_classifier_gives_the_same_embeddings_and_a_flipped_byte_is_refused(
    fitted: tuple[model.Classifier, TrainingReport], tmp_path: Path
) -> None:
    pixels, _ = shapes(10, seed=3)
    path = tmp_path / "m.safetensors"
    model.save_classifier(fitted[0], path)
    np.testing.assert_array_equal(
        model.embed(model.load_classifier(path), pixels), model.embed(fitted[0], pixels)
    )
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(CorruptRound):
        model.load_classifier(path)


def test_the_same_seed_gives_the_same_model() -> None:
    pixels, targets = shapes(40)
    recipe = model.Recipe(images=400)
    first, second = (model.embed(trained(pixels, targets, 5, recipe), pixels) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_multiple_choice_gives_each_class_its_own_probability() -> None:
    pixels, targets = shapes(60)
    both = np.maximum(targets, np.array([0, 1], dtype=np.float32))  # the second class is always there
    classifier, report = model.fit(
        SMALL, pixels, both, multiple=True, holdout=np.zeros(60, bool), seed=0, device="cpu", recipe=SHORT
    )
    probabilities = model.predict(classifier, pixels)
    assert report.n_holdout == 0
    assert probabilities is not None and probabilities[:, 1].mean() > 0.8


def test_one_class_is_too_few() -> None:
    pixels, _ = shapes(10)
    targets = np.tile(np.array([1, 0], dtype=np.float32), (10, 1))
    with pytest.raises(TooFewLabels):
        model.fit(SMALL, pixels, targets, multiple=False, holdout=np.zeros(10, bool), seed=0)


def test_without_labels_there_are_embeddings_and_no_probabilities() -> None:
    pixels, _ = shapes(64)
    classifier = model.untrained(SMALL, pixels, seed=0, device="cpu")
    vectors, probabilities = model.embed_and_predict(classifier, pixels)
    assert probabilities is None
    assert np.isfinite(vectors).all() and vectors.std(0).max() > 0


def test_an_unknown_backbone_lists_the_known_and_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"The nearest are: resnet18, .* Expected was auto, .*small_cnn"):
        model.choose_backbone("resnet19", None)
    with pytest.raises(ConfigError, match="no weights file"):
        model.choose_backbone("resnet18", tmp_path / "none.pth")


def test_images_are_read_once_and_in_order_beside_the_network(
    fitted: tuple[model.Classifier, TrainingReport],
) -> None:
    """In a thread of its own; what the reading raises reaches the caller."""
    pixels, _ = shapes(50, seed=4)
    read: list[int] = []
    threads: set[str] = set()

    class Watched:
        shape = pixels.shape
        gone = False

        def __len__(self) -> int:
            return len(pixels)

        def __getitem__(self, rows: np.ndarray) -> np.ndarray:
            threads.add(threading.current_thread().name)
            read.extend(rows.tolist())
            if self.gone and 40 in rows:
                raise ImageError("gone")
            found: np.ndarray = pixels[rows]
            return found

    watched = Watched()
    np.testing.assert_array_equal(
        model.embed(fitted[0], watched, batch=20), model.embed(fitted[0], pixels, batch=20)
    )
    assert read == list(range(50))
    assert threading.current_thread().name not in threads
    watched.gone = True
    with pytest.raises(ImageError, match="gone"):
        model.embed(fitted[0], watched, batch=20)
