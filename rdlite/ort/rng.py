"""Random numbers as pure functions of (seed, position): initial states, and draws of tokens."""

import numpy as np
import numpy.typing as npt

from rdlite.config.model import Recurrence

#: What the numbers are for; each has a stream of its own.
STATES, TOKENS, GUESSES, NOISE = range(4)
CUTOFF = 3.0  # initial states are normal, cut off at this many standard deviations


def generator_at(seed: int, position: int, purpose: int, turn: int = 0) -> np.random.Generator:
    """Return the generator of one position; Philox is counter-based, so this costs microseconds.

    `turn` tells several draws at one position apart.
    """
    key = np.array([seed, purpose], np.uint64)
    counter = np.array([0, position, turn, 0], np.uint64)
    return np.random.Generator(np.random.Philox(counter=counter, key=key))


def fill_initial_states(
    out: npt.NDArray[np.float32],
    recurrence: Recurrence,
    seed: int,
    start: int,
    purpose: int = STATES,
    turn: int = 0,
) -> None:
    """Write the random initial states of the positions from `start` on.

    Args:
        out: float32 [S, E], overwritten with normal numbers of `recurrence.initial_std`, cut off
            at three of them.
        recurrence: where the model's recurrence starts.
        seed: the seed of the text.
        start: the position of `out`'s first row.
        purpose: STATES, or NOISE that is mixed into states.
        turn: of the noise: the outer step.
    """
    for row, state in enumerate(out):
        generator = generator_at(seed, start + row, purpose, turn)
        generator.standard_normal(out=state, dtype=np.float32)
        while (far := np.abs(state) > CUTOFF).any():
            state[far] = generator.standard_normal(int(far.sum()), dtype=np.float32)
        state *= np.float32(recurrence.initial_std)
