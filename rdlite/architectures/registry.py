"""The registry of model families: one module each, found by model_type and names of tensors.

A family module has MODEL_TYPES, MARK, STOP_TOKENS, REDUNDANT, `read_config`, `weights`,
`state_norm`, and the three graphs as functions `prelude`, `core` and `coda`. See docs/families.md.
"""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import onnx_ir as ir

from rdlite.architectures import huginn, nanbeige, ouro, recurrent_llama, recurrent_olmo
from rdlite.config.model import ModelConfig
from rdlite.errors import FamilyError
from rdlite.graphs.builder import GraphBuilder, Weight


class Family(Protocol):
    """What a family module must have."""

    @property
    def MODEL_TYPES(self) -> tuple[str, ...]:
        """The model_type values of config.json that belong to the family."""

    @property
    def MARK(self) -> str | None:
        """How the name of a tensor ends that no other family of these types has."""

    @property
    def STOP_TOKENS(self) -> tuple[str, ...]:
        """Special tokens that end an answer, whatever generation_config.json says."""

    @property
    def REDUNDANT(self) -> tuple[str, ...]:
        """Tensors that a checkpoint may hold and that follow from others."""

    @property
    def NORMS_IN_GGUF(self) -> tuple[str, ...]:
        """What llama.cpp calls norm_1, norm_2 and so on of a block."""

    @property
    def PAIRED_IN_GGUF(self) -> bool:
        """Whether llama.cpp rotates neighbouring pairs where the published code rotates halves."""

    @property
    def GGUF_DEFAULTS(self) -> Mapping[str, Any]:
        """Values of rdlite's own keys for files that other programs wrote."""

    def read_config(self, raw: Mapping[str, Any]) -> ModelConfig:
        """Turn a hub config.json into a ModelConfig."""

    def weights(self, config: ModelConfig) -> dict[str, Weight]:
        """Name every weight, its shape and where a checkpoint keeps it."""

    def state_norm(self, config: ModelConfig) -> str | None:
        """Name the norm whose output is the state after a core step; None if there is none."""

    def prelude(self, g: GraphBuilder, input_ids: ir.Value) -> ir.Value:
        """Token ids [B, S] to embeds [B, S, E]."""

    def core(self, g: GraphBuilder, state: ir.Value, embeds: ir.Value) -> ir.Value:
        """One step of the recurrence, [B, S, E] -> [B, S, E]."""

    def coda(self, g: GraphBuilder, state: ir.Value, logit_positions: ir.Value) -> ir.Value:
        """State [B, S, E] to logits [B, P, V]."""


FAMILIES: dict[str, Family] = {
    "huginn": huginn,
    "recurrent-llama": recurrent_llama,
    "recurrent-olmo": recurrent_olmo,
    "ouro": ouro,
    "nanbeige": nanbeige,
}


def find_family(raw: Mapping[str, Any], tensors: Iterable[str]) -> Family:
    """Return the family of a checkpoint.

    Args:
        raw: its config.json.
        tensors: the names of its tensors.

    Raises:
        FamilyError: no family has its model_type (the nearest one is named), or its tensors are
            those of two.
    """
    model_type = raw.get("model_type")
    known = [name for family in FAMILIES.values() for name in family.MODEL_TYPES]
    candidates = {n: f for n, f in FAMILIES.items() if model_type in f.MODEL_TYPES}
    if not candidates:
        near = difflib.get_close_matches(str(model_type), known, n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise FamilyError(
            f"config: model_type {model_type!r:.60} is no family that rdlite knows "
            f"({', '.join(dict.fromkeys(known))}){hint} docs/families.md shows how to add one"
        )
    marked: dict[str, str] = {}
    for tensor in tensors:
        for name, family in candidates.items():
            if family.MARK is not None and tensor.endswith(family.MARK):
                marked[name] = tensor
    if len(marked) > 1:
        mixed = " and ".join(f"{name} ({tensor})" for name, tensor in marked.items())
        raise FamilyError(f"the checkpoint mixes tensors of two families: {mixed}")
    if marked:
        return FAMILIES[next(iter(marked))]
    return next(family for family in candidates.values() if family.MARK is None)
