"""The way to the end of a constrained text, for one that is about to be cut."""

from __future__ import annotations

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
        ranks = [
            (-1.0 if id in stops else _rank(trie.decode_str([id]))) for id in range(trie.vocab_size)
        ]
        self._ranks = np.array(ranks, np.float64)
        #: Which tokens end a text: bool [V].
        self.stops = np.zeros(trie.vocab_size, np.bool_)
        self.stops[list(stops)] = True

    def way(self, matcher: llguidance.LLMatcher, most: int) -> list[int] | None:
        """Return tokens that end a text, without the stop token; None: not within `most`.

        `matcher` is used up.
        """
        tokens: list[int] = []
        last, visit = b"", 0
        while not (matcher.is_accepting() or matcher.is_stopped()):
            if len(tokens) == most:
                return None
            mask = matcher.compute_bitmask()
            bits = np.unpackbits(np.frombuffer(mask, np.uint8), bitorder="little")
            allowed = np.flatnonzero(bits[: len(self._ranks)])
            # Where the same may follow as before, another token may lead on.
            visit = (visit + 1) % allowed.size if mask == last else 0
            last = mask
            ranks = self._ranks[allowed]
            best = np.argsort(ranks, kind="stable")[visit] if visit else ranks.argmin()
            token = int(allowed[best])
            if not matcher.consume_token(token):
                return None
            tokens.append(token)
        return tokens


def _rank(text: str) -> float:
    """Return how late a token is to be chosen: by its first character, then the longest first."""
    if not text or text.isspace():
        return 100.0
    first = ORDER.find(text[0])
    rank = float(first if first >= 0 else 90 if text[0] in "\\[{ " else 20)
    opens = any(character in OPENING for character in text[1:])
    return rank + (40 if opens else 0) - min(len(text), 50) / 64
