"""How deep to think: what a user asks for, and the controller that stops a loop of core steps."""

import math
from collections.abc import Callable
from typing import Protocol

import numpy as np

from rdlite.config.depth import Depth
from rdlite.config.exit_rules import RULES
from rdlite.exit.fewer_tokens import Allowed, FewerTokens
from rdlite.exit.protocols import Bools, ExitRule, Step
from rdlite.exit.registry import make_rule


class CoreRun(Step, Protocol):
    """Positions that the core runs on."""

    def step(self, number: int) -> None:
        """Run core step `number`, counted from 0."""

    def take_steps(self, first: int, end: int, settled: Callable[[int], bool] | None = None) -> int:
        """Run core steps from number `first` to `end`, or until they settle; returns how many.

        `settled` is told how many were taken; it must decode nothing.
        """


class Controller:
    """Runs core steps on a group of positions until its rule, or the depth, says stop.

    Positions are rows of the group, 0 on. Not thread-safe: each generation has its own.
    """

    def __init__(self, depth: Depth, max_steps: int, vocab_size: int) -> None:
        self.max_steps = max_steps
        #: Whether the positions of a prompt stop each at its own step.
        self.each = depth.prompt == "each"
        #: Whether its rule decodes what it looks at.
        self.decodes = False
        self._min_steps = min(depth.min_steps, max_steps)
        self._every = depth.check_every
        self._rule: ExitRule | None = None
        self._allowed: Allowed | None = None
        if depth.exit is not None:
            kind = RULES[depth.exit]
            threshold = kind.default if depth.threshold is None else depth.threshold
            self._rule = make_rule(depth.exit, threshold, vocab_size)
            self.decodes = kind.decodes
        #: By row, whether the rule was content; what it said last; how often in a row it was.
        self.settled = np.zeros(1, np.bool_)
        self._values = np.full(1, np.inf, np.float32)
        self._hits = np.zeros(1, np.int64)

    def judge_only(self, allowed: Allowed) -> None:
        """Show a rule that looks at predictions only those of some tokens.

        Args:
            allowed: returns their ids, or None: all of them.
        """
        if self.decodes:
            self._allowed = allowed

    @property
    def has_rule(self) -> bool:
        """Whether anything but the depth ends the loop."""
        return self._rule is not None

    @property
    def value(self) -> float | None:
        """What the rule said last of positions that stop together."""
        return self.value_of(0)

    def value_of(self, row: int) -> float | None:
        """What the rule said last of a row; None without a rule, or while it has nothing to say."""
        value = float(self._values[row])
        return value if math.isfinite(value) else None

    def start(self, first: int = 0, size: int = 1) -> None:
        """Forget what was seen of `size` rows from `first` on."""
        end = first + size
        if len(self.settled) < end:
            self.settled, self._values, self._hits = (
                np.concatenate((old, np.zeros(end - len(old), old.dtype)))
                for old in (self.settled, self._values, self._hits)
            )
        self.settled[first:end] = False
        self._values[first:end] = np.inf
        self._hits[first:end] = 0
        if self._rule is not None:
            self._rule.start(first, size)

    def check_exit(self, runner: Step, steps: int, first: int = 0, together: bool = False) -> Bools:
        """Ask the rule after a step; returns which positions may leave the loop, bool [S].

        Args:
            runner: S positions, the rows from `first` on.
            steps: taken so far.
            first: row of the first of them.
            together: they leave as one, row `first`.
        """
        rule, size = self._rule, 1 if together else runner.size
        rows = slice(first, first + size)
        settled = self.settled[rows]
        due = steps >= self._min_steps and (steps - self._min_steps) % self._every == 0
        if rule is None or not (due or rule.every_step):
            return settled
        if self._allowed is not None and (ids := self._allowed()) is not None:
            runner = FewerTokens(runner, ids)
        values = rule.measure(runner, steps, first)
        if due and size == 1:  # numbers take a third of the time that arrays of one take
            value = (rule.combine(values) if len(values) > 1 else values)[0]
            self._values[first] = value
            count = self._hits[first] + 1 if rule.is_met(value) else 0
            self._hits[first] = count
            settled[0] = count >= rule.patience
        elif due:
            self._values[rows] = values
            hits = self._hits[rows]
            hits += 1
            hits *= rule.is_met(values)
            np.greater_equal(hits, rule.patience, out=settled)
        return settled

    def run_steps(
        self, runner: CoreRun, most: int | None = None, first: int = 0, done: int = 0
    ) -> int:
        """Run core steps on the runner, whose positions stop together; returns how deep they are.

        Args:
            runner: the positions.
            most: stop after so many, though the depth would allow more.
            first: row of the first position, by which they are known afterwards.
            done: steps that were taken already; the positions have not settled.
        """
        if not done:
            self.start(first, runner.size)
        end = self.max_steps if most is None else min(most, self.max_steps)
        if self._rule is None:
            return runner.take_steps(done, end)

        def settled(steps: int) -> bool:
            return bool(self.check_exit(runner, steps, first, together=True)[0])

        if not self.decodes:
            return runner.take_steps(done, end, settled)
        for number in range(done, end):
            runner.step(number)
            if settled(number + 1):
                return number + 1
        return end
