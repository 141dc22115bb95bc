"""Where a text's states start: at random, at zero, at the prelude's output, or as given."""

from collections.abc import Callable
from typing import Protocol

import numpy as np
import numpy.typing as npt

from rdlite.config.model import ModelConfig
from rdlite.errors import InputError
from rdlite.ort.rng import fill_initial_states
from rdlite.utils.checks import check_seed

Floats = npt.NDArray[np.float32]


class Begun(Protocol):
    """Positions whose prelude has run: a runner, or a seat of one."""

    size: int

    def put_state(self, steps: int, rows: Floats) -> None:
        """Write the states after so many steps: float32 [S, E]."""

    def fill_state(self, fill: Callable[[Floats], object]) -> None:
        """Let `fill` write the initial states: float32 [S, E]."""

    def start_at_embeds(self) -> None:
        """Start at the prelude's output."""


#: Writes the initial states of positions, the first of which is given.
InitialState = Callable[[Begun, int], None]
KINDS = ("random", "zeros", "embeds")


def start_at(
    config: ModelConfig, initial_state: str | Floats, seed: int = 0, size: int | None = None
) -> InitialState:
    """Return what writes the initial states.

    Args:
        config: of the model; says how its own states start, which is what "random" means.
        initial_state: "random", "zeros", "embeds", or float32 [S, E].
        seed: selects random states, 0 to 2^64 - 1.
        size: S, where an array can be given.

    Raises:
        InputError: an argument is out of bounds.
    """
    check_seed(seed)
    if not isinstance(initial_state, str):
        return _given(config, initial_state, size)
    if initial_state not in KINDS:
        raise InputError(
            f"initial_state must be random, zeros, embeds or an array, got {initial_state!r:.60}"
        )
    recurrence = config.recurrence
    kind = recurrence.initial_state if initial_state == "random" else initial_state
    if kind == "random" and recurrence.initial_std > 0:
        return lambda runner, position: runner.fill_state(
            lambda rows: fill_initial_states(rows, recurrence, seed, position)
        )
    if kind == "embeds":
        return lambda runner, _: runner.start_at_embeds()
    return lambda runner, _: runner.fill_state(lambda rows: rows.fill(0))


def _given(config: ModelConfig, initial_state: Floats, size: int | None) -> InitialState:
    try:
        array = np.asarray(initial_state, np.float32)
    except (TypeError, ValueError):
        raise InputError("an initial state must be an array of numbers") from None
    if size is None:
        raise InputError(
            "an array of initial states can be given to logits and logits_by_depth only"
        )
    expected = (size, config.hidden_size)
    if array.shape != expected or not np.isfinite(array).all():
        raise InputError(
            f"an initial state must be finite and have the shape {expected}, got {array.shape}"
        )

    def start(runner: Begun, position: int) -> None:
        runner.put_state(0, array[position : position + runner.size])

    return start
