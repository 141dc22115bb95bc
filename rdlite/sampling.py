"""Choosing the next token from logits: a sampler is made once and called in the loop.

Every random draw is a pure function of (seed, position), so chunking, replay and speculation never
change a text.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rdlite.config import check_integer, check_number
from rdlite.errors import InputError
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

    Filters work in this order: bias, penalty, temperature, top_k, top_p, min_p.
    Raises InputError for numbers out of bounds.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] | None = None

    def __post_init__(self) -> None:
        """Check all bounds."""
        check_number("temperature", self.temperature, 0, 100)
        check_integer("top_k", self.top_k, 0, 2**22)
        if check_number("top_p", self.top_p, 0, 1) == 0:
            raise InputError("top_p must be above 0 and at most 1, got 0")
        check_number("min_p", self.min_p, 0, 1)
        check_number("repetition_penalty", self.repetition_penalty, 0.01, 100)
        for token, bias in (self.logit_bias or {}).items():
            check_integer("a token id in logit_bias", token, 0, 2**22)
            check_number(f"the logit_bias of token {token}", bias, -1000, 1000)


class Sampler:
    """Chooses token ids for one text. Not thread-safe: it remembers which tokens the text has."""

    def __init__(self, sampling: Sampling, vocab_size: int, seed: int) -> None:
        self._sampling = sampling
        self._seed = check_seed(seed)
        self._work = np.empty(vocab_size, np.float32)
        self._seen: npt.NDArray[np.bool_] | None = None
        if sampling.repetition_penalty != 1:
            self._seen = np.zeros(vocab_size, np.bool_)
        self._bias_ids = np.array(list(sampling.logit_bias or ()), np.int64)
        self._bias = np.array(list((sampling.logit_bias or {}).values()), np.float32)
        if self._bias_ids.size and self._bias_ids.max() >= vocab_size:
            raise InputError(
                f"logit_bias names token {self._bias_ids.max()}; ids go up to {vocab_size - 1}"
            )

    def saw(self, ids: Iterable[int]) -> None:
        """Tell which tokens are in the text, for the repetition penalty."""
        if self._seen is not None:
            self._seen[list(ids)] = True

    def __call__(self, logits: Floats, position: int) -> tuple[int, float]:
        """Choose the token that stands at `position`.

        Args:
            logits: float32 [V]; left as it is.
            position: where the chosen token will stand in the text; selects the random draw.

        Returns:
            The token id, and its log-probability (natural) under the model's own distribution,
            before bias, penalty, temperature and filters.
        """
        work = self._work
        np.copyto(work, logits)
        if self._bias_ids.size:
            work[self._bias_ids] += self._bias
        if self._seen is not None:
            penalty = np.float32(self._sampling.repetition_penalty)
            seen = work[self._seen]
            work[self._seen] = np.where(seen > 0, seen / penalty, seen * penalty)
        token = self._draw(work, position) if self._sampling.temperature else int(work.argmax())
        self.saw((token,))
        return token, _log_probability(logits, token)

    def _draw(self, work: Floats, position: int) -> int:
        sampling = self._sampling
        work /= np.float32(sampling.temperature)
        count = min(sampling.top_k or work.size, work.size)
        if count < work.size:
            ids = np.argpartition(work, -count)[-count:]
            ids = ids[np.lexsort((ids, -work[ids]))]
        else:
            ids = np.argsort(-work, kind="stable")
        chances = np.exp(work[ids].astype(np.float64) - work[ids[0]])
        chances /= chances.sum()
        if sampling.top_p < 1:
            keep = int(np.searchsorted(chances.cumsum(), sampling.top_p)) + 1
            chances = chances[:keep]
        if sampling.min_p:
            chances = chances[chances >= sampling.min_p * chances[0]]
        cumulative = chances.cumsum()
        draw = generator_at(self._seed, position, TOKENS).random() * cumulative[-1]
        index = int(np.searchsorted(cumulative, draw, side="right"))
        return int(ids[min(index, chances.size - 1)])


def _log_probability(logits: Floats, token: int) -> float:
    top = logits.max()
    return float(logits[token] - top) - float(np.log(np.exp(logits - top).sum()))
