"""`rdlite eval`: what a model can do at which depth."""

import contextlib
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rdlite.cli.shared.models import model_path
from rdlite.cli.shared.options import (
    cache_bits_option,
    force_steps_option,
    json_option,
    model_argument,
    threads_option,
)
from rdlite.cli.shared.output import print_json, progress_bar

if TYPE_CHECKING:
    from rdlite.api.model import Model
    from rdlite.measure.answers import Answers
    from rdlite.measure.task_kinds import Problem

COUNT, WINDOW = 20, 256
DEPTHS = (1, 2, 4, 8, 16, 32)
#: What a row of the table is called, by its field of a Divergence.
KL_ROWS = {
    "mean": "KL, mean (nats)",
    "median": "KL, median",
    "percentile_99": "KL, 99th percentile",
    "maximum": "KL, most",
    "same_top": "same likeliest token",
}
Report = dict[str, Any]


def _depths(
    ctx: click.Context, param: click.Parameter, value: str | None
) -> tuple[int, ...] | None:
    """Read a list like 1,2,4."""
    if value is None:
        return None
    try:
        depths = tuple(int(part) for part in value.split(","))
    except ValueError:
        depths = ()
    if (
        not depths
        or list(depths) != sorted(set(depths))
        or not 1 <= depths[0] <= depths[-1] <= 1024
    ):
        raise click.BadParameter(f"{value!r} must be ascending numbers of 1 to 1024, like 1,2,4,8")
    return depths


