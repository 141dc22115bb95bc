"""MODEL and PROMPT, either of which may be left out, of commands that continue a text."""

import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from rdlite.cli.shared.models import default_model, download_options, resolve
from rdlite.errors import InputError
from rdlite.utils.printable import one_line

if TYPE_CHECKING:
    from rdlite.api.model import Model


def prompt_arguments(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the arguments, and what a download of MODEL asks for."""
    argument = click.argument("words", nargs=-1, metavar="[MODEL] [PROMPT]")
    return argument(download_options(command))


chat_option = click.option(
    "--chat/--raw",
    default=None,
    help="Take PROMPT as the first message of a chat, or as a text to continue. Default: --chat if "
    "MODEL has a chat template.",
)


def model_and_prompt(words: Sequence[str]) -> tuple[str, str]:
    """Tell the arguments apart; a prompt that was left out is read from standard input."""
    model, prompt = _tell_apart(words)
    if prompt is None:
        if sys.stdin.isatty():
            raise click.UsageError("give a PROMPT, or pipe one in")
        prompt = sys.stdin.buffer.read().decode(errors="replace").removesuffix("\n")
    return resolve(model), prompt


def is_chat(opened: "Model", prompt: str, chat: bool | None) -> bool:
    """Say whether a prompt is a message of a chat, as `chat_option` or else the model says.

    Raises InputError for an empty prompt, which a chat template would hide.
    """
    if not prompt:
        raise InputError("the prompt is empty; give at least one word")
    return opened.can_chat if chat is None else chat


def _tell_apart(words: Sequence[str]) -> tuple[str, str | None]:
    from rdlite.store.names import read_name

    if len(words) > 2:
        raise click.UsageError(f"got {len(words)} arguments; put the PROMPT in quotation marks")
    if len(words) == 2:
        return words[0], words[1]
    if not words:
        return default_model(), None
    word = words[0]
    one_word = len(word.split()) == 1
    names = word == "nano" or os.path.exists(word) or read_name(word) is not None
    if names or (one_word and os.sep in word):
        return word, None
    model = default_model()
    if one_word:
        click.echo(
            f"note: there is no file {one_line(word)}, so {one_line(model)} takes it as a prompt",
            err=True,
        )
    return model, word
