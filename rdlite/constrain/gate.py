"""Where in an answer a constraint begins: after certain texts, before which the answer is free."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rdlite.tokenizer.thinking import OPEN

Integers = npt.NDArray[np.int64]


class Mark:
    """A text to wait for, found however tokens cut it."""

    def __init__(self, text: str, pieces: Sequence[bytes]) -> None:
        """Look for `text` in tokens, of which `pieces` says what each is written as."""
        self.pieces = pieces
        mark = text.encode()
        #: How many bytes of a mark there are once it is whole.
        self.size = len(mark)
        # By bytes of the mark that were seen and the byte that follows: how many are seen then.
        self._seen = [[0] * 256]
        self._seen[0][mark[0]] = 1
        border = 0  # bytes that are seen of the mark's end without its first byte
        for at, byte in enumerate(mark[1:], 1):
            self._seen.append(list(self._seen[border]))
            self._seen[at][byte] = at + 1
            border = self._seen[border][byte]
        inside = [id for id, piece in enumerate(pieces) if mark[-1] in piece[:-1]]
        #: By bytes that were seen: the tokens that would end the mark and go on.
        self.overruns: list[Integers] = [
            np.array([id for id in inside if self._ends_within(seen, pieces[id])], np.int64)
            for seen in range(self.size)
        ]

    def after(self, seen: int, token: int) -> int:
        """Return how many bytes of the mark were seen when a token follows."""
        for byte in self.pieces[token]:
            if seen < self.size:
                seen = self._seen[seen][byte]
        return seen

    def _ends_within(self, seen: int, piece: bytes) -> bool:
        for byte in piece[:-1]:
            seen = self._seen[seen][byte]
            if seen == self.size:
                return True
        return False


class _State(NamedTuple):
    """What an answer has had of its marks: those before `mark`, and `seen` bytes of that one."""

    mark: int
    seen: int
    #: What it began with, while that may become <think>.
    head: bytes | None


class Gate:
    """Follows an answer up to where its constraint begins. Each answer has its own.

    The marks come one after the other. A block of thinking that the answer opens is passed over,
    whatever it says.
    """

    def __init__(self, marks: Sequence[Mark], close: Mark, optional: bool) -> None:
        """Use `Constraints.compile`.

        Args:
            marks: what the answer has before its constraint, at least one.
            close: the end of a block of thinking.
            optional: whether the answer may end before its constraint begins.
        """
        self._marks = [close, *marks]
        self.optional = optional
        # Where the prompt has opened a block of thinking, the answer opens no other before its end.
        self._states = [_State(1, 0, None if marks[0] is close else b"")]

    def begin(self) -> None:
        """Start an answer."""
        del self._states[1:]

    def go_back(self, index: int) -> None:
        """Forget the tokens from `index` on."""
        del self._states[index + 1 :]

    def push(self, token: int) -> None:
        """Take the next token; nothing happens once the gate is open."""
        if self.opens_at is not None:
            return
        mark, seen, head = self._states[-1]
        seen = self._marks[mark].after(seen, token)
        if head is not None:
            head += self._marks[mark].pieces[token]
            begun = head.lstrip()
            if begun.startswith(OPEN.encode()):
                self._states.append(_State(0, 0, None))
                return
            head = head if OPEN.encode().startswith(begun) else None
        if seen == self._marks[mark].size:
            mark, seen, head = mark + 1, 0, None
        self._states.append(_State(mark, seen, head))

    @property
    def opens_at(self) -> int | None:
        """Index of the first token that is constrained; None while it is not known."""
        whole = self._states[-1].mark == len(self._marks)
        return len(self._states) - 1 if whole else None

    def barred(self, index: int) -> Integers:
        """Return the tokens that may not stand at `index`, which is not constrained.

        They would go beyond the end of a mark, so that a part of them would be constrained.
        """
        state = self._states[index]
        return self._marks[state.mark].overruns[state.seen]
