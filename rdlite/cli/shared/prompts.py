"""MODEL and PROMPT, either of which may be left out, of commands that continue a text."""

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import click

from rdlite.cli.shared.models import download_options, resolve
from rdlite.store.known import KNOWN
from rdlite.utils.printable import one_line


def prompt_arguments(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the arguments, and what a download of MODEL asks for."""
    argument = click.argument("words", nargs=-1, metavar="[MODEL] [PROMPT]")
    return argument(download_options(command))


def model_and_prompt(words: Sequence[str]) -> tuple[str, str]:
    """Tell the arguments apart; a prompt that was left out is read from standard input."""
    model, prompt = _tell_apart(words)
    if prompt is None:
        if sys.stdin.isatty():
            raise click.UsageError("give a PROMPT, or pipe one in")
        prompt = sys.stdin.buffer.read().decode(errors="replace").removesuffix("\n")
    return resolve(model), prompt


def _tell_apart(words: Sequence[str]) -> tuple[str, str | None]:
    if len(words) > 2:
        raise click.UsageError(f"got {len(words)} arguments; put the PROMPT in quotation marks")
    if len(words) == 2:
        return words[0], words[1]
    if not words:
        return "nano", None
    word = words[0]
    one_word = len(word.split()) == 1
    if word == "nano" or word in KNOWN or os.path.exists(word) or (one_word and os.sep in word):
        return word, None
    if one_word:
        click.echo(
            f"note: there is no file {one_line(word)}, so nano continues it as a prompt", err=True
        )
    return "nano", word
