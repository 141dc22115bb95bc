"""`rdlite page`: a folder with a page that runs the model in the browser's tab."""

from pathlib import Path

import click

from rdlite.cli.shared.options import model_argument


@click.command()
@model_argument
@click.option(
    "-o",
    "--output",
    required=True,
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Where to.",
)
@click.option("--force", is_flag=True, help="Replace the folder if it is there.")
@click.option(
    "--js",
    "javascript",
    metavar="FOLDER",
    type=click.Path(path_type=Path),
    help="rdlite's js folder after 'npm ci --ignore-scripts'. Default: this checkout's.",
)
def page(model: str, output: Path, force: bool, javascript: Path | None) -> None:
    """Write a page that runs MODEL (default: nano) in the browser's tab.

    Any static server can serve DIR: the model runs on WebAssembly in a worker of the page, which
    asks no other origin for anything and works offline after the first load.

    \b
    Example:
        rdlite page -o site && python -m http.server -d site --bind 127.0.0.1
    """
    from rdlite.serve.static_page import write_page

    size = write_page(model, output, javascript, force)
    click.echo(f"Wrote {output}, {size / 1e6:.1f} MB; serve it with any static web server")
