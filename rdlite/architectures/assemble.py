"""Builds the three graphs of a model from its config and family: the graph contract, version 1."""

import numpy as np
import onnx_ir as ir

from rdlite.architectures.registry import Family
from rdlite.config.model import ModelConfig
from rdlite.config.quantization import Quantization
from rdlite.graphs.builder import GraphBuilder
from rdlite.graphs.layers import reduce_last
from rdlite.graphs.serialize import Graphs


def build_graphs(
    family: Family, config: ModelConfig, quantization: Quantization | None = None
) -> Graphs:
    """Build prelude, core and coda; the result depends on nothing but its arguments."""
    weights = family.weights(config)
    width, vocabulary = config.hidden_size, config.vocab_size

    g = GraphBuilder(config, weights, quantization)
    input_ids = g.input("input_ids", np.int64, ["B", "S"])
    embeds = family.prelude(g, input_ids)
    g.output(embeds, "embeds", np.float32, ["B", "S", width])
    prelude = g.finish("prelude")

    g = GraphBuilder(config, weights, quantization)
    state = g.input("state", np.float32, ["B", "S", width])
    embeds = g.input("embeds", np.float32, ["B", "S", width])
    next_state = family.core(g, state, embeds)
    g.output(next_state, "next_state", np.float32, ["B", "S", width])
    g.output(_change(g, state, next_state), "change", np.float32, ["B", "S"])
    core = g.finish("core")

    g = GraphBuilder(config, weights, quantization)
    state = g.input("state", np.float32, ["B", "S", width])
    logit_positions = g.input("logit_positions", np.int64, ["P"])
    logits = family.coda(g, state, logit_positions)
    g.output(logits, "logits", np.float32, ["B", "P", vocabulary])
    return Graphs(prelude, core, g.finish("coda"))


def _change(g: GraphBuilder, state: ir.Value, next_state: ir.Value) -> ir.Value:
    """`||next_state - state|| / ||next_state||` per position."""
    moved = reduce_last(g, "ReduceL2", g.op.Sub(next_state, state))
    return g.op.Div(moved, reduce_last(g, "ReduceL2", next_state))
