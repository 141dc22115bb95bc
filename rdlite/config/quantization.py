"""How a model's matrices are stored as small integers: what the manifest says of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from rdlite.errors import BundleError
from rdlite.utils.schema import Bounds, Line, check_fields

BITS = (4, 8)
BLOCK_SIZES = (16, 32, 64, 128, 256)
#: MatMulNBits: 1 computes with float32 activations, 4 rounds them to int8, which is faster.
ACCURACY_LEVELS = (1, 4)


@dataclass(frozen=True, slots=True)
class Quantization:
    """Which matrices are quantized, and how; raises BundleError.

    A row is cut into blocks; each has one float16 scale and signed integers, symmetric around 0.

    Attributes:
        scheme: the method that chose integers and scales.
        bits: of each quantized weight by its name; what is not named is float32.
        block_size: weights that share a scale.
        accuracy_level: how MatMulNBits computes, one of ACCURACY_LEVELS.
    """

    scheme: Annotated[str, Line()]
    bits: Mapping[str, int] = field(default_factory=dict)
    block_size: Annotated[int, Bounds(16, 256)] = 32
    accuracy_level: Annotated[int, Bounds(1, 4)] = 4

    def __post_init__(self) -> None:
        """Check what a single field's bounds cannot."""
        check_fields(self, "quantization: ", BundleError)
        for name, bits in self.bits.items():
            if bits not in BITS:
                raise BundleError(f"quantization: bits of {name!r:.80} must be 4 or 8, got {bits}")
        for name, value, choices in (
            ("block_size", self.block_size, BLOCK_SIZES),
            ("accuracy_level", self.accuracy_level, ACCURACY_LEVELS),
        ):
            if value not in choices:
                known = ", ".join(map(str, choices))
                raise BundleError(f"quantization: {name} must be one of {known}, got {value}")

    def describe(self, group: str) -> str:
        """Return how the matrices of a group of weights are stored, like "int4" or "int4+int8"."""
        found = {bits for name, bits in self.bits.items() if name.split(".")[0] == group}
        return "+".join(f"int{bits}" for bits in sorted(found)) or "float32"
