"""How deep to think: what a user asks for, and the controller that stops a loop of core steps."""

import math
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Protocol

from rdlite.config import check_integer, check_number
from rdlite.errors import InputError
from rdlite.exit_rules import RULES, ExitRule, Step


@dataclass(frozen=True, slots=True)
class Depth:
    """How often the core runs on each position.

    Attributes:
        max_steps: the most core steps; None is the model's own default. 1 to 1024.
        min_steps: the fewest, after which `exit` is first asked. 1 to 1024.
        exit: the rule that says when to stop before `max_steps`: latent-diff, acceleration,
            cosine, kl, gated-kl, minp-kl, entropy-diff or argmax-stability; None: never.
        threshold: the rule's; None is the rule's own default.
        check_every: steps from one question to the next. 1 to 1024.

    Raises InputError for numbers out of bounds and unknown rules.
    """

    max_steps: int | None = None
    min_steps: int = 1
    exit: str | None = None
    threshold: float | None = None
    check_every: int = 1

    def __post_init__(self) -> None:
        """Check the bounds."""
        if self.max_steps is not None:
            check_integer("max_steps", self.max_steps, 1, 1024)
        check_integer("min_steps", self.min_steps, 1, self.max_steps or 1024)
        check_integer("check_every", self.check_every, 1, 1024)
        if self.exit is None:
            if self.threshold is not None:
                raise InputError("a threshold needs an exit rule; give exit=... too")
            return
        if self.exit not in RULES:
            near = get_close_matches(str(self.exit), RULES, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise InputError(f"exit must be one of {', '.join(RULES)}, got {self.exit!r:.40}{hint}")
        kind = RULES[self.exit]
        if self.threshold is not None:
            check_number(f"the threshold of {self.exit}", self.threshold, kind.low, kind.high)


class Thinking(Step, Protocol):
    """Positions that the core runs on."""

    def step(self, number: int) -> None:
        """Run core step `number`, counted from 0."""


class Controller:
    """Runs core steps on a group of positions until its rule, or the depth, says stop.

    Not thread-safe: each generation has its own.
    """

    def __init__(self, depth: Depth, max_steps: int, vocab_size: int) -> None:
        self.max_steps = max_steps
        self._min_steps = min(depth.min_steps, max_steps)
        self._every = depth.check_every
        self._rule: ExitRule | None = None
        #: What the rule said last; None without a rule, or while it has nothing to say.
        self.value: float | None = None
        #: Whether the rule was content.
        self.settled = False
        if depth.exit is not None:
            kind = RULES[depth.exit]
            threshold = kind.default if depth.threshold is None else depth.threshold
            self._rule = kind.make(threshold, vocab_size)

    @property
    def has_rule(self) -> bool:
        """Whether anything but the depth ends the loop."""
        return self._rule is not None

    @property
    def decodes(self) -> bool:
        """Whether its rule decodes what it looks at."""
        return self._rule is not None and self._rule.decodes

    def start(self) -> None:
        """Forget the positions looked at before."""
        self.settled = False
        if self._rule is not None:
            self._rule.start()

    def look(self, lane: Step, steps: int) -> bool:
        """Ask the rule after a step; true if the positions may leave the loop."""
        rule = self._rule
        due = steps >= self._min_steps and (steps - self._min_steps) % self._every == 0
        if rule is not None and due:
            value = rule.look(lane, steps)
            self.value = value if math.isfinite(value) else None
            self.settled = rule.settled(value)
        return self.settled

    def think(self, lane: Thinking, most: int | None = None) -> int:
        """Run core steps on the lane, from the first on; returns how many.

        Args:
            lane: the positions.
            most: stop after so many, though the depth would allow more.
        """
        self.start()
        end = self.max_steps if most is None else min(most, self.max_steps)
        for number in range(end):
            lane.step(number)
            if self._rule is not None and self.look(lane, number + 1):
                return number + 1
        return end
