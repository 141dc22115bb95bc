"""Traced graphs taken over: weights under rdlite's names, everything else as small as it gets."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx_ir.passes import Sequential
from onnx_ir.passes.common import (
    ClearMetadataAndDocStringPass,
    CommonSubexpressionEliminationPass,
    LiftConstantsToInitializersPass,
    RemoveUnusedNodesPass,
)

from rdlite.bundle.check.graph import contract
from rdlite.bundle.manifest import PARTS
from rdlite.config.model import ModelConfig
from rdlite.errors import CheckpointError
from rdlite.graphs.builder import IR_VERSION, Weights
from rdlite.graphs.packing import Codes, Scales
from rdlite.graphs.serialize import Graphs

from ..safetensors import PIECE_BYTES

Floats = npt.NDArray[np.float32]


class TracedWeights:
    """The weights that traced graphs hold, by rdlite's names."""

    def __init__(self, tensors: Mapping[str, ir.TensorProtocol]) -> None:
        self._tensors = tensors

    def coded(self, name: str) -> Iterator[tuple[Codes, Scales]]:
        """No traced weight is quantized."""
        raise NotImplementedError(name)

    def pieces(self, name: str) -> Iterator[Floats]:
        """Yield a weight in pieces; raises CheckpointError where it is not finite."""
        flat = self._tensors[name].numpy().reshape(-1)
        for first in range(0, flat.size, PIECE_BYTES // 4):
            piece = np.asarray(flat[first : first + PIECE_BYTES // 4], np.float32)
            if not np.isfinite(piece).all():
                raise CheckpointError(f"the weight {name!r} of the model holds NaN or infinity")
            yield piece


def take_over(folder: Path, config: ModelConfig, weights: Weights) -> tuple[Graphs, TracedWeights]:
    """Read prelude.onnx, core.onnx and coda.onnx as optimum wrote them.

    Args:
        folder: where they lie; it must stay until the weights were read.
        config: the model's.
        weights: of its family, by rdlite's names.

    Returns:
        The graphs, their weights with names and without data, and where the data comes from.

    Raises:
        CheckpointError: a graph is missing, or a weight is not in them under its own name.
    """
    models: dict[str, ir.Model] = {}
    tensors: dict[str, ir.TensorProtocol] = {}
    for part in PARTS:
        file = folder / f"{part}.onnx"
        if not file.is_file():
            raise CheckpointError(f"{folder} lacks {file.name}; trace prelude, core and coda there")
        model = ir.load(file)
        _clean(model)
        model.ir_version = IR_VERSION
        model.producer_name, model.producer_version = "rdlite", None
        names = _names(config, part, weights)
        for value in list(model.graph.initializers.values()):
            ours = names.get(value.name or "")
            if ours is not None and value.const_value is not None:
                tensors[ours] = value.const_value
                value.name = ours
                value.const_value = None
        _add_unused_inputs(model, part, config)
        models[part] = model
    missing = sorted(weights.keys() - tensors.keys())
    if missing:
        raise CheckpointError(
            f"the graphs in {folder} hold no weight {missing[0]!r}; trace with the submodels of "
            "this config, and without constant folding"
        )
    return Graphs(**models), TracedWeights(tensors)


def _names(config: ModelConfig, part: str, weights: Weights) -> dict[str, str]:
    """What a traced tensor is called -> rdlite's name."""
    names = {w.sources[0]: name for name, w in weights.items() if w.sources and w.make is None}
    names |= {"cos": "rotary.cos", "sin": "rotary.sin"}
    if config.qk_bias:
        for i in range(getattr(config.layers, part)):
            names[f"qkv_bias_{i}"] = f"{part}.{i}.attn.qkv.bias"
    return names


def _add_unused_inputs(model: ir.Model, part: str, config: ModelConfig) -> None:
    """Declare the inputs that a tracer drops where nothing needs them: a part without layers."""
    known = {value.name for value in model.graph.inputs}
    for name, (dtype, shape) in contract(part, config)[0].items():
        if name not in known:
            kind = ir.TensorType(ir.DataType[dtype])
            model.graph.inputs.append(ir.Value(name=name, type=kind, shape=ir.Shape(shape)))


def _clean(model: ir.Model) -> None:
    """Leave out what only says where a node came from, and what is computed twice."""
    Sequential(
        LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        CommonSubexpressionEliminationPass(),
        RemoveUnusedNodesPass(),
        ClearMetadataAndDocStringPass(),
    )(model)
