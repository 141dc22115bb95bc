"""Self-speculation: shallow drafts, verified together by thinking them to the end.

A draft is the same model at fewer steps. With one cache slot for each step, and initial states that
depend on seed and position alone, the first steps of a draft are what plain decoding would have
computed: verification goes on from the drafts' own states and takes only the steps that they lack,
for all of them at once. What comes out is what plain decoding gives, token for token, however many
positions a round has and however deep its drafts are.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from rdlite.decode.results import Choice
from rdlite.decode.sampler import Sampler, log_probability
from rdlite.decode.speculation.draft_schedule import DraftSchedule, Round, RoundStats
from rdlite.engine.sequence import Sequence
from rdlite.exit.controller import Controller
from rdlite.exit.ragged import RaggedBatch
from rdlite.ort.initial_state import InitialState
from rdlite.ort.runner import Runner

if TYPE_CHECKING:
    from rdlite.decode.results import Stats

Floats = npt.NDArray[np.float32]


class Speculation:
    """Rounds of drafting and verifying. Not thread-safe: each generation has its own.

    Exit rules that decode cannot be asked about several positions at once, because what the coda
    sees of a position is its last state; with them a round has one position.
    """

    def __init__(
        self,
        schedule: DraftSchedule,
        positions: int,
        controller: Controller,
        start: InitialState,
        sampler: Sampler,
        ends: frozenset[int],
        width: int,
    ) -> None:
        """Make the buffers.

        Args:
            schedule: says what each round is to be.
            positions: the most that a round may have.
            controller: of the positions of a round.
            start: writes initial states.
            sampler: chooses tokens.
            ends: tokens that end the text, so that nothing needs to be drafted after them.
            width: of the states.
        """
        self.schedule = schedule
        self._most = 1 if controller.decodes else positions
        self._controller = controller
        self._group = RaggedBatch(controller, positions, width, by_rows=True)
        self._start = start
        self._sampler = sampler
        self._ends = ends
        # Of the round that goes on; guesses are by row and steps: a token and how likely it was.
        self._round = Round(1, 1)
        self._first = 0
        self._guesses: dict[tuple[int, int], tuple[int, float]] = {}
        self._stats = RoundStats()

    def run(
        self, sequence: Sequence, token: int, most: int, stats: Stats
    ) -> Generator[Choice, None, None]:
        """Read a token and up to `most` positions in all, a round after the other."""
        end = sequence.length + most
        while True:
            token = yield from self.round(sequence, token, end - sequence.length, stats)

    def round(
        self, sequence: Sequence, token: int, most: int, stats: Stats
    ) -> Generator[Choice, None, int]:
        """Read a token and drafts of those that may follow; yields what full depth says follows.

        Args:
            sequence: everything before `token` is read.
            token: the last token of the text.
            most: read no more positions than this, `token` among them.
            stats: rounds and drafts are counted there.

        Returns:
            The last token. What was drafted wrong is forgotten, and all that was not asked for if
            the iterator is closed.
        """
        this = self._round = self.schedule.next_round()
        self._first, read = sequence.length, 0
        self._guesses.clear()
        self._stats = RoundStats()
        stats.rounds += 1
        stats.speculation = self.schedule.choice
        if this.positions == 1 and not this.probes:
            return (yield from self._plain(sequence, token))
        try:
            drafts = self._draft(sequence, token, min(this.positions, self._most, most))
            logits = self._verify(sequence, len(drafts))
            stats.drafted += len(drafts) - 1
            for row, draft in enumerate(drafts):
                token, logprob = self._sampler(logits[row], self._first + row + 1)
                read += 1
                stats.accepted += row > 0
                if this.confidence is not None:
                    self._compare(row, token)
                steps, value = int(self._group.steps[row]), self._controller.value_of(row)
                yield token, logprob, steps, value
                if token != draft:
                    break
            return token
        finally:
            sequence.truncate(self._first + read)
            if read:
                self._stats.tokens, self._stats.ended = read, token in self._ends
                self.schedule.learn(self._stats)

    def _plain(self, sequence: Sequence, token: int) -> Generator[Choice, None, int]:
        """Read a token as without speculation; yields what follows it, and returns its id."""
        report, controller, clock = self._stats, self._controller, perf_counter()
        runner = sequence.begin([token], controller.max_steps)
        self._start(runner, sequence.length)
        begun = perf_counter()
        steps = controller.run_steps(runner)
        thought = perf_counter()
        logits = runner.logits(steps)[-1]
        report.finishing = perf_counter() - thought
        sequence.commit(1)
        token, logprob = self._sampler(logits, sequence.length)
        report.positions = report.undecoded = report.tokens = 1
        report.alone, report.around, report.thinking = steps, begun - clock, thought - begun
        report.ended = token in self._ends
        self.schedule.learn(report)
        yield token, logprob, steps, controller.value
        return token

    def _draft(self, sequence: Sequence, token: int, count: int) -> list[int | None]:
        """Read up to `count` positions at a draft's depth.

        Returns:
            For each position, the draft of what follows; None for the last if it was not asked.
        """
        this, report, controller = self._round, self._stats, self._controller
        end = min(this.steps, controller.max_steps)
        drafts: list[int | None] = []
        while len(drafts) < count:
            row, clock = len(drafts), perf_counter()
            runner = sequence.begin([token], controller.max_steps)
            self._start(runner, sequence.length)
            begun = perf_counter()
            report.around += begun - clock
            steps = self._run_steps(runner, row, end)
            report.alone += steps
            self._group.take(runner, row, steps)
            sequence.commit(1)
            if row + 1 == count:
                drafts.append(None)
                report.undecoded = 1
                break
            clock = perf_counter()
            token, confidence = self._guess(row, this.steps, runner.logits(steps)[-1])
            report.around += perf_counter() - clock
            drafts.append(token)
            if confidence < (this.confidence or 0):
                break
        report.positions = len(drafts)
        return drafts

    def _run_steps(self, runner: Runner, row: int, end: int) -> int:
        """Run core steps on a row, and see on the way what drafts of fewer would have been."""
        controller, steps = self._controller, 0
        for stop in (*(probe for probe in self._round.probes if probe < end), end):
            clock = perf_counter()
            steps = controller.run_steps(runner, stop, row, steps)
            self._stats.thinking += perf_counter() - clock
            if controller.settled[row]:
                break
            if stop < end:
                self._guess(row, stop, runner.logits(stop)[-1])
        return steps

    def _guess(self, row: int, steps: int, logits: Floats) -> tuple[int, float]:
        """Return what may follow a row, and how likely it is: -1 if nothing needs to follow it."""
        token = self._sampler.guess(logits, self._first + row + 1)
        confidence = 1.0
        if token in self._ends:
            confidence = -1.0
        elif self._round.confidence is not None:
            confidence = math.exp(log_probability(logits, token))
        self._guesses[row, steps] = token, confidence
        return token, confidence

    def _verify(self, sequence: Sequence, rows: int) -> Floats:
        """Think all rows to their ends; returns their logits, float32 [rows, V]."""
        group, report, clock = self._group, self._stats, perf_counter()
        drafted = min(self._round.steps, self._controller.max_steps)
        logits = group.logits(sequence, self._first, rows, drafted)
        report.together = int(group.steps[:rows].sum()) - report.alone
        report.finishing = perf_counter() - clock
        return logits

    def _compare(self, row: int, token: int) -> None:
        """Report what was drafted after a row, now that it is known what follows."""
        for steps in self._round.probes or (self._round.steps,):
            guess = self._guesses.get((row, steps))
            if guess is None and self._group.steps[row] <= steps:  # it had settled before
                guess = token, -1.0 if token in self._ends else 1.0
            if guess is not None:
                self._stats.drafts.append((steps, guess[1], guess[0] == token))
