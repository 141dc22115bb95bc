"""What to keep of past positions, as a user says it."""

from dataclasses import dataclass
from typing import Literal

from rdlite.config.model import ModelConfig
from rdlite.errors import InputError
from rdlite.utils.checks import check_integer


@dataclass(frozen=True, slots=True)
class Cache:
    """What the core keeps of past positions.

    Attributes:
        share: None keeps one slot per step, so that step t of a new position sees what step t of
            the past ones left: exact, and the same however a text is cut into chunks. A number n
            keeps n slots, step t writing slot t mod n, so that memory does not grow with depth;
            what a position sees then depends on which were read together. 1 to 1024. "last" keeps
            one slot per step while a prompt is read and then, of every position, what its last
            step left, in one slot; not exact, and the next prompt needs the room again.
        bits: None keeps float32 numbers, in prelude and coda too; 8 rounds them to int8, in a
            quarter of the memory. That needs scales, which `rdlite tune` gives a bundle.

    Raises InputError for numbers out of bounds.
    """

    share: int | Literal["last"] | None = None
    bits: int | None = None

    def __post_init__(self) -> None:
        """Check the bounds."""
        if isinstance(self.share, str):
            if self.share != "last":
                raise InputError(f"share must be None, a number or 'last', got {self.share!r:.40}")
        elif self.share is not None:
            check_integer("share", self.share, 1, 1024)
        if self.bits is not None and (type(self.bits) is not int or self.bits != 8):
            raise InputError(f"bits must be None (float32) or 8 (int8), got {self.bits!r:.40}")

    def slots(self, steps: int) -> int:
        """Number of slots that a depth of `steps` needs, at most."""
        return min(self.share, steps) if isinstance(self.share, int) else steps

    def bytes_per_token(self, config: ModelConfig, steps: int) -> int:
        """Memory that one position takes in all three parts, in bytes, at most."""
        layers = config.layers
        held = layers.prelude + layers.core * self.slots(steps) + layers.coda
        return (4 if self.bits is None else 1) * config.cache_numbers_per_layer * held
