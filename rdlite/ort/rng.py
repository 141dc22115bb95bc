"""Random numbers as pure functions of (seed, position): initial states, and draws of tokens."""

import numpy as np
import numpy.typing as npt

from rdlite.config.model import Recurrence

STATES, TOKENS = 0, 1  # what the numbers are for; each has a stream of its own
CUTOFF = 3.0  # initial states are normal, cut off at this many standard deviations


def generator_at(seed: int, position: int, purpose: int) -> np.random.Generator:
    """Return the generator of one position; Philox is counter-based, so this costs microseconds."""
    key = np.array([seed, purpose], np.uint64)
    counter = np.array([0, position, 0, 0], np.uint64)
    return np.random.Generator(np.random.Philox(counter=counter, key=key))


def fill_initial_states(
    out: npt.NDArray[np.float32], recurrence: Recurrence, seed: int, start: int
) -> None:
    """Write the random initial states of the positions from `start` on.

    Args:
        out: float32 [S, E], overwritten with normal numbers of `recurrence.initial_std`, cut off
            at three of them.
        recurrence: where the model's recurrence starts.
        seed: the seed of the text.
        start: the position of `out`'s first row.
    """
    for row, state in enumerate(out):
        generator = generator_at(seed, start + row, STATES)
        generator.standard_normal(out=state, dtype=np.float32)
        while (far := np.abs(state) > CUTOFF).any():
            state[far] = generator.standard_normal(int(far.sum()), dtype=np.float32)
        state *= np.float32(recurrence.initial_std)
