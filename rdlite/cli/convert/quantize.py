"""`rdlite quantize`: a bundle or a checkpoint in, a quantized bundle out."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rdlite.cli.shared.bundle_options import options_of, quantize_options, report_bundle
from rdlite.cli.shared.models import download_options, original_path
from rdlite.cli.shared.output import progress_bar

if TYPE_CHECKING:
    from rdlite.quant.report import Report


@click.command()
@click.argument("model", callback=original_path)  # nano is quantized already
@download_options
@click.option("-o", "--output", required=True, type=click.Path(), help="Bundle to write.")
@click.option(
    "--scheme", default="int4", show_default=True, metavar="NAME", help="Quantization scheme."
)
@quantize_options
@click.option(
    "--report",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Compare the result with full precision and write NAME.md, NAME.json and NAME.png.",
)
@click.option(
    "--text",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Text file to measure on for the report. Default: held-out problems.",
)
@click.option("--force", is_flag=True, help="Replace OUTPUT if it is already a bundle.")
def quantize(
    model: str,
    output: str,
    scheme: str,
    report: Path | None,
    text: Path | None,
    force: bool,
    **options: Any,
) -> None:
    """Quantize MODEL to int8 or int4: less memory, more speed.

    MODEL is a bundle with float32 weights, a checkpoint folder, or a name of the hub, which is
    downloaded as float32.

    \b
    Schemes:
        int8            8 bits per weight (8.5 with scales); loses next to nothing
        int8-gptq       8 bits, calibrated in the loop (--calibration, --steps); the most exact
        int4            4 bits, with the scale of least error for each block
        int4-corrected  int4, then corrects the errors of a step (--calibration, --steps)
        int4-hqq        4 bits; keeps most errors small and allows a few large ones
        int4-gptq       4 bits, calibrated in the loop (--calibration, --steps); best, but slow
        int4-mixed      like int4-gptq, with 8 bits where they help most (--bits)
        int4-plain      4 bits, scales from the largest weights; for comparison

    \b
    Example:
        rdlite quantize BUNDLE -o SMALL --scheme int4
        rdlite quantize BUNDLE -o SMALL --scheme int4-gptq --report small.md
    """
    from rdlite.export.read import read_model
    from rdlite.measure.plots import check_plot
    from rdlite.quant import find_scheme, write_quantized

    if text and not report:
        raise click.UsageError("--text is for --report; for the scheme, use --calibration")
    if report:
        if report.suffix != ".md":
            raise click.UsageError(f"--report writes Markdown: {report} must end in .md")
        _check_report(report, model, output)
        check_plot(report.with_suffix(".png"))
    with options_of(output, options) as wanted:
        chosen = find_scheme(scheme, wanted)
        original = read_model(model)
        if report:
            from rdlite.quant.report import check_measurable

            check_measurable(original, text)
        with progress_bar("weights") as progress:
            out, storage = write_quantized(original, output, chosen, force, progress)
        report_bundle(out, output)
        if report:
            from rdlite.quant.report import make_report

            with progress_bar("measuring", counts_bytes=False) as progress:
                found = make_report(original, storage, out, wanted, text, progress=progress)
            _write_report(found, report)


def _check_report(report: Path, *bundles: str) -> None:
    """Raise unless the report's files can be written, and take the place of no bundle's files."""
    from rdlite.loader import find_model
    from rdlite.utils.files import check_output_file

    for folder in map(find_model, bundles):
        if folder.resolve() in report.resolve().parents:
            raise click.UsageError(f"--report: {report} lies in {folder}; choose another folder")
    for suffix in (".md", ".json"):
        check_output_file(report.with_suffix(suffix))


def _write_report(found: "Report", path: Path) -> None:
    from rdlite.measure.plots import plot_errors
    from rdlite.quant.report import as_markdown
    from rdlite.utils.files import write_whole

    data = json.dumps(found.as_dict(), indent=1) + "\n"
    write_whole(path.with_suffix(".json"), data.encode())
    plot_errors({found.scheme: found.state_errors}, path.with_suffix(".png"))
    write_whole(path, as_markdown(found).encode())
    click.echo(f"{path}: what quantization costs, by depth")
