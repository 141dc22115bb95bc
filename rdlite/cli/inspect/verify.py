"""`rdlite verify`: every rule of the bundle format, every hash; two bundles of one model."""

import sys
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from rdlite.cli.shared.models import model_path
from rdlite.cli.shared.options import json_option, model_argument
from rdlite.cli.shared.output import print_json, progress_bar

if TYPE_CHECKING:
    from rdlite.measure.compare_bundles import Difference


@click.command()
@model_argument
@click.option(
    "--against",
    metavar="OTHER",
    callback=model_path,
    help="Another bundle of the same model, to compare each graph and the logits with.",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(0, 1e6),
    default=1e-4,
    show_default=True,
    help="With --against: the largest absolute difference to accept; beyond it, the exit code is "
    "1. Quantized weights differ by more.",
)
@json_option
def verify(model: str, against: str | None, tolerance: float, as_json: bool) -> None:
    """Check MODEL: its manifest, sizes, every hash and the three graphs.

    With --against, compare it with another bundle of the same model, such as a portable one with a
    fused one: first prelude, one core step and coda on the same numbers, then logits from token
    ids.

    \b
    Example:
        rdlite verify BUNDLE
        rdlite verify PORTABLE --against FUSED
        rdlite verify INT4 --against FULL --tolerance 2
    """
    from rdlite.loader import verify_bundle

    source = click.get_current_context().get_parameter_source("tolerance")
    if against is None and source is ParameterSource.COMMANDLINE:
        raise click.UsageError("--tolerance is for comparing; add --against OTHER")
    with progress_bar("hashing") as progress:
        lines = list(verify_bundle(model, progress))
    differences = [] if against is None else _compare(model, against)
    agree = all(difference.within(tolerance) for difference in differences)
    if as_json:
        report = {"model": model, "whole": True, "checked": lines}
        print_json(report if against is None else report | _report(against, tolerance, differences))
    else:
        for line in lines:
            click.echo(line)
        click.echo(f"{model} is whole: {len(lines)} files, and its graphs keep the contract.")
        if against is not None:
            _show(model, against, tolerance, differences)
    if not agree:
        sys.exit(1)


def _compare(model: str, against: str) -> "list[Difference]":
    from rdlite.api.load import load
    from rdlite.measure.compare_bundles import compare

    with load(model) as ours, load(against) as theirs:
        return compare(ours, theirs)


def _report(against: str, tolerance: float, differences: "list[Difference]") -> dict[str, object]:
    import dataclasses

    return {
        "against": against,
        "tolerance": tolerance,
        "agree": all(difference.within(tolerance) for difference in differences),
        "differences": [dataclasses.asdict(difference) for difference in differences],
    }


def _show(model: str, against: str, tolerance: float, differences: "list[Difference]") -> None:
    click.echo(f"\nagainst {against}:")
    click.echo(f"{'':<18}{'largest difference':>20}{'of numbers up to':>20}")
    for found in differences:
        top = "" if found.same_top is None else f"  same token likeliest: {found.same_top:.0%}"
        far = "" if found.within(tolerance) else "  too far"
        click.echo(f"{found.what:<18}{found.largest:>20.3g}{found.magnitude:>20.3g}{top}{far}")
    agree = all(difference.within(tolerance) for difference in differences)
    verdict = "agree within" if agree else "differ by more than"
    click.echo(f"{model} and {against} {verdict} {tolerance:g}.")
