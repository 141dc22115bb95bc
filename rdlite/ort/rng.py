"""Random numbers as pure functions of (seed, position): initial states, and draws of tokens."""

import functools

import numpy as np
import numpy.typing as npt

from rdlite.config.model import Recurrence

#: What the numbers are for; each has a stream of its own.
STATES, TOKENS, GUESSES, NOISE = range(4)
CUTOFF = 3.0  # initial states are normal, cut off at this many standard deviations
#: Initial states that are kept, as texts of one seed start alike: blocks, and numbers of a block.
KEPT_BLOCKS, BLOCK_NUMBERS, MOST_ROWS = 64, 4096, 32


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
    if purpose != STATES:
        _draw(out, recurrence, seed, start, purpose, turn)
        return
    width = out.shape[1]
    rows = min(max(BLOCK_NUMBERS // width, 1), MOST_ROWS)
    done = 0
    while done < len(out):
        block, skip = divmod(start + done, rows)
        states = _block(recurrence, width, seed, block, rows)[skip : skip + len(out) - done]
        out[done : done + len(states)] = states
        done += len(states)


@functools.lru_cache(KEPT_BLOCKS)
def _block(
    recurrence: Recurrence, width: int, seed: int, block: int, rows: int
) -> npt.NDArray[np.float32]:
    states = np.empty((rows, width), np.float32)
    _draw(states, recurrence, seed, block * rows, STATES, 0)
    return states


def _draw(
    out: npt.NDArray[np.float32],
    recurrence: Recurrence,
    seed: int,
    start: int,
    purpose: int,
    turn: int,
) -> None:
    for row, state in enumerate(out):
        generator = generator_at(seed, start + row, purpose, turn)
        generator.standard_normal(out=state, dtype=np.float32)
        while (far := np.abs(state) > CUTOFF).any():
            state[far] = generator.standard_normal(int(far.sum()), dtype=np.float32)
        state *= np.float32(recurrence.initial_std)
