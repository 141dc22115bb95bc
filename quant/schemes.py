"""The schemes by name."""

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches

from rdlite.errors import InputError
from rdlite.graphs.packing import Quantizer
from rdlite.weights.source_model import SourceModel
from rdlite.weights.storage import Scheme, Storage

from .gptq_scheme import Calibrated
from .hqq import HalfQuadratic
from .mixed_precision import Mixed
from .options import Options, quantizable, quantization
from .rounding import Rounding
from .state_correction import Corrected


@dataclass(frozen=True, slots=True)
class Uniform:
    """Every matrix at the same number of bits; only the weights are looked at."""

    name: str
    bits: int
    quantizer: Quantizer
    options: Options

    def prepare(self, original: SourceModel) -> Storage:
        """Decide how the weights are stored."""
        bits = dict.fromkeys(quantizable(original), self.bits)
        plan = quantization(self.name, bits, self.options, original)
        return Storage(plan, self.quantizer)


SCHEMES: dict[str, Callable[[str, Options], Scheme]] = {
    "int8": lambda name, options: Uniform(name, 8, Rounding(), options),
    "int8-gptq": lambda name, options: Calibrated(name, options, bits=8),
    "int4": lambda name, options: Uniform(name, 4, Rounding(), options),
    "int4-hqq": lambda name, options: Uniform(name, 4, HalfQuadratic(), options),
    "int4-corrected": lambda name, options: Corrected(
        name, Uniform("int4", 4, Rounding(), options), options
    ),
    "int4-gptq": lambda name, options: Calibrated(name, options, bits=4),
    "int4-mixed": lambda name, options: Mixed(name, options),
    "int4-plain": lambda name, options: Uniform(name, 4, Rounding(search=False), options),
}


#: Schemes that run the model, and what only they can use.
CALIBRATED = ("int8-gptq", "int4-corrected", "int4-gptq", "int4-mixed")


def find_scheme(name: str, options: Options | None = None) -> Scheme:
    """Return a scheme by its name.

    Raises InputError with the nearest known one, or if an option is not for it.
    """
    if name not in SCHEMES:
        near = get_close_matches(str(name), SCHEMES, 1, 0.4)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise InputError(f"scheme must be one of {', '.join(SCHEMES)}, got {name!r:.40}{hint}")
    options = options or Options()
    if options.bits is not None and name != "int4-mixed":
        raise InputError(f"bits are for int4-mixed; {name} has its own")
    for option in ("calibration", "steps"):
        if getattr(options, option) is not None and name not in CALIBRATED:
            raise InputError(
                f"{option} means nothing to {name}, which looks only at the weights; "
                f"it is for {', '.join(CALIBRATED)}"
            )
    return SCHEMES[name](name, options)
