"""How deep to think: what a user asks for, and the controller that stops a loop of core steps."""

import dataclasses
import math
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Protocol

import numpy as np

from rdlite.config import ModelConfig, Recurrence, check_integer, check_number
from rdlite.errors import InputError
from rdlite.exit_defaults import ExitDefaults
from rdlite.exit_rules import RULES, Bools, ExitRule, Step, rules_for
from rdlite.fewer_tokens import Allowed, FewerTokens

PROMPTS = ("mean", "each")


@dataclass(frozen=True, slots=True)
class Depth:
    """How often the core runs on each position.

    Attributes:
        max_steps: the most core steps; None is the model's own default. 1 to 1024.
        min_steps: the fewest, after which `exit` is first asked. 1 to 1024.
        exit: the rule that says when to stop before `max_steps`: latent-diff, acceleration,
            cosine, kl, gated-kl, minp-kl, entropy-diff, argmax-stability, or gate, where the model
            has one; None: never.
        threshold: the rule's; None is what `rdlite tune` found for the model, or else the rule's
            own default.
        check_every: steps from one question to the next. 1 to 1024.
        prompt: how the rule reads a prompt. "mean", the published way: the positions of a chunk
            stop together, when their mean value (the last position's, where a rule looks at
            predictions; the least, of gate) says so. "each": every position stops at its own step,
            the one at which it would stop if it were read alone, as new tokens are; so the result
            does not depend on how the prompt is cut (with `Cache(share=None)`). For rules that
            look at no predictions: latent-diff, acceleration, cosine and gate.

    Raises InputError for numbers out of bounds, unknown rules and unknown ways to read a prompt.
    """

    max_steps: int | None = None
    min_steps: int = 1
    exit: str | None = None
    threshold: float | None = None
    check_every: int = 1
    prompt: str = "mean"

    def __post_init__(self) -> None:
        """Check the bounds."""
        if self.max_steps is not None:
            check_integer("max_steps", self.max_steps, 1, 1024)
        check_integer("min_steps", self.min_steps, 1, self.max_steps or 1024)
        check_integer("check_every", self.check_every, 1, 1024)
        if self.prompt not in PROMPTS:
            raise InputError(f"prompt must be one of {', '.join(PROMPTS)}, got {self.prompt!r:.40}")
        if self.exit is None:
            if self.threshold is not None:
                raise InputError("a threshold needs an exit rule; give exit=... too")
            if self.prompt == "each":
                raise InputError("prompt='each' needs an exit rule; give exit=... too")
            return
        if self.exit not in RULES:
            near = get_close_matches(str(self.exit), RULES, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise InputError(f"exit must be one of {', '.join(RULES)}, got {self.exit!r:.40}{hint}")
        kind = RULES[self.exit]
        if self.threshold is not None:
            check_number(f"the threshold of {self.exit}", self.threshold, kind.low, kind.high)
        if self.prompt == "each" and kind.decodes:
            latent = ", ".join(name for name, kind in RULES.items() if not kind.decodes)
            raise InputError(
                f"prompt='each' needs a rule that looks at states ({latent}), not {self.exit}, "
                "which looks at the last position's predictions; or read with prompt='mean'"
            )


def default_depth(recurrence: Recurrence, defaults: ExitDefaults | None) -> Depth:
    """Return how deep a model thinks when it is not told."""
    if defaults is not None:
        threshold = defaults.thresholds[defaults.rule]
        return Depth(defaults.steps, exit=defaults.rule, threshold=threshold)
    published = recurrence.exit_threshold
    if published is not None and published < 1:
        return Depth(exit="gate", threshold=published)
    return Depth()


def with_threshold(depth: Depth, config: ModelConfig, defaults: ExitDefaults | None) -> Depth:
    """Return `depth`, with the model's own threshold if it has a rule and no threshold.

    Raises InputError for a rule that needs a gate where the model has none.
    """
    if depth.exit is None:
        return depth
    rules, published = rules_for(config), config.recurrence.exit_threshold
    if depth.exit not in rules:
        raise InputError(
            f"exit {depth.exit} needs a model with an exit gate, as Ouro has; for this one there "
            f"are {', '.join(rules)}"
        )
    own = None if defaults is None else defaults.thresholds.get(depth.exit)
    if own is None and depth.exit == "gate" and published != 1:
        own = published  # one that lets nothing leave is none
    if depth.threshold is not None or own is None:
        return depth
    return dataclasses.replace(depth, threshold=own)


def changed_depth(
    default: Depth,
    max_steps: int | None = None,
    min_steps: int | None = None,
    exit: str | None = None,
    threshold: float | None = None,
    check_every: int | None = None,
    prompt: str | None = None,
) -> Depth:
    """Return `default` with what is given in place of its own; the exit rule "off" is none.

    Another rule brings its own threshold, unless one is given. Raises InputError as Depth does.
    """
    rule = default.exit if exit is None else None if exit == "off" else exit
    if threshold is None and rule == default.exit:
        threshold = default.threshold
    return Depth(
        default.max_steps if max_steps is None else max_steps,
        default.min_steps if min_steps is None else min_steps,
        rule,
        threshold,
        default.check_every if check_every is None else check_every,
        (default.prompt if rule else "mean") if prompt is None else prompt,
    )


class Thinking(Step, Protocol):
    """Positions that the core runs on."""

    def step(self, number: int) -> None:
        """Run core step `number`, counted from 0."""


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
            self._rule = kind.make(threshold, vocab_size)
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
        if self._rule is not None and self.decodes:
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

    def look(self, lane: Step, steps: int, first: int = 0, together: bool = False) -> Bools:
        """Ask the rule after a step; returns which positions may leave the loop, bool [S].

        Args:
            lane: S positions, the rows from `first` on.
            steps: taken so far.
            first: row of the first of them.
            together: they leave as one, row `first`.
        """
        rule, size = self._rule, 1 if together else lane.change.shape[1]
        rows = slice(first, first + size)
        settled = self.settled[rows]
        due = steps >= self._min_steps and (steps - self._min_steps) % self._every == 0
        if rule is None or not (due or rule.every_step):
            return settled
        if self._allowed is not None and (ids := self._allowed()) is not None:
            lane = FewerTokens(lane, ids)
        values = rule.measure(lane, steps, first)
        if due:
            if together and len(values) > 1:
                values = rule.combine(values)
            self._values[rows] = values
            hits = self._hits[rows]
            hits += 1
            hits *= rule.content(values)
            np.greater_equal(hits, rule.patience, out=settled)
        return settled

    def think(self, lane: Thinking, most: int | None = None, first: int = 0, done: int = 0) -> int:
        """Run core steps on the lane, whose positions stop together; returns how deep they are.

        Args:
            lane: the positions.
            most: stop after so many, though the depth would allow more.
            first: row of the first position, by which they are known afterwards.
            done: steps that were taken already; the positions have not settled.
        """
        if not done:
            self.start(first, lane.change.shape[1])
        end = self.max_steps if most is None else min(most, self.max_steps)
        for number in range(done, end):
            lane.step(number)
            if self._rule is not None and self.look(lane, number + 1, first, together=True)[0]:
                return number + 1
        return end


class Recorder(Controller):
    """A Controller that keeps how far each step moved the state of the last position."""

    def __init__(self, depth: Depth, max_steps: int, vocab_size: int) -> None:
        super().__init__(depth, max_steps, vocab_size)
        #: By step, of the position that was read last.
        self.changes: list[float] = []
        self._rows = 0

    def start(self, first: int = 0, size: int = 1) -> None:
        """Forget what was seen of `size` rows from `first` on."""
        super().start(first, size)
        self._rows = first + size
        self.changes.clear()

    def think(self, lane: Thinking, most: int | None = None, first: int = 0, done: int = 0) -> int:
        """Run core steps on the lane, one at a time, to see each."""
        end = self.max_steps if most is None else min(most, self.max_steps)
        while done < end:
            done = super().think(lane, done + 1, first, done)
            self.saw(lane, done, first)
            if self.settled[first]:
                break
        return done

    def look(self, lane: Step, steps: int, first: int = 0, together: bool = False) -> Bools:
        """Ask the rule after a step; where positions leave one by one, see the last row's."""
        settled = super().look(lane, steps, first, together)
        if not together and first + lane.change.shape[1] == self._rows:
            self.saw(lane, steps, self._rows - 1, apart=True)
        return settled

    def saw(self, lane: Step, steps: int, row: int, apart: bool = False) -> None:
        """Keep what a step did.

        Args:
            lane: its last position is the last of those that are read together.
            steps: taken so far.
            row: of which the rule has said what it says of that position.
            apart: the positions leave one by one.
        """
        self.changes.append(float(lane.change[0, -1]))
