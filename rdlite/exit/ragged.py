"""Runs positions as one batch and lets each exit at its own step."""

from itertools import groupby

import numpy as np

from rdlite.engine.sequence import Sequence
from rdlite.exit.controller import Controller
from rdlite.ort.runner import Runner


class RaggedBatch:
    """Neighbouring positions whose prelude has run: their states and how deep each is.

    Each takes the steps that it would take if it were read alone. What a position sees of those on
    its left at a step is what they wrote at that step, or at their last one. So positions share a
    call as long as they are neighbours and equally deep; where one leaves from their midst, those
    on its left are finished first, and then those on its right, which see what the left ones left.
    """

    def __init__(self, controller: Controller, size: int, width: int) -> None:
        """Make room for `size` positions, states being `width` wide."""
        self._controller = controller
        self._states = np.zeros((size, width), np.float32)
        self._embeds = np.zeros((size, width), np.float32)
        #: Core steps that each position took.
        self.steps = np.zeros(size, np.int64)

    def take(self, runner: Runner, row: int, steps: int) -> None:
        """Take over the positions of a runner, which took so many steps, as rows from `row` on."""
        end = row + runner.size
        self._states[row:end] = runner.states[steps % 2][0]
        self._embeds[row:end] = runner.embeds[0]
        self.steps[row:end] = steps

    def finish(self, sequence: Sequence, first: int, size: int, done: int = 0) -> Runner:
        """Think the first `size` rows to their ends.

        Args:
            sequence: holds them, and has read all before them.
            first: position of the first of them.
            size: at least one.
            done: steps that those that have not settled took.

        Returns:
            A runner of these positions; `logits(steps)` with the last one's steps decodes it.
        """
        controller, most = self._controller, self._controller.max_steps
        todo = self._unsettled(0, size, done)
        while todo:
            low, high, steps = todo.pop()
            runner = sequence.runner(first + low, high - low, most)
            runner.put_state(steps, self._states[low:high])
            runner.put_embeds(self._embeds[low:high])
            left = False
            while steps < most and not left:
                runner.step(steps)
                steps += 1
                left = controller.has_rule and bool(controller.check_exit(runner, steps, low).any())
            self.take(runner, low, steps)
            todo += self._unsettled(low, high, steps)
        runner = sequence.runner(first, size, most)
        runner.put_state(int(self.steps[size - 1]), self._states[:size])
        return runner

    def _unsettled(self, low: int, high: int, steps: int) -> list[tuple[int, int, int]]:
        """Runs of neighbouring rows that go on from `steps`, the last one first."""
        if steps >= self._controller.max_steps:
            return []
        runs, end = [], low
        for settled, neighbours in groupby(self._controller.settled[low:high].tolist()):
            start, end = end, end + len(list(neighbours))
            if not settled:
                runs.append((start, end, steps))
        return runs[::-1]
