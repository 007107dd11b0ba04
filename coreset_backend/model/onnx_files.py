"""A model of ONNX brought into one form: float32[k, 3, size, size] in, float32[k, dimension] out."""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from coreset_backend.model.openvino_runtime import openvino

EMBEDDINGS = ("embedding", "embed", "pooler", "pool", "feature", "output")
"""Words in the name of an output, the best first, where a model has several."""


class CannotRead(Exception):
    """The file is no model of images; the message says why."""


@dataclass(frozen=True, slots=True, eq=False)
class OnnxModel:
    """``size``: the only side in pixels that it takes, None: any. ``takes_bytes``: pixels from 0 to 255.

    ``metadata``: what whoever made the file wrote into it.
    """

    network: "openvino.Model"
    size: int | None
    takes_bytes: bool
    metadata: Mapping[str, str]


def read_onnx(content: bytes) -> OnnxModel:
    """The model in a file of ONNX; raises CannotRead."""
    try:
        model = openvino.Core().read_model(io.BytesIO(content))
    except RuntimeError as error:
        raise CannotRead(_why_unread(content, error)) from error
    taken = _image_input(model)
    nchw = taken.partial_shape[1].is_dynamic or taken.partial_shape[1].get_length() == 3
    height, width = list(taken.partial_shape)[2:] if nchw else list(taken.partial_shape)[1:3]
    takes_bytes = taken.element_type == openvino.Type.u8
    metadata = _metadata(model)
    size = _size(taken, height, width)
    _open_batch(model)
    return OnnxModel(_as_embedding(_with_nchw_floats(model, nchw)), size, takes_bytes, metadata)


def embedding_output(content: bytes) -> str:
    """The name of the output that is taken for the embedding; raises CannotRead."""
    return str(_best_output(openvino.Core().read_model(io.BytesIO(content)).outputs).any_name)


def in_short(error: Exception) -> str:
    """What OpenVINO says, without the places in its source."""
    lines = [line.strip() for line in str(error).splitlines()]
    told = [
        line for line in lines if line and not line.startswith(("Exception from", "Check '", "FrontEnd API"))
    ]
    return " ".join(told)[:300] or str(error)[:300]


def _why_unread(content: bytes, error: RuntimeError) -> str:
    if b"external" in str(error).encode().lower() or b"\x0aexternal_data" in content:
        return (
            "its weights are in a file of their own; expected was one file (onnx.save with no external data)."
        )
    unknown = re.search(r"operations?: ([\w.:-]+)", str(error))
    if unknown:
        return f"OpenVINO does not know its operation {unknown[1]}."
    return f"it is not a whole file of ONNX, or none ({in_short(error)})."


def _image_input(model: "openvino.Model") -> "openvino.Output":
    """Its one input of images."""
    shapes = ", ".join(f"{each.any_name} {each.partial_shape}" for each in model.inputs)
    if len(model.inputs) != 1:
        raise CannotRead(f"it has {len(model.inputs)} inputs ({shapes}); expected was one of images.")
    taken = model.inputs[0]
    shape = taken.partial_shape
    if shape.rank.is_dynamic or len(shape) != 4:
        raise CannotRead(f"its input {shapes} takes no images; expected was [batch, 3, height, width].")
    channels = [axis for axis in (1, 3) if shape[axis].is_static and shape[axis].get_length() == 3]
    if not channels and shape[1].is_static:
        raise CannotRead(f"its input {shapes} takes no images of 3 colours.")
    return taken


def _size(taken: "openvino.Output", height: "openvino.Dimension", width: "openvino.Dimension") -> int | None:
    if height.is_dynamic or width.is_dynamic:
        return next((int(side.get_length()) for side in (height, width) if side.is_static), None)
    if height.get_length() != width.get_length():
        raise CannotRead(f"its input {taken.partial_shape} is not square; images are brought to a square.")
    return int(height.get_length())


def _metadata(model: "openvino.Model") -> dict[str, str]:
    if not model.has_rt_info("framework"):
        return {}
    return {key: str(value) for key, value in model.get_rt_info("framework").value.items()}


def _open_batch(model: "openvino.Model") -> None:
    """Have it take any number of images, where nothing in it insists on the one it was exported with."""
    shape = model.inputs[0].partial_shape
    if shape[0].is_dynamic or [len(each.partial_shape) for each in model.outputs] == [0]:
        return
    exported = openvino.PartialShape(shape)
    try:
        model.reshape([-1, *list(shape)[1:]])
        opened = all(each.partial_shape[0].is_dynamic for each in model.outputs if len(each.partial_shape))
    except RuntimeError:
        opened = False
    if not opened:
        model.reshape(exported)


def _with_nchw_floats(model: "openvino.Model", nchw: bool) -> "openvino.Model":
    """The model with an input float32[k, 3, height, width], whatever type and layout it had."""
    steps = openvino.preprocess.PrePostProcessor(model)
    steps.input().tensor().set_element_type(openvino.Type.f32).set_layout(openvino.Layout("NCHW"))
    steps.input().model().set_layout(openvino.Layout("NCHW" if nchw else "NHWC"))
    return steps.build()


def _as_embedding(model: "openvino.Model") -> "openvino.Model":
    """The model with one output float32[k, dimension]: maps and tokens are averaged."""
    output = _best_output(model.outputs)
    rank = len(output.partial_shape)
    ops = openvino.opset13
    node = ops.convert(output.get_node().input_value(0), "f32")
    if rank > 2:
        axes = [2, 3] if rank == 4 else [1]
        node = ops.reduce_mean(node, ops.constant(axes, dtype=np.int64), keep_dims=False)
    return openvino.Model([node.output(0)], model.get_parameters(), "embedding")


def _best_output(outputs: Sequence["openvino.Output"]) -> "openvino.Output":
    fitting = [
        each for each in outputs if len(each.partial_shape) in (2, 3, 4) and each.element_type.is_real()
    ]
    if not fitting:
        shapes = ", ".join(f"{each.element_type} {each.partial_shape}" for each in outputs)
        raise CannotRead(f"none of its outputs is an embedding ({shapes}); expected was float [batch, n].")

    def worth(output: "openvino.Output") -> tuple[bool, int]:
        names = " ".join(output.names).lower()
        words = [rank for rank, word in enumerate(EMBEDDINGS) if word in names]
        return len(output.partial_shape) != 2, min(words, default=len(EMBEDDINGS))

    return min(fitting, key=worth)
