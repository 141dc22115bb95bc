"""Measures a model: exact answers, perplexity and divergence from another model, all by depth.

One run to the greatest depth serves every depth asked for: what a position holds after t steps does
not depend on how many more are run.
"""

import math
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rdlite.config import check_integer
from rdlite.errors import InputError
from rdlite.model import Model
from rdlite.progress import Progress, meter
from rdlite.tasks import TASKS, Problem, draw

Floats = npt.NDArray[np.float32]
MAX_WINDOW = 4096
TOKEN_BYTES = 64  # of text that are read for each token wanted; most have 3 to 6


def held_out_problems(count: int, seed: int = 0, tasks: Iterable[str] = TASKS) -> list[Problem]:
    """Return held-out problems of every difficulty of these tasks, no two the same.

    Args:
        count: problems for each task and difficulty; of the easiest there are not as many.
        seed: the same seed gives the same problems.
        tasks: keys of TASKS; InputError for others.
    """
    problems: list[Problem] = []
    for task in tasks:
        if task not in TASKS:
            raise InputError(f"{task!r:.40} is no task; there are {', '.join(TASKS)}")
        for difficulty in range(1, TASKS[task].highest + 1):
            rng = random.Random(f"{seed} {task} {difficulty}")
            found: dict[str, Problem] = {}
            for _ in range(20 * count):
                problem = draw(rng, task, difficulty, held_out=True)
                found.setdefault(problem.key, problem)
                if len(found) == count:
                    break
            problems += found.values()
    return problems


@dataclass(frozen=True)
class Answers:
    """Which problems were answered exactly, at which depth.

    Attributes:
        depths: core steps, D of them.
        problems: N of them.
        right: bool [N, D].
    """

    depths: tuple[int, ...]
    problems: tuple[Problem, ...]
    right: npt.NDArray[np.bool_]

    def accuracy(self, task: str | None = None, difficulty: int | None = None) -> list[float]:
        """Share of right answers by depth.

        That of a task is the mean over its difficulties, that of all the mean over the tasks.
        """
        if task is None:
            means = np.array([self.accuracy(name) for name in self.tasks])
        elif difficulty is None:
            means = np.array([self.accuracy(task, each) for each in self.difficulties(task)])
        else:
            means = self.right[self._chosen(task, difficulty)]
        return [float(x) for x in means.mean(axis=0)]

    @property
    def tasks(self) -> list[str]:
        """The tasks that were asked."""
        return list(dict.fromkeys(problem.task for problem in self.problems))

    def difficulties(self, task: str) -> list[int]:
        """The difficulties of a task that were asked, ascending."""
        return sorted({p.difficulty for p in self.problems if p.task == task})

    def count(self, task: str, difficulty: int) -> int:
        """How many problems of a task and difficulty were asked."""
        return sum(self._chosen(task, difficulty))

    def _chosen(self, task: str, difficulty: int) -> list[bool]:
        return [p.task == task and p.difficulty == difficulty for p in self.problems]


def answer(
    model: Model,
    problems: Sequence[Problem],
    depths: Sequence[int],
    seed: int = 0,
    progress: Progress | None = None,
) -> Answers:
    """Ask a model problems, each as the first message of a chat, answered greedily.

    An answer is right if it is the problem's, token by token, and ends there.

    Args:
        model: needs a tokenizer and a chat template.
        problems: as `held_out_problems` makes them.
        depths: core steps, ascending.
        seed: selects random initial states.
        progress: called with (problems done, problems in all).

    Raises:
        InputError: the model cannot chat, or a number is out of bounds.
    """
    stops = np.array(model.generation_config.stop_ids, np.int64)
    advance = meter(len(problems), progress)
    right = np.zeros((len(problems), len(depths)), bool)
    for i, problem in enumerate(problems):
        prompt, expected = encode_problem(model, problem)
        # Greedy decoding says the answer exactly if each of its tokens is the likeliest after the
        # ones before it; so one reading of them all tells.
        scored = model.logits_by_depth([*prompt, *expected], depths, seed, last=len(expected) + 1)
        for j, (_, logits) in enumerate(scored):
            said = logits.argmax(axis=1)
            right[i, j] = (said[:-1] == expected).all() and said[-1] in stops
        advance(1)
    return Answers(tuple(depths), tuple(problems), right)


def encode_problem(model: Model, problem: Problem) -> tuple[list[int], list[int]]:
    """Return the token ids of a problem as the first message of a chat, and of its answer.

    Raises InputError if the model cannot chat, or both together are longer than its context.
    """
    try:
        prompt = model.encode_chat([{"role": "user", "content": problem.question}])
        answer = model.tokenizer.encode(problem.answer, add_special_tokens=False)
        model.check_ids([*prompt, *answer])
    except InputError as reason:
        raise InputError(
            f"problems cannot be put to this model, give a text file instead: {reason}"
        ) from None
    return prompt, answer


