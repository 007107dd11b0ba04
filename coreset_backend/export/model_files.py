"""The model as files: the weights, how they are used, the same as ONNX, and a script that runs that."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from coreset_backend import __version__, model
from coreset_backend.arrays import Resize
from coreset_backend.errors import ConfigError, CorruptRound, ImageError, ModelError
from coreset_backend.evaluation.scores import NAMED, named_classes
from coreset_backend.files import saving, write_atomically
from coreset_backend.images import Images
from coreset_backend.model.onnx_export import OPSET, run_onnx, write_onnx
from coreset_backend.project import Labels
from coreset_backend.store.saved_round import StoredRound

WEIGHTS, ONNX, CONFIGURATION, SCRIPT = "model.safetensors", "model.onnx", "config.json", "predict.py"
PREDICT = '''"""Prints the probability of each class for images: python predict.py IMAGE..."""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

here = Path(__file__).parent
config = json.loads((here / "config.json").read_text())
side, names = config["image_size"], list(config["id2label"].values())
resample = Image.Resampling[config["interpolation"].upper()]
session = onnxruntime.InferenceSession(here / "model.onnx")
for name in sys.argv[1:]:
    with Image.open(name) as image:
        if resample != Image.Resampling.NEAREST:
            image.draft(None, (side, side))  # a large JPEG is decoded at a fraction of its size, as in rounds
        small = image.convert("RGB").resize((side, side), resample, reducing_gap=2.0)
    for key in ("xmp", "XML:com.adobe.xmp"):  # browsers turn an image by its EXIF data only
        small.info.pop(key, None)
    pixels = np.asarray(ImageOps.exif_transpose(small))
    probabilities = session.run(None, {"pixels": pixels[None]})[0][0]
    print(json.dumps({"image": name} | dict(zip(names, probabilities.round(5).tolist()))))
'''
COMPARED = 32
"""Images of the pool on which the ONNX file is compared with torch and with the round."""


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """What was written of a round's model.

    ``difference``: the largest of a probability by the ONNX file to torch's, None without that file, and
    ``without`` says why. ``to_round``: the largest to the probabilities that the round itself has computed,
    and ``same_answers`` the share of equal answers; None where no image of the round could be read.
    """

    licence: str
    size: int
    interpolation: str
    images: int = 0
    difference: float | None = None
    without: str = ""
    to_round: float | None = None
    same_answers: float | None = None


def public_description(text: str) -> str:
    """A backbone's description without what the network answered, which may name hosts of this site."""
    return re.sub(
        r"could not be downloaded \(.*\), which is tried", "could not be downloaded, which is tried", text
    )


def has_model(stored: StoredRound) -> bool:
    """Whether the round has a model that answers."""
    return stored.record.labels is not None and stored.has("probabilities")


def write_model(
    stored: StoredRound, images: Images, tasks: Sequence[tuple[int, str | None]], folder: Path
) -> ModelFiles:
    """Write the round's model into the folder. ``tasks``: (task id, address) of images it has seen.

    Raises CorruptRound and Unwritable.
    """
    labels = stored.record.labels
    assert labels is not None
    weights = stored.file(WEIGHTS)
    classifier = model.load_classifier(weights, "cpu", exact=True)
    if classifier.classes != len(labels.names):
        raise CorruptRound(
            stored.place, f"its model has {classifier.classes} classes, not {len(labels.names)}"
        )
    public = replace(classifier, description=public_description(classifier.description))
    with saving(folder):
        model.save_classifier(public, folder / WEIGHTS)
    configuration = _configuration(classifier, labels, stored)
    write_atomically(folder / CONFIGURATION, (json.dumps(configuration, indent=2) + "\n").encode())
    licence = model.spelled(classifier.backbone.licence)
    files = ModelFiles(licence, classifier.size, classifier.backbone.interpolation)
    task_ids, pixels = _compared_pixels(images, tasks, classifier.backbone.resize(classifier.size))
    try:
        difference = write_onnx(classifier, labels.names, pixels, folder / ONNX)
    except (ConfigError, ModelError) as error:
        return replace(files, without=str(error))
    write_atomically(folder / SCRIPT, PREDICT.encode())
    to_round, same = _compared_with_round(stored, labels, task_ids, run_onnx(folder / ONNX, pixels))
    return replace(files, images=len(pixels), difference=difference, to_round=to_round, same_answers=same)


def _configuration(classifier: model.Classifier, labels: Labels, stored: StoredRound) -> dict[str, object]:
    """What a program needs to use the model, with the names that transformers uses where it has one."""
    backbone = classifier.backbone
    return {
        "model_type": "coreset-backend",
        "backbone": backbone.name,
        "problem_type": "multi_label_classification" if labels.multiple else "single_label_classification",
        "id2label": dict(enumerate(labels.names)),
        "label2id": {name: place for place, name in enumerate(labels.names)},
        "threshold": NAMED if labels.multiple else None,
        "image_size": classifier.size,
        "interpolation": classifier.backbone.interpolation,
        "image_mean": backbone.mean,
        "image_std": backbone.deviation,
        "mirror": classifier.mirror,
        "temperature": classifier.temperature,
        "model_version": stored.record.model_version,
        "onnx": {
            "opset": OPSET,
            "pixels": "uint8[n, image_size, image_size, 3], RGB, 0 to 255",
            "probabilities": "float32[n, classes], in the order of id2label",
        },
        "versions": {"coreset_backend": __version__, "torch": version("torch")},
    }


def _compared_pixels(
    images: Images, tasks: Sequence[tuple[int, str | None]], resize: Resize
) -> tuple[Sequence[int], NDArray[np.uint8]]:
    """Images of the pool with their task ids; noise without task ids where none of them can be read."""
    try:
        found, _ = images.fetch(tasks[:COMPARED], resize)
        if len(found):
            return found.task_ids.tolist(), found[np.arange(len(found))]
    except ImageError:
        pass
    return [], np.random.default_rng(0).integers(0, 256, (8, resize.size, resize.size, 3), dtype=np.uint8)


def _compared_with_round(
    stored: StoredRound, labels: Labels, task_ids: Sequence[int], now: NDArray[np.float32]
) -> tuple[float | None, float | None]:
    """The largest difference to the probabilities that the round has kept, and the share of equal answers."""
    with stored.reading():
        embedded, kept = stored.array("embedded_task_ids"), stored.array("probabilities")
        rows = np.searchsorted(embedded, task_ids)
        known = np.flatnonzero(embedded[np.minimum(rows, len(embedded) - 1)] == task_ids)
        if not len(known):
            return None, None
        before, after = kept[rows[known]], now[known]
        answers = [named_classes(each, labels.multiple) for each in (before, after)]
        return float(np.abs(before - after).max()), float((answers[0] == answers[1]).all(1).mean())
