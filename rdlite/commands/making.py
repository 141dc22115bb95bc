"""What the commands that make bundles share: options of quantizing, and the closing words."""

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click


def quantize_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of commands that quantize."""
    for option in reversed(
        (
            click.option(
                "--block-size",
                type=int,
                default=32,
                show_default=True,
                help="Weights that share a scale: 16, 32, 64, 128 or 256.",
            ),
            click.option(
                "--accuracy-level",
                type=int,
                default=4,
                show_default=True,
                help="4 rounds activations to int8, which is faster; 1 computes with float32.",
            ),
        )
    ):
        command = option(command)
    return command


def report_bundle(out: Path, given: str) -> None:
    """Say how large a bundle has become and what to do with it; `given` is how it was named."""
    size = sum(file.stat().st_size for file in out.iterdir())
    click.echo(f"{out}: {size / 2**20:.1f} MiB")
    if (out / "tokenizer.json").exists():
        click.echo(f"Next: rdlite chat {shlex.quote(given)}")
    else:
        click.echo("It has no tokenizer.json, so it takes token ids, through the Python API alone.")
