"""Where a conversation is read from and shown: a terminal, a pipe, or lines of JSON."""

import dataclasses
import math
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import click

from rdlite.cli.shared.output import complain, describe_stats, print_json, say, width, wrapped
from rdlite.utils.printable import showable

if TYPE_CHECKING:
    from rdlite.decode.results import Stats, Token
    from rdlite.tokenizer.thinking import Piece

#: Okabe and Ito's hues, which colour-blind readers tell apart, of the 256 that terminals have:
#: blue for few steps, then sky, green and orange, vermilion for the most.
HUES = (32, 74, 36, 172, 166)
NEWLINE_HINT = "Alt-Enter starts a new line"
LEAVING = "Ctrl-C again leaves; /save FILE keeps the conversation"


class Screen(Protocol):
    """Gives what the user types and shows what is answered."""

    failures: int

    def read(self) -> str | None:
        """Return the next message or command; None at the end."""

    def show(self, token: "Token | None", piece: "Piece", most: int) -> None:
        """Show what a token adds to thinking and answer; None: what was held back of them.

        `most` is how many steps it may have taken.
        """

    def stopped(self) -> None:
        """Show that the answer was stopped."""

    def ended(self, text: str, stats: "Stats | None", most: int, reasoning: str) -> None:
        """Show that the answer has ended, and what it took if there was one."""

    def tell(self, text: str) -> None:
        """Show what a command has to say."""

    def complain(self, text: str) -> None:
        """Show what went wrong."""


class Pipe:
    """Lines in, answers out; all else goes to standard error."""

    def __init__(self, thinking: bool = False) -> None:
        """With `thinking`, show that too, on standard error."""
        self.failures = 0
        self._thinking = thinking

    def read(self) -> str | None:
        """Return what is typed next; None at the end."""
        line = sys.stdin.buffer.readline()
        return line.decode(errors="replace") if line else None

    def show(self, token: "Token | None", piece: "Piece", most: int) -> None:
        """Show a token of an answer."""
        if self._thinking and piece.reasoning:
            click.echo(showable(piece.reasoning), nl=False, err=True)
        say(piece.content)

    def stopped(self) -> None:
        """Show that the answer was stopped."""
        say(" [stopped]")

    def ended(self, text: str, stats: "Stats | None", most: int, reasoning: str) -> None:
        """Show what the answer took."""
        if self._thinking and reasoning:
            click.echo(err=True)
        click.echo()

    def tell(self, text: str) -> None:
        """Show what a command has to say."""
        click.echo(text, err=True)

    def complain(self, text: str) -> None:
        """Show what went wrong."""
        self.failures += 1
        complain(text)


class Lines(Pipe):
    """Lines in, JSON out: a line for each token, then one with the text and what it took."""

    def show(self, token: "Token | None", piece: "Piece", most: int) -> None:
        """Show a token of an answer."""
        if token is not None:
            print_json(dataclasses.asdict(token), indent=None)

    def stopped(self) -> None:
        """The statistics say so."""

    def ended(self, text: str, stats: "Stats | None", most: int, reasoning: str) -> None:
        """Show what the answer took."""
        thought = {"reasoning": reasoning} if reasoning else {}
        report = {"text": text, **thought, "stats": stats.as_dict() if stats else None}
        print_json(report, indent=None)


