"""What a bundle is made of, wherever it comes from: config, weights and text files."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rdlite.bundle import (
    GROUPS,
    MANIFEST,
    Bundle,
    CacheScalesEntry,
    find_model,
    open_bundle,
)
from rdlite.bundle_update import hashed_name
from rdlite.cache_calibration import FILE as CACHE_SCALES
from rdlite.config import ModelConfig
from rdlite.errors import BundleError, CheckpointError, FamilyError
from rdlite.exit_defaults import ExitDefaults
from rdlite.quantization import Quantization

from .blocks import Weights
from .checkpoint import Checkpoint, open_checkpoint
from .families import FAMILIES, Family, find_family
from .foreign_quantization import decoded
from .sources import BundleWeights, CheckpointWeights, WeightSource
from .text_files import collect_text_files


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
class Original:
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


def read_checkpoint(path: str | Path) -> Original:
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
    return Original(
        _name(checkpoint),
        family,
        config,
        weights,
        CheckpointWeights(checkpoint, weights),
        text.files,
        text.special_tokens,
        checkpoint.folder,
    )


def read_model(path: str | Path, as_stored: bool = False) -> Original:
    """Read a checkpoint folder, a bundle, or a GGUF file.

    Args:
        path: of it, or "nano".
        as_stored: take it too if it is quantized.

    Raises:
        CheckpointError: it is a checkpoint that cannot be read, see `read_checkpoint`.
        BundleError: it is a bundle or a GGUF file that breaks a rule, or is quantized already.
    """
    place = find_model(path)
    if (place / "config.json").exists():
        return read_checkpoint(place)
    if place.suffix.lower() == ".gguf" and not place.is_dir():
        from .gguf.load import read_original

        original = read_original(place)[1]
    else:
        original = read_bundle(open_bundle(path))
    if original.quantization is not None and not as_stored:
        raise BundleError(
            f"{place} is quantized already ({original.quantization.scheme}); quantize the bundle "
            "or checkpoint that it was made from"
        )
    return original


def read_bundle(bundle: Bundle) -> Original:
    """Take a bundle apart again.

    Raises:
        BundleError: it is of a family that is not known, or its weights are not those that its
            family, config and quantization call for.
    """
    manifest = bundle.manifest
    family = FAMILIES.get(manifest.model.family)
    if family is None:
        raise BundleError(
            f"{bundle.folder} is of the family {manifest.model.family!r:.60}; known are "
            f"{', '.join(FAMILIES)}"
        )
    weights = family.weights(manifest.model)
    source = BundleWeights(bundle)
    source.check(weights)
    scales = manifest.cache_scales
    tuned = Tuned(
        manifest.exit,
        bundle.read_text(scales.file) if scales else None,
        scales.steps if scales else 0,
    )
    texts = {name: bundle.read_text(name) for name in manifest.files if _is_text(name)}
    return Original(
        manifest.name,
        family,
        manifest.model,
        weights,
        source,
        {name: data for name, data in texts.items() if data is not None},
        manifest.special_tokens,
        bundle.folder,
        manifest.quantization,
        tuned,
    )


def _is_text(name: str) -> bool:
    return name != MANIFEST and name.endswith((".json", ".jinja", ".md"))


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


def _name(checkpoint: Checkpoint) -> str:
    given = checkpoint.config.get("_name_or_path") or checkpoint.config.get("name")
    path = given if isinstance(given, str) else str(checkpoint.folder.absolute())
    return re.sub(r"[^\w.+-]", "_", re.split(r"[/\\]", path.rstrip("/\\"))[-1])[:100] or "model"
