"""Reads a checkpoint from the hub as a source model."""

import re
from collections.abc import Iterator
from pathlib import Path

from rdlite.architectures.registry import Family, find_family
from rdlite.errors import BundleError, CheckpointError, FamilyError
from rdlite.graphs.builder import Weights
from rdlite.graphs.packing import Codes, Scales
from rdlite.weights.source import Floats
from rdlite.weights.source_model import SourceModel

from .foreign_quantization import decoded
from .safetensors import Checkpoint, open_checkpoint
from .text_files import collect_text_files


def read_checkpoint(path: str | Path) -> SourceModel:
    """Read a checkpoint folder from the hub.

    Raises:
        CheckpointError: the checkpoint is missing, damaged, pickled, or its tensors do not fit.
        FamilyError: its family, or a key of its config, is not understood.
    """
    checkpoint = decoded(open_checkpoint(path))
    family = find_family(checkpoint.config, checkpoint.tensors)
    try:
        config = family.read_config(checkpoint.config)
    except BundleError as problem:  # a size that no bundle may have
        raise FamilyError(str(problem)) from None
    weights = family.weights(config)
    _check_tensors(checkpoint, weights, family)
    text = collect_text_files(checkpoint, family.STOP_TOKENS, config)
    return SourceModel(
        _name(checkpoint),
        family,
        config,
        weights,
        CheckpointWeights(checkpoint, weights),
        text.files,
        text.special_tokens,
        checkpoint.folder,
        trained_length=_trained_length(checkpoint, config.context_length),
    )


def _check_tensors(checkpoint: Checkpoint, weights: Weights, family: Family) -> None:
    """Raise CheckpointError unless the checkpoint's tensors are the ones its config calls for."""
    used: set[str] = set(family.REDUNDANT)
    for name, weight in weights.items():
        missing = [source for source in weight.sources if source not in checkpoint.tensors]
        if missing:
            raise CheckpointError(f"{checkpoint.folder} lacks the tensor {missing[0]!r}")
        used.update(weight.sources)
        if not weight.sources:
            continue
        shapes = [checkpoint.tensors[source].shape for source in weight.sources]
        found = (
            shapes[0] if len(shapes) == 1 else (sum(shape[0] for shape in shapes), *shapes[0][1:])
        )
        expected = weight.source_shape or weight.shape
        if found != expected or any(shape[1:] != shapes[0][1:] for shape in shapes):
            raise CheckpointError(
                f"tensor {' + '.join(weight.sources)} has the shape {list(found)}, the config "
                f"calls for {list(expected)} ({name})"
            )
    if "head.weight" not in weights:
        used.add("lm_head.weight")  # stored again though tied
    unknown = sorted(set(checkpoint.tensors) - used)
    if unknown:
        raise CheckpointError(
            f"{checkpoint.folder} holds {len(unknown)} tensors that its family and config do not "
            f"account for, the first {unknown[0]!r}; leaving them out would change the model"
        )


def _trained_length(checkpoint: Checkpoint, context: int) -> int | None:
    """Return what the config says of the length of texts in training, if less than the context."""
    length = checkpoint.config.get("trained_length")
    if length is None:
        return None
    if type(length) is not int or not 1 <= length <= context:
        raise FamilyError(f"config: trained_length must be 1 to {context}, got {length!r:.40}")
    return length if length < context else None


def _name(checkpoint: Checkpoint) -> str:
    given = checkpoint.config.get("_name_or_path") or checkpoint.config.get("name")
    path = given if isinstance(given, str) else str(checkpoint.folder.absolute())
    return re.sub(r"[^\w.+-]", "_", re.split(r"[/\\]", path.rstrip("/\\"))[-1])[:100] or "model"


class CheckpointWeights:
    """A checkpoint's tensors, under rdlite's names."""

    def __init__(self, checkpoint: Checkpoint, weights: Weights) -> None:
        self._checkpoint = checkpoint
        self._weights = weights

    def coded(self, name: str) -> Iterator[tuple[Codes, Scales]]:
        """No checkpoint is quantized."""
        raise NotImplementedError(name)

    def pieces(self, name: str) -> Iterator[Floats]:
        """Yield a weight in pieces; raises CheckpointError."""
        weight = self._weights[name]
        if weight.make is not None:
            yield weight.make(*(self._checkpoint.read(source) for source in weight.sources))
            return
        for source in weight.sources:
            yield from self._checkpoint.pieces(source)
