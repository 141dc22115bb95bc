"""Choosing the next token from logits: a sampler is made once and called in the loop.

Every random draw is a pure function of (seed, position), so that replay and speculation draw the
same.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rdlite.config import check_integer, check_number
from rdlite.errors import InputError, RuntimeFailure
from rdlite.logit_rules import LogitRule, Penalties
from rdlite.randomness import TOKENS, check_seed, generator_at

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen. The defaults are greedy: always the likeliest.

    Attributes:
        temperature: divides the logits; 0 is greedy. 0 to 100.
        top_k: keep the k likeliest tokens; 0 keeps all.
        top_p: keep the fewest tokens whose probabilities sum to at least this. Above 0, up to 1.
        min_p: drop tokens less likely than this times the likeliest. 0 to 1.
        repetition_penalty: divide positive logits (multiply negative ones) of tokens that the
            text already has. 0.01 to 100; 1 is off.
        logit_bias: token id -> number added to its logit, -1000 to 1000.
        frequency_penalty: subtracted from a token's logit for each time that the answer has it
            already. -2 to 2.
        presence_penalty: subtracted once if the answer has it. -2 to 2.

    Filters work in this order: bias, penalties, temperature, top_k, top_p, min_p.
    Raises InputError for numbers out of bounds.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] | None = None
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0

    def __post_init__(self) -> None:
        """Check all bounds."""
        check_number("temperature", self.temperature, 0, 100)
        check_integer("top_k", self.top_k, 0, 2**22)
        if check_number("top_p", self.top_p, 0, 1) == 0:
            raise InputError("top_p must be above 0 and at most 1, got 0")
        check_number("min_p", self.min_p, 0, 1)
        check_number("repetition_penalty", self.repetition_penalty, 0.01, 100)
        check_number("frequency_penalty", self.frequency_penalty, -2, 2)
        check_number("presence_penalty", self.presence_penalty, -2, 2)
        if not isinstance(self.logit_bias, Mapping | None):
            raise InputError(
                f"logit_bias must map token ids to numbers, got {self.logit_bias!r:.60}"
            )
        for token, bias in (self.logit_bias or {}).items():
            check_integer("a token id in logit_bias", token, 0, 2**22)
            check_number(f"the logit_bias of token {token}", bias, -1000, 1000)


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
        self._top = min(top, vocab_size)
        self._sampling = sampling
        self._seed = check_seed(seed)
        self._work = np.empty(vocab_size, np.float32)
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
        self.saw(prompt)
        for rule in self._rules:
            rule.begin(len(prompt))

    def saw(self, ids: Iterable[int]) -> None:
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
        self.saw((token,))
        for rule in self._rules:
            rule.chose(token, position)
        if self._top:
            ids = likeliest(logits, self._top)
            logs = logits[ids].astype(np.float64) - log_sum(logits)
            self.alternatives = tuple(zip(ids.tolist(), logs.tolist(), strict=True))
        return token, log_probability(logits, token)

    def guess(self, logits: Floats, position: int) -> int:
        """Choose like a call does, for a draft: it is remembered only until a call chooses."""
        token = self._choose(logits, position)
        for rule in self._rules:
            rule.guessed(token, position)
        return token

    def _choose(self, logits: Floats, position: int) -> int:
        if not np.isfinite(logits.max()):
            raise RuntimeFailure(
                "the model's logits are not numbers; its weights are broken, or its depth unstable"
            )
        work = self._work
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
        ids: npt.NDArray[np.int64] | None = None  # None: all of them, in order
        if 0 < sampling.top_k < work.size:
            ids = likeliest(work, sampling.top_k)
            work = work[ids]
        with np.errstate(over="ignore"):  # a tiny temperature leaves the likeliest alone
            chances = np.exp((work.astype(np.float64) - work.max()) / sampling.temperature)
        if sampling.top_p < 1:
            keep = _nucleus(chances, sampling.top_p)
            ids, chances = keep if ids is None else ids[keep], chances[keep]
        if sampling.min_p:
            chances[chances < sampling.min_p * chances.max()] = 0
        cumulative = chances.cumsum()
        draw = generator_at(self._seed, position, TOKENS).random() * cumulative[-1]
        index = min(int(np.searchsorted(cumulative, draw, side="right")), cumulative.size - 1)
        return index if ids is None else int(ids[index])


def likeliest(values: npt.NDArray[Any], count: int) -> npt.NDArray[np.int64]:
    """Return the indices of the `count` largest values, largest first; of equal ones the first."""
    least = np.partition(values, -count)[-count]
    indices = np.flatnonzero(values >= least)
    order = np.argsort(-values[indices], kind="stable")
    return indices[order[:count]]


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


def log_sum(logits: Floats) -> float:
    """Return the natural logarithm of the sum of the exponentials of logits [V]."""
    top = logits.max()
    return float(top) + float(np.log(np.exp(logits - top).sum()))
