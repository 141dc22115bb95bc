"""Values that a shell completes, and that are checked by whoever takes them."""

from collections.abc import Callable, Iterable

import click
from click.shell_completion import CompletionItem


class Suggested(click.types.StringParamType):
    """A text for which a shell offers some values; `values` is called when it asks."""

    def __init__(self, values: Callable[[], Iterable[str]]) -> None:
        self._values = values

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Return the values that begin with what was typed."""
        return [CompletionItem(value) for value in self._values() if value.startswith(incomplete)]
