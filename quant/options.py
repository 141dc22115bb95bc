"""What a user may choose beside the scheme."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rdlite.config.quantization import ACCURACY_LEVELS, BLOCK_SIZES, Quantization
from rdlite.errors import InputError
from rdlite.utils.checks import check_integer, check_number, check_seed
from rdlite.weights.source_model import SourceModel


@dataclass(frozen=True, slots=True)
class Options:
    """What a user may choose beside the scheme.

    Attributes:
        block_size: weights that share a scale: 16, 32, 64, 128 or 256; None: 32 of 8 bits, which
            GGUF has too, and 128 of 4 bits, which is faster, but 32 in the embedding. Matrices
            whose rows are no whole blocks are filled up with a few zeros, or get smaller blocks.
        accuracy_level: 4 computes with int8 activations, which is faster; 1 with float32.
        bits: a weight on the average, scales included, for schemes that mix them; None: 0.1 above
            the least.
        calibration: a text file to calibrate on; None: practice problems, for models that chat.
        steps: core steps to calibrate over, 1 to 1024; None: the model's mean depth.
        seed: selects initial states and problems, 0 to 2^64 - 1.
        threads: for running the model, 1 to 256; None: one for each core. The result does not
            depend on it.
        work: a folder for temporary bundles; None: the system's.

    Raises InputError for numbers out of bounds.
    """

    block_size: int | None = None
    accuracy_level: int = 4
    bits: float | None = None
    calibration: Path | None = None
    steps: int | None = None
    seed: int = 0
    threads: int | None = None
    work: Path | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name, value, choices in (
            ("block_size", self.block_size, BLOCK_SIZES),
            ("accuracy_level", self.accuracy_level, ACCURACY_LEVELS),
        ):
            if value is not None and value not in choices:
                known = ", ".join(map(str, choices))
                raise InputError(f"{name} must be one of {known}, got {value!r:.40}")
        if self.bits is not None:
            check_number("bits", self.bits, 4, 10)
        if self.steps is not None:
            check_integer("steps", self.steps, 1, 1024)
        check_seed(self.seed)
        if self.threads is not None:
            check_integer("threads", self.threads, 1, 256)


#: Blocks where nobody asked for others, by bits; larger ones take less memory and so less time.
DEFAULT_BLOCKS = {4: 128, 8: 32}
#: Zeros that a row may be filled up with, as a share of it.
MOST_PADDING = 1 / 16
EMBEDDING = "embedding.weight"


def quantizable(original: SourceModel) -> list[str]:
    """Names of the matrices that can be stored in blocks.

    An embedding whose rows are no whole blocks of any size stays as it is, because the operator
    that looks up its rows and the one that multiplies with it lay out such rows differently.
    """
    names = original.matrices()
    if original.config.hidden_size % BLOCK_SIZES[0]:
        names.remove(EMBEDDING)
    return names


def quantization(
    scheme: str, bits: Mapping[str, int], options: Options, original: SourceModel
) -> Quantization:
    """What the manifest will say."""
    wanted = options.block_size or DEFAULT_BLOCKS[min(bits.values(), default=8)]
    sizes = {}
    for name in bits:
        most = wanted
        if name == EMBEDDING and options.block_size is None:
            most = min(
                wanted, 32
            )  # one row of it is read for a token, so small blocks cost nothing
        size = _block_size(original.weights[name].shape[1], most, exact=name == EMBEDDING)
        if size != wanted:
            sizes[name] = size
    return Quantization(scheme, bits, wanted, options.accuracy_level, sizes)


def _block_size(columns: int, most: int, exact: bool) -> int:
    """Return the largest block that fills rows without many zeros, or without any."""
    found = BLOCK_SIZES[0]
    for size in BLOCK_SIZES:
        padding = -columns % size
        if size <= most and padding <= (0 if exact else columns * MOST_PADDING):
            found = size
    return found


def least_bits(plan: Quantization, original: SourceModel) -> float:
    """Return the bits a weight, scales included, of a plan with 4 bits everywhere."""
    counts = {name: math.prod(original.weights[name].shape) for name in plan.bits}
    total = sum(count * (4 + 16 / plan.block_of(name)) for name, count in counts.items())
    return total / sum(counts.values())
