"""The way to the end of a constrained text, for one that is about to be cut."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import llguidance

Integers = npt.NDArray[np.int64]
#: Tokens before the end from which on the way is looked for, and how long it may be.
HORIZON = 256
#: The first characters of tokens, by how soon they end JSON. A quote ends a string, in which the
#: others end nothing.
ORDER = '"}],0123456789:'
OPENING = frozenset("[{,:")


class Closing:
    """Finds short ways to an end, always taking what closes most. Thread-safe once made."""

    def __init__(self, trie: llguidance.LLTokenizer) -> None:
        """Rank the tokens of a vocabulary."""
        stops = set(trie.eos_tokens)
        #: How each token is written.
        self.pieces = [trie.decode_bytes([id]) for id in range(trie.vocab_size)]
        ranks = [
            (-1.0 if id in stops else _rank(piece.decode(errors="replace")))
            for id, piece in enumerate(self.pieces)
        ]
        self._ranks = np.array(ranks, np.float64)
        #: Which tokens end a text: bool [V].
        self.stops = np.zeros(trie.vocab_size, np.bool_)
        self.stops[list(stops)] = True

    def way(
        self, matcher: llguidance.LLMatcher, most: int, literals: Sequence[Sequence[int]]
    ) -> list[int] | None:
        """Return tokens that end a text, without the stop token; None: not within `most`.

        Args:
            matcher: is used up.
            most: tokens that the way may have.
            literals: texts of the grammar, as tokens: one of them may end what is free.
        """
        tokens: list[int] = []
        last, visit = b"", 0
        while not (matcher.is_accepting() or matcher.is_stopped()):
            if len(tokens) >= most:
                return None
            mask = matcher.compute_bitmask()
            bits = np.unpackbits(np.frombuffer(mask, np.uint8), bitorder="little")
            allowed = np.flatnonzero(bits[: len(self._ranks)])
            # Where the same may follow as before, another token may lead on.
            visit = (visit + 1) % allowed.size if mask == last else 0
            if visit == 1 and (literal := _leads_on(matcher, mask, literals)):
                tokens += literal
                continue
            last = mask
            ranks = self._ranks[allowed]
            best = np.argsort(ranks, kind="stable")[visit] if visit else ranks.argmin()
            token = int(allowed[best])
            if not matcher.consume_token(token):
                return None
            tokens.append(token)
        return tokens


def _leads_on(
    matcher: llguidance.LLMatcher, mask: bytes, literals: Sequence[Sequence[int]]
) -> Sequence[int] | None:
    """Take the first literal after which something else may follow than before it."""
    for literal in literals:
        taken = matcher.try_consume_tokens(list(literal))
        if taken == len(literal) and matcher.compute_bitmask() != mask:
            return literal
        if taken:
            matcher.rollback(taken)
    return None


def _rank(text: str) -> float:
    """Return how late a token is to be chosen: by its first character, then the longest first."""
    if not text or text.isspace():
        return 100.0
    first = ORDER.find(text[0])
    rank = float(first if first >= 0 else 90 if text[0] in "\\[{ " else 20)
    opens = any(character in OPENING for character in text[1:])
    return rank + (40 if opens else 0) - min(len(text), 50) / 64