def perplexity(
    model: Model,
    texts: Sequence[Sequence[int]],
    depths: Sequence[int],
    seed: int = 0,
    progress: Progress | None = None,
) -> list[float]:
    """Return the perplexity of a text at each depth: exp of the mean negative log-likelihood.

    Args:
        model: any.
        texts: token ids, two or more in each, as `windows` cuts them; each is read from its
            start, and its first token is not scored.
        depths: core steps, ascending.
        seed: selects random initial states.
        progress: called with (tokens done, tokens in all).
    """
    _check_texts(texts)
    advance = meter(sum(map(len, texts)), progress)
    total, count = np.zeros(len(depths)), 0
    for ids in texts:
        for j, (_, logits) in enumerate(model.logits_by_depth(ids, depths, seed)):
            scores = log_softmax(logits[:-1])
            total[j] -= scores[np.arange(len(ids) - 1), ids[1:]].sum(dtype=np.float64)
        count += len(ids) - 1
        advance(len(ids))
    return [math.exp(min(mean, 700.0)) for mean in total / count]


@dataclass(frozen=True)
class Divergence:
    """KL(reference || model) over the positions of a text, in nats, at one depth.

    `same_top` is the share of positions where both find the same token likeliest.
    """

    mean: float
    median: float
    percentile_99: float
    maximum: float
    same_top: float


def divergence(
    model: Model,
    reference: Model,
    texts: Sequence[Sequence[int]],
    depths: Sequence[int],
    seed: int = 0,
    progress: Progress | None = None,
) -> list[Divergence]:
    """Return how far the model's predictions are from the reference's, by depth.

    Args:
        model: what is measured.
        reference: has the same vocabulary; InputError if not.
        texts: token ids, each read from its start by both, at the same seed.
        depths: core steps, ascending.
        seed: selects random initial states.
        progress: called with (texts done, texts in all).
    """
    _check_texts(texts)
    ours, theirs = model.config.vocab_size, reference.config.vocab_size
    if ours != theirs:
        raise InputError(
            f"the models have {ours} and {theirs} tokens; only models of one vocabulary compare"
        )
    if not model.tokenizer.same_vocabulary(reference.tokenizer):
        raise InputError("the models' tokens differ; only models of one vocabulary compare")
    advance = meter(len(texts), progress)
    distances: list[list[Floats]] = [[] for _ in depths]
    same: list[list[npt.NDArray[np.bool_]]] = [[] for _ in depths]
    for ids in texts:
        pairs = zip(
            model.logits_by_depth(ids, depths, seed),
            reference.logits_by_depth(ids, depths, seed),
            strict=True,
        )
        for j, ((_, mine), (_, wanted)) in enumerate(pairs):
            q, p = log_softmax(mine), log_softmax(wanted)
            distances[j].append(np.maximum(0, (np.exp(p) * (p - q)).sum(axis=1)))
            same[j].append(mine.argmax(axis=1) == wanted.argmax(axis=1))
        advance(1)
    return [
        Divergence(
            mean=float(found.mean()),
            median=float(np.median(found)),
            percentile_99=float(np.percentile(found, 99)),
            maximum=float(found.max()),
            same_top=float(np.concatenate(tops).mean()),
        )
        for found, tops in zip(map(np.concatenate, distances), same, strict=True)
    ]


def _check_texts(texts: Sequence[Sequence[int]]) -> None:
    if not texts or min(map(len, texts)) < 2:
        raise InputError("a text to measure on needs at least 2 tokens")


def read_tokens(model: Model, path: str | Path, most: int) -> list[int]:
    """Return the first token ids of a text file; no more of it is read than they need.

    Args:
        model: needs a tokenizer.
        path: of the file. What is not UTF-8 in it is replaced.
        most: how many ids at most.

    Raises InputError if the file cannot be read.
    """
    try:
        with open(path, "rb") as file:
            text = file.read(most * TOKEN_BYTES)
    except OSError as problem:
        raise InputError(f"the text {path} cannot be read: {problem.strerror}") from None
    return model.tokenizer.encode(text.decode(errors="replace"))[:most]


def text_name(path: str | Path) -> str:
    """Return the name of a text file for people: one printable line of at most 80 characters."""
    return "".join(c if c.isprintable() else "?" for c in Path(path).name)[:80]


def windows(ids: Sequence[int], window: int, context: int) -> Iterator[Sequence[int]]:
    """Cut a text into windows; a last one of a single token is left out.

    Raises InputError if the text is too short or the window out of bounds.
    """
    check_integer("window", window, 2, min(context, MAX_WINDOW))
    if len(ids) < 2:
        raise InputError(f"the text has {len(ids)} tokens; at least 2 are needed")
    for first in range(0, len(ids) - 1, window):
        yield ids[first : first + window]


def log_softmax(logits: Floats) -> Floats:
    """Log-probabilities (natural) over the last axis, float32."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    result: Floats = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result
