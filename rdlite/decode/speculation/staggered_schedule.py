"""Choosing how to stagger: from what calls cost, and how often drafts turn out right."""

import math
import threading
from collections import deque
from statistics import median

from rdlite.config.speculation import MAX_POSITIONS
from rdlite.decode.speculation.draft_schedule import (
    CHOOSE_EVERY,
    ENOUGH,
    FORGET,
    MARGIN,
    PARTS,
    PROBE_EVERY,
    REMEMBERED,
    TRY_EVERY,
    Line,
)

#: Of calls of several positions, one in so many counts: no part of the depths that drafts have.
TIMED = 7
#: Tokens to decode plainly at first.
KNOWN = 4
#: Tokens to try for, where it does not seem to pay.
TRIAL = 8


class FixedStagger:
    """Always the same; nothing is learned.

    Attributes:
        choice: the most positions in flight, and the steps after which one says what may follow;
            it may change at any time.
        timed: whether it wants to know how long things take.
    """

    timed = False

    def __init__(self, positions: int, steps: int) -> None:
        self.choice = (positions, steps)

    def begin(self) -> tuple[int, ...]:
        """A position begins whose token is certain: choose for those after it.

        Returns:
            Depths at which to decode it, only to see what drafts would have been.
        """
        return ()

    def note_draft(self, steps: int, right: bool) -> None:
        """A draft after so many steps was right or wrong."""

    def note_end(self, steps: int, ended: bool) -> None:
        """A position is done after so many steps, and ended the text or not."""

    def note_plain(self, seconds: float) -> None:
        """A core step of plain decoding took so long."""

    def note_step(self, rows: int, seconds: float) -> None:
        """A core step on so many positions in flight took so long."""

    def note_around(self, seconds: float) -> None:
        """The rest of a token took so long, plainly."""

    def note_token(self, steps: int, seconds: float) -> None:
        """A token took so long, with drafts after so many steps."""


class AutoStagger(FixedStagger):
    """As what was seen suggests. Thread-safe: generations may share it.

    Let a position take D steps, its draft come after d of them and be right with chance s. Then
    n = D / d positions are in flight, and a token takes d calls of n positions. A wrong draft, or
    the end of the text, costs the D - d calls in which fewer are in flight. That is what to expect
    until enough tokens were timed.
    """

    timed = True

    def __init__(self, max_steps: int) -> None:
        depths = {max(1, round(part * max_steps)) for part in PARTS}
        #: Steps that drafts may have, ascending; none where the full depth is one step.
        self.depths = tuple(sorted(depth for depth in depths if depth < max_steps))
        super().__init__(1, max_steps)
        self._plain = self.choice  # one position at full depth
        self._lock = threading.Lock()
        self._begun = self._done = self._calls = 0
        self._trial = 0  # tokens that are left of what is tried though it may not pay
        self._right = dict.fromkeys(self.depths, 0.6)
        self._seen = dict.fromkeys(self.depths, 2)
        #: Tokens with drafts of this depth, and the mean of the seconds that one took.
        self._took = dict.fromkeys(self.depths, (0, 0.0))
        self._ends = 0.0  # part of the tokens that end a text
        self._depth = float(max_steps)  # steps that a position takes in the end
        self._step: deque[float] = deque(maxlen=REMEMBERED)  # seconds of a step, plainly
        self._around: deque[float] = deque(maxlen=REMEMBERED)
        self._together = Line()

    def begin(self) -> tuple[int, ...]:
        """Choose, and say which depths to look at."""
        with self._lock:
            number, self._begun = self._begun, self._begun + 1
            turn = number % TRY_EVERY
            if turn == 1 or len(self._step) < KNOWN:
                self.choice = self._plain  # to know what it takes
            elif turn % CHOOSE_EVERY == 2:
                self._choose(forced=turn == 2)
                self._trial = TRIAL if turn == 2 else 0
            unsure = min(self._seen.values()) < ENOUGH
            often = PROBE_EVERY if unsure else TRY_EVERY
            return self.depths if number % often == 0 else ()

    def note_draft(self, steps: int, right: bool) -> None:
        """Take note of a draft."""
        with self._lock:
            if steps in self._seen:
                self._seen[steps] += 1
                # Plain decoding sees few drafts, and should notice when they get better.
                least = 8 * FORGET if self.choice == self._plain else FORGET
                weight = max(1 / self._seen[steps], least)
                self._right[steps] += weight * (right - self._right[steps])

    def note_end(self, steps: int, ended: bool) -> None:
        """Take note of a position that is done."""
        with self._lock:
            self._done += 1
            weight = max(1 / self._done, FORGET)
            self._depth += weight * (steps - self._depth)
            self._ends += max(1 / (self._done + 2), FORGET) * (ended - self._ends)

    def note_plain(self, seconds: float) -> None:
        """Take note of the time of a step, plainly."""
        with self._lock:
            self._step.append(max(seconds, 1e-9))  # a clock may be coarse

    def note_step(self, rows: int, seconds: float) -> None:
        """Take note of the time of a call."""
        self._calls += 1
        if self._calls % TIMED == 0 and self._step:
            with self._lock:
                self._together.note(rows, seconds / median(self._step))

    def note_around(self, seconds: float) -> None:
        """Take note of the rest of a token."""
        with self._lock:
            self._around.append(seconds)

    def note_token(self, steps: int, seconds: float) -> None:
        """Take note of a token."""
        with self._lock:
            if steps in self._took:
                seen, mean = self._took[steps]
                weight = max(1 / (seen + 1), 4 * FORGET)
                self._took[steps] = seen + 1, mean + weight * (seconds - mean)
                self._trial -= 1
                if seen + 1 == ENOUGH or self._trial == 0:
                    self._choose(forced=False)

    def _choose(self, forced: bool) -> None:
        """Look for what takes the least time a token, in steps on one position."""
        around = median(self._around) / median(self._step)
        best, least = self._plain, math.inf
        for depth in self.depths:
            if depth >= self._depth:
                continue
            flying = min(MAX_POSITIONS, math.ceil(self._depth / depth))
            call, filling = self._together.at([flying, (1 + flying) / 2]).tolist()
            lost = 1 - self._right[depth] * (1 - self._ends)
            each = max(depth, self._depth / flying)
            takes = 1.5 * around + each * call + lost * (self._depth - depth) * filling
            seen, mean = self._took[depth]
            if seen >= ENOUGH:  # what it takes is known
                takes = mean / median(self._step)
            if takes < least:
                best, least = (flying, depth), takes
        pays = least * MARGIN < around + self._depth
        self.choice = best if pays or forced else self._plain
