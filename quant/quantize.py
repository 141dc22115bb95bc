"""A bundle in, a quantized bundle out."""

from pathlib import Path

from rdlite.export.exporter import write_bundle
from rdlite.export.read import read_model

from rdlite.bundle.writer import check_replaceable
from rdlite.utils.progress import Progress
from rdlite.weights.source_model import SourceModel
from rdlite.weights.storage import Scheme, Storage

from .options import Options
from .schemes import find_scheme


def quantize_bundle(
    bundle: str | Path,
    out: str | Path,
    scheme: str | Scheme = "int4",
    calibration: str | Path | None = None,
    *,
    force: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Quantize the weights of a bundle, a few rows at a time.

    Args:
        bundle: a bundle, checkpoint folder or GGUF file whose weights are not quantized.
        out: the bundle folder to make. It appears whole or not at all.
        scheme: a key of SCHEMES, or what `find_scheme` returns.
        calibration: a text file for schemes that run the model; None: practice problems. It goes
            into the options where `find_scheme` made the scheme.
        force: replace `out` if it is a bundle already.
        progress: called with (bytes read, bytes in all).

    Returns:
        The path of the new bundle.

    Raises:
        InputError: there is no such scheme, or the calibration text is too short or not for it.
        BundleError: `bundle` is none, or it is quantized already, or its weights are not finite.
        OutputError: `out` exists, is or holds `bundle`, or cannot be written.
    """
    text = None if calibration is None else Path(calibration)
    chosen = find_scheme(scheme, Options(calibration=text)) if isinstance(scheme, str) else scheme
    path, _ = write_quantized(read_model(bundle), out, chosen, force, progress)
    return path


def write_quantized(
    original: SourceModel,
    out: str | Path,
    scheme: Scheme,
    force: bool = False,
    progress: Progress | None = None,
) -> tuple[Path, Storage]:
    """Write a quantized bundle; returns its path and how its weights are stored."""
    check_replaceable(Path(out).absolute(), force, original.folder)  # before any work
    storage = scheme.prepare(original)
    return write_bundle(original, out, storage, force=force, progress=progress), storage
