"""Chooses exit thresholds: what every rule would save and lose, from one run at full depth.

Texts are read once, to the full depth, and at every step it is written down what each rule measures
and which token is the likeliest. From that follows for any threshold where a position would have
left the loop, and whether it would have said the same.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rdlite.api.model import Model
from rdlite.config.depth import Depth
from rdlite.config.exit_rules import RULES
from rdlite.errors import InputError
from rdlite.exit.protocols import ExitRule
from rdlite.exit.registry import make_rule
from rdlite.measure.exit_record import Floats, Integers, Sample, Trace

MOST_THRESHOLDS = 64


@dataclass(frozen=True)
class Point:
    """What a rule does at one threshold.

    Attributes:
        threshold: of the rule.
        steps: core steps a position, mean.
        looks: passes of the coda a position that only the rule needs, mean.
        agreement: share of the answers that are those of full depth.
    """

    threshold: float
    steps: float
    looks: float
    agreement: float


@dataclass(frozen=True)
class Curve:
    """What a rule does at every threshold, from the strictest on; `chosen` is one of the points."""

    rule: str
    points: tuple[Point, ...]
    chosen: Point | None


def exits(rule: ExitRule, values: Floats) -> Integers:
    """Return after how many steps each position leaves: int64 [N], from values [N, T]."""
    content = rule.is_met(values)
    settled = content.copy()
    for back in range(1, rule.patience):
        settled[:, back:] &= content[:, :-back]
        settled[:, :back] = False
    first: Integers = np.where(settled.any(axis=1), settled.argmax(axis=1) + 1, values.shape[1])
    return first


def curve(trace: Trace, name: str, loss: float) -> Curve:
    """Return what a rule does at its thresholds, and the loosest that loses no more than `loss`.

    Args:
        trace: of `record`.
        name: a key of RULES.
        loss: share of the answers that may differ from those of full depth.
    """
    kind, values, tops = RULES[name], trace.values[name], trace.tops
    rows, points = np.arange(len(values)), []
    for threshold in _thresholds(name, values):
        leave = exits(make_rule(name, threshold, 1), values)
        same = tops[rows, leave - 1] == tops[:, -1]
        wrong = len(np.unique(trace.answers[~same]))
        looked = np.isfinite(values) & (np.arange(values.shape[1]) < leave[:, None])
        points.append(
            Point(
                threshold=threshold,
                steps=float(leave.mean()),
                # The last look decodes what is needed anyway.
                looks=float(looked.sum(axis=1).mean() - 1) if kind.decodes else 0.0,
                agreement=1 - wrong / len(np.unique(trace.answers)),
            )
        )
    chosen = None
    for point in points:  # from the strictest on; a lucky loose one does not count
        if 1 - point.agreement > loss:
            break
        chosen = point
    return Curve(name, tuple(points), chosen)


def _thresholds(name: str, values: Floats) -> Iterator[float]:
    """Thresholds from the strictest to the loosest, to three digits, over what was measured."""
    kind = RULES[name]
    if name == "argmax-stability":
        for count in range(min(values.shape[1], int(kind.high)), 0, -1):
            yield float(count)
        return
    seen = values[np.isfinite(values) & (values > 0)]
    if not seen.size:
        return
    if name == "gate":  # the chance to stay is what shrinks
        seen = 1 - seen[seen < 1]
    low, high = np.quantile(seen, (0.01, 0.99))
    for value in np.geomspace(low, high, MOST_THRESHOLDS):
        threshold = 1 - value if name == "gate" else value
        yield float(f"{min(max(threshold, kind.low), kind.high):.3g}")


def settle(
    model: Model, samples: Sequence[Sample], found: Curve, steps: int, loss: float, seed: int = 0
) -> tuple[Curve, float]:
    """Let a rule really answer, and make its threshold stricter until the loss is kept.

    A trace holds what positions do while all others go to the full depth. In a real answer, prompt
    and past tokens have left the loop early too.

    Args:
        model: any.
        samples: only those with a prompt are answered.
        found: of `curve`, with a chosen point.
        steps: the full depth.
        loss: share of the answers that may differ from those of full depth.
        seed: selects random initial states.

    Returns:
        The curve with the point that holds, and the share of equal answers.
    """
    asked = [sample for sample in samples if sample.prompt]
    if not asked or found.chosen is None:
        return found, found.chosen.agreement if found.chosen else 0.0

    def answers(depth: Depth) -> list[list[int]]:
        return [
            model.generate(sample.ids[: sample.prompt], sample.scored + 4, depth, seed=seed).ids
            for sample in asked
        ]

    wanted = answers(Depth(steps))
    for point in found.points[found.points.index(found.chosen) :: -1]:
        said = answers(Depth(steps, exit=found.rule, threshold=point.threshold))
        equal = sum(a == b for a, b in zip(said, wanted, strict=True)) / len(wanted)
        if 1 - equal <= loss:
            return dataclasses.replace(found, chosen=point), equal
    return dataclasses.replace(found, chosen=None), 0.0


def cost(parameters: Mapping[str, int], point: Point) -> float:
    """Return the work of a position in core steps: a pass of the coda reads its weights too.

    Args:
        parameters: counts of each group of weights.
        point: of a curve.
    """
    coda = parameters["coda"] + max(parameters["head"], parameters["embedding"])
    return point.steps + point.looks * coda / parameters["core"]


def choose(curves: Sequence[Curve], parameters: Mapping[str, int]) -> Curve:
    """Return the curve whose chosen point costs the least; InputError if none has one.

    Of those within 5% of it the first: rules that are cheaper to ask come first, and one that reads
    states takes some of its gain back.
    """
    fitting = [curve for curve in curves if curve.chosen is not None]
    if not fitting:
        raise InputError("no rule keeps the loss that low; allow more, or tune on more texts")

    def price(curve: Curve) -> float:
        assert curve.chosen is not None
        return cost(parameters, curve.chosen)

    least = min(map(price, fitting))
    return next(curve for curve in fitting if price(curve) <= 1.05 * least)
