"""What to keep of past positions, as a user says it."""

from dataclasses import dataclass
from typing import Literal

from rdlite.config.model import ModelConfig
from rdlite.errors import InputError
from rdlite.utils.checks import check_integer


@dataclass(frozen=True, slots=True)
class Cache:
    """How much of past positions the core's cache keeps.

    Attributes:
        share: None: one slot per step, so step t of a new position sees step t of the past
            positions. Exact, and the same however a text is cut into chunks.
            n (1 to 1024): n slots, and step t uses slot t mod n. Memory does not grow with depth,
            but what a position sees depends on which positions were read together.
            "last": one slot per step while a prompt is read; after that, one slot with the last
            step of every position. Not exact, and the next prompt needs the memory again.
        bits: None: float32, in prelude and coda too. 8: int8, a quarter of the memory; this needs
            the scales that `rdlite tune` adds to a bundle.

    Raises InputError for numbers out of range.
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
