"""`rdlite chat`: a conversation on a terminal, or line by line through a pipe."""

import contextlib
import sys
from typing import TYPE_CHECKING, Any

import click

from rdlite.commands.options import (
    describe_stats,
    model_argument,
    open_model,
    run_options,
    sampling_of,
    say,
)

if TYPE_CHECKING:
    from rdlite.chat import Chat

HELP = """\
/help      this list
/reset     forget the conversation
/steps N   think N core steps deep from now on; without N: the model's default
/stats     what the last answer took, and how full the context is
/quit      leave (so do Ctrl-D and Ctrl-C; Ctrl-C during an answer stops the answer)"""


@click.command()
@model_argument
@run_options
@click.option("--system", help="A system prompt.")
def chat(model: str, system: str | None, **options: Any) -> None:
    """Talk with MODEL; /help lists what can be typed.

    Through a pipe, every line of standard input is a message and every answer goes to standard
    output.

    \b
    Example:
        rdlite chat BUNDLE --steps 16
        echo "What is 48 + 76?" | rdlite chat BUNDLE
    """
    from rdlite import Depth

    with open_model(model, options) as opened:
        talk = opened.chat(
            system, Depth(options["steps"]), sampling_of(opened, options), options["seed"]
        )
        terminal = sys.stdin.isatty() and sys.stdout.isatty()
        if terminal:
            _greet(talk)
        _Conversation(talk, system, options["max_tokens"], terminal).run()


def _greet(talk: "Chat") -> None:
    model = talk.model
    manifest = model.bundle.manifest
    steps = talk.model.config.steps_or_default(talk.depth.max_steps)
    click.echo(
        f"{manifest.name} ({manifest.model.family}, {sum(manifest.parameters.values()):,} "
        f"parameters, core in {manifest.weights.get('core')}), {steps} steps a token, "
        f"context {model.context}. /help for help."
    )


class _Conversation:
    """Reads messages and commands, prints answers, until the input ends."""

    def __init__(self, talk: "Chat", system: str | None, max_tokens: int, terminal: bool) -> None:
        self._talk = talk
        self._system = system
        self._max_tokens = max_tokens
        self._terminal = terminal
        self._last = "nothing was answered yet"

    def run(self) -> None:
        """Loop until /quit, the end of the input, or Ctrl-C at the prompt."""
        while (line := self._read_line()) is not None:
            message = line.strip()
            if not message:
                continue
            if message.startswith("/"):
                if not self._command(*message[1:].split()):
                    return
            else:
                self._answer(message)

    def _read_line(self) -> str | None:
        if not self._terminal:
            line = sys.stdin.buffer.readline()
            return line.decode(errors="replace") if line else None
        with contextlib.suppress(ImportError):  # Windows edits lines without it
            import readline  # noqa: F401

        try:
            return input("> ")
        except (EOFError, KeyboardInterrupt):
            click.echo()
            return None

    def _answer(self, message: str) -> None:
        from rdlite import RdliteError

        try:
            generation = self._talk.send(message, self._max_tokens)
        except RdliteError as problem:
            self._complain(f"{problem}; /reset starts over")
            return
        stopped = ""
        try:
            for token in generation:
                say(token.text)
        except KeyboardInterrupt:
            generation.close()
            stopped = " [stopped]"
        click.echo(stopped)
        self._last = describe_stats(generation.stats)
        if self._terminal:
            click.secho(f"[{self._last}]", dim=True)

    def _command(self, name: str = "", *arguments: str) -> bool:
        """Carry out a command; false to leave."""
        from rdlite import Depth, RdliteError

        if name in ("quit", "exit"):
            return False
        if name == "help":
            click.echo(HELP)
        elif name == "reset":
            self._talk.reset(self._system)
            click.echo("The conversation is forgotten.")
        elif name == "stats":
            used, context = self._talk.context_used, self._talk.model.context
            click.echo(f"{self._last}; context {used} of {context} tokens")
        elif name == "steps" and len(arguments) <= 1:
            try:
                depth = Depth(_whole_number(arguments[0]) if arguments else None)
                steps = self._talk.model.config.steps_or_default(depth.max_steps)
            except RdliteError as problem:
                self._complain(str(problem))
            else:
                self._talk.depth = depth
                click.echo(f"{steps} steps a token from now on.")
        else:
            self._complain(f"/{name} is not a command; /help lists them")
        return True

    def _complain(self, text: str) -> None:
        click.echo(f"error: {text}", err=True)


def _whole_number(text: str) -> int:
    from rdlite import InputError

    try:
        return int(text)
    except ValueError:
        raise InputError(f"steps must be a whole number, got {text!r}") from None
