"""`rdlite models`: what the store holds."""

import datetime
from typing import Any

import click

from rdlite.cli.shared.options import json_option
from rdlite.cli.shared.output import print_json, progress_bar
from rdlite.errors import InputError
from rdlite.utils.memory import in_gb


@click.group(invoke_without_command=True)
@json_option
@click.pass_context
def models(ctx: click.Context, as_json: bool) -> None:
    """List the downloaded models, and look after them.

    They are in one folder, which RDLITE_HOME moves. NAME is a name of the hub, as for MODEL.

    \b
    Example:
        rdlite models
        rdlite models known
        rdlite models rm tomg-group-umd/huginn-0125:int4
    """
    if ctx.invoked_subcommand is not None:
        return
    from rdlite.store.entries import entries
    from rdlite.store.home import home

    rows = [_row(entry) for entry in entries()]
    if as_json:
        print_json(rows)
        return
    if not rows:
        click.echo(f"There are no models in {home()}; 'rdlite models known' lists some.")
        return
    width = max(len(row["name"]) for row in rows)
    click.echo(f"{'name':<{width}}  {'family':<16}{'parameters':>15}  {'bits':<8}{'size':>9}  used")
    for row in rows:
        count = "" if row["parameters"] is None else f"{row['parameters']:,}"
        click.echo(
            f"{row['name']:<{width}}  {row['family'] or '':<16}{count:>15}  {row['bits']:<8}"
            f"{in_gb(row['bytes']):>9}  {row['used'][:10]}"
        )


def _row(entry: Any) -> dict[str, Any]:
    from rdlite.bundle.manifest import read_manifest
    from rdlite.errors import BundleError

    try:
        manifest = read_manifest(entry.path) if entry.path.is_dir() else None
    except BundleError:  # 'models check' says what is wrong
        manifest = None
    used = datetime.datetime.fromtimestamp(entry.used, datetime.UTC)
    return {
        "name": entry.name,
        "family": manifest.model.family if manifest else None,
        "parameters": sum(manifest.parameters.values()) if manifest else None,
        "bits": entry.record.scheme,
        "bytes": entry.bytes,
        "used": used.isoformat(timespec="seconds"),
        "path": str(entry.path),
    }


def _entry(name: str) -> Any:
    from rdlite.store.entries import find
    from rdlite.store.names import read_name

    read = read_name(name)
    entry = find(read) if read else None
    if entry is None:
        raise InputError(f"the store has no {name!r:.80}; 'rdlite models' lists what it has")
    return entry


@models.command()
@click.argument("name")
def rm(name: str) -> None:
    """Delete the model NAME."""
    from rdlite.store.entries import locked, remove
    from rdlite.store.names import read_name

    entry, size = _entry(name), _entry(name).bytes
    read = read_name(name)
    assert read
    with locked(read, lambda: click.echo("note: another rdlite is at it; waiting", err=True)):
        remove(entry)
    click.echo(f"Deleted {entry.name}: {in_gb(size)}")


@models.command()
@click.argument("name")
def path(name: str) -> None:
    """Print where the model NAME lies."""
    click.echo(_entry(name).path)


@models.command()
@click.argument("name", required=False)
def check(name: str | None) -> None:
    """Hash the files of NAME again, or of all models."""
    from rdlite.loader import verify_bundle
    from rdlite.store.entries import entries

    for entry in [_entry(name)] if name else entries():
        with progress_bar("hashing") as progress:
            count = len(list(verify_bundle(entry.path, progress)))
        click.echo(f"{entry.name} is whole: {count} files")


@models.command()
@json_option
def known(as_json: bool) -> None:
    """List the models that have short names."""
    import dataclasses

    from rdlite.store.known import INT4_BYTES, KNOWN

    if as_json:
        print_json({name: dataclasses.asdict(model) for name, model in KNOWN.items()})
        return
    width = max(len(model.repo) for model in KNOWN.values())
    head = f"{'name':<20} {'repository':<{width}} {'family':<16} {'parameters':>10} {'int4':>7}"
    click.echo(f"{head}  licence")
    for name, model in KNOWN.items():
        click.echo(
            f"{name:<20} {model.repo:<{width}} {model.family:<16} {model.parameters:>8g} B "
            f"{model.parameters * INT4_BYTES:>4.1f} GB  {model.licence}"
        )
    click.echo("Licences as published; the page of a repository is what counts.")
