"""What a user may choose beside the scheme."""

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
        block_size: weights that share a scale: 16, 32, 64, 128 or 256.
        accuracy_level: 4 computes with int8 activations, which is faster; 1 with float32.
        bits: a weight on the average, scales included, for schemes that mix them; None: 4.6.
        calibration: a text file to calibrate on; None: practice problems, for models that chat.
        steps: core steps to calibrate over, 1 to 1024; None: the model's mean depth.
        seed: selects initial states and problems, 0 to 2^64 - 1.
        threads: for running the model, 1 to 256; None: one for each core. The result does not
            depend on it.
        work: a folder for temporary bundles; None: the system's.

    Raises InputError for numbers out of bounds.
    """

    block_size: int = 32
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
            if value not in choices:
                known = ", ".join(map(str, choices))
                raise InputError(f"{name} must be one of {known}, got {value!r:.40}")
        if self.bits is not None:
            check_number("bits", self.bits, 4, 10)
        if self.steps is not None:
            check_integer("steps", self.steps, 1, 1024)
        check_seed(self.seed)
        if self.threads is not None:
            check_integer("threads", self.threads, 1, 256)


def quantizable(original: SourceModel, block_size: int) -> list[str]:
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
