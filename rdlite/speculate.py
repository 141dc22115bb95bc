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
from difflib import get_close_matches
from time import perf_counter
from typing import TYPE_CHECKING, Literal, cast

import numpy as np
import numpy.typing as npt

from rdlite.config import check_integer
from rdlite.depth import Controller
from rdlite.engine import Lane, Sequence
from rdlite.errors import InputError
from rdlite.exit_rules import Step
from rdlite.sampling import Sampler, log_probability
from rdlite.speculate_auto import MAX_POSITIONS, Pace, Report, Round
from rdlite.start import Start

if TYPE_CHECKING:
    from rdlite.generate import Stats

Floats = npt.NDArray[np.float32]
#: How users ask for it: positions of a round and steps of a draft, or what is quickest, or not.
Speculate = tuple[int, int] | Literal["auto"] | None
#: A token, its log-probability, the core steps it took and what the exit rule said last.
Choice = tuple[int, float, int, float | None]


def check_speculation(value: object) -> Speculate:
    """Return what was asked for, or raise InputError."""
    if value is None or value == "auto":
        return cast(Speculate, value)
    if not isinstance(value, tuple) or len(value) != 2:
        near = get_close_matches(str(value).lower(), ["auto"])
        raise InputError(
            "speculate must be None, 'auto' or (drafts, steps) like (4, 8), "
            f"got {value!r:.40}{'; did you mean auto?' if near else ''}"
        )
    return (
        check_integer("drafts", value[0], 1, MAX_POSITIONS),
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
        self,
        pace: Pace,
        controllers: list[Controller],
        start: Start,
        sampler: Sampler,
        ends: frozenset[int],
        width: int,
    ) -> None:
        """Make the buffers.

        Args:
            pace: says what each round is to be.
            controllers: one for each position that a round may have.
            start: writes initial states.
            sampler: chooses tokens.
            ends: tokens that end the text, so that nothing needs to be drafted after them.
            width: of the states.
        """
        positions = len(controllers)
        self.pace = pace
        self._most = 1 if controllers[0].decodes else positions
        self._controllers = controllers
        self._max_steps = controllers[0].max_steps
        self._start = start
        self._sampler = sampler
        self._ends = ends
        self._states = np.zeros((positions, width), np.float32)
        self._embeds = np.zeros((positions, width), np.float32)
        self._steps = [0] * positions
        # Of the round that goes on; guesses are by row and steps: a token and how likely it was.
        self._round = Round(1, 1)
        self._first = 0
        self._guesses: dict[tuple[int, int], tuple[int, float]] = {}
        self._report = Report()
        self._probing = 0.0

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
        this = self._round = self.pace.next_round()
        self._first, read = sequence.length, 0
        self._guesses.clear()
        self._report, self._probing = Report(), 0.0
        stats.rounds += 1
        stats.speculation = self.pace.choice
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
                yield token, logprob, self._steps[row], self._controllers[row].value
                if token != draft:
                    break
            return token
        finally:
            sequence.truncate(self._first + read)
            if read:
                self._report.tokens, self._report.ended = read, token in self._ends
                self.pace.learn(self._report)

    def _draft(self, sequence: Sequence, token: int, count: int) -> list[int | None]:
        """Read up to `count` positions at a draft's depth.

        Returns:
            For each position, the draft of what follows; None for the last if it was not asked.
        """
        this, report, clock = self._round, self._report, perf_counter()
        end = min(this.steps, self._max_steps)
        drafts: list[int | None] = []
        while len(drafts) < count:
            row = len(drafts)
            lane = sequence.begin([token], self._max_steps)
            self._start(lane, sequence.length)
            self._controllers[row].start()
            steps, seconds = self._think(lane, row, row + 1, 0, end)
            report.alone += steps
            report.thinking += seconds
            self._steps[row] = steps
            self._states[row] = lane.states[steps % 2][0, 0]
            self._embeds[row] = lane.embeds[0, 0]
            sequence.commit(1)
            if row + 1 == count:
                drafts.append(None)
                report.undecoded = 1
                break
            token, confidence = self._guess(row, this.steps, lane.logits(steps)[-1])
            drafts.append(token)
            if confidence < (this.confidence or 0):
                break
        report.positions = len(drafts)
        report.around = perf_counter() - clock - report.thinking - self._probing
        return drafts

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
        self._finish(sequence, 0, rows, min(self._round.steps, self._max_steps))
        lane = sequence.lane(self._first, rows, self._max_steps)
        lane.states[0][0] = self._states[:rows]
        clock = perf_counter()
        logits = lane.logits(0, rows)
        self._report.finishing += perf_counter() - clock
        return logits

    def _finish(self, sequence: Sequence, low: int, high: int, done: int) -> None:
        """Think rows `low` to `high` to their ends; those not settled are `done` steps deep.

        Neighbours that are equally deep go on together. Where one settles, those on its left are
        finished before those on its right, which have to see what the left ones left.
        """
        if done >= self._max_steps:
            return
        for a, b in self._unsettled(low, high):
            lane = sequence.lane(self._first + a, b - a, self._max_steps)
            lane.states[done % 2][0] = self._states[a:b]
            lane.embeds[0] = self._embeds[a:b]
            steps, seconds = self._think(lane, a, b, done, self._max_steps)
            self._report.together += (steps - done) * (b - a)
            self._report.finishing += seconds
            self._states[a:b] = lane.states[steps % 2][0]
            self._steps[a:b] = [steps] * (b - a)
            self._finish(sequence, a, b, steps)

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

    def _think(self, lane: Lane, low: int, high: int, done: int, end: int) -> tuple[int, float]:
        """Run core steps on rows `low` to `high` until one settles, or all are `end` steps deep.

        Returns:
            How deep they are, and the time it took, without that of probes.
        """
        rows: list[tuple[Controller, Step]] = []
        if self._controllers[0].has_rule:
            alone = high - low == 1
            rows = [
                (self._controllers[row], lane if alone else _Row(lane, row - low))
                for row in range(low, high)
            ]
        probes, clock, left = self._round.probes, perf_counter() - self._probing, False
        while done < end and not left:
            lane.step(done)
            done += 1
            for controller, row in rows:
                left |= controller.look(row, done)
            if done in probes and done != self._round.steps:
                self._probe(lane, low, high, done)
        return done, perf_counter() - self._probing - clock

    def _probe(self, lane: Lane, low: int, high: int, steps: int) -> None:
        """See what drafts of so many steps would have been."""
        clock = perf_counter()
        for row, logits in enumerate(lane.logits(steps, high - low), low):
            self._guess(row, steps, logits)
        self._probing += perf_counter() - clock

    def _compare(self, row: int, token: int) -> None:
        """Report what was drafted after a row, now that it is known what follows."""
        for steps in self._round.probes or (self._round.steps,):
            guess = self._guesses.get((row, steps))
            if guess is None and self._steps[row] <= steps:  # it had settled before
                guess = token, -1.0 if token in self._ends else 1.0
            if guess is not None:
                self._report.drafts.append((steps, guess[1], guess[0] == token))
