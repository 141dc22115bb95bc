"""`rdlite config`: the user's settings, and how commands come by them."""

import dataclasses
import os
from pathlib import Path

import click

from rdlite.cli.shared.options import json_option
from rdlite.cli.shared.output import print_json
from rdlite.cli.shared.suggested import Suggested
from rdlite.errors import InputError

#: The commands that go by each setting: those that run or show a model, and change none.
GO_BY = {
    "model": (
        *("chat", "generate", "batch", "serve", "page", "trace", "inspect", "verify", "eval"),
        "bench",
    ),
    "steps": ("chat", "generate", "batch", "serve", "trace", "bench"),
}


def _keys() -> tuple[str, ...]:
    from rdlite.store.settings import KEYS

    return KEYS


@click.command()
@click.argument("key", type=Suggested(_keys), required=False)
@click.argument("value", required=False)
@click.option("--unset", is_flag=True, help="Forget KEY: back to what rdlite does by itself.")
@click.option("--path", "show_path", is_flag=True, help="Print where the settings are.")
@json_option
def config(key: str | None, value: str | None, unset: bool, show_path: bool, as_json: bool) -> None:
    """Show the settings, or change one: KEY is model, steps or color.

    They are a file, config.toml, in the folder that RDLITE_HOME names. What is given on the command
    line goes before them. model: the MODEL of commands that are given none. steps: how deep to
    think. color: auto, always or never.

    \b
    Example:
        rdlite config
        rdlite config model huginn
        rdlite config --unset steps
    """
    from rdlite.store.settings import KEYS, change_setting, read_settings, settings_file

    if show_path:
        click.echo(settings_file())
        return
    if key is not None and (unset or value is not None):
        if unset and value is not None:
            raise InputError(f"--unset takes a key alone; leave out {value!r:.60}")
        change_setting(key, _model(value) if key == "model" and value else value)
    elif unset:
        raise InputError(f"--unset needs a key: {', '.join(KEYS)}")
    settings = dataclasses.asdict(read_settings())
    if key is not None and key not in settings:
        if unset:
            return
        raise InputError(f"there is no setting {key!r:.60}; there are {', '.join(KEYS)}")
    chosen = settings if key is None else {key: settings[key]}
    if as_json:
        print_json(chosen)
        return
    for name, setting in chosen.items():
        click.echo(f"{name:<8} {'the model says' if setting is None else setting}")


def _model(value: str) -> str:
    """Return a MODEL as it is found from every folder; raises InputError for what is none."""
    from rdlite.store.names import read_name

    if value == "nano" or read_name(value):
        return value
    if not Path(value).exists():
        raise InputError(f"there is no bundle, file or name of a model {value!r:.80}")
    return str(Path(value).absolute())


def use_settings(ctx: click.Context) -> None:
    """Make the settings the defaults of the commands that go by them, and of colours."""
    from rdlite.store.settings import read_settings

    settings = read_settings()
    defaults: dict[str, dict[str, object]] = {}
    for key, commands in GO_BY.items():
        if (setting := getattr(settings, key)) is not None:
            for command in commands:
                defaults.setdefault(command, {})[key] = setting
    ctx.default_map = defaults
    if settings.color != "auto":
        ctx.color = settings.color == "always"
        # What rich and prompt_toolkit go by.
        os.environ.setdefault("FORCE_COLOR" if ctx.color else "NO_COLOR", "1")
