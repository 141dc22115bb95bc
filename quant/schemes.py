"""The schemes by name: which weights they quantize, to how many bits, and how they round."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from rdlite.export.original import Original
from rdlite.export.packing import Quantizer
from rdlite.export.write import Storage

from rdlite.errors import InputError
from rdlite.quantization import ACCURACY_LEVELS, BLOCK_SIZES, Quantization

from .hqq import HalfQuadratic
from .rounding import Rounding


@dataclass(frozen=True, slots=True)
class Options:
    """What a user may choose beside the scheme.

    Attributes:
        block_size: weights that share a scale: 16, 32, 64, 128 or 256.
        accuracy_level: 4 computes with int8 activations, which is faster; 1 with float32.

    Raises InputError for other numbers.
    """

    block_size: int = 32
    accuracy_level: int = 4

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name, value, choices in (
            ("block_size", self.block_size, BLOCK_SIZES),
            ("accuracy_level", self.accuracy_level, ACCURACY_LEVELS),
        ):
            if value not in choices:
                known = ", ".join(map(str, choices))
                raise InputError(f"{name} must be one of {known}, got {value!r:.40}")


@dataclass(frozen=True, slots=True)
class Uniform:
    """Every matrix at the same number of bits, each row for itself."""

    name: str
    bits: int
    quantizer: Quantizer
    options: Options

    def prepare(self, original: Original) -> Storage:
        """Decide how the weights are stored."""
        bits = dict.fromkeys(quantizable(original, self.options.block_size), self.bits)
        return Storage(quantization(self.name, bits, self.options), self.quantizer)


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


SCHEMES: dict[str, Callable[[str, Options], Uniform]] = {
    "int8": lambda name, options: Uniform(name, 8, Rounding(), options),
    "int4": lambda name, options: Uniform(name, 4, Rounding(), options),
    "int4-hqq": lambda name, options: Uniform(name, 4, HalfQuadratic(), options),
    "int4-plain": lambda name, options: Uniform(name, 4, Rounding(search=False), options),
}


def find_scheme(name: str, options: Options | None = None) -> Uniform:
    """Return a scheme by its name; raises InputError with the nearest known one."""
    if name not in SCHEMES:
        near = get_close_matches(str(name), SCHEMES, 1, 0.4)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise InputError(f"scheme must be one of {', '.join(SCHEMES)}, got {name!r:.40}{hint}")
    return SCHEMES[name](name, options or Options())
