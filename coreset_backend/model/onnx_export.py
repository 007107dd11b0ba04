"""A classifier as one file of ONNX: pixels in, probabilities out, and everything between in the graph.

The file is computed once by onnxruntime before it is kept, and compared with torch in float32.
"""

import importlib.util
import json
import warnings
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from coreset_backend.arrays import Floats
from coreset_backend.errors import ConfigError, ModelError
from coreset_backend.files import replacing
from coreset_backend.model.classifier import Classifier
from coreset_backend.model.onnx_networks import OnnxNetwork

try:
    import onnxruntime
except ImportError:  # an extra
    onnxruntime = None

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
OPSET = 18
"""The operations that torch's exporter writes; onnxruntime knows them since 1.14."""
AGREES = 1e-4
"""Largest difference of a probability to torch's in float32."""
INPUT, OUTPUT = "pixels", "probabilities"


class PixelsToProbabilities(nn.Module):
    """uint8[k, size, size, 3] to float32[k, classes], as `predict` computes them, always in float32."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        assert classifier.head is not None
        self.network, self.preparation, self.head = (
            classifier.network,
            classifier.preparation,
            classifier.head,
        )
        self.mirror, self.multiple = classifier.mirror, classifier.multiple
        self.temperature = classifier.temperature
        self.register_buffer("mean", torch.tensor(classifier.backbone.mean) * 255)
        self.register_buffer("deviation", torch.tensor(classifier.backbone.deviation) * 255)

    def forward(self, pixels: Tensor) -> Tensor:
        images = ((pixels.float() - self.mean) / self.deviation).permute(0, 3, 1, 2)
        features = self.network(images)
        if self.mirror:
            features = (features + self.network(images.flip(3))) / 2
        if self.preparation is not None:
            features = self.preparation(features)
        logits = self.head(features) / self.temperature
        probabilities: Tensor = logits.sigmoid() if self.multiple else logits.softmax(1)
        return probabilities


def write_onnx(
    classifier: Classifier, names: tuple[str, ...], pixels: NDArray[np.uint8], path: Path
) -> float:
    """Write the classifier with its classes' ``names``, whole or not at all.

    Returns the largest difference of a probability to torch's on ``pixels`` uint8[n, size, size, 3], n > 1.
    Raises ConfigError where the extra `onnx` is not installed, ModelError where the classifier cannot be
    written or differs by more than AGREES.
    """
    _require_extra()
    if isinstance(classifier.network, OnnxNetwork):
        raise ModelError(
            f"The backbone {classifier.backbone.name} is a file of ONNX already, into which the head is not "
            "built. Use that file for the features and model.safetensors for the rest."
        )
    computed = PixelsToProbabilities(classifier).cpu().eval()
    try:
        with replacing(path) as partial:
            _convert(computed, names, classifier.size, partial)
            difference = _difference(computed, partial, pixels)
    except (OSError, ModelError):
        raise
    except Exception as error:
        raise ModelError(
            f"{classifier.backbone.name} cannot be written as ONNX: {_in_short(error)}"
        ) from error
    return difference


def _require_extra() -> None:
    if missing := [name for name in PACKAGES if importlib.util.find_spec(name) is None]:
        raise ConfigError(
            f"ONNX files are written by {', '.join(missing)}. Run: pip install 'coreset-backend[onnx]'"
        )


def _convert(computed: nn.Module, names: tuple[str, ...], size: int, path: Path) -> None:
    example = torch.zeros((2, size, size, 3), dtype=torch.uint8)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of torch's own parts that it will replace
        program = torch.onnx.export(
            computed,
            (example,),
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: torch.export.Dim("images")},),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    for node in program.model.graph.all_nodes():  # names of folders on this machine
        node.metadata_props.clear()
        node.doc_string = None
    program.model.metadata_props["classes"] = json.dumps(names)
    program.save(path)


@torch.inference_mode()
def _difference(computed: nn.Module, path: Path, pixels: NDArray[np.uint8]) -> float:
    """The largest difference of a probability; raises ModelError if it is more than AGREES."""
    found, expected = run_onnx(path, pixels), computed(torch.from_numpy(pixels)).numpy()
    difference = float(np.abs(found - expected).max())
    if not difference <= AGREES:
        raise ModelError(
            f"The model as ONNX gives probabilities that differ by {difference:.2g} from torch's; at most "
            f"{AGREES:g} was expected. It was not kept."
        )
    return difference


def run_onnx(path: Path, pixels: NDArray[np.uint8]) -> Floats:
    """float32[n, classes]: what onnxruntime computes of uint8[n, size, size, 3] by the file."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    probabilities: Floats = session.run([OUTPUT], {INPUT: pixels})[0]
    return probabilities


def _in_short(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]
