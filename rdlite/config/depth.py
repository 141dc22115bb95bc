"""How deep to think, as a user says it."""

import dataclasses
from dataclasses import dataclass
from difflib import get_close_matches

from rdlite.config.exit_defaults import ExitDefaults
from rdlite.config.exit_rules import RULES, rules_for
from rdlite.config.model import ModelConfig, Recurrence
from rdlite.errors import InputError
from rdlite.utils.checks import check_integer, check_number

PROMPTS = ("mean", "each")


@dataclass(frozen=True, slots=True)
class Depth:
    """How many core steps to take for each position.

    Attributes:
        max_steps: the maximum, 1 to 1024. None: the model's default.
        min_steps: the minimum, 1 to 1024; the exit rule is first checked after it.
        exit: the rule that stops before `max_steps`: latent-diff, acceleration, cosine, kl,
            gated-kl, minp-kl, entropy-diff, argmax-stability, or gate (for models with an exit
            gate). None: never stop early.
        threshold: the threshold of the rule. None: what `rdlite tune` found for the model, or the
            rule's own default.
        check_every: steps between checks of the rule, 1 to 1024.
        prompt: how the positions of a prompt stop.
            "mean", the published way: the positions of a chunk stop together, by the mean of their
            values (rules that look at predictions use the last position, gate the least value).
            "each": each position stops at its own step, as new tokens do. So the result does not
            depend on how the prompt is cut (with `Cache(share=None)`). Only for rules that do not
            look at predictions: latent-diff, acceleration, cosine and gate.

    Raises InputError for numbers out of range, unknown rules and unknown values of `prompt`.
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

    def words(self) -> str:
        """Say it in a line, for people."""
        steps = "the model's steps" if self.max_steps is None else f"{self.max_steps} steps"
        parts = [steps]
        if self.exit is not None:
            at = "" if self.threshold is None else f" at {self.threshold:g}"
            parts.append(f"exit rule {self.exit}{at}")
        if self.min_steps != 1:
            parts.append(f"at least {self.min_steps}")
        if self.check_every != 1:
            parts.append(f"checked every {self.check_every}")
        if self.prompt != "mean":
            parts.append("each position of the prompt at its own step")
        return ", ".join(parts)


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
