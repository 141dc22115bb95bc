"""Tells what a model thinks from what it answers: the text between <think> and </think>."""

from typing import NamedTuple

from rdlite.tokenizer.stream import overlap

OPEN, CLOSE = "<think>", "</think>"


class Piece(NamedTuple):
    """Some text of an answer; either may be empty."""

    reasoning: str
    content: str


class ThinkingSplitter:
    """Splits one answer as it comes, whatever pieces it is cut into.

    A block of thinking stands before the answer, or after another block; `<think>` further on is
    text like any other. White space around a block belongs to neither side. What may turn out to
    be the beginning of a mark is held back until it is clear.
    """

    def __init__(self, thinking: bool = False) -> None:
        """Begin an answer; `thinking`: its prompt opened the block, see `opens_thinking`."""
        #: Whether what comes next is thinking, as far as is known.
        self.thinking = thinking
        self._answering = False  # no block can come any more
        self._thought = thinking  # there was a block
        self._begun = False  # this block has said something
        self._held = ""

    def push(self, text: str) -> Piece:
        """Take some text; returns what is clear of it."""
        self._held += text
        reasoning = content = ""
        while self._held:
            if self._answering:
                content, self._held = content + self._held, ""
            elif self.thinking:
                said, closed = self._think()
                reasoning += said
                if not closed:
                    break
            elif not self._decide():
                break
        return Piece(reasoning, content)

    def finish(self) -> Piece:
        """Return what was held back; the answer has ended."""
        held, self._held = self._held, ""
        if self.thinking:
            return Piece(held.rstrip() if self._begun else held.strip(), "")
        return Piece("", held.lstrip() if self._thought else held)

    def _think(self) -> tuple[str, bool]:
        """Take thinking out of what is held; returns it, and whether it ends there."""
        if not self._begun:
            self._held = self._held.lstrip()
        said, mark, rest = self._held.partition(CLOSE)
        if mark:
            self.thinking, self._begun, self._held = False, False, rest
            return said.rstrip(), True
        clear = self._held[: len(self._held) - overlap(self._held, CLOSE)].rstrip()
        self._held = self._held[len(clear) :]
        self._begun = self._begun or bool(clear)
        return clear, False

    def _decide(self) -> bool:
        """Whether what is held is clear: it opens a block, or the answer begins."""
        begins = self._held.lstrip()
        if begins.startswith(OPEN):
            self.thinking = self._thought = True
            self._held = begins[len(OPEN) :]
            return True
        if OPEN.startswith(begins):
            return False
        self._answering = True
        if self._thought:
            self._held = begins
        return True


def split_thinking(text: str, thinking: bool = False) -> Piece:
    """Split a whole answer; `thinking` as for ThinkingSplitter."""
    splitter = ThinkingSplitter(thinking)
    first, last = splitter.push(text), splitter.finish()
    return Piece(first.reasoning + last.reasoning, first.content + last.content)


def opens_thinking(prompt: str) -> bool:
    """Whether a rendered prompt leaves the model inside a block of thinking."""
    return prompt.rstrip().endswith(OPEN)
