"""Self-speculation: shallow drafts, verified together by thinking them to the end.

A draft is the same model at fewer steps. With one cache slot for each step, and initial states that
depend on seed and position alone, the first steps of a draft are what plain decoding would have
computed: verification goes on from the drafts' own states and takes only the steps that they lack,
for all of them at once. What comes out is what plain decoding gives, token for token.
"""

from collections.abc import Callable, Generator

import numpy as np
import numpy.typing as npt

from rdlite.config import check_integer
from rdlite.depth import Controller
from rdlite.engine import Lane, Sequence
from rdlite.errors import InputError
from rdlite.exit_rules import Step
from rdlite.start import Start

Floats = npt.NDArray[np.float32]
MAX_DRAFTS = 16


def check_speculation(value: object) -> tuple[int, int]:
    """Return (positions, steps) of a round, or raise InputError."""
    if not isinstance(value, tuple) or len(value) != 2:
        raise InputError(
            f"speculate must be None or (drafts, steps) like (4, 8), got {value!r:.40}"
        )
    return (
        check_integer("drafts", value[0], 1, MAX_DRAFTS),
        check_integer("steps of a draft", value[1], 1, 1024),
    )


class _Row:
    """One position of a lane, for an exit rule to look at."""

    def __init__(self, lane: Lane, row: int) -> None:
        self.change = lane.change[:, row : row + 1]
        a, b = lane.states
        self.states = (a[:, row : row + 1], b[:, row : row + 1])

    def logits(self, steps: int) -> Floats:
        """Decode; never asked, because rules that decode look at one position alone."""
        raise NotImplementedError


class Speculation:
    """Rounds of drafting and verifying. Not thread-safe: each generation has its own.

    Exit rules that decode cannot be asked about several positions at once, because what the coda
    sees of a position is its last state; with them a round has one position.
    """

    def __init__(
        self, positions: int, steps: int, controllers: list[Controller], width: int, start: Start
    ) -> None:
        """Make the buffers.

        Args:
            positions: most positions of a round.
            steps: core steps of a draft.
            controllers: one for each position of a round.
            width: of the states.
            start: writes initial states.
        """
        self._most = 1 if controllers[0].decodes else positions
        self._draft_steps = steps
        self._controllers = controllers
        self._max_steps = controllers[0].max_steps
        self._start = start
        self._states = np.zeros((positions, width), np.float32)
        self._embeds = np.zeros((positions, width), np.float32)
        self._steps = [0] * positions

    def round(
        self,
        sequence: Sequence,
        token: int,
        most: int,
        guess: Callable[[Floats, int], int],
    ) -> Generator[tuple[Floats, int, float | None, int | None], None, None]:
        """Read a token and drafts of those that may follow; yields what full depth says.

        Args:
            sequence: everything before `token` is read.
            token: the last token of the text.
            most: read no more positions than this, `token` among them.
            guess: chooses a token from logits float32 [V] and the position it will stand at.

        Yields:
            For each position: logits float32 [V], core steps, the exit rule's value, and the token
            that was drafted to follow (None after the last). The caller goes on only if it agrees
            with the draft; else it closes the iterator, and what was drafted is forgotten.
        """
        first, read = sequence.length, 0
        try:
            tokens = self._draft(sequence, token, min(self._most, most), guess)
            self._finish(sequence, first, 0, len(tokens), self._draft_steps)
            lane = sequence.lane(first, len(tokens), self._max_steps)
            lane.states[0][0] = self._states[: len(tokens)]
            logits = lane.logits(0, len(tokens))
            for row, following in enumerate([*tokens[1:], None]):
                read += 1
                controller = self._controllers[row]
                yield logits[row], self._steps[row], controller.value, following
        finally:
            sequence.truncate(first + read)

    def _draft(
        self, sequence: Sequence, token: int, count: int, guess: Callable[[Floats, int], int]
    ) -> list[int]:
        """Read `count` positions at a draft's depth; returns the tokens, all but one guessed."""
        tokens = [token]
        for row in range(count):
            lane = sequence.begin([tokens[row]], self._max_steps)
            self._start(lane, sequence.length)
            steps = self._controllers[row].think(lane, self._draft_steps)
            self._steps[row] = steps
            self._states[row] = lane.states[steps % 2][0, 0]
            self._embeds[row] = lane.embeds[0, 0]
            if row + 1 < count:
                tokens.append(guess(lane.logits(steps)[-1], sequence.length + 1))
            sequence.commit(1)
        return tokens

    def _finish(self, sequence: Sequence, first: int, low: int, high: int, done: int) -> None:
        """Think rows `low` to `high` to their ends; those not settled are `done` steps deep.

        Neighbours that are equally deep go on together. Where one settles, those on its left are
        finished before those on its right, which have to see what the left ones left.
        """
        if done >= self._max_steps:
            return
        for a, b in self._unsettled(low, high):
            lane = sequence.lane(first + a, b - a, self._max_steps)
            lane.states[done % 2][0] = self._states[a:b]
            lane.embeds[0] = self._embeds[a:b]
            rows: list[tuple[Controller, Step]] = []
            if self._controllers[0].has_rule:
                rows = [
                    (self._controllers[row], _Row(lane, row - a) if b - a > 1 else lane)
                    for row in range(a, b)
                ]
            steps, left = done, False
            while steps < self._max_steps and not left:
                lane.step(steps)
                steps += 1
                for controller, row in rows:
                    left |= controller.look(row, steps)
            self._states[a:b] = lane.states[steps % 2][0]
            self._steps[a:b] = [steps] * (b - a)
            self._finish(sequence, first, a, b, steps)

    def _unsettled(self, low: int, high: int) -> list[tuple[int, int]]:
        """Runs of neighbouring rows that have not settled."""
        runs: list[tuple[int, int]] = []
        for row in range(low, high):
            if self._controllers[row].settled:
                continue
            if runs and runs[-1][1] == row:
                runs[-1] = (runs[-1][0], row + 1)
            else:
                runs.append((row, row + 1))
        return runs
