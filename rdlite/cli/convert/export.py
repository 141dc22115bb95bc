"""`rdlite export`: a checkpoint folder in, a bundle out."""

from typing import Any

import click
from click.core import ParameterSource

from rdlite.cli.shared.bundle_options import options_of, quantize_options, report_bundle
from rdlite.cli.shared.output import progress_bar
from rdlite.cli.shared.renamed import Renamed


@click.command()
@click.argument("checkpoint", type=click.Path())
@click.option("-o", "--output", required=True, type=click.Path(), help="Bundle to write.")
@click.option(
    "--scheme",
    "quant",
    cls=Renamed,
    formerly="--quant",
    metavar="NAME",
    help="Quantize on the way; see 'rdlite quantize --help'.",
)
@quantize_options
@click.option(
    "--trained-length",
    type=click.IntRange(1, 2**22),
    help="Tokens that the model was trained on at once, if less than its context: chats leave out "
    "older turns. Default: what trained_length in config.json says.",
)
@click.option("--force", is_flag=True, help="Replace OUTPUT if it is already a bundle.")
def export(
    checkpoint: str,
    output: str,
    quant: str | None,
    trained_length: int | None,
    force: bool,
    **options: Any,
) -> None:
    """Convert CHECKPOINT to a bundle that rdlite can run.

    CHECKPOINT is a folder with config.json, safetensors and the tokenizer's files. rdlite never
    runs code from it and never opens a pickle.

    \b
    Example:
        rdlite export Huginn-0125 -o huginn
        rdlite export Huginn-0125 -o huginn-int4 --scheme int4
    """
    from rdlite.export import export_checkpoint
    from rdlite.quant import find_scheme

    source = click.get_current_context().get_parameter_source
    given = [name for name in options if source(name) is ParameterSource.COMMANDLINE]
    if quant is None and given:
        raise click.UsageError(f"--{given[0].replace('_', '-')} is for quantizing; add --scheme")
    with options_of(output, options) as chosen, progress_bar("weights") as progress:
        scheme = None if quant is None else find_scheme(quant, chosen)
        out = export_checkpoint(
            checkpoint,
            output,
            quant=scheme,
            force=force,
            progress=progress,
            trained_length=trained_length,
        )
    report_bundle(out, output)
