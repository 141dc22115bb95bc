"""A bundle in, a quantized bundle out."""

from pathlib import Path

from rdlite.export.exporter import Scheme, write_bundle
from rdlite.export.original import read_bundle
from rdlite.export.write import check_replaceable

from rdlite.bundle import open_bundle
from rdlite.progress import Progress

from .schemes import find_scheme


def quantize_bundle(
    bundle: str | Path,
    out: str | Path,
    scheme: str | Scheme = "int4",
    *,
    force: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Quantize the weights of a bundle, a few rows at a time.

    Args:
        bundle: the folder of a bundle with float32 weights.
        out: the bundle folder to make. It appears whole or not at all.
        scheme: a key of SCHEMES, or what `find_scheme` returns.
        force: replace `out` if it is a bundle already.
        progress: called with (bytes read, bytes in all).

    Returns:
        The path of the new bundle.

    Raises:
        InputError: there is no such scheme.
        BundleError: `bundle` is none, or it is quantized already, or its weights are not finite.
        OutputError: `out` exists, or cannot be written.
    """
    out = Path(out).absolute()
    chosen = find_scheme(scheme) if isinstance(scheme, str) else scheme
    check_replaceable(out, force)
    original = read_bundle(open_bundle(bundle))
    return write_bundle(original, out, chosen.prepare(original), force=force, progress=progress)
