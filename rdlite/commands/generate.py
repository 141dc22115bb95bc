"""`rdlite generate`: continue a text."""

import dataclasses
import os
import sys
from typing import Any

import click

from rdlite.commands.options import (
    depth_of,
    describe_stats,
    json_option,
    one_line,
    open_model,
    print_json,
    run_options,
    sampling_of,
    say,
)


@click.command()
@click.argument("words", nargs=-1, metavar="[MODEL] [PROMPT]")
@run_options
@click.option("--stop", multiple=True, help="Text that ends it; may be given several times.")
@click.option("--stats", "show_stats", is_flag=True, help="Say on stderr what it took.")
@json_option
def generate(
    words: tuple[str, ...],
    stop: tuple[str, ...],
    show_stats: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Continue PROMPT, or standard input where it is left out.

    A single argument is MODEL if it is a path, else PROMPT. With --json, each token is a line, then
    one with the text and what it took.

    \b
    Example:
        rdlite generate BUNDLE "Once upon a time" --steps 16 --max-tokens 100
        cat notes.txt | rdlite generate BUNDLE --temp 0
    """
    model, prompt = _model_and_prompt(words)
    if prompt is None:
        if sys.stdin.isatty():
            raise click.UsageError("give a PROMPT, or pipe one in")
        prompt = sys.stdin.buffer.read().decode(errors="replace").removesuffix("\n")
    with open_model(model, options) as opened:
        generation = opened.generate(
            prompt,
            max_tokens=options["max_tokens"],
            depth=depth_of(options),
            sampling=sampling_of(opened, options),
            seed=options["seed"],
            stop=stop,
            speculate=options["speculate"],
        )
        for token in generation:
            if as_json:
                print_json(dataclasses.asdict(token), indent=None)
            else:
                say(token.text)
        if as_json:
            stats = dataclasses.asdict(generation.stats)
            stats["acceptance"] = generation.stats.acceptance
            print_json({"text": generation.text, "stats": stats}, indent=None)
        elif sys.stdout.isatty():
            click.echo()
        if show_stats:
            click.echo(describe_stats(generation.stats), err=True)


def _model_and_prompt(words: tuple[str, ...]) -> tuple[str, str | None]:
    """Tell the arguments apart; either may be left out."""
    if len(words) > 2:
        raise click.UsageError(f"got {len(words)} arguments; put the PROMPT in quotation marks")
    if len(words) == 2:
        return words[0], words[1]
    if not words:
        return "nano", None
    word = words[0]
    one_word = len(word.split()) == 1
    if word == "nano" or os.path.exists(word) or (one_word and os.sep in word):
        return word, None
    if one_word:
        click.echo(f"note: there is no {one_line(word)} here, so nano continues it", err=True)
    return "nano", word
