"""Records, in one run at full depth, what every exit rule measures on some texts."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rdlite.api.model import Model
from rdlite.config.exit_rules import RULES, rules_for
from rdlite.exit.registry import make_rule
from rdlite.measure.answers import encode_problem
from rdlite.measure.tasks import TASKS, draw
from rdlite.ort.initial_state import start_at
from rdlite.utils.progress import Progress, meter

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
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


class _View:
    """One position of a runner, after one step, for a rule to look at."""

    def __init__(self, change: Floats, logits: Floats) -> None:
        self.size = change.shape[1]
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
        runner = sequence.begin(list(ids), steps)
        start(runner, 0)
        for step in range(steps):
            runner.step(step)
            for name, rule in latent.items():
                found[name][:, step] = rule.measure(runner, step + 1, 0)[-scored:]
            logits = runner.logits(step + 1, scored)
            likeliest[:, step] = logits.argmax(axis=1)
            for row in range(scored):
                at = len(ids) - scored + row
                view = _View(runner.change[:, at : at + 1], logits[row : row + 1])
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
