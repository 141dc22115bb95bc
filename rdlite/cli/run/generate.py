"""`rdlite generate`: continue a text."""

import dataclasses
import sys
from typing import Any

import click

from rdlite.cli.shared.options import json_option, max_tokens_option, open_model, run_options
from rdlite.cli.shared.output import describe_stats, print_json, say
from rdlite.cli.shared.prompts import model_and_prompt, prompt_arguments
from rdlite.config.from_options import depth_of, sampling_of


@click.command()
@prompt_arguments
@max_tokens_option
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
    model, prompt = model_and_prompt(words)
    with open_model(model, options) as opened:
        generation = opened.generate(
            prompt,
            max_tokens=options["max_tokens"],
            depth=depth_of(opened.default_depth, options),
            sampling=sampling_of(opened.generation_config.sampling, options),
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
            report = {"text": generation.text, "stats": generation.stats.as_dict()}
            print_json(report, indent=None)
        elif sys.stdout.isatty():
            click.echo()
        if show_stats:
            click.echo(describe_stats(generation.stats), err=True)
