"""From rows to records: many texts at once on one model, records in the order of the rows."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from rdlite.api.model import Model
from rdlite.batch.options import Options, is_small
from rdlite.batch.request import Id, id_of, request_of
from rdlite.batch.rows import Row
from rdlite.decode.results import Stats, Token
from rdlite.errors import InputError, RdliteError
from rdlite.utils.printable import one_line, shorten

#: Rows that may be read and not told yet, so that a slow one stops no other.
WINDOW = 1024
#: Characters of their answers.
MAX_HELD = 2**24
MAX_REASON = 400
#: Texts at once; those of small models gain nothing from more.
FEW, MANY = 4, 16
#: New tokens of a row below which small models answer one after the other; rows between two looks.
SHORT, THOUGHT_OVER = 8, 256


@dataclass(frozen=True, slots=True)
class Record:
    """What became of a row.

    Attributes:
        id: the row's own, or its number.
        text: the answer; None if there is none.
        finish: as `Stats.finish`; None without an answer.
        steps: core steps that chose its tokens, in all.
        tokens: new tokens.
        logprob: of all of them (natural); None without an answer.
        error: why there is no answer.
    """

    id: Id
    text: str | None = None
    finish: str | None = None
    steps: int = 0
    tokens: int = 0
    logprob: float | None = None
    error: str | None = None

    def as_dict(self, logprob: bool) -> dict[str, Any]:
        """Return it by name: the answer, with its log-probability or without, or the error."""
        if self.error is not None:
            return {"id": self.id, "error": self.error}
        left_out = ("error",) if logprob else ("error", "logprob")
        return {name: getattr(self, name) for name in self.__slots__ if name not in left_out}

    def as_line(self, logprob: bool) -> bytes:
        """Return it as a line of JSONL."""
        return json.dumps(self.as_dict(logprob)).encode() + b"\n"


class Answerer:
    """Answers rows on one model, several texts at once. Use from one thread."""

    def __init__(self, model: Model, options: Options, at_once: int | None) -> None:
        """Answer as the options say, `at_once` texts at a time; None: as many as are fastest."""
        self.model = model
        self._options = options
        self._given = at_once
        self._rows = self._tokens = 0  # that were answered

    def answer(self, rows: Iterable[Row], numbered: bool = True) -> Iterator[Record]:
        """Yield a record for each row, in order; reads few rows ahead.

        Args:
            rows: any number.
            numbered: a row without an id is told apart by its number; else by its prompt.

        Raises:
            RuntimeFailure: the machine, not a row, is the problem.
        """
        source, window = iter(rows), _Window(WINDOW)
        while not window.ended:
            yield from self._fill(window, source, numbered)

    def _at_once(self) -> int:
        """Say how many texts to work on; what a row answers does not depend on it.

        The prompts of a small model fill a core already, so only the tokens of answers gain from
        company, and short answers have too few of them.
        """
        if self._given is not None:
            return self._given
        if not is_small(self.model.bundle):
            return MANY
        return 1 if self._tokens < SHORT * self._rows else FEW

    def _fill(self, window: _Window, source: Iterator[Row], numbered: bool) -> Iterator[Record]:
        """Work on some rows, until they end or the window is full."""
        running: dict[int, _Text] = {}

        def requests() -> Iterator[dict[str, Any]]:
            index = 0
            while index < THOUGHT_OVER and (text := window.take(source)) is not None:
                request = self._request(text, numbered)
                if request is not None:
                    running[index] = text
                    index += 1
                    yield request

        def finished(index: int, result: Stats | RdliteError) -> None:
            if not isinstance(result, Stats | InputError):
                raise result
            window.end(running.pop(index), result)
            self._rows += 1
            self._tokens += result.new_tokens if isinstance(result, Stats) else 0

        for index, token in self.model.generate_many(requests(), self._at_once(), finished):
            running[index].hear(token)
            yield from window.told()
        yield from window.told()

    def _request(self, text: _Text, numbered: bool) -> dict[str, Any] | None:
        row = text.row
        try:
            given = id_of(row.value)
            if row.problem is not None:
                raise InputError(row.problem)
            identity = row.number if numbered and given is None else given
            return request_of(row.value, identity, self.model, self._options)
        except InputError as problem:
            text.fail(problem)
            return None


class _Text:
    """A row that is worked on: what was said so far, in the end its record."""

    def __init__(self, row: Row) -> None:
        self.row = row
        self.pieces: list[str] = []
        self.logprob = 0.0
        self.record: Record | None = None

    def hear(self, token: Token) -> None:
        self.pieces.append(token.text)
        self.logprob += token.logprob

    def end(self, stats: Stats) -> None:
        self.record = Record(
            self._id(),
            "".join(self.pieces),
            stats.finish,
            stats.core_steps,
            stats.new_tokens,
            self.logprob,
        )

    def fail(self, problem: InputError) -> None:
        reason = shorten(one_line(str(problem)), MAX_REASON)
        self.record = Record(self._id(), error=reason)

    def _id(self) -> Id:
        try:
            given = id_of(self.row.value)
        except InputError:
            given = None
        return self.row.number if given is None else given


class _Window:
    """Rows that were read and not told yet, in order."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._texts: deque[_Text] = deque()
        self._held = 0
        self.ended = False

    def take(self, rows: Iterator[Row]) -> _Text | None:
        """Read the next row; None: there is none, or too many wait for a slow one."""
        if len(self._texts) >= self._most or self._held > MAX_HELD:
            return None
        row = next(rows, None)
        if row is None:
            self.ended = True
            return None
        self._texts.append(_Text(row))
        return self._texts[-1]

    def end(self, text: _Text, result: Stats | InputError) -> None:
        """Make the record of a text that has ended."""
        if isinstance(result, Stats):
            text.end(result)
        else:
            text.fail(result)
        self._held += sum(map(len, text.pieces))

    def told(self) -> Iterator[Record]:
        """Yield the records that no earlier row holds up."""
        while self._texts and (record := self._texts[0].record) is not None:
            text = self._texts.popleft()
            self._held -= sum(map(len, text.pieces))
            yield record
