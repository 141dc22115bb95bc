"""Chooses exit thresholds: what every rule would save and lose, from one run at full depth.

Texts are read once, to the full depth, and at every step it is written down what each rule measures
and which token is the likeliest. From that follows for any threshold where a position would have
left the loop, and whether it would have said the same.
"""

import dataclasses
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rdlite.depth import Depth
from rdlite.errors import InputError
from rdlite.evaluation import encode_problem
from rdlite.exit_rules import RULES, ExitRule, make_rule, rules_for
from rdlite.model import Model
from rdlite.progress import Progress, meter
from rdlite.start import start_at
from rdlite.tasks import TASKS, draw

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]

MOST_THRESHOLDS = 64
MOST_SCORED = 32


@dataclass(frozen=True)
class Trace:
    """What N positions did on the way to the full depth of T steps.

    Attributes:
        values: what each rule measured: float32 [N, T], infinite where it had nothing to say.
        tops: the likeliest token after each step: int64 [N, T].
        answers: which answer, or which part of a text, a position belongs to: int64 [N].
    """

    values: Mapping[str, Floats]
    tops: Integers
    answers: Integers


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


class _View:
    """One position of a lane, after one step, for a rule to look at."""

    def __init__(self, change: Floats, logits: Floats) -> None:
        self.change = change
        self.states = (change[..., None], change[..., None])  # no rule that decodes looks at them
        self.exit_probability: Floats | None = None
        self._logits = logits

    def logits(self, steps: int) -> Floats:
        """Float32 [1, V], decoded already."""
        return self._logits


@dataclass(frozen=True, slots=True)
class Sample:
    """A text to tune on.

    Attributes:
        ids: all of it.
        scored: how many of its last positions count, at most MOST_SCORED.
        prompt: how many ids ask for an answer that consists of what is scored; 0: it is a text
            like any other, and every scored position counts for itself.
    """

    ids: Sequence[int]
    scored: int
    prompt: int = 0


def problem_samples(model: Model, count: int, seed: int = 0) -> list[Sample]:
    """Return practice problems of every task and difficulty with their answers.

    Args:
        model: needs a tokenizer and a chat template.
        count: problems for each task and difficulty.
        seed: the same seed gives the same problems; none of them is held out.
    """
    rng, samples = random.Random(seed), []
    for name, task in TASKS.items():
        for difficulty in [*range(1, task.highest + 1)] * count:
            prompt, answer = encode_problem(model, draw(rng, name, difficulty, held_out=False))
            scored = min(len(answer) + 1, MOST_SCORED)
            samples.append(Sample([*prompt, *answer], scored, len(prompt)))
    return samples


def text_samples(texts: Sequence[Sequence[int]]) -> list[Sample]:
    """Return texts, as `rdlite.evaluation.windows` cuts them; their last half is scored."""
    return [Sample(ids, min(max(1, len(ids) // 2), MOST_SCORED)) for ids in texts]


def record(
    model: Model,
    samples: Sequence[Sample],
    steps: int,
    seed: int = 0,
    progress: Progress | None = None,
) -> Trace:
    """Read texts to the full depth and write down what happens on the way.

    Args:
        model: any.
        samples: at least one.
        steps: the full depth, T.
        seed: selects random initial states.
        progress: called with (samples done, samples in all).
    """
    size = model.config.vocab_size
    kinds = {name: RULES[name] for name in rules_for(model.config)}
    latent = {name: make_rule(name, 0, size) for name, kind in kinds.items() if not kind.decodes}
    deciding = {
        name: [make_rule(name, 1, size) for _ in range(MOST_SCORED)]
        for name, kind in kinds.items()
        if kind.decodes
    }
    start = start_at(model.config, "random", seed)
    advance = meter(len(samples), progress)
    values: dict[str, list[Floats]] = {name: [] for name in kinds}
    tops, answers, first = [], [], 0
    for sample in samples:
        ids, scored = sample.ids, sample.scored
        found = {name: np.full((scored, steps), np.inf, np.float32) for name in kinds}
        likeliest = np.zeros((scored, steps), np.int64)
        for rule in latent.values():
            rule.start(0, len(ids))
        for rules in deciding.values():
            for rule in rules[:scored]:
                rule.start(0, 1)
        sequence = model.new_sequence()
        lane = sequence.begin(list(ids), steps)
        start(lane, 0)
        for step in range(steps):
            lane.step(step)
            for name, rule in latent.items():
                found[name][:, step] = rule.measure(lane, step + 1, 0)[-scored:]
            logits = lane.logits(step + 1, scored)
            likeliest[:, step] = logits.argmax(axis=1)
            for row in range(scored):
                at = len(ids) - scored + row
                view = _View(lane.change[:, at : at + 1], logits[row : row + 1])
                for name, rules in deciding.items():
                    found[name][row, step] = rules[row].measure(view, step + 1, 0)[0]
        for name in kinds:
            values[name].append(found[name])
        tops.append(likeliest)
        answers.append(np.full(scored, first) if sample.prompt else first + np.arange(scored))
        first += scored
        advance(1)
    return Trace(
        {name: np.concatenate(found) for name, found in values.items()},
        np.concatenate(tops),
        np.concatenate(answers),
    )


def exits(rule: ExitRule, values: Floats) -> Integers:
    """Return after how many steps each position leaves: int64 [N], from values [N, T]."""
    content = rule.content(values)
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

    Of those within 2% of it the first: rules that are cheaper to ask come first.
    """
    fitting = [curve for curve in curves if curve.chosen is not None]
    if not fitting:
        raise InputError("no rule keeps the loss that low; allow more, or tune on more texts")

    def price(curve: Curve) -> float:
        assert curve.chosen is not None
        return cost(parameters, curve.chosen)

    least = min(map(price, fitting))
    return next(curve for curve in fitting if price(curve) <= 1.02 * least)
