"""`rdlite batch`: answer a file of prompts."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rdlite.cli.shared.models import default_model, download_options, resolve
from rdlite.cli.shared.options import max_tokens_option, plain_run_options
from rdlite.cli.shared.template_variables import template_variables_option
from rdlite.config.from_options import depth_of, sampling_of

if TYPE_CHECKING:
    from rdlite.batch.job import Answer, Job
    from rdlite.batch.journal import Totals
    from rdlite.batch.options import Load
    from rdlite.utils.progress import Progress


@click.command()
@click.argument("words", nargs=-1, required=True, metavar="[MODEL] IN")
@download_options
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    metavar="OUT",
    help="File to write: .jsonl or .parquet. For a folder IN it may be a folder, with a file for "
    "each.",
)
@click.option(
    "--column",
    default="prompt",
    show_default=True,
    help="Key or column that holds the prompt.",
)
@click.option(
    "--ignore",
    multiple=True,
    metavar="KEY",
    help="Key of JSONL rows that is not meant for the model; may be repeated.",
)
@click.option(
    "--chat/--raw",
    default=None,
    help="Take prompts as messages of a user, or as texts to continue. Default: --chat if MODEL "
    "has a chat template.",
)
@click.option("--logprob", is_flag=True, help="Tell the log-probability of each answer.")
@click.option("--strict", is_flag=True, help="Stop at the first row that has no answer.")
@max_tokens_option
@click.option("--stop", multiple=True, help="Stop at this text; may be repeated.")
@template_variables_option
@plain_run_options
@click.option(
    "--at-once",
    type=click.IntRange(1, 1024),
    help="Rows that a process works on together; it changes speed and memory only. Default: 16; if "
    "MODEL is small 4, or 1 while answers are short.",
)
@click.option(
    "--processes",
    type=click.IntRange(1, 256),
    help="Processes, with a model each. Default: one for each core if MODEL is small, else one.",
)
@click.option(
    "--ray",
    "address",
    is_flag=False,
    flag_value="local",
    metavar="[ADDRESS]",
    help="Work on a Ray cluster: its address, or auto. Without one: Ray on this machine.",
)
@click.option(
    "--cores",
    type=click.IntRange(1, 1024),
    help="With --ray: cores of an actor, which has a model and as many threads. Default: those of "
    "the smallest node.",
)
def batch(
    words: tuple[str, ...],
    output: Path,
    column: str,
    ignore: tuple[str, ...],
    chat: bool | None,
    logprob: bool,
    strict: bool,
    stop: tuple[str, ...],
    template_var: tuple[tuple[str, Any], ...],
    at_once: int | None,
    processes: int | None,
    address: str | None,
    cores: int | None,
    **options: Any,
) -> None:
    """Answer every row of IN, and write a row for each to OUT, in order.

    IN is a file of JSONL, a .parquet file, or a folder of them. A row has "prompt" or "messages",
    and options of its own if it likes; lines for OpenAI's batch API work too. A row that cannot
    be answered gets a row with the error, and the others go on.

    If it is stopped or killed, the same command goes on where it was.

    \b
    Example:
        rdlite batch problems.jsonl -o answers.jsonl
        rdlite batch BUNDLE reviews.parquet -o labels.parquet --column text --max-tokens 8
        rdlite batch BUNDLE problems.jsonl -o answers.jsonl --ray 10.0.0.1:6379 --cores 16
    """
    from rdlite.batch.job import Job, run
    from rdlite.batch.options import Load, Options, model_defaults
    from rdlite.config.cache import Cache
    from rdlite.loader import open_bundle
    from rdlite.tokenizer.chat_template import check_variables

    if cores is not None and address is None:
        raise click.UsageError("--cores is of --ray; here it is --processes and --threads")
    if processes is not None and address is not None:
        raise click.UsageError("--processes is of one machine; with --ray it is --cores")
    model, given = _words(words)
    bundle = open_bundle(model)
    depth, sampling = model_defaults(bundle)
    chosen = Options(
        max_tokens=options["max_tokens"],
        depth=depth_of(depth, options),
        sampling=sampling_of(sampling, options),
        seed=options["seed"],
        stop=stop,
        chat=chat,
        logprob=logprob,
        column=column,
        ignore=ignore,
        template_variables=check_variables(dict(template_var)),
    )
    load = Load(
        model,
        options["device"],
        options["threads"],
        options["context"],
        Cache(options["cache_share"], options["cache_bits"]),
        options["force_steps"],
        at_once,
    )
    job = Job(given, output, chosen, bundle, strict)
    answer: Answer
    if address is None:
        answer = _here(job, load, processes)
    else:
        from rdlite.batch.on_ray import load_ray, on_ray

        load_ray()
        answer = partial(on_ray, load=load, options=chosen, address=address, cores=cores)
    with _bar() as (reading, working):
        totals = run(job, answer, reading, working)
    click.echo(_summary(output, totals), err=True)


def _words(words: Sequence[str]) -> tuple[str, Path]:
    if len(words) > 2:
        raise click.UsageError(f"got {len(words)} arguments; give [MODEL] IN")
    return resolve(words[0] if len(words) == 2 else default_model()), Path(words[-1])


def _here(job: Job, load: Load, processes: int | None) -> Answer:
    from rdlite.batch.local import in_processes, in_this_process, processes_for

    load, count = processes_for(job.bundle, load, processes)
    if count == 1:
        return partial(in_this_process, given=load, options=job.options)
    return partial(in_processes, given=load, options=job.options, processes=count)


def _summary(output: Path, totals: Totals) -> str:
    errors = f", {totals.errors} of them errors" if totals.errors else ""
    return (
        f"{output}: {totals.rows} rows{errors}; {totals.tokens} tokens, "
        f"{totals.mean_steps:.1f} steps a token"
    )


@contextlib.contextmanager
def _bar() -> Iterator[tuple[Progress | None, Callable[[Totals, int], None] | None]]:
    """Give what is told of reading and of the totals, and draws it; None without a terminal."""
    if not sys.stderr.isatty():
        yield None, None
        return
    from time import monotonic

    from rich import progress
    from rich.console import Console

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(20),
        progress.TextColumn("{task.fields[said]}"),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=Console(stderr=True)) as bar:
        reads, works = bar.add_task("reading", said=""), bar.add_task("", said="", visible=False)
        began, first = 0.0, 0

        def reading(done: int, total: int) -> None:
            bar.update(reads, completed=done, total=total)

        def working(totals: Totals, rows: int) -> None:
            nonlocal began, first
            if not began:
                began, first = monotonic(), totals.tokens
                bar.update(reads, visible=False)
            speed = (totals.tokens - first) / max(monotonic() - began, 1e-3)
            said = f"{totals.rows}/{rows} rows, {speed:.0f} tokens/s, {totals.mean_steps:.1f} steps"
            bar.update(works, completed=totals.rows, total=rows, said=said, visible=True)

        yield reading, working
