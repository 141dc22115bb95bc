"""Choosing the next token from logits: a sampler is made once and called in the loop.

Every random draw is a pure function of (seed, position), so that replay and speculation draw the
same.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from rdlite.config.sampling import Sampling
from rdlite.decode.logit_rules import LogitRule, Penalties
from rdlite.errors import InputError, RuntimeFailure
from rdlite.ort.rng import TOKENS, generator_at
from rdlite.utils.checks import check_seed

Floats = npt.NDArray[np.float32]

#: Chances that are summed up together, and found among each other when a draw falls there.
BLOCK = 256
#: How often a token outside the nucleus is drawn again before the nucleus is sorted out.
TRIES = 16
#: Below this, float32 may not hold what divides logits; it is greedy long before.
LEAST_TEMPERATURE = 1e-30


class Sampler:
    """Chooses token ids for one text. Not thread-safe: it remembers which tokens the text has."""

    def __init__(
        self,
        sampling: Sampling,
        vocab_size: int,
        seed: int,
        top: int = 0,
        rules: Sequence[LogitRule] = (),
    ) -> None:
        """Keep the log-probabilities of so many tokens, `top`, of each choice.

        `rules` change the logits last, before the temperature, in their order.
        """
        #: Of the last choice: the likeliest tokens and their log-probabilities.
        self.alternatives: tuple[tuple[int, float], ...] = ()
        self.vocab_size = vocab_size
        self._top = min(top, vocab_size)
        self._sampling = sampling
        self._seed = check_seed(seed)
        # Whole blocks, the last filled up with zeros.
        self._blocks = np.zeros((-(-vocab_size // BLOCK), BLOCK), np.float32)
        self._work = self._blocks.reshape(-1)[:vocab_size]
        # Room for what a nucleus asks of every chance.
        self._above = np.empty(vocab_size if sampling.top_p < 1 else 0, np.float32)
        self._is = np.empty(self._above.size, np.bool_)
        self._seen: npt.NDArray[np.bool_] | None = None
        if sampling.repetition_penalty != 1:
            self._seen = np.zeros(vocab_size, np.bool_)
        self._rules = list(rules)
        if sampling.frequency_penalty or sampling.presence_penalty:
            frequency, presence = sampling.frequency_penalty, sampling.presence_penalty
            self._rules.insert(0, Penalties(frequency, presence, vocab_size))
        self._bias_ids = np.array(list(sampling.logit_bias or ()), np.int64)
        self._bias = np.array(list((sampling.logit_bias or {}).values()), np.float32)
        if self._bias_ids.size and self._bias_ids.max() >= vocab_size:
            raise InputError(
                f"logit_bias names token {self._bias_ids.max()}; ids go up to {vocab_size - 1}"
            )

    def begin(self, prompt: Sequence[int]) -> None:
        """Tell what stands before the first token that is chosen."""
        self.accept(prompt)
        for rule in self._rules:
            rule.begin(len(prompt))

    def accept(self, ids: Iterable[int]) -> None:
        """Tell which tokens are in the text, for the repetition penalty."""
        if self._seen is not None:
            self._seen[list(ids)] = True

    def __call__(self, logits: Floats, position: int) -> tuple[int, float]:
        """Choose the token that stands at `position`, and remember it.

        Args:
            logits: float32 [V]; left as it is.
            position: where the chosen token will stand in the text; selects the random draw.

        Returns:
            The token id, and its log-probability (natural) under the model's own distribution,
            before bias, penalty, temperature and filters.

        Raises:
            RuntimeFailure: no logit is a finite number.
        """
        token = self._choose(logits, position)
        return token, self.commit(logits, token, position)

    def commit(self, logits: Floats, token: int, position: int) -> float:
        """Remember a token that was chosen from these logits; returns its log-probability."""
        self.accept((token,))
        total = log_sum(logits, self._work)
        for rule in self._rules:
            rule.chose(token, position)
        if self._top:
            ids = likeliest(logits, self._top)
            logs = logits[ids].astype(np.float64) - total
            self.alternatives = tuple(zip(ids.tolist(), logs.tolist(), strict=True))
        return float(logits[token]) - total

    def guess(self, logits: Floats, position: int) -> int:
        """Choose like a call does, for a draft: it is remembered only until a call chooses."""
        token = self._choose(logits, position)
        for rule in self._rules:
            rule.guessed(token, position)
        return token

    def _choose(self, logits: Floats, position: int) -> int:
        top = logits.max()
        if not np.isfinite(top):
            raise RuntimeFailure(
                "the model's logits are not numbers; its weights are broken, or its depth unstable"
            )
        changes = self._bias_ids.size or self._seen is not None or self._rules
        if not (self._sampling.temperature or changes):
            return int(logits.argmax())
        work = self._work
        if not changes and not 0 < self._sampling.top_k < work.size:
            return self._draw_from_all(np.subtract(logits, top, out=work), position)
        np.copyto(work, logits)
        if self._bias_ids.size:
            work[self._bias_ids] += self._bias
        if self._seen is not None:
            penalty = np.float32(self._sampling.repetition_penalty)
            seen = work[self._seen]
            work[self._seen] = np.where(seen > 0, seen / penalty, seen * penalty)
        for rule in self._rules:
            rule.apply(work, position)
        return self._draw(work, position) if self._sampling.temperature else int(work.argmax())

    def _draw(self, work: Floats, position: int) -> int:
        sampling = self._sampling
        if not 0 < sampling.top_k < work.size:
            work -= work.max()
            return self._draw_from_all(work, position)
        ids = likeliest(work, sampling.top_k)
        work = work[ids]
        with np.errstate(over="ignore"):  # a tiny temperature leaves the likeliest alone
            chances = np.exp((work.astype(np.float64) - work.max()) / sampling.temperature)
        if sampling.top_p < 1:
            keep = _nucleus(chances, sampling.top_p)
            ids, chances = ids[keep], chances[keep]
        if sampling.min_p:
            chances[chances < sampling.min_p * chances.max()] = 0
        random = generator_at(self._seed, position, TOKENS).random
        return int(ids[_pick(chances, random())])

    def _draw_from_all(self, work: Floats, position: int) -> int:
        """Draw from a whole vocabulary, in a few passes over it and without sorting.

        `work` holds the logits less the largest of them, and is overwritten.

        A token outside the nucleus is drawn again: what the first ones that lie in it are is
        distributed as if all others had been left out.
        """
        sampling = self._sampling
        random = generator_at(self._seed, position, TOKENS).random
        with np.errstate(over="ignore"):  # a tiny temperature leaves the likeliest alone
            work /= np.float32(max(sampling.temperature, LEAST_TEMPERATURE))
        np.exp(work, out=work)  # the largest is 1
        if sampling.min_p and sampling.top_p == 1:
            work[work < np.float32(sampling.min_p)] = 0
        sums = self._blocks.sum(axis=1)
        ends = sums.cumsum(dtype=np.float64)
        wanted = sampling.top_p * ends[-1]
        for _ in range(TRIES):
            draw = random() * ends[-1]
            block = min(int(np.searchsorted(ends, draw, side="right")), len(ends) - 1)
            inside = (draw - ends[block]) / float(sums[block]) + 1 if sums[block] else 0.0
            index = block * BLOCK + _pick(self._blocks[block], inside)
            chance = work[index]
            if sampling.top_p == 1:
                return index
            if chance >= sampling.min_p and self._chances_before(index) < wanted:
                return index
        chances = work.astype(np.float64)
        ids = _nucleus(chances, sampling.top_p)
        chances = chances[ids]
        chances[chances < sampling.min_p * chances.max()] = 0
        return int(ids[_pick(chances, random())])

    def _chances_before(self, index: int) -> float:
        """Return the sum of the chances that are likelier, or equal and first."""
        chances, chance = self._work, self._work[index]
        # Quicker than to sum up under a mask.
        likelier = float(np.maximum(chances, chance, out=self._above).sum())
        likelier -= float(chance) * int(np.count_nonzero(np.less_equal(chances, chance, self._is)))
        equal = np.equal(chances[:index], chance, self._is[:index])
        return likelier + float(chance) * int(np.count_nonzero(equal))


def _pick(chances: npt.NDArray[Any], share: float) -> int:
    """Return which of some chances lies at a share of their sum; one that is not 0."""
    cumulative = chances.cumsum(dtype=np.float64)
    index = int(np.searchsorted(cumulative, share * cumulative[-1], side="right"))
    return min(index, int(np.searchsorted(cumulative, cumulative[-1])))


def likeliest(values: npt.NDArray[Any], count: int) -> npt.NDArray[np.int64]:
    """Return the indices of the `count` largest values, largest first; of equal ones the first."""
    blocks = values.size // BLOCK
    indices: npt.NDArray[np.int64] | slice = slice(None)
    if 0 < count <= blocks:  # as many blocks have a value so large: few others do
        tops = values[: blocks * BLOCK].reshape(blocks, BLOCK).max(axis=1)
        indices = np.flatnonzero(values >= np.partition(tops, -count)[-count])
    among = values[indices]
    found = np.flatnonzero(among >= np.partition(among, -count)[-count])
    order = np.argsort(-among[found], kind="stable")[:count]
    return found[order] if isinstance(indices, slice) else indices[found[order]]


def _nucleus(chances: npt.NDArray[np.float64], top_p: float) -> npt.NDArray[np.int64]:
    """Indices of the fewest chances that sum to `top_p` of all, the likeliest first."""
    wanted, count = top_p * chances.sum(), min(256, chances.size)
    while True:  # sorting a whole vocabulary for the few tokens that matter takes milliseconds
        indices = likeliest(chances, count)
        sums = chances[indices].cumsum()
        if sums[-1] >= wanted or count == chances.size:
            return indices[: int(np.searchsorted(sums, wanted)) + 1]
        count = min(16 * count, chances.size)


def log_probability(logits: Floats, token: int) -> float:
    """Return a token's natural log-probability under the model's own distribution."""
    return float(logits[token]) - log_sum(logits)


def log_sum(logits: Floats, work: Floats | None = None) -> float:
    """Return the natural logarithm of the sum of the exponentials of logits [V].

    With `work`, float32 [V], nothing is allocated.
    """
    top = logits.max()
    work = np.subtract(logits, top, out=work)
    return float(top) + float(np.log(np.exp(work, out=work).sum()))
