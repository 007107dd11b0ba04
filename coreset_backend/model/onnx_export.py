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
from coreset_backend.model.onnx_files import embedding_output
from coreset_backend.model.onnx_networks import OnnxNetwork

try:
    import onnx
    import onnxruntime

    from coreset_backend.model.onnx_merging import any_number, image_input, merged
except ImportError:  # an extra
    onnx = onnxruntime = None  # type: ignore[assignment]

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
OPSET = 18
"""The operations that torch's exporter writes; onnxruntime knows them since 1.14."""
AGREES = 1e-4
"""Largest difference of a probability to torch's in float32."""
INPUT, OUTPUT = "pixels", "probabilities"


class Inputs(nn.Module):
    """uint8[k, size, size, 3] to a network's inputs, float32[k, 3, size, size]."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(classifier.backbone.mean) * 255)
        self.register_buffer("deviation", torch.tensor(classifier.backbone.deviation) * 255)

    def forward(self, pixels: Tensor) -> Tensor:
        return ((pixels.float() - self.mean) / self.deviation).permute(0, 3, 1, 2)


class Answers(nn.Module):
    """Features float32[k, dimension] to probabilities float32[k, classes]; maps and tokens are averaged."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        assert classifier.head is not None
        self.preparation, self.head = classifier.preparation, classifier.head
        self.multiple, self.temperature = classifier.multiple, classifier.temperature

    def forward(self, features: Tensor) -> Tensor:
        if features.ndim > 2:
            features = features.mean((2, 3) if features.ndim == 4 else 1)
        if self.preparation is not None:
            features = self.preparation(features)
        logits = self.head(features) / self.temperature
        probabilities: Tensor = logits.sigmoid() if self.multiple else logits.softmax(1)
        return probabilities


class PixelsToProbabilities(nn.Module):
    """uint8[k, size, size, 3] to float32[k, classes], as `predict` computes them, always in float32."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.inputs, self.network = Inputs(classifier), classifier.network
        self.answers, self.mirror = Answers(classifier), classifier.mirror

    def forward(self, pixels: Tensor) -> Tensor:
        images = self.inputs(pixels)
        features = self.network(images)
        if self.mirror:
            features = (features + self.network(images.flip(3))) / 2
        probabilities: Tensor = self.answers(features)
        return probabilities


class _AsTheFileTakesThem(nn.Module):
    """Pixels as the images of a file of ONNX, in its layout and type."""

    def __init__(self, inputs: Inputs, is_nchw: bool, takes_bytes: bool) -> None:
        super().__init__()
        self.inputs, self.is_nchw, self.takes_bytes = inputs, is_nchw, takes_bytes

    def forward(self, pixels: Tensor) -> Tensor:
        if self.takes_bytes:
            return pixels.permute(0, 3, 1, 2) if self.is_nchw else pixels + 0
        images: Tensor = self.inputs(pixels)
        return images if self.is_nchw else images.permute(0, 2, 3, 1)


def write_onnx(
    classifier: Classifier, names: tuple[str, ...], pixels: NDArray[np.uint8], path: Path
) -> float:
    """Write the classifier with its classes' ``names``, whole or not at all.

    Returns the largest difference of a probability to torch's on ``pixels`` uint8[n, size, size, 3], n > 1.
    Raises ConfigError where the extra `onnx` is not installed, ModelError where the classifier cannot be
    written or differs by more than AGREES.
    """
    _require_extra()
    computed = PixelsToProbabilities(classifier).cpu().eval()
    try:
        with replacing(path) as partial:
            made = (
                _merged(computed, pixels)
                if isinstance(computed.network, OnnxNetwork)
                else _converted(computed, torch.from_numpy(pixels[:2]), INPUT, OUTPUT)
            )
            made.metadata_props.add(key="classes", value=json.dumps(names))
            onnx.save_model(made, partial)
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


def _converted(computed: nn.Module, example: Tensor, taken: str, given: str) -> "onnx.ModelProto":
    """The module as a model of ONNX that takes any number of what is like ``example``, two of them."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of torch's own parts that it will replace
        program = torch.onnx.export(
            computed.eval(),
            (example,),
            input_names=[taken],
            output_names=[given],
            dynamic_shapes=({0: torch.export.Dim("images")},),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    for node in program.model.graph.all_nodes():  # names of folders on this machine
        node.metadata_props.clear()
        node.doc_string = None
    return program.model_proto


def _merged(computed: PixelsToProbabilities, pixels: NDArray[np.uint8]) -> "onnx.ModelProto":
    """The same where the network is a file of ONNX; raises CannotRead."""
    assert isinstance(computed.network, OnnxNetwork)
    content = computed.network.content.numpy().tobytes()
    backbone, output = any_number(onnx.load_model_from_string(content)), embedding_output(content)
    name, is_nchw, takes_bytes = image_input(backbone)
    inputs = _AsTheFileTakesThem(computed.inputs, is_nchw, takes_bytes)
    example = torch.from_numpy(pixels[:2])
    images = inputs(example).numpy()
    features = _session(backbone.SerializeToString()).run([output], {name: images})[0]
    front = _converted(inputs, example, INPUT, "images")
    tail = _converted(computed.answers, torch.from_numpy(features), "features", OUTPUT)
    return merged(front, backbone, output, tail)


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
    probabilities: Floats = _session(path).run([OUTPUT], {INPUT: pixels})[0]
    return probabilities


def _session(model: Path | bytes) -> "onnxruntime.InferenceSession":
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _in_short(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]
