"""Which tokens a constraint allows, token by token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from rdlite.constrain.closing import HORIZON, Closing
from rdlite.constrain.gate import Gate
from rdlite.errors import RuntimeFailure

if TYPE_CHECKING:
    import llguidance

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
#: Which tokens are barred, eight in a word, and the same as bool [V].
Row = tuple[npt.NDArray[np.uint64], Bools]
#: By a byte of a bitmask, which of its eight tokens are barred: eight bools in a word.
_BARRED = np.unpackbits(~np.arange(256, dtype=np.uint8)[:, None], 1, bitorder="little")
BARRED: npt.NDArray[np.uint64] = _BARRED.view(np.uint64).ravel()
STRIDE = 16  # tokens from one look for a way to the end to the next


class TokenMask:
    """Bars the tokens that would break a constraint: a `LogitRule`.

    Follows drafts too: what was drafted is taken for the text until something else is chosen.
    Where there is a gate, the answer is free up to it: nothing is barred, and nothing closes it.
    Shortly before the answer would be cut, only what leads to its end is left.
    """

    def __init__(
        self,
        matcher: llguidance.LLMatcher,
        vocab_size: int,
        closing: Closing,
        max_tokens: int,
        context: int,
        gate: Gate | None = None,
        literals: Sequence[Sequence[int]] = (),
    ) -> None:
        """Use `Constraints.compile`."""
        self._literals = literals
        self._gate = gate
        self._closing = closing
        self._max_tokens = max_tokens
        self._context = context
        #: Tokens that the answer can have, and how many of them may be left when it must close.
        self._most = self._margin = 0
        #: Index of the first token of which only the way to the end was left.
        self._closes_at = 0
        self._way: list[int] = []
        #: By index / STRIDE, whether the way to the end takes nearly all that is left.
        self._tight: dict[int, bool] = {}
        self._matcher = matcher
        self._vocab_size = vocab_size
        self._bits = np.zeros(4 * -(-vocab_size // 32), np.uint8)
        self._address, self._bytes = self._bits.ctypes.data, self._bits.nbytes
        self._first = 0
        #: The answer, drafts included; how much of it was chosen; how much of what is constrained
        #: the matcher has read.
        self._text: list[int] = []
        self._chosen = 0
        self._read = 0
        #: By index in the answer, the tokens that may not stand there; and rows to use again.
        self._barred: dict[int, Row] = {}
        self._spare: list[Row] = []
        self._allowed: Integers | None = None  # what `allowed` returned since the last choice

    def begin(self, position: int) -> None:
        """Start an answer whose first token stands at `position`."""
        self._first, self._chosen, self._read = position, 0, 0
        self._most = self._closes_at = min(self._max_tokens, self._context - position + 1)
        self._margin = min(24, self._most // 4)
        self._text.clear()
        self._spare += self._barred.values()
        self._barred.clear()
        self._tight.clear()
        self._matcher.reset()
        if self._gate is not None:
            self._gate.begin()

    def apply(self, logits: Floats, position: int) -> None:
        """Bar what may not stand at `position`; raises RuntimeFailure if nobody can tell."""
        index = position - self._first
        if self._gate is not None and self._free(index):
            logits[self._gate.barred(index)] = -np.inf
            if not self._gate.optional:
                np.copyto(logits, -np.inf, where=self._closing.stops)
        else:
            np.copyto(logits, -np.inf, where=self._barred_at(index))

    def chose(self, token: int, position: int) -> None:
        """Go on from a token."""
        index = position - self._first
        self._put(index, token)
        self._chosen, self._allowed = index + 1, None
        if (row := self._barred.pop(index, None)) is not None:
            self._spare.append(row)

    def guessed(self, token: int, position: int) -> None:
        """Go on from a draft, until something else is chosen there."""
        self._put(position - self._first, token)

    def allowed(self) -> Integers | None:
        """Return the ids that may come next, ascending; None: any.

        For exit rules that look at predictions. A prompt is read as deeply as without a
        constraint: a first token that is certain would have it read in a single step.
        """
        if not self._chosen or self._free(self._chosen):
            return None
        if self._allowed is None:
            self._allowed = np.flatnonzero(~self._barred_at(self._chosen))
        return self._allowed

    def closed(self) -> bool:
        """Whether what was chosen was made to end, because there was no room for more."""
        return self._closes_at < self._chosen

    def _put(self, index: int, token: int) -> None:
        if index < len(self._text):
            if self._text[index] == token:
                return
            del self._text[index:]
            if self._closes_at > index:
                self._closes_at = self._most
            for late in [late for late in self._tight if late * STRIDE > index]:
                del self._tight[late]
            for late in [late for late in self._barred if late > index]:
                self._spare.append(self._barred.pop(late))
            self._unread(max(0, index - self._begins))
            if self._gate is not None:
                self._gate.go_back(index)
        self._text.append(token)
        if self._gate is not None:
            self._gate.push(token)

    @property
    def _begins(self) -> int:
        """Index of the first token that is constrained; as things are, beyond all if none is."""
        opens_at = 0 if self._gate is None else self._gate.opens_at
        return self._most if opens_at is None else opens_at

    def _free(self, index: int) -> bool:
        return index < self._begins

    def _barred_at(self, index: int) -> Bools:
        row = self._barred.get(index)
        if row is None:
            self._go_to(index)
            self._matcher.unsafe_compute_mask_ptr(self._address, self._bytes)
            if self._matcher.is_error():
                self._fail()
            row = self._barred[index] = self._spare.pop() if self._spare else self._new_row()
            BARRED.take(self._bits, 0, row[0], "clip")
            if self._most - index <= HORIZON:
                self._close(index, row[1])
        return row[1]

    def _new_row(self) -> Row:
        words = np.zeros(self._bytes, np.uint64)
        return words, words.view(np.bool_)[: self._vocab_size]

    def _close(self, index: int, barred: Bools) -> None:
        """Leave only the next token of the way to the end, if there is room for no other."""
        left = self._most - index
        if index < self._closes_at:
            # A way costs as much as some masks: one is looked for now and then, at the same
            # indices whatever was drafted, and at each only where the last one has become tight.
            looks = index % STRIDE == 0 or index == self._begins
            if not (looks or self._tight.get(index // STRIDE)):
                return
            way = self._closing.way(self._matcher.deep_copy(), left, self._literals)
            if looks:
                long = HORIZON if way is None else len(way)
                self._tight[index // STRIDE] = long + self._margin + 2 * STRIDE >= left
            if way is None or len(way) + self._margin < left:
                return
            self._closes_at, self._way = index, way
        done = index - self._closes_at
        if done < len(self._way):
            barred.fill(True)
            barred[self._way[done]] = False
        else:
            barred |= ~self._closing.stops

    def _go_to(self, index: int) -> None:
        """Let the matcher have read exactly what is constrained of the first `index` tokens."""
        begins = self._begins
        self._unread(index - begins)
        if not self._matcher.consume_tokens(self._text[begins + self._read : index]):
            self._fail()
        self._read = index - begins

    def _unread(self, length: int) -> None:
        """Let the matcher have read no more than `length` tokens."""
        if self._read > length:
            self._matcher.rollback(self._read - length)
            self._read = length

    def _fail(self) -> None:
        problem = " ".join(self._matcher.get_error().split())[:200]
        raise RuntimeFailure(f"the constraint cannot be followed any further: {problem}")
