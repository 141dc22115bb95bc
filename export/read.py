"""Reads a source model from whatever holds it: a checkpoint, a bundle or a GGUF file."""

from pathlib import Path

from rdlite.errors import BundleError
from rdlite.loader import find_model, open_bundle
from rdlite.weights.source_model import SourceModel

from .from_bundle import read_bundle
from .from_checkpoint import read_checkpoint


def read_model(path: str | Path, as_stored: bool = False) -> SourceModel:
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
        from rdlite.gguf.open import read_original

        original = read_original(place)[1]
    else:
        original = read_bundle(open_bundle(path))
    if original.quantization is not None and not as_stored:
        raise BundleError(
            f"{place} is quantized already ({original.quantization.scheme}); quantize the bundle "
            "or checkpoint that it was made from"
        )
    return original
