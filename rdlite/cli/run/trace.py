"""`rdlite trace`: how a model thought, step by step."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rdlite.cli.shared.options import json_option, open_model, plain_run_options, sampler_option
from rdlite.cli.shared.output import print_json, progress_bar
from rdlite.cli.shared.prompts import chat_option, is_chat, model_and_prompt, prompt_arguments
from rdlite.config.from_options import depth_of, sampling_of
from rdlite.utils.printable import label, one_line

if TYPE_CHECKING:
    from rdlite.trace.record import TokenTrace, Trace

NAME_WIDTH = 16


@click.command()
@prompt_arguments
@chat_option
@click.option(
    "--max-tokens",
    type=click.IntRange(1, 2**22),
    default=32,
    show_default=True,
    help="Maximum tokens to trace.",
)
@click.option(
    "--top",
    type=click.IntRange(1, 100),
    default=5,
    show_default=True,
    help="How many of the likeliest tokens to show for each step.",
)
@plain_run_options
@sampler_option
@click.option("--stop", multiple=True, help="Stop at this text; may be repeated.")
@click.option(
    "--plot",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Draw the trace as a picture (.png, .svg or .pdf), up to 48 tokens.",
)
@click.option(
    "--html",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the trace as a self-contained page (.html).",
)
@json_option
def trace(
    words: tuple[str, ...],
    chat: bool | None,
    max_tokens: int,
    top: int,
    stop: tuple[str, ...],
    plot: Path | None,
    html: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Show what MODEL would have said after each core step.

    Takes PROMPT (default: standard input) as 'rdlite generate' does, to the same text. For each new
    token it shows the steps taken and, after each step, how far the state moved and which tokens
    were the likeliest.

    \b
    Example:
        rdlite trace "What is 48 + 76?"
        rdlite trace BUNDLE "The capital of France is" --raw --max-tokens 8 --plot trace.png
        rdlite trace BUNDLE "2 + 2 =" --raw --exit-rule off --steps 32 --html trace.html
    """
    model, prompt = model_and_prompt(words)
    if options["sampler"] is not None:
        if plot or html:
            raise click.UsageError("--plot and --html show one token after the other, not a window")
        _wavefront(model, prompt, max_tokens, stop, chat, as_json, options)
        return
    if html:
        from rdlite.utils.files import check_output_file

        if html.suffix != ".html":
            raise click.UsageError(f"--html writes a page: {html} must end in .html")
        check_output_file(html)
    if plot:
        from rdlite.measure.plots import check_plot

        check_plot(plot)
    from rdlite.trace import record as tracing

    with open_model(model, options) as opened, progress_bar("tokens", False) as progress:
        found = tracing.trace(
            opened,
            prompt,
            max_tokens,
            depth_of(opened.default_depth, options),
            sampling_of(opened.generation_config.sampling, options),
            options["seed"],
            stop,
            is_chat(opened, prompt, chat),
            top,
            progress,
        )
    if as_json:
        print_json(found.as_dict())
    else:
        _print(found)
    if html:
        from rdlite.trace.html import trace_page
        from rdlite.utils.files import write_whole

        write_whole(html, trace_page(found).encode())
    if plot:
        from rdlite.trace.plot import plot_trace

        plot_trace(found, plot)


def _wavefront(
    model: str,
    prompt: str,
    max_tokens: int,
    stop: tuple[str, ...],
    chat: bool | None,
    as_json: bool,
    options: dict[str, Any],
) -> None:
    """Print the parallel sampler's window after each outer step: frozen tokens | guesses."""
    from rdlite.trace.wavefront import trace_wavefront

    with open_model(model, options) as opened:
        text, rows = trace_wavefront(
            opened,
            prompt,
            options["sampler"],
            max_tokens,
            depth_of(opened.default_depth, options),
            sampling_of(opened.generation_config.sampling, options),
            options["seed"],
            stop,
            is_chat(opened, prompt, chat),
        )
    if as_json:
        print_json({"text": text, "wavefront": [dataclasses.asdict(row) for row in rows]})
        return
    click.echo("step  position  frozen | guesses")
    for row in rows:
        frozen, guesses = (" ".join(map(label, texts)) for texts in (row.frozen, row.guesses))
        click.echo(f"{row.step:>4}  {row.position:>8}  {frozen} | {guesses}")
    click.echo(f"\n{one_line(text)}")


def _print(found: "Trace") -> None:
    width = max(5, *(_width(token.token) for token in found.tokens))
    click.echo(f"  # {_name('token', width)}  steps  settled at  probability")
    for number, token in enumerate(found.tokens, 1):
        click.echo(
            f"{number:>3} {_name(token.token, width)}  {token.steps:>5}  {token.settled:>10}  "
            f"{token.thoughts[-1].probability:>11.1%}"
        )
    for number, token in enumerate(found.tokens, 1):
        click.echo(f"\n{number:>3} {_name(token.token, width).rstrip()}")
        _print_steps(token, found.depth.exit)


def _print_steps(token: "TokenTrace", rule: str | None) -> None:
    places = len(token.thoughts[0].likeliest)
    widths = [
        max(_width(each.likeliest[i].token) for each in token.thoughts) for i in range(places)
    ]
    column = max(len(rule or ""), 7)
    click.echo(f"step   change  {f'{rule:>{column}}  ' if rule else ''}likeliest")
    for step, thought in enumerate(token.thoughts, 1):
        value = f"{_number(thought.exit_value):>{column}}  " if rule else ""
        answers = "  ".join(
            f"{_name(each.token, width)} {each.probability:>6.1%}"
            for each, width in zip(thought.likeliest, widths, strict=True)
        )
        click.echo(f"{step:>4}  {_number(thought.change):>7}  {value}{answers}")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _width(token: str) -> int:
    """Columns of a terminal that a token's text takes, at most NAME_WIDTH."""
    from rich.cells import cell_len

    return min(cell_len(label(token)), NAME_WIDTH)


def _name(token: str, width: int) -> str:
    """A token's text in so many columns of a terminal."""
    from rich.cells import cell_len, set_cell_size

    name = label(token)
    if cell_len(name) > width:
        name = set_cell_size(name, width - 1) + "\N{HORIZONTAL ELLIPSIS}"
    return set_cell_size(name, width)
