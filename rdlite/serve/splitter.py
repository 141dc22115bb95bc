"""One answer taken apart as it comes: what it thinks, what it says, and the functions it calls."""

import uuid
from dataclasses import dataclass
from typing import NamedTuple

from rdlite.tokenizer.thinking import Piece, ThinkingSplitter
from rdlite.tools.splitter import CallBegins, CallSplitter, Said


@dataclass(slots=True)
class CallPart:
    """A part of a call.

    Attributes:
        index: of the call in its answer.
        id: by which its result will name it; None where it does not begin.
        name: of the function; likewise.
        arguments: the next characters of their JSON.
    """

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""


class AnswerPiece(NamedTuple):
    """A part of an answer; any of these may be empty."""

    reasoning: str
    content: str
    calls: list[CallPart]


class AnswerSplitter:
    """Takes one answer apart."""

    def __init__(
        self, thinking: ThinkingSplitter | None = None, calls: CallSplitter | None = None
    ) -> None:
        """Begin an answer; without either, that part of it is told as content."""
        self._thinking = thinking
        self._calls = calls
        #: Whether it may call functions, and whether it has called one.
        self.may_call = calls is not None
        self.called = False

    @property
    def thinking(self) -> bool:
        """Whether what comes next is thinking, as far as is known."""
        return self._thinking is not None and self._thinking.thinking

    def push(self, text: str, ended: bool) -> AnswerPiece:
        """Return what is clear of some more text; at the end, also what was held back."""
        piece = Piece("", text)
        if self._thinking is not None:
            piece = self._thinking.push(text)
            last = self._thinking.finish() if ended else Piece("", "")
            piece = Piece(piece.reasoning + last.reasoning, piece.content + last.content)
        if self._calls is None:
            return AnswerPiece(*piece, [])
        parts = self._calls.push(piece.content) + (self._calls.finish() if ended else [])
        said = "".join(part.text for part in parts if isinstance(part, Said))
        calls: list[CallPart] = []
        for part in parts:
            if isinstance(part, Said):
                continue
            if not calls or calls[-1].index != part.index:
                calls.append(CallPart(part.index))
            if isinstance(part, CallBegins):
                calls[-1].id, calls[-1].name = f"call_{uuid.uuid4().hex[:24]}", part.name
            else:
                calls[-1].arguments += part.text
        self.called = self.called or bool(calls)
        return AnswerPiece(piece.reasoning, said, calls)
