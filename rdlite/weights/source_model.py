"""What a bundle is made of, wherever it comes from: config, weights and text files."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rdlite.architectures.registry import Family
from rdlite.bundle.cache_scales import FILE as CACHE_SCALES
from rdlite.bundle.manifest import (
    GROUPS,
    CacheScalesEntry,
    hashed_name,
)
from rdlite.config.exit_defaults import ExitDefaults
from rdlite.config.model import ModelConfig
from rdlite.config.quantization import Quantization
from rdlite.graphs.builder import Weights
from rdlite.weights.source import WeightSource


@dataclass(frozen=True, slots=True)
class Tuned:
    """What `rdlite tune` found: exit thresholds, and the scales of int8 caches as a file.

    The scales are for so many core steps.
    """

    exit: ExitDefaults | None = None
    cache_scales: bytes | None = None
    cache_scales_steps: int = 0

    @property
    def entry(self) -> CacheScalesEntry | None:
        """What a manifest says of the scales."""
        if self.cache_scales is None:
            return None
        name = hashed_name(CACHE_SCALES, self.cache_scales)
        return CacheScalesEntry(name, self.cache_scales_steps)


@dataclass(frozen=True, slots=True)
class SourceModel:
    """A model that is to be written as a bundle.

    Attributes:
        name: for people.
        family: builds its graphs.
        config: sizes and constants.
        weights: every weight's shape, by rdlite's name.
        source: gives the weights.
        text_files: contents by name.
        special_tokens: for the chat template.
        folder: where it was read from, and still is when weights are asked for.
        quantization: how its matrices are stored, if they are quantized already.
        tuned: what was measured on the weights as they are.
        trained_length: tokens that it was trained on at once, if less than its context.
    """

    name: str
    family: Family
    config: ModelConfig
    weights: Weights
    source: WeightSource
    text_files: Mapping[str, bytes]
    special_tokens: Mapping[str, str]
    folder: Path
    quantization: Quantization | None = None
    tuned: Tuned | None = None
    trained_length: int | None = None

    def matrices(self) -> list[str]:
        """Names of the weights that can be quantized: the trained matrices."""
        return [name for name, w in self.weights.items() if len(w.shape) == 2 and w.sources]

    def count_parameters(self) -> dict[str, int]:
        """Trained numbers in each group; tables that follow from the config do not count."""
        counts = dict.fromkeys(GROUPS, 0)
        for name, weight in self.weights.items():
            if weight.sources:
                # Norms outside the parts go with the head, whose output they shape.
                group = name.split(".")[0]
                counts[group if group in counts else "head"] += math.prod(weight.shape)
        return counts


def describe_weights(original: SourceModel, quantization: Quantization | None) -> dict[str, str]:
    """Return how each group of weights is stored, for people."""
    if quantization is None:
        return dict.fromkeys(GROUPS, "float32")
    found = {group: quantization.describe(group) for group in GROUPS}
    if original.config.tied_embedding:
        found["head"] = found["embedding"]
    return found