def _tasks(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    """Read a list of task names."""
    from rdlite.measure.tasks import TASKS

    if value is None:
        return None
    names = tuple(dict.fromkeys(value.split(",")))
    for name in names:
        if name not in TASKS:
            raise click.BadParameter(f"{name!r} is no task; there are {', '.join(TASKS)}")
    return names


@click.command("eval")
@model_argument
@click.option(
    "--steps",
    callback=_depths,
    metavar="LIST",
    help="Depths to measure, in core steps.  [default: 1,2,4,8,16,32, up to MODEL's limit]",
)
@force_steps_option
@click.option(
    "--tasks",
    callback=_tasks,
    metavar="LIST",
    help="Only these tasks, such as chain,hops. Default: all.",
)
@click.option(
    "--count",
    type=click.IntRange(1, 10_000),
    help="Problems per task and difficulty (fewer if there are not that many).  [default: 20]",
)
@click.option(
    "--text",
    type=click.Path(exists=True, dir_okay=False),
    help="Measure on this text file instead of the tasks: perplexity, or KL divergence with "
    "--against.",
)
@click.option(
    "--against",
    metavar="MODEL",
    callback=model_path,
    help="Measure the KL divergence from this model.",
)
@click.option(
    "--window",
    type=click.IntRange(2, 4096),
    help="Tokens of the text to read at once.  [default: 256, or the context]",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**64 - 1),
    default=0,
    show_default=True,
    help="Random seed for problems and initial states.",
)
@threads_option
@cache_bits_option
@click.option(
    "--plot",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Draw accuracy by depth as a picture (.png, .svg or .pdf).",
)
@json_option
def evaluate(
    model: str,
    steps: tuple[int, ...] | None,
    force_steps: bool,
    tasks: tuple[str, ...] | None,
    count: int | None,
    text: str | None,
    against: str | None,
    window: int | None,
    seed: int,
    threads: int | None,
    cache_bits: int | None,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Measure how well MODEL does at each depth.

    By default, asks it problems that it never saw in training and reports the accuracy by task,
    difficulty and depth. With --text, reports the perplexity of a text. With --against, reports the
    KL divergence from another model (such as the one it was quantized from), on the text or on the
    problems.

    \b
    Example:
        rdlite eval --steps 1,2,4,8,16,32 --plot depth.png
        rdlite eval BUNDLE --text novel.txt --json
        rdlite eval SMALL --against LARGE --text novel.txt
    """
    from rdlite.api.load import load
    from rdlite.config.cache import Cache

    on_text, on_tasks = text is not None, text is None
    for name, given, wanted, unless in (
        ("--tasks", tasks, on_tasks, "--text"),
        ("--count", count, on_tasks, "--text"),
        ("--window", window, on_text, "the tasks"),
        ("--plot", plot, on_tasks and against is None, "--text and --against"),
    ):
        if given is not None and not wanted:
            raise click.UsageError(f"{name} means nothing with {unless}; leave one of them out")
    if plot:
        from rdlite.measure.plots import check_plot

        check_plot(plot)
    answers = None
    with contextlib.ExitStack() as stack:
        cache = Cache(bits=cache_bits)
        opened = stack.enter_context(
            load(model, threads=threads, cache=cache, force_steps=force_steps)
        )
        if steps is None:
            most = opened.config.recurrence.max_steps or DEPTHS[-1]
            steps = tuple(depth for depth in DEPTHS if depth <= most)
        report: Report = {"model": opened.bundle.manifest.name, "steps": list(steps), "seed": seed}
        if against is not None:
            reference = stack.enter_context(load(against, threads=threads, force_steps=force_steps))
            context = min(opened.context, reference.context)
            sample = _sample(opened, text, tasks, count, window, seed, context)
            report |= _divergence_report(opened, reference, sample, steps, seed)
        elif text is not None:
            sample = _sample(opened, text, tasks, count, window, seed, opened.context)
            report |= _perplexity_report(opened, sample, steps, seed)
        else:
            answers = _answers(opened, steps, _problems(tasks, count, seed), seed)
            report |= _accuracy_report(answers)
    if as_json:
        print_json(report)
    else:
        _print_table(steps, report)
    if plot and answers:
        from rdlite.measure.plots import plot_accuracy

        plot_accuracy(answers, plot)


def _problems(tasks: Sequence[str] | None, count: int | None, seed: int) -> "list[Problem]":
    from rdlite.measure.answers import held_out_problems
    from rdlite.measure.tasks import TASKS

    return held_out_problems(count or COUNT, seed, tasks or TASKS)


def _answers(
    model: "Model", steps: Sequence[int], problems: "Sequence[Problem]", seed: int
) -> "Answers":
    from rdlite.measure.answers import answer

    with progress_bar("problems", counts_bytes=False) as progress:
        return answer(model, problems, steps, seed, progress)


def _sample(
    model: "Model",
    text: str | None,
    tasks: Sequence[str] | None,
    count: int | None,
    window: int | None,
    seed: int,
    context: int,
) -> list[Sequence[int]]:
    """Token ids of the text in windows, or of problems with their answers."""
    from rdlite.measure.answers import encode_problem
    from rdlite.measure.texts import windows

    if text is None:
        problems = _problems(tasks, count, seed)
        return [list(chain(*encode_problem(model, problem))) for problem in problems]
    content = Path(text).read_bytes().decode(errors="replace")
    return list(windows(model.tokenizer.encode(content), window or min(WINDOW, context), context))


def _accuracy_report(answers: "Answers") -> Report:
    tasks = {
        name: {
            "accuracy": answers.accuracy(name),
            "by_difficulty": {
                str(difficulty): {
                    "problems": answers.count(name, difficulty),
                    "accuracy": answers.accuracy(name, difficulty),
                }
                for difficulty in answers.difficulties(name)
            },
        }
        for name in answers.tasks
    }
    return {"problems": len(answers.problems), "tasks": tasks, "accuracy": answers.accuracy()}


def _perplexity_report(
    model: "Model", sample: Sequence[Sequence[int]], steps: Sequence[int], seed: int
) -> Report:
    from rdlite.measure.divergence import perplexity

    with progress_bar("tokens", counts_bytes=False) as progress:
        values = perplexity(model, sample, steps, seed, progress)
    return {"tokens": sum(map(len, sample)), "perplexity": values}


def _divergence_report(
    model: "Model",
    reference: "Model",
    sample: Sequence[Sequence[int]],
    steps: Sequence[int],
    seed: int,
) -> Report:
    import dataclasses

    from rdlite.measure.divergence import Divergence, divergence

    with progress_bar("texts", counts_bytes=False) as progress:
        found = divergence(model, reference, sample, steps, seed, progress)
    names = [field.name for field in dataclasses.fields(Divergence)]
    return {
        "against": reference.bundle.manifest.name,
        "tokens": sum(map(len, sample)),
        "divergence": {name: [getattr(each, name) for each in found] for name in names},
    }


def _print_table(steps: Sequence[int], report: Report) -> None:
    def row(name: str, cells: Sequence[object]) -> None:
        click.echo(f"{name:<24}" + "".join(f" {cell:>9}" for cell in cells))

    row("steps", steps)
    if "perplexity" in report:
        row("perplexity", [f"{value:.4g}" for value in report["perplexity"]])
    for name, values in report.get("divergence", {}).items():
        row(
            KL_ROWS[name],
            [f"{value:.2%}" if name == "same_top" else f"{value:.3g}" for value in values],
        )
    for name, task in report.get("tasks", {}).items():
        row(name, [f"{value:.0%}" for value in task["accuracy"]])
        for difficulty, found in task["by_difficulty"].items():
            name = f"  difficulty {difficulty} ({found['problems']})"
            row(name, [f"{value:.0%}" for value in found["accuracy"]])
    if "accuracy" in report:
        row("all tasks", [f"{value:.1%}" for value in report["accuracy"]])
