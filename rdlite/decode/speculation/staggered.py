"""Staggered self-speculation: a draft begins while the positions before it still think.

A position that has taken a few steps says what may follow it, and that is read next while the
position itself goes on: positions in flight stand at different depths and take their steps in the
same calls. With one cache slot for each step, what a position reads at a step was written by those
before it at that step, as in plain decoding; so a draft that turns out right has been thought as
it would have been, and nothing is done twice. One that turns out wrong is forgotten, with what was
begun after it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from time import perf_counter
from typing import TYPE_CHECKING

from rdlite.decode.results import Choice
from rdlite.decode.sampler import Sampler
from rdlite.decode.speculation.staggered_schedule import FixedStagger
from rdlite.engine.sequence import Sequence
from rdlite.exit.controller import Controller
from rdlite.ort.initial_state import InitialState
from rdlite.ort.staggered_runner import Seat, StaggeredRunner
from rdlite.ort.text import Floats

if TYPE_CHECKING:
    from rdlite.decode.results import Stats


#: In the place of steps: a position whose draft ends the text.
LAST = -1


class Staggered:
    """Decodes with several positions in flight. Not thread-safe: each generation has its own.

    Not for exit rules that decode: they cannot be asked about several positions at once, because
    what the coda sees of a position is its last state.
    """

    def __init__(
        self,
        schedule: FixedStagger,
        positions: int,
        controller: Controller,
        start: InitialState,
        sampler: Sampler,
        ends: frozenset[int],
    ) -> None:
        """Have nothing in flight.

        Args:
            schedule: says how positions follow each other.
            positions: the most that it may ask for.
            controller: of the positions.
            start: writes initial states.
            sampler: chooses tokens.
            ends: tokens that end the text, so that nothing needs to be drafted after them.
        """
        self.schedule = schedule
        self._most = positions
        self._controller = controller
        self._start = start
        self._sampler = sampler
        self._ends = ends
        #: Those in flight, in the order of the text; and the rest.
        self._line: deque[Seat] = deque()
        self._idle: deque[Seat] = deque()
        #: Depths to look at, and what was seen there: a draft by seat and steps.
        self._probes: tuple[int, ...] = ()
        self._guesses: dict[tuple[int, int], int] = {}

    def run(
        self, sequence: Sequence, token: int, most: int, stats: Stats
    ) -> Generator[Choice, None, None]:
        """Read a token and drafts of those that may follow; yields what full depth says follows.

        Args:
            sequence: everything before `token` is read.
            token: the last token of the text.
            most: read no more positions than this, `token` among them.
            stats: rounds and drafts are counted there.

        Returns:
            Never, if nobody closes it. What was drafted and not yielded stays pending.
        """
        runner = sequence.staggered(self._most, self._controller.max_steps)
        self._idle, end = deque(runner.seats[: self._most]), sequence.length + most
        clock = perf_counter()
        while True:
            if not self._line:
                self._choose(stats)
                if self.schedule.choice[0] == 1 and not self._probes:
                    plain = self._plainly(sequence, token)
                    yield plain
                    token, clock = plain[0], perf_counter()
                    continue
                self._board(sequence, token)
            self._step(runner)
            oldest, newest = self._line[0], self._line[-1]
            done = self._is_done(oldest)
            drafts = newest.position + 1 < end and self._may_follow(newest)
            asked = [
                seat
                for seat in self._line
                if (seat is oldest and done) or (seat is newest and drafts) or self._probed(seat)
            ]
            if not asked:
                continue
            looked = bool(self._probes)
            logits = dict(zip((seat.number for seat in asked), runner.logits(asked), strict=True))
            choice = self._end(sequence, logits[oldest.number], stats) if done else None
            follows = self._guess(newest, logits[newest.number]) if drafts and self._line else None
            for seat in self._line:
                if self._probed(seat) and seat.number in logits:
                    self._guess(seat, logits[seat.number])
            if follows in self._ends:
                self._guesses[newest.number, LAST] = follows  # it is not asked again
            elif follows is not None:
                self._board(sequence, follows)
            if choice is not None:
                if self.schedule.timed and not looked:  # that takes time too
                    self.schedule.note_token(self.schedule.choice[1], perf_counter() - clock)
                yield choice
                token, clock = choice[0], perf_counter()

    def _choose(self, stats: Stats) -> None:
        """Choose how to go on from a token that is certain."""
        self._probes = self.schedule.begin()
        stats.speculation = self.schedule.choice
        self._guesses.clear()
        stats.rounds += 1

    def _plainly(self, sequence: Sequence, token: int) -> Choice:
        """Read a token with nothing else in flight; returns what follows it."""
        controller, clock = self._controller, perf_counter()
        runner = sequence.begin([token], controller.max_steps)
        self._start(runner, sequence.length)
        begun = perf_counter()
        steps = controller.run_steps(runner)
        took = perf_counter() - begun
        token, logprob = self._sampler(runner.logits(steps)[-1], sequence.length + 1)
        sequence.commit(1)
        self.schedule.note_end(steps, token in self._ends)
        if self.schedule.timed:
            self.schedule.note_plain(took / steps)
            self.schedule.note_around(perf_counter() - clock - took)
        return token, logprob, steps, controller.value

    def _board(self, sequence: Sequence, token: int) -> None:
        """Take a position into flight."""
        seat = self._idle.popleft()
        sequence.seat(seat, token, self._controller.max_steps)
        self._start(seat, seat.position)
        self._controller.start(seat.number)
        self._line.append(seat)

    def _step(self, runner: StaggeredRunner) -> None:
        """Let all that are not done take a step."""
        controller = self._controller
        going = [seat for seat in self._line if not self._is_done(seat)]
        if not going:  # all left early, and wait for the one before them
            return
        if self.schedule.timed:
            clock = perf_counter()
            runner.step(going)
            self.schedule.note_step(len(going), perf_counter() - clock)
        else:
            runner.step(going)
        if controller.has_rule:
            for seat in going:
                controller.check_exit(seat, seat.steps, seat.number)

    def _is_done(self, seat: Seat) -> bool:
        controller = self._controller
        return seat.steps >= controller.max_steps or bool(controller.settled[seat.number])

    def _may_follow(self, newest: Seat) -> bool:
        """Whether it is time, and there is a seat, for what may follow the newest position."""
        positions, steps = self.schedule.choice
        if len(self._line) >= min(positions, self._most) or (newest.number, LAST) in self._guesses:
            return False
        return newest.steps >= steps or self._is_done(newest)

    def _probed(self, seat: Seat) -> bool:
        return seat is self._line[0] and seat.steps in self._probes

    def _guess(self, seat: Seat, logits: Floats) -> int:
        """Return what may follow a seat."""
        token = self._sampler.guess(logits, seat.position + 1)
        self._guesses[seat.number, seat.steps] = token
        return token

    def _end(self, sequence: Sequence, logits: Floats, stats: Stats) -> Choice:
        """Choose what follows the oldest position, which is done, and let wrong drafts go."""
        oldest = self._line.popleft()
        token, logprob = self._sampler(logits, oldest.position + 1)
        sequence.commit(1)
        self._idle.append(oldest)
        for number, steps in [key for key in self._guesses if key[0] == oldest.number]:
            guess = self._guesses.pop((number, steps))
            if steps != LAST:
                self.schedule.note_draft(steps, guess == token)
        self.schedule.note_end(oldest.steps, token in self._ends)
        self._probes = ()  # one look a line
        if self._line:
            right = self._line[0].token == token
            stats.drafted += 1
            stats.accepted += right
            if not right:
                sequence.drop_pending()
                self._idle.extend(self._line)
                self._line.clear()
        return token, logprob, oldest.steps, self._controller.value_of(oldest.number)
