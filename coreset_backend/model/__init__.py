"""The only door to torch: backbones, fitting, embedding, predicting, and classifiers on disk.

    chosen = choose_backbone("auto", weights=None)
    classifier, report = fit(chosen, pixels, targets, multiple=False, holdout=holdout, seed=0)
    embeddings, probabilities = embed_and_predict(classifier, pool)

Importing it computes nothing, loads no weights and sets no thread: a worker may fork after it.
"""

from .backbones import BACKBONES, Backbone, ChosenBackbone, backbone_named, choose_backbone
from .checkpoint import PretrainingState
from .classifier import (
    Classifier,
    PixelRows,
    PixelSubset,
    Progress,
    embed,
    embed_and_predict,
    predict,
    probabilities_of,
)
from .descent import Recipe
from .file import load_classifier, network_name, save_classifier
from .pretraining import (
    PretrainingRecipe,
    pretrain,
    pretrained_backbone,
    pretraining_state,
)
from .training import FINE_TUNED_FROM, TrainingReport, fit, untrained

__all__ = [
    "BACKBONES",
    "FINE_TUNED_FROM",
    "Backbone",
    "ChosenBackbone",
    "Classifier",
    "PixelRows",
    "PixelSubset",
    "PretrainingRecipe",
    "PretrainingState",
    "Progress",
    "Recipe",
    "TrainingReport",
    "backbone_named",
    "choose_backbone",
    "embed",
    "embed_and_predict",
    "fit",
    "load_classifier",
    "network_name",
    "predict",
    "pretrain",
    "pretrained_backbone",
    "pretraining_state",
    "probabilities_of",
    "save_classifier",
    "untrained",
]
