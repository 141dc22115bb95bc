"""Choosing how to speculate: from what drafts cost, and how often they turn out right.

Two things are learned while texts are written. How often a draft of each depth is right, told apart
by how sure the model was of it; and how long core steps take, alone and on several positions at
once. The next round is the one that promises the most tokens a second.
"""

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from rdlite.config.speculation import MAX_POSITIONS

S = TypeVar("S")
#: Depths that drafts may have, as parts of the full depth.
PARTS = (1 / 16, 1 / 8, 3 / 16, 1 / 4, 3 / 8, 1 / 2)
#: Drafting may end at a draft that the model itself finds less likely than one of these.
LEAST = (0.0, 0.5, 0.8)
CHOOSE_EVERY = 8  # rounds
PROBE_EVERY = 4  # rounds, in which to see what drafts of all depths would have been,
ENOUGH = 16  # until so many were seen, and while decoding is plain
TRY_EVERY = 32  # rounds: speculate even if it does not pay, probe even if it does
COMPARE = 3  # rounds at the start that are plain, to know what they take; then one in TRY_EVERY
CALM, QUIET = 64, 8  # after each CALM plain rounds it looks less often, down to an eighth
BARRED = 512  # rounds of plain decoding after speculation has turned out to be slower
MARGIN = 1.05  # speculation that promises to be no more times faster is left alone
FORGET = 1 / 256  # weight of what was seen last, once enough was seen
REMEMBERED = 9  # times of one kind, of which the median counts


@dataclass(frozen=True, slots=True)
class Round:
    """What a round is to be.

    Attributes:
        positions: the most that are read, one certain and the others drafted. One at full depth
            is plain decoding.
        steps: core steps of a draft.
        confidence: drafting ends at a draft that is less likely than this; None: nobody asks how
            likely drafts are, nor how long they take.
        probes: ascending depths at which to decode, only to see what a draft would have been.
    """

    positions: int
    steps: int
    confidence: float | None = None
    probes: tuple[int, ...] = ()


@dataclass(slots=True)
class RoundStats:
    """How a round went. Times are in seconds and leave out what probes took.

    Attributes:
        drafts: for positions whose next token is known: the steps of a draft, how likely it was
            (-1 if it ends the text, so that nothing is drafted after it), and whether it was right.
        tokens: how many came of it, and whether the last ended the text.
        positions: how many were read.
        undecoded: how many of them no draft was asked of.
        alone: core steps taken one position at a time; `thinking` is their time, `around` that of
            the rest of drafting.
        together: core steps taken by several positions at once, summed over the positions;
            `finishing` is their time and that of decoding.
    """

    drafts: list[tuple[int, float, bool]] = field(default_factory=list)
    tokens: int = 0
    ended: bool = False
    positions: int = 0
    undecoded: int = 0
    alone: int = 0
    together: int = 0
    thinking: float = 0.0
    around: float = 0.0
    finishing: float = 0.0


class DraftSchedule(Protocol):
    """Says what rounds are to be."""

    def next_round(self) -> Round:
        """Return the round to be."""

    def learn(self, stats: RoundStats) -> None:
        """Take note of how a round went."""

    @property
    def choice(self) -> tuple[int, int]:
        """Positions, and steps of a draft, that it has settled on for now."""


class FixedSchedule:
    """Every round alike."""

    def __init__(self, positions: int, steps: int) -> None:
        self.choice = (positions, steps)
        self._round = Round(positions, steps)

    def next_round(self) -> Round:
        """Return the round to be."""
        return self._round

    def learn(self, stats: RoundStats) -> None:
        """There is nothing to learn."""


