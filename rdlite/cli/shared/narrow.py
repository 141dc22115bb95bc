"""Help on terminals that are narrower than click expects: it never goes below 50 columns."""

import shutil
from collections.abc import Iterable
from typing import Any

import click

MARGIN, LEAST = 2, 50  # of click


class _Formatter(click.HelpFormatter):
    def write_dl(
        self, rows: Iterable[tuple[str, str]], col_max: int = 30, col_spacing: int = 2
    ) -> None:
        if self.width < LEAST:
            col_max = self.width // 3  # longer names get lines of their own
        super().write_dl(rows, col_max, col_spacing)


class _Context(click.Context):
    formatter_class = _Formatter


def narrow(command: click.Command) -> None:
    """Have a command, and those below it, write their help so."""
    command.context_class = _Context
    if isinstance(command, click.Group):
        for child in command.commands.values():
            narrow(child)


def context_options() -> dict[str, Any]:
    """Return what the outermost context has to know of this terminal."""
    columns = shutil.get_terminal_size().columns - MARGIN
    return {"terminal_width": max(columns, 20)} if columns < LEAST else {}
