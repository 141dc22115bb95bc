"""The object that users iterate: new tokens as they come."""

from collections.abc import Generator, Iterator

from rdlite.decode.plan import Plan
from rdlite.decode.results import Stats, Token


class Generation:
    """New tokens, as they are generated. Iterate once; `text`, `ids` and `stats` finish it."""

    def __init__(self, tokens: Generator[Token, None, None], plan: Plan) -> None:
        """Use `Model.generate` or `Chat.send`."""
        self._tokens = tokens
        self._stats = plan.stats
        self._cancellation = plan.cancellation
        self._texts: list[str] = []
        self._ids: list[int] = []

    def __iter__(self) -> Iterator[Token]:
        """Yield the tokens that were not yielded yet."""
        for token in self._tokens:
            self._texts.append(token.text)
            self._ids.append(token.id)
            yield token

    def close(self) -> None:
        """End it now and keep what was generated so far. May be called twice."""
        self._tokens.close()

    def cancel(self) -> None:
        """End it from any thread, at once, even while it reads a prompt or takes a core step.

        Whoever iterates sees it end; `stats.finish` is then "cancelled", unless it had ended
        already. May be called twice.
        """
        self._cancellation.ask()

    @property
    def text(self) -> str:
        """The whole new text."""
        self._drain()
        return "".join(self._texts)

    @property
    def ids(self) -> list[int]:
        """The new token ids, a stop token included."""
        self._drain()
        return list(self._ids)

    @property
    def stats(self) -> Stats:
        """Counts, times and the reason it ended."""
        self._drain()
        return self._stats

    def _drain(self) -> None:
        for _ in self:
            pass
