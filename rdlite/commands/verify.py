"""`rdlite verify`: every rule of the bundle format, every hash."""

import click

from rdlite.commands.options import json_option, model_argument, print_json, progress_bar


@click.command()
@model_argument
@json_option
def verify(model: str, as_json: bool) -> None:
    """Check all of MODEL: manifest, sizes, hashes of all files, and the three graphs.

    \b
    Example:
        rdlite verify BUNDLE
    """
    from rdlite.bundle import verify_bundle

    with progress_bar("hashing") as progress:
        lines = list(verify_bundle(model, progress))
    if as_json:
        print_json({"model": model, "whole": True, "checked": lines})
        return
    for line in lines:
        click.echo(line)
    click.echo(f"{model} is whole: {len(lines)} files, and its graphs keep the contract.")
