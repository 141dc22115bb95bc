"""Perplexity, and divergence from another model, by depth."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rdlite.api.model import Model
from rdlite.errors import InputError
from rdlite.measure.answers import Floats
from rdlite.measure.texts import check_texts
from rdlite.utils.numerics import log_softmax
from rdlite.utils.progress import Progress, meter


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
    check_texts(texts)
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
    check_texts(texts)
    ours, theirs = model.config.vocab_size, reference.config.vocab_size
    if ours != theirs:
        raise InputError(
            f"the models have {ours} and {theirs} tokens; compare models of one vocabulary"
        )
    if not model.tokenizer.same_vocabulary(reference.tokenizer):
        raise InputError("the models' tokens differ; compare models of one vocabulary")
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
