"""Tokens per second at Huginn-0125's full size, against the PyTorch model of this project.

    .venv/bin/pip install -e '.[cpu,bench,train]'
    .venv/bin/python bench/decode.py

Writes a checkpoint of Huginn's shape with random weights (3.56B in bfloat16, 7 GB on disk), exports
it as int4 in a process of its own, whose time and peak memory are reported, and decodes tokens with
both, in turn, at several depths. PyTorch runs in bfloat16 and reads one token at a time without any
past, which spares it a cache and attention; rdlite has both. Needs about 12 GB of memory and 10 GB
of disk. What speculation gains at this size is in bench/rounds.py.
"""

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
from export_memory import measure
from rdlite.export.random_checkpoint import hub_config, write_random_checkpoint
from report import finish, spread
from shapes import HUGINN

import rdlite
from rdlite import Cache, Depth
from rdlite.measure.memory_bandwidth import read_bandwidth

DEPTHS = (4, 8, 16, 32)
TOKENS, REPEATS = 4, 3
EXPORT = (
    "import sys; from rdlite.export import export_checkpoint as e; from rdlite.quant import "
    "find_scheme as f; e(sys.argv[1], sys.argv[2], quant=f('int4'), force=True)"
)


class Torch:
    """The PyTorch model with a checkpoint's weights."""

    def __init__(self, folder: Path, threads: int) -> None:
        import torch
        from safetensors.torch import load_file

        sys.path.insert(0, str(Path(__file__).parents[1] / "examples" / "nano"))
        from huginn import Huginn, HuginnConfig  # type: ignore[attr-defined]

        torch.set_num_threads(threads)
        width, heads, inner, vocabulary, context, steps = HUGINN
        config = HuginnConfig(width, heads, inner, vocabulary, context, mean_steps=steps)
        with torch.device("meta"):
            self.model = Huginn(config)
        # Copies: what is mapped from a file may be dropped from memory and read again.
        weights = {k: v.clone() for k, v in load_file(folder / "model.safetensors").items()}
        self.model.load_state_dict(weights, assign=True)
        size = width // heads  # the rotations are no part of a checkpoint
        small = HuginnConfig(size, 1, 8, 8, context)
        self.model.rotations = Huginn(small).rotations
        self.torch = torch

    def token(self, steps: int) -> int:
        """Read one token and choose the next."""
        torch = self.torch
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            hidden = self.model(torch.tensor([[1]]), steps)
            # Not the model's own `head`, which would widen the embedding for training.
            head = self.model.transformer["wte"].weight
            return int(torch.nn.functional.linear(hidden[0, -1].to(head.dtype), head).argmax())


def rdlite_seconds(model: rdlite.Model, steps: int) -> float:
    """Seconds for a token after the first."""
    ids = np.random.default_rng(steps).integers(0, 1000, 16).tolist()
    stats = model.generate(ids, TOKENS + 1, Depth(steps)).stats
    return stats.decode_seconds / TOKENS


@click.command(help=__doc__)
@click.option("--threads", default=2, show_default=True, type=click.IntRange(1, 256))
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where checkpoint and bundle are kept for the next run. Default: nowhere.",
)
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write the results here.")
def main(threads: int, folder: Path | None, out: Path | None) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = folder or Path(name)
        checkpoint, bundle = folder / "checkpoint", folder / "bundle"
        if not checkpoint.exists():
            width, heads, inner, vocabulary, context, steps = HUGINN
            config = hub_config(width, heads, inner, vocabulary, context, steps)
            write_random_checkpoint(checkpoint, config, "bfloat16")
        took = folder / "export.json"
        if not took.exists():
            peak, seconds = measure(["-c", EXPORT, str(checkpoint), str(bundle)])
            row = {"what": "export to int4", "seconds": round(seconds), "peak MiB": round(peak)}
            took.write_text(json.dumps(row))
        rows: list[dict[str, Any]] = [json.loads(took.read_text())]
        rows += compare(checkpoint, bundle, threads)
    finish("decode", rows, out)


def compare(checkpoint: Path, bundle: Path, threads: int) -> list[dict[str, Any]]:
    """Time both at every depth, in turn."""
    clock = time.perf_counter()
    model = rdlite.load(bundle, threads=threads, cache=Cache())
    loading = time.perf_counter() - clock
    torch = Torch(checkpoint, threads)
    torch.token(1)
    rows = []
    for steps in DEPTHS:
        ours, theirs, rates = [], [], []
        rdlite_seconds(model, steps)
        for _ in range(REPEATS):
            rates.append(read_bandwidth(threads, repeats=1))
            ours.append(rdlite_seconds(model, steps))
            clock = time.perf_counter()
            torch.token(steps)
            theirs.append(time.perf_counter() - clock)
        rows.append(
            {
                "what": f"{steps} steps",
                "rdlite int4, s a token": spread(ours, 3),
                "PyTorch bfloat16, s a token": spread(theirs, 3),
                "rdlite tokens/s": round(1 / statistics.median(ours), 3),
                "PyTorch tokens/s": round(1 / statistics.median(theirs), 3),
                "times as fast": round(statistics.median(theirs) / statistics.median(ours), 2),
                "load s": round(loading, 1),
                "read bandwidth GB/s": round(statistics.median(rates) / 1e9, 1),
            }
        )
    return rows


if __name__ == "__main__":
    main()
