"""`rdlite generate`: continue a text."""

import dataclasses
import sys
from typing import Any

import click

from rdlite.commands.options import (
    describe_stats,
    json_option,
    model_argument,
    open_model,
    print_json,
    run_options,
    sampling_of,
    say,
)


@click.command()
@model_argument
@click.argument("prompt", required=False)
@run_options
@click.option("--stop", multiple=True, help="Text that ends it; may be given several times.")
@click.option("--stats", "show_stats", is_flag=True, help="Say on stderr what it took.")
@json_option
def generate(
    model: str,
    prompt: str | None,
    stop: tuple[str, ...],
    show_stats: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Continue PROMPT, or standard input where it is left out.

    With --json, each token is a line, then one with the text and what it took.

    \b
    Example:
        rdlite generate BUNDLE "Once upon a time" --steps 16 --max-tokens 100
        cat notes.txt | rdlite generate BUNDLE --temp 0
    """
    from rdlite import Depth

    if prompt is None:
        if sys.stdin.isatty():
            raise click.UsageError("give a PROMPT, or pipe one in")
        prompt = sys.stdin.buffer.read().decode(errors="replace").removesuffix("\n")
    with open_model(model, options) as opened:
        generation = opened.generate(
            prompt,
            max_tokens=options["max_tokens"],
            depth=Depth(options["steps"]),
            sampling=sampling_of(opened, options),
            seed=options["seed"],
            stop=stop,
        )
        for token in generation:
            if as_json:
                print_json(dataclasses.asdict(token), indent=None)
            else:
                say(token.text)
        if as_json:
            stats = dataclasses.asdict(generation.stats)
            print_json({"text": generation.text, "stats": stats}, indent=None)
        elif sys.stdout.isatty():
            click.echo()
        if show_stats:
            click.echo(describe_stats(generation.stats), err=True)
