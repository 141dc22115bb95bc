"""Runs positions as one batch and lets each exit at its own step."""

from itertools import groupby

import numpy as np

from rdlite.engine.sequence import Sequence
from rdlite.exit.controller import Controller
from rdlite.ort.runner import Runner
from rdlite.ort.text import Floats


class RaggedBatch:
    """Neighbouring positions whose prelude has run: their states and how deep each is.

    Each takes the steps that it would take if it were read alone. What a position sees of those on
    its left at a step is what they wrote at that step, or at their last one. So positions share a
    call as long as they are neighbours and equally deep; where one leaves from their midst, those
    on its left are finished first, and then those on its right, which see what the left ones left.
    """

    def __init__(
        self, controller: Controller, size: int, width: int, by_rows: bool = False
    ) -> None:
        """Make room for `size` positions, states being `width` wide.

        With `by_rows` each position gets the bits that it would get alone.
        """
        self._by_rows = by_rows
        self._apart = False  # the positions make calls of their own
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
        engine = sequence.engine
        self._apart = self._by_rows and engine.rows is None and engine.device is None
        todo = self._unsettled(0, size, done)
        while todo:
            low, high, steps = todo.pop()
            runner = sequence.runner(first + low, high - low, most, self._by_rows)
            runner.put_state(steps, self._states[low:high])
            runner.put_embeds(self._embeds[low:high])
            left = False
            while steps < most and not left:
                runner.step(steps)
                steps += 1
                left = controller.has_rule and bool(controller.check_exit(runner, steps, low).any())
            self.take(runner, low, steps)
            todo += self._unsettled(low, high, steps)
        runner = sequence.runner(first, size, most, self._by_rows)
        runner.put_state(int(self.steps[size - 1]), self._states[:size])
        return runner

    def logits(self, sequence: Sequence, first: int, size: int, done: int) -> Floats:
        """Think the first `size` rows to their ends and decode them; as `finish`: [size, V]."""
        runner = self.finish(sequence, first, size, done)
        if not self._apart:
            return runner.logits(int(self.steps[size - 1]), size)
        result = np.empty((size, sequence.config.vocab_size), np.float32)
        for row in range(size):
            steps = int(self.steps[row])
            runner = sequence.runner(first + row, 1, self._controller.max_steps)
            runner.put_state(steps, self._states[row : row + 1])
            result[row] = runner.logits(steps)[0]
        return result

    def _unsettled(self, low: int, high: int, steps: int) -> list[tuple[int, int, int]]:
        """Runs of neighbouring rows that go on from `steps`, the last one first."""
        if steps >= self._controller.max_steps:
            return []
        runs, end = [], low
        for settled, neighbours in groupby(self._controller.settled[low:high].tolist()):
            start, end = end, end + len(list(neighbours))
            if not settled and self._apart:
                runs += [(row, row + 1, steps) for row in range(start, end)]
            elif not settled:
                runs.append((start, end, steps))
        return runs[::-1]
