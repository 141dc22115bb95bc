"""States of two models on the same texts, side by side, step by step."""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from rdlite.api.model import Model
from rdlite.ort.initial_state import start_at

Floats = npt.NDArray[np.float32]


def state_pairs(
    model: Model, reference: Model, texts: Sequence[Sequence[int]], steps: int, seed: int = 0
) -> Iterator[tuple[int, Floats, Floats]]:
    """Read texts with two models from the same initial states.

    Args:
        model: the one.
        reference: the other, of the same sizes.
        texts: token ids, each read from its start.
        steps: core steps.
        seed: selects random initial states.

    Yields:
        The step, from 0 on, and the states [S, E] after it, the reference's last; both are
        overwritten afterwards.
    """
    start = start_at(model.config, "random", seed)
    sequences = [each.new_sequence() for each in (model, reference)]
    for ids in texts:
        runners = [sequence.begin(list(ids), steps) for sequence in sequences]
        for runner in runners:
            start(runner, 0)
        for step in range(steps):
            for runner in runners:
                runner.step(step)
            x, y = (runner.states[(step + 1) % 2][0] for runner in runners)
            yield step, x, y


def state_errors(
    model: Model, reference: Model, texts: Sequence[Sequence[int]], steps: int, seed: int = 0
) -> list[float]:
    """Return how far the model's states are from the reference's after each step.

    Arguments as for `state_pairs`.

    Returns:
        T means over all positions of ||x - y|| / ||y||, y being the reference's state.
    """
    total = np.zeros(steps)
    for step, x, y in state_pairs(model, reference, texts, steps, seed):
        off = np.linalg.norm(x - y, axis=1) / np.linalg.norm(y, axis=1)
        total[step] += float(off.sum())
    return [float(x) for x in total / sum(map(len, texts))]
