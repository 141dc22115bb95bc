"""What commands print: JSON, errors, model text, progress."""

import contextlib
import json
import shutil
import sys
import textwrap
from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING

import click

from rdlite.utils.printable import one_line, showable

if TYPE_CHECKING:
    from rdlite.decode.results import Stats
    from rdlite.utils.progress import Progress


def print_json(value: object, indent: int | None = 1) -> None:
    """Print one JSON value, in ASCII."""
    click.echo(json.dumps(value, indent=indent))


def complain(text: str) -> None:
    """Print an error to standard error."""
    text = f"error: {one_line(text)}"
    click.echo(wrapped(text) if sys.stderr.isatty() else text, err=True)


def width() -> int:
    """Columns of the terminal."""
    return shutil.get_terminal_size().columns


def wrapped(text: str) -> str:
    """Break the lines of a text between words where the terminal would break them within."""
    columns = width()

    def lines(line: str) -> list[str]:
        # What stands in columns goes on where its last one begins.
        indent = len(line) - len(line.split("  ")[-1].lstrip()) if "  " in line.strip() else 0
        return textwrap.wrap(
            line,
            columns,
            subsequent_indent=" " * min(indent, columns // 2),
            replace_whitespace=False,
            break_on_hyphens=False,
        ) or [""]

    fits = all(len(line) <= columns for line in text.split("\n"))
    return text if fits else "\n".join(chain.from_iterable(map(lines, text.split("\n"))))


def say(text: str) -> None:
    """Print a piece of a model's text at once, without what could play tricks on a terminal."""
    click.echo(showable(text), nl=False)


def describe_stats(stats: "Stats") -> str:
    """Return one line that says what a generation took."""
    reused = f" ({stats.reused_tokens} reused)" if stats.reused_tokens else ""
    prompt_steps = f", {stats.mean_prompt_steps:.1f} steps a token" if stats.prompt_steps else ""
    speed = f", {stats.tokens_per_second:.1f} tokens/s" if stats.tokens_per_second else ""
    drafts = ""
    if stats.speculation and stats.drafted:
        positions, steps = stats.speculation
        drafts = (
            f", {stats.acceptance:.0%} of {stats.drafted} drafts right (last: up to "
            f"{positions} positions a round, {steps} steps a draft)"
        )
    cut = {"length": "; cut off by --max-tokens", "context": "; cut off: the context is full"}
    return (
        f"{stats.new_tokens} tokens{speed}, {stats.mean_steps:.1f} steps a token{drafts}; prompt "
        f"{stats.prompt_tokens} tokens{reused}{prompt_steps}; first token after "
        f"{stats.time_to_first_token:.3f} s"
        f"{cut.get(stats.finish, '')}"
    )


@contextlib.contextmanager
def progress_bar(label: str, counts_bytes: bool = True) -> "Iterator[Progress | None]":
    """Give a callback for (done, total) that draws a bar; None where there is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    count = DownloadColumn() if counts_bytes else MofNCompleteColumn()
    columns = (TextColumn(label), BarColumn(), count, TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
