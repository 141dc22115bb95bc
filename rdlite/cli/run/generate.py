"""`rdlite generate`: answer a question, or continue a text."""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import click

from rdlite.cli.shared.options import json_option, max_tokens_option, open_model, run_options
from rdlite.cli.shared.output import describe_stats, print_json, say
from rdlite.cli.shared.prompts import chat_option, is_chat, model_and_prompt, prompt_arguments
from rdlite.config.constraint import MAX_CHARACTERS, Constraint
from rdlite.config.from_options import depth_of, sampling_of
from rdlite.errors import InputError


@click.command()
@prompt_arguments
@chat_option
@max_tokens_option
@run_options
@click.option("--stop", multiple=True, help="Stop at this text; may be repeated.")
@click.option(
    "--json-schema",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write JSON that fits the schema in FILE.",
)
@click.option("--regex", help="Write text that matches this regular expression as a whole.")
@click.option("--stats", "show_stats", is_flag=True, help="Print statistics to stderr.")
@json_option
def generate(
    words: tuple[str, ...],
    chat: bool | None,
    stop: tuple[str, ...],
    json_schema: Path | None,
    regex: str | None,
    show_stats: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Answer PROMPT (default: standard input), or with --raw, continue it.

    A single argument is MODEL if it is a path or a name, else PROMPT. With --json, each token is
    one line, and the last line has the whole text and statistics.

    \b
    Example:
        rdlite generate "What is 48 + 76?"
        rdlite generate BUNDLE "Once upon a time" --raw --steps 16 --max-tokens 100
        cat notes.txt | rdlite generate BUNDLE --temp 0
    """
    constraint = _constraint(json_schema, regex)
    model, prompt = model_and_prompt(words)
    with open_model(model, options) as opened:
        as_chat = is_chat(opened, prompt, chat)
        generation = opened.generate(
            opened.encode_chat([{"role": "user", "content": prompt}]) if as_chat else prompt,
            max_tokens=options["max_tokens"],
            depth=depth_of(opened.default_depth, options),
            sampling=sampling_of(opened.generation_config.sampling, options),
            seed=options["seed"],
            stop=stop,
            speculate=options["speculate"],
            constraint=constraint,
            sampler=options["sampler"],
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


def _constraint(json_schema: Path | None, regex: str | None) -> Constraint | None:
    if json_schema is None and regex is None:
        return None
    if json_schema is None or regex is not None:
        return Constraint(regex=regex, json_schema=None if json_schema is None else "{}")
    try:
        with json_schema.open(encoding="utf-8") as file:
            return Constraint(json_schema=file.read(MAX_CHARACTERS + 1))
    except (OSError, UnicodeDecodeError) as problem:
        raise InputError(f"the schema {str(json_schema)!r:.80} cannot be read: {problem}") from None
