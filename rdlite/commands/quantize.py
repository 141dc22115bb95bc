"""`rdlite quantize`: a bundle or a checkpoint in, a quantized bundle out."""

from typing import Any

import click

from rdlite.commands.making import quantize_options, report_bundle, scheme_of
from rdlite.commands.options import model_argument, progress_bar


@click.command()
@model_argument
@click.option("-o", "--output", required=True, type=click.Path(), help="The bundle to make.")
@click.option(
    "--scheme", default="int4", show_default=True, metavar="NAME", help="How to quantize."
)
@quantize_options
@click.option("--force", is_flag=True, help="Replace OUTPUT if it is a bundle already.")
def quantize(model: str, output: str, scheme: str, force: bool, **options: Any) -> None:
    """Store the weights of MODEL as small integers: less memory, and more speed.

    MODEL is a bundle with float32 weights, or a checkpoint folder from the hub.

    \b
    Schemes:
        int8         8 bits a weight (8.5 with the scales): next to nothing is lost
        int4         4 bits, every scale searched for the least error
        int4-hqq     4 bits, scales searched for the most small errors, whatever the large ones
        int4-gptq    4 bits, calibrated in the loop (--calibration, --steps): the best, and slow
        int4-mixed   like int4-gptq, with 8 bits where they do the most good (--bits)
        int4-plain   4 bits, scales from the largest weights; to compare with

    \b
    Example:
        rdlite quantize BUNDLE -o SMALL --scheme int4
    """
    from pathlib import Path

    from rdlite.export import export_checkpoint
    from rdlite.quant import quantize_bundle

    chosen = scheme_of(scheme, output, options)
    with progress_bar("weights") as progress:
        if (Path(model) / "config.json").exists():
            out = export_checkpoint(model, output, quant=chosen, force=force, progress=progress)
        else:
            out = quantize_bundle(model, output, chosen, force=force, progress=progress)
    report_bundle(out, output)
