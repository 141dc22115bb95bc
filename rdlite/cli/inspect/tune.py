"""`rdlite tune`: measures what exit rules save and lose, and makes the best the model's default."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rdlite.cli.shared.options import json_option, model_argument, threads_option
from rdlite.cli.shared.output import print_json, progress_bar

if TYPE_CHECKING:
    from rdlite.api.model import Model
    from rdlite.measure.exit_record import Sample
    from rdlite.measure.exit_tuning import Curve

COUNT, WINDOWS, WINDOW = 10, 640, 64


@click.command()
@model_argument
@click.option(
    "--loss",
    type=click.FloatRange(0, 50),
    default=0.5,
    show_default=True,
    help="Percent of the answers that may differ from those at full depth.",
)
@click.option(
    "--steps",
    type=click.IntRange(2, 1024),
    help="Full depth, in core steps. Default: twice the model's mean depth.",
)
@click.option(
    "--text",
    type=click.Path(exists=True, dir_okay=False),
    help="Tune on this text file, token by token, instead of on problems.",
)
@click.option(
    "--count",
    type=click.IntRange(1, 10_000),
    help="Problems per task and difficulty, or windows of the text.  "
    f"[default: {COUNT}, or {WINDOWS}]",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**64 - 1),
    default=0,
    show_default=True,
    help="Random seed for problems and initial states.",
)
@threads_option
@click.option(
    "--plot",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Draw steps against agreement as a picture (.png, .svg or .pdf).",
)
@click.option("--dry-run", is_flag=True, help="Only measure; don't change MODEL.")
@json_option
def tune(
    model: str,
    loss: float,
    steps: int | None,
    text: str | None,
    count: int | None,
    seed: int,
    threads: int | None,
    plot: Path | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Find out when MODEL may stop early, and make that its default.

    Reads problems (or a text) at full depth. For every exit rule and threshold, it measures how
    many steps the model would take and how many answers would change. It writes the loosest
    thresholds that keep the loss, the cheapest rule with its curve, and the scales of an int8 cache
    ('--cache-bits 8') into the bundle; for nano, which comes with rdlite, into a copy of it in the
    store, which is the MODEL nano:tuned.

    \b
    Example:
        rdlite tune BUNDLE --text novel.txt --loss 1
        rdlite tune BUNDLE --dry-run --plot exit.png
    """
    from rdlite.api.load import load
    from rdlite.bundle.update import check_updatable
    from rdlite.measure.exit_record import record
    from rdlite.measure.exit_tuning import choose, curve, settle
    from rdlite.measure.texts import text_name
    from rdlite.store.copies import copied_name, copied_path
    from rdlite.utils.checks import check_number

    check_number("--loss", loss, 0, 50)  # click lets NaN through
    if plot:
        from rdlite.measure.plots import check_plot

        check_plot(plot)
    with load(model, threads=threads) as opened:
        copy = None if dry_run else copied_name(opened.bundle.folder)
        if not dry_run and copy is None:
            check_updatable(opened.bundle.folder)
        recurrence = opened.config.recurrence
        full = opened.config.steps_or_default(
            steps or min(2 * recurrence.mean_steps, recurrence.max_steps or 1024)
        )
        samples = _samples(opened, text, count, seed)
        with progress_bar("samples", counts_bytes=False) as progress:
            trace = record(opened, samples, full, seed, progress)
        curves = [curve(trace, name, loss / 100) for name in trace.values]
        best, agreement = None, 0.0
        left = list(curves)
        while best is None:
            candidate = choose(left, opened.bundle.manifest.parameters)
            settled, agreement = settle(opened, samples, candidate, full, loss / 100, seed)
            if settled.chosen is not None:
                best = settled
            left.remove(candidate)
        curves = [best if each.rule == best.rule else each for each in curves]
        measured_on = text_name(text) if text else "practice problems"
        report = _report(opened, curves, best, full, agreement, measured_on, len(samples))
        if not dry_run:
            _store(opened, curves, best, full, loss, measured_on, samples)
    if plot:
        from rdlite.measure.plots import plot_tuning

        plot_tuning(curves, plot)
    if as_json:
        print_json(report)
    else:
        _print(report, best)
        click.echo(
            "Nothing was written."
            if dry_run
            else "This is now the model's default."
            if copy is None
            else f"{copy.repo} comes with rdlite and stays as it is; a tuned copy is in\n"
            f"{copied_path(copy)}.\nUse it as MODEL: {copy.repo}:{copy.scheme}. For always: "
            f"rdlite config model {copy.repo}:{copy.scheme}"
        )


