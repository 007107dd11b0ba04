"""Small files of ONNX, written field by field: the package `onnx` is not needed to read them either."""

import struct
from collections.abc import Mapping, Sequence

import numpy as np

Dimension = int | str
FLOAT, UINT8, INT64 = 1, 2, 7
OPSET = 13


def onnx_file(
    shape: Sequence[Dimension] = ("batch", 3, "height", "width"),
    *,
    type_: int = FLOAT,
    operations: Sequence[bytes] | None = None,
    outputs: Mapping[str, int] | None = None,
    inputs: Mapping[str, Sequence[Dimension]] | None = None,
    constants: Sequence[bytes] = (),
    metadata: Mapping[str, str] | None = None,
) -> bytes:
    """A model of that input ``x``; without ``operations`` it averages each colour, float32[k, 3].

    ``outputs``: name -> number of dimensions; by default ``y`` of two.
    """
    taken = {"x": (type_, shape), **{name: (FLOAT, each) for name, each in (inputs or {}).items()}}
    default = (*averages("x", "pooled"), operation("Flatten", "pooled", "y"))
    graph = b"".join(
        (
            *(field(1, each) for each in operations or default),
            field(2, b"graph"),
            *(field(5, each) for each in constants),
            *(field(11, _value(name, kind, dims)) for name, (kind, dims) in taken.items()),
            *(field(12, _value(name, FLOAT, ["n"] * rank)) for name, rank in (outputs or {"y": 2}).items()),
        )
    )
    told = (
        field(14, field(1, key.encode()) + field(2, value.encode()))
        for key, value in (metadata or {}).items()
    )
    return b"".join((number(1, 8), field(7, graph), field(8, field(1, b"") + number(2, OPSET)), *told))


def averages(source: str, target: str) -> tuple[bytes, ...]:
    """The operation that averages maps: float32[k, c, h, w] to [k, c, 1, 1]."""
    return (operation("GlobalAveragePool", source, target),)


def operation(kind: str, *names: str, integers: Mapping[str, Sequence[int]] | None = None) -> bytes:
    """From all ``names`` but the last to the last."""
    *sources, target = names
    attributes = (
        field(5, field(1, key.encode()) + b"".join(number(8, value) for value in values) + number(20, 7))
        for key, values in (integers or {}).items()
    )
    return b"".join(
        (
            *(field(1, each.encode()) for each in sources),
            field(2, target.encode()),
            field(4, kind.encode()),
            *attributes,
        )
    )


def constant(name: str, values: np.ndarray, location: str = "") -> bytes:
    """A tensor of the model; with a ``location`` its content is in a file of that name."""
    kind = FLOAT if values.dtype == np.float32 else INT64
    content = field(9, values.tobytes())
    if location:
        content = field(13, field(1, b"location") + field(2, location.encode())) + number(14, 1)
    return b"".join(
        (*(number(1, side) for side in values.shape), number(2, kind), field(8, name.encode()), content)
    )


def _value(name: str, kind: int, dims: Sequence[Dimension]) -> bytes:
    sides = (number(1, side) if isinstance(side, int) else field(2, side.encode()) for side in dims)
    shape = b"".join(field(1, side) for side in sides)
    return field(1, name.encode()) + field(2, field(1, number(1, kind) + field(2, shape)))


def field(tag: int, content: bytes) -> bytes:
    return _varint(tag << 3 | 2) + _varint(len(content)) + content


def number(tag: int, value: int) -> bytes:
    return _varint(tag << 3) + _varint(value)


def _varint(value: int) -> bytes:
    value &= 2**64 - 1
    found = b""
    while value > 127:
        found += struct.pack("B", value & 127 | 128)
        value >>= 7
    return found + struct.pack("B", value)
