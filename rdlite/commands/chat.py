"""`rdlite chat`: a conversation on a terminal, or line by line through a pipe."""

import contextlib
import sys
from typing import TYPE_CHECKING, Any

import click

from rdlite.commands.options import (
    complain,
    depth_of,
    describe_stats,
    max_tokens_option,
    model_argument,
    one_line,
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
@max_tokens_option
@run_options
@click.option("--system", help="A system prompt.")
def chat(model: str, system: str | None, **options: Any) -> None:
    """Talk with MODEL (nano, where it is left out); /help lists what can be typed.

    Through a pipe, every line of standard input is a message or a command, standard output gets
    the answers alone, and the exit code is 2 if one could not be given.

    \b
    Example:
        rdlite chat
        rdlite chat BUNDLE --steps 16
        echo "What is 48 + 76?" | rdlite chat
    """
    with open_model(model, options) as opened:
        talk = opened.chat(
            system,
            depth_of(opened, options),
            sampling_of(opened, options),
            options["seed"],
            options["speculate"],
        )
        terminal = sys.stdin.isatty() and sys.stdout.isatty()
        if terminal:
            _greet(talk)
        conversation = _Conversation(talk, system, options["max_tokens"], terminal)
        conversation.run()
    if conversation.failures and not terminal:
        raise SystemExit(2)


def _greet(talk: "Chat") -> None:
    model = talk.model
    manifest = model.bundle.manifest
    steps = _steps(talk)
    click.echo(
        one_line(
            f"{manifest.name} ({manifest.model.family}, {sum(manifest.parameters.values()):,} "
            f"parameters, core in {manifest.weights.get('core')}), {steps} a token, "
            f"context {model.context}. /help for help."
        )
    )


def _steps(talk: "Chat") -> str:
    """How deep it thinks, for people."""
    steps = talk.model.config.steps_or_default(talk.depth.max_steps)
    return f"{'at most ' if talk.depth.exit else ''}{steps} step{'s' * (steps > 1)}"


class _Conversation:
    """Reads messages and commands, prints answers, until the input ends."""

    def __init__(self, talk: "Chat", system: str | None, max_tokens: int, terminal: bool) -> None:
        self._talk = talk
        self._system = system
        self._max_tokens = max_tokens
        self._terminal = terminal
        self._last = "nothing was answered yet"
        self.failures = 0

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

        generation = None
        try:
            generation = self._talk.send(message, self._max_tokens)
            for token in generation:
                say(token.text)
        except KeyboardInterrupt:
            if generation is not None:
                generation.close()
            say(" [stopped]")
        except RdliteError as problem:
            self._complain(f"{problem}; /reset starts over")
            return
        click.echo()
        if generation is not None and generation.stats.new_tokens:
            self._last = describe_stats(generation.stats)
            if self._terminal:
                click.secho(f"[{self._last}]", dim=True)

    def _command(self, name: str = "", *arguments: str) -> bool:
        """Carry out a command; false to leave."""
        if name in ("quit", "exit"):
            return False
        if name == "steps" and len(arguments) <= 1:
            self._set_steps(*arguments)
        elif arguments or name not in ("help", "reset", "stats"):
            self._complain(f"/{' '.join((name, *arguments))} is not a command; /help lists them")
        elif name == "help":
            self._tell(HELP)
        elif name == "reset":
            self._talk.reset(self._system)
            self._last = "nothing was answered since /reset"
            self._tell("The conversation is forgotten.")
        else:
            used, context = self._talk.context_used, self._talk.model.context
            self._tell(f"{self._last}; context {used} of {context} tokens")
        return True

    def _set_steps(self, number: str | None = None) -> None:
        import dataclasses

        from rdlite import InputError

        try:
            wanted = None if number is None else _whole_number(number)
            self._talk.model.config.steps_or_default(wanted)  # the model's own bound
            if wanted is None:
                wanted = self._talk.model.default_depth.max_steps
            self._talk.depth = dataclasses.replace(self._talk.depth, max_steps=wanted)
        except InputError as problem:
            self._complain(str(problem))
            return
        self._tell(f"{_steps(self._talk)} a token from now on.")

    def _tell(self, text: str) -> None:
        # Through a pipe, standard output is for answers alone.
        click.echo(text, err=not self._terminal)

    def _complain(self, text: str) -> None:
        self.failures += 1
        complain(text)


def _whole_number(text: str) -> int:
    from rdlite import InputError

    try:
        return int(text)
    except ValueError:
        raise InputError(f"steps must be a whole number, got {text!r}") from None
