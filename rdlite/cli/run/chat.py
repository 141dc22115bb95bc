"""`rdlite chat`: a conversation on a terminal, or line by line through a pipe."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rdlite.cli.run.chat_screen import Lines, Pipe, Screen, Terminal
from rdlite.cli.run.slash_commands import COMMANDS, Commands, Leave, steps_of
from rdlite.cli.shared.history import history_option
from rdlite.cli.shared.options import max_tokens_option, model_argument, open_model, run_options
from rdlite.cli.shared.output import wrapped
from rdlite.cli.shared.template_variables import template_variables_option, variables_for
from rdlite.config.from_options import depth_of, sampling_of
from rdlite.utils.printable import one_line

if TYPE_CHECKING:
    from rdlite.api.chat import Chat
    from rdlite.decode.results import Token
    from rdlite.tokenizer.thinking import Piece


@click.command()
@model_argument
@max_tokens_option
@history_option
@template_variables_option
@run_options
@click.option("--system", help="System prompt.")
@click.option("--load", "saved", type=click.Path(), help="Continue a saved conversation.")
@click.option(
    "--show-depth",
    is_flag=True,
    help="Colour each token by its steps: blue is few, vermilion is many.",
)
@click.option(
    "--think",
    type=click.Choice(("on", "off")),
    help="Whether the model thinks before it answers, if it can. Default: the model's.",
)
@click.option(
    "--show-thinking/--hide-thinking",
    default=None,
    help="Show what the model thinks before it answers: dimmed, or in a pipe on standard error. "
    "Default: only on a terminal.",
)
@click.option("--no-history", is_flag=True, help="Don't keep a history of what you type.")
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON per token.")
def chat(
    model: str,
    system: str | None,
    saved: str | None,
    show_depth: bool,
    think: str | None,
    show_thinking: bool | None,
    no_history: bool,
    as_json: bool,
    template_var: tuple[tuple[str, Any], ...],
    **options: Any,
) -> None:
    """Chat with MODEL (default: nano).

    Type /help in the chat to list its commands. In a pipe, each line of standard input is a message
    or a command, and standard output has only the answers. The exit code is 2 if one failed.

    \b
    Example:
        rdlite chat
        rdlite chat BUNDLE --steps 16 --show-depth
        echo "What is 48 + 76?" | rdlite chat
    """
    if system and saved:
        raise click.UsageError(
            "--system starts a new conversation, but --load continues an old one; use one of them"
        )
    with open_model(model, options) as opened:
        talk = opened.chat(
            system,
            depth_of(opened.default_depth, options),
            sampling_of(opened.generation_config.sampling, options),
            options["seed"],
            options["speculate"],
            variables_for(opened, template_var),
            options["sampler"],
            options["history"],
        )
        if saved:
            talk.load(Path(saved))
        if think:
            talk.think(think == "on")
        terminal = sys.stdin.isatty() and sys.stdout.isatty() and not as_json
        conversation = _Conversation(talk, options["max_tokens"])
        if terminal:
            history = None if no_history else Path(click.get_app_dir("rdlite")) / "history"
            shown = show_thinking is not False
            screen: Screen = Terminal(conversation.status, COMMANDS, history, show_depth, shown)
            _greet(talk)
        else:
            screen = Lines() if as_json else Pipe(bool(show_thinking))
        conversation.run(screen)
    if screen.failures and not terminal:
        raise SystemExit(2)


def _greet(talk: "Chat") -> None:
    model = talk.model
    manifest = model.bundle.manifest
    line = one_line(
        f"{manifest.name} ({manifest.model.family}, {sum(manifest.parameters.values()):,} "
        f"parameters, core in {manifest.weights.get('core')}), {steps_of(talk)} a token, "
        f"context {talk.length}. /help for help."
    )
    click.echo(wrapped(line))


class _Conversation:
    """Reads messages and commands, and shows answers, until the input ends."""

    def __init__(self, talk: "Chat", max_tokens: int) -> None:
        self._talk = talk
        self._max_tokens = max_tokens
        self._commands: Commands | None = None

    def status(self) -> str:
        """What the status line says."""
        return self._commands.status() if self._commands else ""

    def run(self, screen: Screen) -> None:
        """Loop until /quit, the end of the input, or Ctrl-C twice at the prompt."""
        from rdlite.errors import RdliteError

        def answer(message: str) -> None:
            self._answer(screen, message)

        self._commands = Commands(self._talk, screen, answer)
        while (line := screen.read()) is not None:
            message = line.strip()
            try:
                if message.startswith("/"):
                    self._commands.run(message[1:])
                elif message:
                    answer(message)
            except Leave:
                return
            except RdliteError as problem:
                screen.complain(str(problem))

    def _answer(self, screen: Screen, message: str) -> None:
        from rdlite.errors import ContextError, InputError

        talk, generation = self._talk, None
        splitter, said = talk.splitter(), ["", ""]

        def show(token: "Token | None", piece: "Piece") -> None:
            said[0] += piece.reasoning
            said[1] += piece.content
            screen.show(token, piece, most)

        most = talk.model.config.steps_or_default(talk.depth.max_steps)
        left_out = talk.left_out
        try:
            generation = talk.send(message, self._max_tokens)
            if talk.left_out and not left_out:
                trained = " that this model was trained on" if talk.history == "trained" else ""
                screen.tell(
                    f"[The conversation is longer than the {talk.length} tokens{trained}: from now "
                    "on its oldest messages are left out. /history all keeps them.]"
                )
            splitter = talk.splitter()
            for token in generation:
                show(token, splitter.push(token.text))
            show(None, splitter.finish())
        except KeyboardInterrupt:
            if generation is not None:
                generation.close()
                show(None, splitter.finish())
            screen.stopped()
        except ContextError as problem:
            raise InputError(f"{problem}; /reset starts over") from None
        stats = generation.stats if generation is not None else None
        stats = stats if stats is not None and stats.new_tokens else None
        if stats is not None and self._commands is not None:
            self._commands.stats = stats
        reasoning, text = said
        screen.ended(text, stats, most, reasoning)
