"""From a checkpoint folder to a bundle, in one pass over the weights."""

import math
import re
from pathlib import Path

from rdlite import __version__
from rdlite.bundle import CONTRACT_VERSION, GROUPS, FileEntry, Manifest
from rdlite.bundle_write import write_bytes, write_manifest
from rdlite.errors import BundleError, CheckpointError, FamilyError
from rdlite.progress import Progress

from .blocks import Weights
from .checkpoint import Checkpoint, open_checkpoint
from .families import Family, find_family
from .graphs import build_graphs
from .text_files import collect_text_files
from .write import check_replaceable, new_folder, with_files, write_graphs


def export_checkpoint(
    checkpoint: str | Path,
    out: str | Path,
    *,
    force: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Export a checkpoint folder to a bundle with float32 weights.

    Args:
        checkpoint: a folder with config.json, safetensors (float32, float16 or bfloat16; one file
            or shards) and, for text, tokenizer.json, tokenizer_config.json or
            chat_template.jinja, and generation_config.json; README.md goes along as its card.
        out: the bundle folder to make. It appears whole or not at all.
        force: replace `out` if it is a bundle already.
        progress: called with (bytes written, bytes in all) as weights are written.

    Returns:
        The path of the bundle.

    Raises:
        CheckpointError: the checkpoint is missing, damaged, pickled, or its tensors do not fit.
        FamilyError: its family, or a key of its config, is not understood.
        OutputError: `out` exists, or cannot be written.
    """
    out = Path(out).absolute()
    check_replaceable(out, force)  # before any work
    source = open_checkpoint(checkpoint)
    family = find_family(source.config)
    try:
        config = family.read_config(source.config)
    except BundleError as problem:  # a size that no bundle may have
        raise FamilyError(str(problem)) from None
    weights = family.weights(config)
    check_tensors(source, weights, family)
    text = collect_text_files(source, family.STOP_TOKENS, config)
    manifest = Manifest(
        contract_version=CONTRACT_VERSION,
        producer=f"rdlite {__version__}",
        name=_name(source),
        model=config,
        weights=dict.fromkeys(GROUPS, "float32"),
        parameters=_count_parameters(weights),
        files={},
        special_tokens=text.special_tokens,
    )
    with new_folder(out, force) as folder:
        entries: dict[str, FileEntry] = {
            name: write_bytes(folder, name, data) for name, data in text.files.items()
        }
        graphs = build_graphs(family, config)
        entries |= write_graphs(folder, graphs, weights, source, progress)
        write_manifest(folder, with_files(manifest, entries))
    return out


def check_tensors(checkpoint: Checkpoint, weights: Weights, family: Family) -> None:
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


def _count_parameters(weights: Weights) -> dict[str, int]:
    """Trained numbers in each group; tables that follow from the config do not count."""
    counts = dict.fromkeys(GROUPS, 0)
    for name, weight in weights.items():
        if weight.sources:
            # Norms outside the parts go with the head, whose output they shape.
            group = name.split(".")[0]
            counts[group if group in counts else "head"] += math.prod(weight.shape)
    return counts


def _name(checkpoint: Checkpoint) -> str:
    given = checkpoint.config.get("_name_or_path") or checkpoint.config.get("name")
    path = given if isinstance(given, str) else str(checkpoint.folder.absolute())
    return re.sub(r"[^\w.+-]", "_", re.split(r"[/\\]", path.rstrip("/\\"))[-1])[:100] or "model"
