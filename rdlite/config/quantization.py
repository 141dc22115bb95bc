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
        block_sizes: by the weight's name, where it is another.
        accuracy_level: how MatMulNBits computes, one of ACCURACY_LEVELS.
    """

    scheme: Annotated[str, Line()]
    bits: Mapping[str, int] = field(default_factory=dict)
    block_size: Annotated[int, Bounds(16, 256)] = 32
    accuracy_level: Annotated[int, Bounds(1, 4)] = 4
    block_sizes: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check what a single field's bounds cannot."""
        check_fields(self, "quantization: ", BundleError)
        for name, bits in self.bits.items():
            if bits not in BITS:
                raise BundleError(f"quantization: bits of {name!r:.80} must be 4 or 8, got {bits}")
        for name, size in self.block_sizes.items():
            if name not in self.bits or size not in BLOCK_SIZES:
                raise BundleError(
                    f"quantization: block_sizes of {name!r:.80} must be one of "
                    f"{', '.join(map(str, BLOCK_SIZES))}, of a weight that has bits; got {size}"
                )
        for name, value, choices in (
            ("block_size", self.block_size, BLOCK_SIZES),
            ("accuracy_level", self.accuracy_level, ACCURACY_LEVELS),
        ):
            if value not in choices:
                known = ", ".join(map(str, choices))
                raise BundleError(f"quantization: {name} must be one of {known}, got {value}")

    def block_of(self, name: str) -> int:
        """Return how many weights of a matrix share a scale."""
        return self.block_sizes.get(name, self.block_size)

    def bits_a_weight(self, shapes: Mapping[str, tuple[int, ...]], scale: int) -> float:
        """Return the bits that a quantized weight takes on the average.

        Args:
            shapes: [N, K] by name, of all weights in `bits`.
            scale: bits of a block's scale.
        """
        taken = count = 0
        for name, bits in self.bits.items():
            rows, columns = shapes[name]
            size = self.block_of(name)
            taken += rows * -(-columns // size) * (size * bits + scale)
            count += rows * columns
        return taken / max(1, count)

    def describe(self, group: str) -> str:
        """Return how the matrices of a group of weights are stored, like "int4" or "int4+int8"."""
        found = {bits for name, bits in self.bits.items() if name.split(".")[0] == group}
        return "+".join(f"int{bits}" for bits in sorted(found)) or "float32"
