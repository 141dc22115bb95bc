"""How deep to think: the options a user gives. Pure; knows no graph and no text."""

from dataclasses import dataclass

from rdlite.config import check_integer


@dataclass(frozen=True, slots=True)
class Depth:
    """How often the core runs on each position.

    Attributes:
        max_steps: the number of core steps; None is the model's own default. 1 to 1024.

    Raises InputError for numbers out of bounds.
    """

    max_steps: int | None = None

    def __post_init__(self) -> None:
        """Check the bounds."""
        if self.max_steps is not None:
            check_integer("max_steps", self.max_steps, 1, 1024)