class Terminal:
    """A prompt with line editing, history and a status line; answers stream in above it."""

    def __init__(
        self,
        status: Callable[[], str],
        commands: Iterable[str],
        history: Path | None,
        depth: bool,
        thinking: bool = True,
    ) -> None:
        """Set the prompt up.

        Args:
            status: says what the status line shows.
            commands: what can be completed.
            history: file of what was typed; None keeps none.
            depth: whether tokens are coloured by their steps.
            thinking: whether what is thought before an answer is shown.
        """
        from prompt_toolkit import PromptSession
        from prompt_toolkit.completion import WordCompleter
        from prompt_toolkit.history import FileHistory, History, InMemoryHistory
        from prompt_toolkit.key_binding import KeyBindings

        self.failures = 0
        self._thinking = thinking
        self._thought = False  # something was, in this answer
        self._depth = depth and "NO_COLOR" not in os.environ
        self._leaving = False  # Ctrl-C was pressed once, and nothing was typed since
        keys = KeyBindings()

        @keys.add("enter")
        def _(event: Any) -> None:
            event.current_buffer.validate_and_handle()

        @keys.add("escape", "enter")
        @keys.add("c-j")
        def _(event: Any) -> None:
            event.current_buffer.insert_text("\n")

        @keys.add("c-c")
        def _(event: Any) -> None:
            if self._leaving and not event.current_buffer.text:
                event.app.exit(exception=KeyboardInterrupt)
            event.current_buffer.reset()
            self._leaving = True

        def toolbar() -> str:
            if not self._leaving or self._session.default_buffer.text:
                return status()
            return f" {LEAVING}" if len(LEAVING) < width() else " Ctrl-C again leaves; /save FILE"

        kept: History = InMemoryHistory()
        if history is not None and _private(history):
            kept = FileHistory(history)
        self._session: PromptSession[str] = PromptSession(
            "> ",
            multiline=True,
            prompt_continuation="  ",
            key_bindings=keys,
            history=kept,
            completer=WordCompleter([f"/{name}" for name in commands], sentence=True),
            complete_while_typing=False,
            bottom_toolbar=toolbar,
        )

    def read(self) -> str | None:
        """Return what is typed next; None at the end."""
        self._leaving = False
        try:
            return self._session.prompt()
        except (EOFError, KeyboardInterrupt):
            return None

    def show(self, token: "Token | None", piece: "Piece", most: int) -> None:
        """Show a token of an answer."""
        if piece.reasoning:
            text = showable(piece.reasoning) if self._thinking else "thinking..."
            if self._thinking or not self._thought:
                click.secho(text, dim=True, nl=False)
            self._thought = True
        if not piece.content:
            return
        if self._thought:
            click.echo("\n")
            self._thought = False
        text = showable(piece.content)
        if self._depth and token is not None:
            text = click.style(text, fg=hue(token.steps, most))
        click.echo(text, nl=False)

    def stopped(self) -> None:
        """Show that the answer was stopped."""
        say(" [stopped]")

    def ended(self, text: str, stats: "Stats | None", most: int, reasoning: str) -> None:
        """Show what the answer took."""
        self._thought = False
        click.echo()
        if stats is None:
            return
        if self._depth:
            click.echo(legend(most, width()))
        click.secho(wrapped(f"[{describe_stats(stats)}]"), dim=True)

    def tell(self, text: str) -> None:
        """Show what a command has to say."""
        click.echo(wrapped(text))

    def complain(self, text: str) -> None:
        """Show what went wrong."""
        self.failures += 1
        complain(text)


def _private(path: Path) -> bool:
    """Make the history a file that nobody else reads; false if it cannot be had."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600))
    except OSError:
        return False
    return True


def hue(steps: int, most: int) -> int:
    """Return a terminal's colour for a token that took so many steps of so many."""
    return HUES[_level(steps, most)]


def _level(steps: int, most: int) -> int:
    if most <= 1:
        return 0
    return round((len(HUES) - 1) * math.log(max(1, steps)) / math.log(most))


def legend(most: int, columns: int) -> str:
    """Return which colours mean how many steps, in lines of at most so many columns."""
    ranges: dict[int, list[int]] = {}
    for steps in range(1, most + 1):
        ranges.setdefault(_level(steps, most), []).append(steps)
    text, used = "steps:", len("steps:")
    for level, steps_of in sorted(ranges.items()):
        first, last = steps_of[0], steps_of[-1]
        part = f"■ {first}" if first == last else f"■ {first}-{last}"
        gap = " " if text == "steps:" else "  "
        if used + len(gap) + len(part) > columns:
            text, used, gap = text + "\n", 0, "  "
        text += gap + click.style(part, fg=HUES[level])
        used += len(gap) + len(part)
    return text
