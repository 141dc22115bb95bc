"""`rdlite export`: a checkpoint folder in, a bundle out."""

import shlex

import click

from rdlite.commands.options import progress_bar


@click.command()
@click.argument("checkpoint", type=click.Path())
@click.option("-o", "--output", required=True, type=click.Path(), help="The bundle to make.")
@click.option("--force", is_flag=True, help="Replace OUTPUT if it is a bundle already.")
def export(checkpoint: str, output: str, force: bool) -> None:
    """Turn CHECKPOINT, a folder from the hub, into a bundle that rdlite runs.

    Reads config.json, safetensors and the tokenizer's files. Never runs code from the folder and
    never opens a pickle.

    \b
    Example:
        rdlite export Huginn-0125 -o huginn
    """
    from rdlite.export import export_checkpoint

    with progress_bar("weights") as progress:
        out = export_checkpoint(checkpoint, output, force=force, progress=progress)
    size = sum(file.stat().st_size for file in out.iterdir())
    click.echo(f"{out}: {size / 2**20:.1f} MiB")
    if (out / "tokenizer.json").exists():
        click.echo(f"Next: rdlite chat {shlex.quote(output)}")
    else:
        click.echo("It has no tokenizer.json, so it takes token ids, through the Python API alone.")