class AutoSchedule:
    """Rounds as earlier ones suggest. Thread-safe: generations may share it.

    Let a draft be followed by another with chance q, and be so and right with chance s. Of a round
    of at most K positions, 1 + q + ... + q^(K-1) are then read, and 1 + s + ... + s^(K-1) stay.
    """

    def __init__(self, max_steps: int) -> None:
        depths = {max(1, round(part * max_steps)) for part in PARTS}
        #: Steps that drafts may have, ascending; none where the full depth is one step.
        self.depths = tuple(sorted(depth for depth in depths if depth < max_steps))
        self._plain = self._speculative = self._best = Round(1, max_steps, 0.0)
        self._lock = threading.Lock()
        self._rounds = self._reports = 0
        self._calm = 0  # rounds since speculation last paid
        self._barred = 0  # until so many rounds were
        self._whole: deque[float] = deque(maxlen=REMEMBERED)  # seconds of a plain round
        # For every depth and each of LEAST, q and s; the start counts as two drafts seen. They are
        # those of tokens that do not end the text, whose part is kept once for all depths.
        self._followed = [[0.75] * len(LEAST) for _ in self.depths]
        self._right = [[0.6] * len(LEAST) for _ in self.depths]
        self._seen = [2] * len(self.depths)
        self._gain = 2.0  # how much faster than plain decoding the last rounds were
        self._ends = 0.0  # part of the tokens that end a text
        self._depth = 0.0  # steps that a position takes in the end
        self._step: deque[float] = deque(maxlen=REMEMBERED)  # seconds of a step on one position
        self._around: deque[float] = deque(maxlen=REMEMBERED)  # seconds of a draft but its steps
        self._together = Line()

    @property
    def choice(self) -> tuple[int, int]:
        """Positions, and steps of a draft, that promise most; (1, full depth): plain decoding."""
        best = self._best
        return best.positions, best.steps

    def next_round(self) -> Round:
        """Return the round to be."""
        with self._lock:
            number, self._rounds = self._rounds, self._rounds + 1
            if not self._reports:
                return replace(self._plain, probes=self.depths)
            if number % (CHOOSE_EVERY * self._quiet) == 0 or number < CHOOSE_EVERY:
                self._choose()
            if number % TRY_EVERY == TRY_EVERY // 2 or number <= COMPARE:
                return self._plain
            plain = self._best is self._plain
            self._calm = self._calm + 1 if plain else 0
            if number % (TRY_EVERY * self._quiet) == 0:
                return replace(self._speculative, probes=self.depths)
            unsure = min(self._seen) < ENOUGH or plain
            if unsure and number % (PROBE_EVERY * self._quiet) == 0:
                return replace(self._best, probes=self.depths)
            return self._best

    @property
    def _quiet(self) -> int:
        """How many times as seldom it looks around."""
        return min(1 + self._calm // CALM, QUIET)

    def learn(self, stats: RoundStats) -> None:
        """Take note of how a round went."""
        with self._lock:
            for steps, confidence, right in stats.drafts:
                if steps in self.depths:
                    self._note_draft(self.depths.index(steps), confidence, right)
            weight = max(1 / (self._reports + 2), FORGET) * stats.tokens
            self._ends += min(weight, 1) * (stats.ended / stats.tokens - self._ends)
            self._note_times(stats)

    def _note_draft(self, index: int, confidence: float, right: bool) -> None:
        if right and confidence < 0:
            return  # the text ends; `_ends` knows
        self._seen[index] += 1
        # Plain decoding sees few drafts, and should notice when they get better.
        floor = 8 * FORGET * self._quiet if self._best is self._plain else FORGET
        weight = max(1 / self._seen[index], floor)
        followed, rights = self._followed[index], self._right[index]
        for number, least in enumerate(LEAST):
            sure = confidence >= least
            followed[number] += weight * (sure - followed[number])
            rights[number] += weight * ((sure and right) - rights[number])

    def _note_times(self, stats: RoundStats) -> None:
        self._reports += 1
        count = stats.positions
        depth = (stats.alone + stats.together) / count
        self._depth += max(1 / self._reports, FORGET) * (depth - self._depth)
        step = max(stats.thinking / stats.alone, 1e-9)  # a clock may be coarse
        self._step.append(step)
        # Decoding counts as a step where its time is not known.
        self._around.append((stats.around + stats.undecoded * step) / count)
        if stats.together and count > 1:
            seconds = stats.finishing / (stats.together / count + 1)
            self._together.note(count, seconds / median(self._step))
        took = max(stats.thinking + stats.around + stats.finishing, 1e-9)
        if count == 1 and not stats.together and not stats.drafts:
            self._whole.append(took)
        if stats.together and self._best is not self._plain:
            self._gain += (stats.tokens * self._plain_seconds() / took - self._gain) / TRY_EVERY
            if self._gain < 1:  # what was learned is true no more: let what comes later count
                self._seen, self._gain = [2] * len(self.depths), 2.0
                self._best, self._barred = self._plain, self._rounds + BARRED

    def _plain_seconds(self) -> float:
        """Seconds of a token without speculation."""
        if self._whole:
            return median(self._whole)
        return median(self._around) + self._depth * median(self._step)

    def _choose(self) -> None:
        """Look for the round that promises the most tokens a second."""
        powers = np.arange(float(MAX_POSITIONS))
        goes_on = 1 - self._ends
        read = np.cumsum((goes_on * np.array(self._followed)[..., None]) ** powers, -1)
        stay = np.cumsum((goes_on * np.array(self._right)[..., None]) ** powers, -1)
        # Times are in core steps on one position.
        around = median(self._around) / median(self._step)
        alone = np.minimum(self.depths, self._depth)[:, None, None]
        together = (self._depth - alone + 1) * self._together.at(read)
        speed = (stay / (read * (around + alone) + together))[..., 1:]
        depth, least, last = np.unravel_index(speed.argmax(), speed.shape)
        self._speculative = Round(int(last) + 2, self.depths[depth], LEAST[least])
        plain = median(self._step) / self._plain_seconds()
        pays = speed[depth, least, last] > MARGIN * plain and self._rounds > self._barred
        self._best = self._speculative if pays else self._plain


class Line:
    """How long a step takes on k positions, in steps on one: a straight line through what was seen.

    It is held at 1 for k = 1, and as long as nothing was seen, at 4 for k = 16, as with large
    models. Points seen later count more than earlier ones.
    """

    def __init__(self) -> None:
        self._held = 4 * self._sums(1, 1.0) + 0.02 * self._sums(16, 4.0)
        self._seen = np.zeros(5)
        self._base, self._slope = 0.8, 0.2

    @staticmethod
    def _sums(count: float, value: float) -> npt.NDArray[np.float64]:
        return np.array([1, count, count * count, value, count * value])

    def note(self, count: int, value: float) -> None:
        """Take note of a measurement; one that is far off counts as twice what was expected."""
        value = min(value, 2 * (self._base + self._slope * count))
        self._seen += self._sums(count, value) - self._seen / 32
        n, x, xx, y, xy = self._held + self._seen
        self._slope = max(0.0, (n * xy - x * y) / (n * xx - x * x))
        self._base = (y - self._slope * x) / n

    def at(self, counts: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Return the line's values; no step takes less than on one position."""
        return np.maximum(1.0, self._base + self._slope * np.asarray(counts))


class Schedules(Generic[S]):
    """What a model has learned about speculation, for the settings used last. Thread-safe."""

    KEPT = 16

    def __init__(self, make: Callable[[int], S]) -> None:
        """Let `make` return a fresh schedule for so many steps."""
        self._make = make
        self._kept: dict[object, S] = {}
        self._lock = threading.Lock()

    def of(self, settings: object, max_steps: int) -> S:
        """Return the schedule of these settings (hashable), a fresh one where there is none."""
        with self._lock:
            found = self._kept.pop(settings, None) or self._make(max_steps)
            self._kept[settings] = found  # the last one now
            if len(self._kept) > self.KEPT:
                del self._kept[next(iter(self._kept))]
            return found
