"""Writes a model as a bundle, in one pass over its weights."""

import dataclasses
from pathlib import Path

from rdlite.architectures.assemble import build_graphs
from rdlite.bundle.manifest import CONTRACT_VERSION, FileEntry, Manifest
from rdlite.bundle.writer import check_replaceable, new_folder, write_bytes, write_manifest
from rdlite.graphs.serialize import Graphs
from rdlite.utils.checks import check_integer
from rdlite.utils.progress import Progress
from rdlite.version import __version__
from rdlite.weights.source_model import SourceModel, Tuned, describe_weights
from rdlite.weights.storage import Scheme, Storage

from .bundle_folder import with_files, write_graphs
from .from_checkpoint import read_checkpoint


def export_checkpoint(
    checkpoint: str | Path,
    out: str | Path,
    *,
    quant: Scheme | None = None,
    force: bool = False,
    progress: Progress | None = None,
    trained_length: int | None = None,
) -> Path:
    """Export a checkpoint folder to a bundle.

    Args:
        checkpoint: a folder with config.json, safetensors (float32, float16 or bfloat16; one file
            or shards) and, for text, tokenizer.json, tokenizer_config.json or
            chat_template.jinja, and generation_config.json; README.md goes along as its card.
        out: the bundle folder to make. It appears whole or not at all.
        quant: how to quantize the weights on the way; None: they are float32.
        force: replace `out` if it is a bundle already.
        progress: called with (bytes read, bytes in all), counted as float32, as weights are
            written.
        trained_length: tokens that the model was trained on at once, where that is less than its
            context; None: what `trained_length` in its config.json says, if anything.

    Returns:
        The path of the bundle.

    Raises:
        CheckpointError: the checkpoint is missing, damaged, pickled, or its tensors do not fit.
        FamilyError: its family, or a key of its config, is not understood.
        OutputError: `out` exists, is or holds `checkpoint`, or cannot be written.
    """
    check_replaceable(Path(out).absolute(), force, Path(checkpoint))  # before any work
    original = read_checkpoint(checkpoint)
    if trained_length is not None:
        check_integer("trained_length", trained_length, 1, original.config.context_length)
        original = dataclasses.replace(original, trained_length=trained_length)
    storage = quant.prepare(original) if quant else None
    return write_bundle(original, out, storage, force=force, progress=progress)


def write_bundle(
    original: SourceModel,
    out: str | Path,
    storage: Storage | None = None,
    *,
    graphs: Graphs | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Write a model as a bundle.

    Args:
        original: the model.
        out: the bundle folder to make.
        storage: how its weights are stored; None: as they are.
        graphs: portable ones, whose weights `original` has; None: those of its family.
        force: replace `out` if it is a bundle already.
        progress: called with (bytes read, bytes in all), counted as float32.

    Returns and raises what `export_checkpoint` does.
    """
    out, tuned = Path(out).absolute(), None
    if storage is None:  # as it is
        tuned = original.tuned
        if original.quantization is not None:
            storage = Storage(original.quantization, None)
    manifest = new_manifest(original, storage, tuned, portable=graphs is not None)
    with new_folder(out, force) as folder:
        entries: dict[str, FileEntry] = {
            name: write_bytes(folder, name, data) for name, data in original.text_files.items()
        }
        if manifest.cache_scales and tuned and tuned.cache_scales:
            name = manifest.cache_scales.file
            entries[name] = write_bytes(folder, name, tuned.cache_scales)
        if graphs is None:
            graphs = build_graphs(original.family, original.config, manifest.quantization)
        entries |= write_graphs(
            folder, graphs, original.weights, original.source, storage, progress
        )
        write_manifest(folder, with_files(manifest, entries))
    return out


def new_manifest(
    original: SourceModel,
    storage: Storage | None,
    tuned: Tuned | None = None,
    portable: bool = False,
) -> Manifest:
    """Return the manifest of a bundle to be made, without its files."""
    quantization = storage.quantization if storage else None
    return Manifest(
        contract_version=CONTRACT_VERSION,
        producer=f"rdlite {__version__}",
        name=original.name,
        model=original.config,
        weights=describe_weights(original, quantization),
        parameters=original.count_parameters(),
        files={},
        special_tokens=original.special_tokens,
        quantization=quantization,
        cache_scales=tuned.entry if tuned else None,
        exit=tuned.exit if tuned else None,
        flavour="portable" if portable else "fused",
        trained_length=original.trained_length,
    )
