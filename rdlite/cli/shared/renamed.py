"""Options that were called something else: the old name goes on working, and is shown nowhere."""

from typing import Any

import click


class Renamed(click.Option):
    """An option with older names, which are parsed but are in no help, hint or completion."""

    def __init__(self, *args: Any, formerly: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._formerly = formerly

    def add_to_parser(self, parser: Any, ctx: click.Context) -> None:
        """Let the parser know the older name too."""
        shown = self.opts
        self.opts = [*shown, self._formerly]
        super().add_to_parser(parser, ctx)
        self.opts = shown