def _samples(model: "Model", text: str | None, count: int | None, seed: int) -> "list[Sample]":
    from rdlite.measure.exit_record import problem_samples, text_samples
    from rdlite.measure.texts import read_tokens, windows

    if text is None:
        return problem_samples(model, count or COUNT, seed)
    window = min(WINDOW, model.context)
    ids = read_tokens(model, text, (count or WINDOWS) * window)
    return text_samples(list(windows(ids, window, model.context)))


def _store(
    model: "Model",
    curves: "Sequence[Curve]",
    best: "Curve",
    steps: int,
    loss: float,
    measured_on: str,
    samples: "Sequence[Sample]",
) -> None:
    """Write thresholds into the bundle or its copy, and cache scales if its cache can be int8."""
    from rdlite.bundle.update import update_bundle
    from rdlite.config.exit_defaults import MOST_POINTS, CurvePoint, ExitDefaults
    from rdlite.measure.calibrate_kv import (
        cache_scales_update,
        calibrate_cache_scales,
        practice_texts,
    )
    from rdlite.store.copies import changeable

    thresholds = {each.rule: each.chosen.threshold for each in curves if each.chosen}
    points = tuple(
        CurvePoint(point.threshold, round(point.steps, 2), round(point.agreement, 4))
        for point in best.points[-MOST_POINTS:]
    )
    defaults = ExitDefaults(best.rule, steps, thresholds, loss / 100, measured_on, points)
    changes: Mapping[str, Any] = {}
    files: Mapping[str, bytes | None] = {}
    if model.bundle.manifest.flavour != "portable":
        with progress_bar("cache scales", counts_bytes=False) as progress:
            on_text = not samples[0].prompt
            texts = [sample.ids for sample in samples] if on_text else practice_texts(model)
            scales = calibrate_cache_scales(model, texts, progress=progress)
        changes, files = cache_scales_update(model.bundle, scales)
    with changeable(model.bundle) as bundle:
        update_bundle(bundle, {**changes, "exit": defaults}, files)


def _report(
    model: "Model",
    curves: "Sequence[Curve]",
    best: "Curve",
    steps: int,
    agreement: float,
    measured_on: str,
    samples: int,
) -> dict[str, Any]:
    import dataclasses

    from rdlite.measure.exit_tuning import cost

    parameters = model.bundle.manifest.parameters
    return {
        "model": model.bundle.manifest.name,
        "measured_on": measured_on,
        "samples": samples,
        "full_steps": steps,
        "default": best.rule,
        "default_agreement": agreement,
        "rules": {
            each.rule: None
            if each.chosen is None
            else {**dataclasses.asdict(each.chosen), "cost": cost(parameters, each.chosen)}
            for each in curves
        },
    }


def _print(report: dict[str, Any], best: "Curve") -> None:
    columns = ("threshold", "steps", "looks", "cost", "agreement")
    click.echo(f"{report['samples']} samples of {report['measured_on']}, ", nl=False)
    click.echo(f"full depth {report['full_steps']} steps")
    click.echo(f"{'rule':<18}" + "".join(f"{name:>11}" for name in columns))
    for rule, found in report["rules"].items():
        cells = ("-",) * len(columns)
        if found:
            cells = (
                f"{found['threshold']:g}",
                f"{found['steps']:.2f}",
                f"{found['looks']:.2f}",
                f"{found['cost']:.2f}",
                f"{found['agreement']:.2%}",
            )
        mark = " *" if rule == best.rule else ""
        click.echo(f"{rule:<18}" + "".join(f"{cell:>11}" for cell in cells) + mark)
    click.echo(
        "For a token, on average: steps, the core steps it takes; looks, how often the rule "
        "decodes to decide;\ncost, both together in core steps. agreement: answers that stay the "
        "same."
    )
    click.echo(f"* answers the same as at full depth: {report['default_agreement']:.2%}")
