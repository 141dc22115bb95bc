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
from rdlite.engine import Sequence
from rdlite.errors import InputError
from rdlite.group import Group
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


class Speculation:
    """Rounds of drafting and verifying. Not thread-safe: each generation has its own.

    Exit rules that decode cannot be asked about several positions at once, because what the coda
    sees of a position is its last state; with them a round has one position.
    """

    def __init__(
        self, positions: int, steps: int, controller: Controller, width: int, start: Start
    ) -> None:
        """Make the buffers.

        Args:
            positions: most positions of a round.
            steps: core steps of a draft.
            controller: of the positions of a round.
            width: of the states.
            start: writes initial states.
        """
        self._most = 1 if controller.decodes else positions
        self._draft_steps = steps
        self._controller = controller
        self._group = Group(controller, positions, width)
        self._start = start

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
            lane = self._group.finish(sequence, first, len(tokens), self._draft_steps)
            steps = self._group.steps.tolist()
            logits = lane.logits(steps[len(tokens) - 1], len(tokens))
            for row, following in enumerate([*tokens[1:], None]):
                read += 1
                yield logits[row], steps[row], self._controller.value_of(row), following
        finally:
            sequence.truncate(first + read)

    def _draft(
        self, sequence: Sequence, token: int, count: int, guess: Callable[[Floats, int], int]
    ) -> list[int]:
        """Read `count` positions at a draft's depth; returns the tokens, all but one guessed."""
        tokens = [token]
        for row in range(count):
            lane = sequence.begin([tokens[row]], self._controller.max_steps)
            self._start(lane, sequence.length)
            steps = self._controller.think(lane, self._draft_steps, row)
            self._group.take(lane, row, steps)
            if row + 1 < count:
                tokens.append(guess(lane.logits(steps)[-1], sequence.length + 1))
            sequence.commit(1)
        return tokens
