"""Three graphs as bytes, their weights at places in external data files."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from rdlite.graphs.builder import Weights


@dataclass(frozen=True, slots=True)
class Graphs:
    """Three models whose weights have names and shapes but no data yet."""

    prelude: ir.Model
    core: ir.Model
    coda: ir.Model

    def items(self) -> list[tuple[str, ir.Model]]:
        """Name and model of each part, in the order they run."""
        return [(part, getattr(self, part)) for part in ("prelude", "core", "coda")]


ALIGNMENT = 64


def serialize(graphs: Graphs, places: Mapping[str, tuple[str, int]]) -> dict[str, bytes]:
    """Return the graphs as files, with weights at places: name -> file, offset."""
    result = {}
    for part, model in graphs.items():
        for name, value in model.graph.initializers.items():
            if name in places:
                value.const_value = _external(value, *places[name])
        proto = ir.serde.serialize_model(model)
        del proto.graph.value_info[:]  # says again what the initializers say
        result[part] = proto.SerializeToString(deterministic=True)
    return result


def users_of(graphs: Graphs, weights: Weights) -> dict[str, list[str]]:
    """Name of every weight without data -> the parts that use it."""
    users: dict[str, list[str]] = {}
    for part, model in graphs.items():
        for name, value in model.graph.initializers.items():
            if value.const_value is None:
                # A quantized one is two initializers.
                weight = name if name in weights else name.rpartition(".")[0]
                parts = users.setdefault(weight, [])
                if part not in parts:
                    parts.append(part)
    return users


def _external(value: ir.Value, file: str, offset: int) -> ir.ExternalTensor:
    dtype, shape, name = value.dtype, value.shape, value.name
    assert dtype
    assert shape
    assert name
    size = int(math.prod(shape.numpy()) * dtype.itemsize)
    return ir.ExternalTensor(file, offset, size, dtype, shape=shape, name=name)
