"""Whether OpenVINO's embeddings are as good as torch's: cosines, and accuracies of a head on either.

    python benchmarks/runtimes.py IMAGES [--size 128] [--draws 20]

IMAGES holds train/<class>/ and test/<class>/. Lite0 embeds all of them by torch and by OpenVINO; a head is
fitted on the same random labels of either, prepared as in a round, and measured on the test images. The
difference is that of the same draws, so that a draw of easy labels cancels.
"""

import argparse
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from round import processor

from coreset_backend import model
from coreset_backend.arrays import Floats
from coreset_backend.simulation.images import LabeledImages, read_folder

BUDGETS = (100, 400, 2000)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("images", type=Path)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--draws", type=int, default=20)
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{processor()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {given.draws} draws")
    with tempfile.TemporaryDirectory(prefix="runtimes-") as place:
        parts = ("train", "test")
        chosen = model.choose_backbone("auto", None)
        resize = chosen.backbone.resize(given.size)
        train, test = (read_folder(given.images / part, resize, Path(place) / part) for part in parts)
        classifier = model.untrained(chosen, train.pixels, seed=0, device="cpu")
        if classifier.runtime is None:
            raise SystemExit("OpenVINO is not installed, or differs from torch: the log says which.")
        measured = [features(each, train, test) for each in (replace(classifier, runtime=None), classifier)]
    cosines = torch.cosine_similarity(*(torch.from_numpy(pool) for pool, _ in measured))
    print(f"cosine of {len(cosines):,} images: least {cosines.min():.5f}, mean {cosines.mean():.5f}")
    print(f"| features by | {' | '.join(f'{budget:,} labels' for budget in BUDGETS)} |")
    print(f"|---|{'---|' * len(BUDGETS)}")
    right = []
    for which, (pool, unseen) in zip(("torch", "OpenVINO"), measured, strict=True):
        right.append(accuracies(replace(classifier, runtime=None), pool, unseen, train, test, given.draws))
        print(f"| {which} | {' | '.join(f'{each:.2f}' for each in right[-1].mean(0))} |", flush=True)
    ahead = right[1] - right[0]
    errors = ahead.std(0, ddof=1) / np.sqrt(given.draws)
    shown = (f"{lead:+.2f} ± {error:.2f}" for lead, error in zip(ahead.mean(0), errors, strict=True))
    print(f"| OpenVINO - torch, ± standard error | {' | '.join(shown)} |")


def features(
    classifier: model.Classifier, train: LabeledImages, test: LabeledImages
) -> tuple[Floats, Floats]:
    """Of both parts, before any preparation."""
    started = time.process_time()
    found = model.embed(classifier, train.pixels), model.embed(classifier, test.pixels)
    rate = (len(train) + len(test)) / (time.process_time() - started)
    print(f"{classifier.arithmetic}: {rate:,.0f} images per CPU-second")
    return found


def accuracies(
    classifier: model.Classifier,
    pool: Floats,
    unseen: Floats,
    train: LabeledImages,
    test: LabeledImages,
    draws: int,
) -> NDArray[np.float64]:
    """float64[draws, BUDGETS]: the accuracy in per cent of a head on so many random labels."""
    preparation = model.fit_preparation(pool, seed=0)
    frozen = replace(classifier, preparation=preparation)
    embeddings, of_test = (model.prepared(preparation, part) for part in (pool, unseen))
    targets, wanted = (np.array([part.names.index(one[0]) for one in part.chosen]) for part in (train, test))
    one_hot = np.eye(len(train.names), dtype=np.float32)[targets]
    right = np.empty((draws, len(BUDGETS)))
    for place, budget in enumerate(BUDGETS):
        for draw in range(draws):
            rows = np.random.default_rng(draw).permutation(len(pool))[:budget]
            nobody = np.zeros(budget, bool)
            fitted, _ = model.fit_head(
                frozen, embeddings[rows], one_hot[rows], multiple=False, holdout=nobody
            )
            said = model.probabilities_of(fitted, of_test)
            assert said is not None
            right[draw, place] = 100 * (said.argmax(1) == wanted).mean()
    return right


if __name__ == "__main__":
    main()
