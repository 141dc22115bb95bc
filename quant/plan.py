"""What can be quantized, and what the manifest will say of it."""

from collections.abc import Mapping

from rdlite.export.original import Original

from rdlite.quantization import Quantization

from .options import Options


def quantizable(original: Original, block_size: int) -> list[str]:
    """Names of the matrices that can be stored in blocks.

    An embedding whose rows are no whole blocks stays as it is, because the operator that looks up
    its rows and the one that multiplies with it lay out such rows differently.
    """
    names = original.matrices()
    if original.config.hidden_size % block_size:
        names.remove("embedding.weight")
    return names


def quantization(scheme: str, bits: Mapping[str, int], options: Options) -> Quantization:
    """What the manifest will say."""
    return Quantization(scheme, bits, options.block_size, options.accuracy_level)
