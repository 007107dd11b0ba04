"""A backbone that is a file of ONNX, with the steps before and behind it in one graph."""

import onnx
from onnx import compose, version_converter

PREFIX = "backbone/"


def image_input(backbone: onnx.ModelProto) -> tuple[str, bool, bool]:
    """Name of the input of images, whether its colours come first (NCHW), and whether it takes bytes."""
    constants = {each.name for each in backbone.graph.initializer}
    [taken] = [each for each in backbone.graph.input if each.name not in constants]
    kind = taken.type.tensor_type
    first = kind.shape.dim[1]
    is_nchw = not first.HasField("dim_value") or first.dim_value == 3
    return taken.name, is_nchw, kind.elem_type == onnx.TensorProto.UINT8


def merged(
    front: onnx.ModelProto, backbone: onnx.ModelProto, output: str, tail: onnx.ModelProto
) -> onnx.ModelProto:
    """One model of three: the only output of ``front`` is the images of ``backbone``, whose ``output`` is the
    only input of ``tail``."""
    name, _, _ = image_input(backbone)
    backbone = version_converter.convert_version(backbone, front.opset_import[0].version)
    backbone = compose.add_prefix(backbone, PREFIX)
    for each in (backbone, tail):
        each.ir_version = front.ir_version
    images = [(front.graph.output[0].name, PREFIX + name)]
    begun = compose.merge_models(front, backbone, images, outputs=[PREFIX + output])
    tail = compose.add_prefix(tail, "tail/", rename_outputs=False)
    return compose.merge_models(begun, tail, [(PREFIX + output, tail.graph.input[0].name)])


def any_number(backbone: onnx.ModelProto) -> onnx.ModelProto:
    """The backbone for any number of images, whatever it was exported with; its operations may insist."""
    changed = onnx.ModelProto()
    changed.CopyFrom(backbone)
    del changed.graph.value_info[:]  # with the number of images that it was exported with
    for each in (*changed.graph.input, *changed.graph.output):
        shape = each.type.tensor_type.shape
        if shape.dim and each.name not in {constant.name for constant in backbone.graph.initializer}:
            shape.dim[0].dim_param = "images"
    return changed
