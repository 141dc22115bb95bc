"""MODEL on the command line: a path, nano, or a name of the hub that is downloaded if need be."""

import dataclasses
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rdlite.cli.shared.output import progress_bar
from rdlite.errors import InputError
from rdlite.utils.memory import IN_MEMORY, free_bytes, in_gb

if TYPE_CHECKING:
    from rdlite.store.fill import Plan
    from rdlite.utils.progress import Progress

YES, KEEP = "rdlite.yes", "rdlite.keep_checkpoint"


def download_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add what commands that may download a MODEL ask for."""

    def remember(ctx: click.Context, param: click.Parameter, value: bool) -> None:
        ctx.meta[YES if param.name == "yes" else KEEP] = value

    for flag, text in (
        ("--keep-checkpoint", "With a download: keep the checkpoint too."),
        ("--yes", "Download MODEL without asking, if it is a name of the hub."),
    ):
        command = click.option(
            flag, is_flag=True, is_eager=True, expose_value=False, callback=remember, help=text
        )(command)
    return command


def default_model() -> str:
    """Return the MODEL of a command that is given none: what the settings say, or nano."""
    return str(click.get_current_context().lookup_default("model") or "nano")


def resolve(word: str, scheme: str | None = None) -> str:
    """Return the path of a MODEL, downloaded if it is a name and not in the store.

    `scheme` is how it is to be stored where the name leaves that open; None: what suits.
    """
    from rdlite.store.entries import find, touch
    from rdlite.store.names import TUNED, read_name

    name = read_name(word)
    if name is None:
        _did_you_mean(word)
        return word
    if name.file is None:
        name = dataclasses.replace(name, scheme=name.scheme or scheme)
    entry = find(name)
    if entry is None and name.scheme == TUNED:
        raise InputError(f"there is no {word} yet; 'rdlite tune {name.repo}' makes it")
    if entry is None:
        from rdlite.store.fill import fill

        meta = click.get_current_context().meta
        with ExitStack() as stack:
            # The bar is drawn when bytes arrive: before, there may be a question on the terminal.
            bars: list[Progress | None] = []

            def progress(done: int, total: int) -> None:
                if not bars:
                    bars.append(stack.enter_context(progress_bar("weights")))
                if bars[0] is not None:
                    bars[0](done, total)

            entry = fill(
                name,
                approve=lambda plan: _approve(word, plan, bool(meta.get(YES))),
                waiting=lambda: click.echo(
                    f"note: another rdlite is at {name.repo}; waiting for it", err=True
                ),
                keep_checkpoint=bool(meta.get(KEEP)),
                progress=progress,
            )
        click.echo(
            f"note: {entry.name} is in {entry.path}: {entry.record.scheme}, {in_gb(entry.bytes)}",
            err=True,
        )
    touch(entry)
    return str(entry.path)


def _did_you_mean(word: str) -> None:
    from rdlite.store.known import near

    if word == "nano" or "/" in word or Path(word).exists():
        return
    if meant := near(word):
        raise InputError(f"there is no file and no known model {word!r:.60}; did you mean {meant}?")


def _approve(word: str, plan: "Plan", yes: bool) -> None:
    """Say what is missing, and ask; raises InputError where nobody can be asked."""
    free = free_bytes()
    if free is not None and plan.stored * IN_MEMORY > free:
        raise InputError(
            f"{word} as {plan.scheme} needs {in_gb(int(plan.stored * IN_MEMORY))} of memory and "
            f"{in_gb(free)} are free: close other programs, or take {_what_fits(word, plan, free)}"
        )
    said = (
        f"{word} is not here: {in_gb(plan.download)} to download, kept as {plan.scheme}, "
        f"{in_gb(plan.stored)}"
    )
    if yes:
        click.echo(f"note: {said}", err=True)
    elif not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise InputError(f"{said}; --yes downloads it")
    else:
        click.confirm(f"{said}. Download it?", default=True, abort=True, err=True)


def _what_fits(word: str, plan: "Plan", free: int) -> str:
    """Name what would run in the memory that is free."""
    from rdlite.store.known import fitting

    bits = {"float32": 32, "int8": 8.5}.get(plan.scheme, 4.5)
    found = fitting(free)
    if plan.stored * IN_MEMORY * 4.5 / bits <= free:
        found.insert(0, f"{word.partition(':')[0]}:int4")
    return f"{', '.join(found)} or nano" if found else "nano"


def model_path(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """Turn a MODEL of the command line into its path: a callback of arguments and options."""
    return None if value is None else resolve(value)


def original_path(ctx: click.Context, param: click.Parameter, value: str) -> str:
    """Turn a MODEL that is to be quantized into its path: a name is downloaded as float32."""
    return resolve(value, "float32")
