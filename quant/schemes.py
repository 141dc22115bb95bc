"""The schemes by name."""

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches

from rdlite.export.exporter import Scheme
from rdlite.export.original import Original
from rdlite.export.packing import Quantizer
from rdlite.export.write import Storage

from rdlite.errors import InputError

from .calibrated import Calibrated
from .hqq import HalfQuadratic
from .options import Options
from .plan import quantizable, quantization
from .rounding import Rounding


@dataclass(frozen=True, slots=True)
class Uniform:
    """Every matrix at the same number of bits; only the weights are looked at."""

    name: str
    bits: int
    quantizer: Quantizer
    options: Options

    def prepare(self, original: Original) -> Storage:
        """Decide how the weights are stored."""
        bits = dict.fromkeys(quantizable(original, self.options.block_size), self.bits)
        return Storage(quantization(self.name, bits, self.options), self.quantizer)


SCHEMES: dict[str, Callable[[str, Options], Scheme]] = {
    "int8": lambda name, options: Uniform(name, 8, Rounding(), options),
    "int4": lambda name, options: Uniform(name, 4, Rounding(), options),
    "int4-hqq": lambda name, options: Uniform(name, 4, HalfQuadratic(), options),
    "int4-gptq": lambda name, options: Calibrated(name, options),
    "int4-plain": lambda name, options: Uniform(name, 4, Rounding(search=False), options),
}


def find_scheme(name: str, options: Options | None = None) -> Scheme:
    """Return a scheme by its name; raises InputError with the nearest known one."""
    if name not in SCHEMES:
        near = get_close_matches(str(name), SCHEMES, 1, 0.4)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise InputError(f"scheme must be one of {', '.join(SCHEMES)}, got {name!r:.40}{hint}")
    return SCHEMES[name](name, options or Options())
