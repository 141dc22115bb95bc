"""What the commands that make bundles share: options of quantizing, and the closing words."""

import contextlib
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rdlite.quant import Options


def quantize_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of commands that quantize."""
    for option in reversed(
        (
            click.option(
                "--block-size",
                type=int,
                help="Weights that share a scale: 16, 32, 64, 128 or 256. Default: 128 with "
                "4 bits, 32 with 8 bits and in GGUF files.",
            ),
            click.option(
                "--accuracy-level",
                type=int,
                default=4,
                show_default=True,
                help="4: round activations to int8, which is faster. 1: compute with float32.",
            ),
            click.option(
                "--bits",
                type=float,
                help="For int4-mixed: average bits per weight, with scales. Default: 0.1 above the "
                "least.",
            ),
            click.option(
                "--calibration",
                type=click.Path(exists=True, dir_okay=False, path_type=Path),
                help="Text file for schemes that run the model. Default: practice problems.",
            ),
            click.option(
                "--steps",
                type=click.IntRange(1, 1024),
                help="Core steps for schemes that run the model. Default: its mean depth.",
            ),
            click.option(
                "--seed",
                type=click.IntRange(0, 2**64 - 1),
                default=0,
                show_default=True,
                help="Random seed for initial states and problems.",
            ),
            click.option(
                "--threads",
                type=click.IntRange(1, 256),
                help="Threads to run the model. Default: one per physical core; "
                "1 for small models.",
            ),
        )
    ):
        command = option(command)
    return command


@contextlib.contextmanager
def options_of(output: str, options: dict[str, Any]) -> "Iterator[Options]":
    """Give what was chosen beside the scheme; temporary files go beside the output."""
    from rdlite.bundle.writer import work_folder
    from rdlite.quant import Options

    with work_folder(Path(output)) as work:
        yield Options(**options, work=work)


def report_bundle(out: Path, given: str) -> None:
    """Say how large a bundle has become and what to do with it; `given` is how it was named."""
    size = sum(file.stat().st_size for file in out.iterdir())
    click.echo(f"{out}: {size / 2**20:.1f} MiB")
    if (out / "tokenizer.json").exists():
        click.echo(f"Next: rdlite chat {shlex.quote(given)}")
    else:
        click.echo("It has no tokenizer.json, so it takes token ids, through the Python API alone.")
