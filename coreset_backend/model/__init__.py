"""The only door to torch: backbones, fitting, embedding, predicting, and classifiers on disk.

    chosen = choose_backbone("auto", weights=None)
    classifier, report = fit(chosen, pixels, targets, multiple=False, holdout=holdout, seed=0)
    embeddings, probabilities = embed_and_predict(classifier, pool)

Importing it computes nothing, loads no weights and sets no thread: a worker may fork after it.
"""

from coreset_backend.model.backbone import Backbone, ChosenBackbone
from coreset_backend.model.backbones import backbone_named, choose_backbone, have_weights, is_at_hand
from coreset_backend.model.candidates import WANTED_LEAD, Candidate, Comparison, compare_backbones
from coreset_backend.model.catalog import (
    AFFORDABLE_SECONDS,
    CATALOG,
    STRONGER,
    candidates_at_hand,
    choose_candidate,
    cost_of_candidate,
    looked_up,
    names_with,
    speed_of_candidate,
    why_not_stronger,
    why_too_slow,
)
from coreset_backend.model.classifier import (
    Classifier,
    arithmetic_of,
    embed,
    embed_and_predict,
    predict,
    probabilities_of,
)
from coreset_backend.model.descent import Recipe
from coreset_backend.model.heads import folds_of, held_out_logits
from coreset_backend.model.label_noise import LabelNoise, fit_label_noise
from coreset_backend.model.licences import is_permissive, spelled
from coreset_backend.model.names import LITE0, SELF_SUPERVISED, SMALL_CNN
from coreset_backend.model.pool_calibration import pool_probabilities
from coreset_backend.model.preparation import (
    Preparation,
    fit_preparation,
    fitted_rows,
    preparation_by,
    prepared,
)
from coreset_backend.model.pretraining import (
    PretrainingRecipe,
    pretrain,
    pretrained_backbone,
    pretraining_state,
)
from coreset_backend.model.pretraining_checkpoint import PretrainingState
from coreset_backend.model.runtimes import load_frozen
from coreset_backend.model.saving import (
    features_name,
    load_classifier,
    load_preparation,
    network_name,
    save_classifier,
)
from coreset_backend.model.training import (
    FINE_TUNED_FROM,
    fit,
    fit_head,
    trains_network,
    untrained,
)

__all__ = [
    "AFFORDABLE_SECONDS",
    "CATALOG",
    "FINE_TUNED_FROM",
    "LITE0",
    "SELF_SUPERVISED",
    "SMALL_CNN",
    "STRONGER",
    "WANTED_LEAD",
    "Backbone",
    "Candidate",
    "ChosenBackbone",
    "Classifier",
    "Comparison",
    "LabelNoise",
    "Preparation",
    "PretrainingRecipe",
    "PretrainingState",
    "Recipe",
    "arithmetic_of",
    "backbone_named",
    "candidates_at_hand",
    "choose_backbone",
    "choose_candidate",
    "compare_backbones",
    "cost_of_candidate",
    "embed",
    "embed_and_predict",
    "features_name",
    "fit",
    "fit_head",
    "fit_label_noise",
    "fit_preparation",
    "fitted_rows",
    "folds_of",
    "have_weights",
    "held_out_logits",
    "is_at_hand",
    "is_permissive",
    "load_classifier",
    "load_frozen",
    "load_preparation",
    "looked_up",
    "names_with",
    "network_name",
    "pool_probabilities",
    "predict",
    "preparation_by",
    "prepared",
    "pretrain",
    "pretrained_backbone",
    "pretraining_state",
    "probabilities_of",
    "save_classifier",
    "speed_of_candidate",
    "spelled",
    "trains_network",
    "untrained",
    "why_not_stronger",
    "why_too_slow",
]
