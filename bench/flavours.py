"""Portable and fused bundles of one model, side by side: size, speed, and how far they agree.

    python bench/flavours.py        # in an environment with rdlite[cpu,optimum]

Exports nano's checkpoint in both flavours, float32, and as int8 and int4, which only the fused one
can be. Core steps of one new token behind a short and a long text and of 64 tokens, the quickest of
30, and answers of 64 tokens at nano's mean depth are timed in turn; "of fused" is the median of the
turns over that of the fused float32 bundle. "apart" is the largest difference of logits from it.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import onnx
from endless import without_end
from rdlite.export import export_checkpoint
from rdlite.export.optimum import export_portable
from rdlite.quant import find_scheme
from report import finish, spread

import rdlite
from rdlite import Depth, Model
from rdlite.measure.compare_bundles import compare

NANO = Path(__file__).parents[1] / "examples" / "nano" / "checkpoint"
REFERENCE = "fused float32"
SHORT, LONG, PROMPT, NEW, STEPS = 16, 400, 64, 64, 16
TURNS, REPEATS = 11, 30


def timed(call: Callable[[], Any]) -> float:
    """Seconds of one call."""
    clock = time.perf_counter()
    call()
    return time.perf_counter() - clock


def measures(model: Model) -> dict[str, Callable[[], float]]:
    """What is timed of a model: milliseconds or tokens a second."""

    def step(past: int, size: int) -> Callable[[], float]:
        sequence = model.new_sequence()
        for first in range(0, past, 64):
            count = min(64, past - first)
            sequence.begin([1] * count, 1).step(0)
            sequence.commit(count)

        def run() -> float:
            runner = sequence.begin([1] * size, 1)
            return 1e3 * min(timed(lambda: runner.step(0)) for _ in range(REPEATS))

        return run

    def answer() -> float:
        generation = model.generate(list(range(1, 9)), max_tokens=NEW, depth=Depth(STEPS))
        seconds = timed(lambda: list(generation))
        return generation.stats.new_tokens / seconds

    return {
        f"core step behind {SHORT}, ms": step(SHORT, 1),
        f"behind {LONG}, ms": step(LONG, 1),
        f"of {PROMPT} tokens, ms": step(0, PROMPT),
        "tokens a second": answer,
    }


def export_all(checkpoint: Path, folder: Path) -> dict[str, Path]:
    """Export the checkpoint in all ways."""
    bundles = {
        REFERENCE: export_checkpoint(checkpoint, folder / "fused"),
        "portable float32": export_portable(checkpoint, folder / "portable"),
    }
    for scheme in ("int8", "int4"):
        bundles[f"fused {scheme}"] = export_checkpoint(
            checkpoint, folder / scheme, quant=find_scheme(scheme)
        )
    return bundles


@click.command(help=__doc__)
@click.option("--threads", default=2, show_default=True, type=click.IntRange(1, 256))
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write the results here.")
def main(threads: int, out: Path | None) -> None:
    with tempfile.TemporaryDirectory() as name:
        bundles = export_all(NANO, Path(name))
        models = {name: rdlite.load(path, threads=threads) for name, path in bundles.items()}
        for model in models.values():  # all answers are equally long
            without_end(model)
        measured = {name: measures(model) for name, model in models.items()}
        found: dict[str, dict[str, list[float]]] = {name: {} for name in models}
        for turn in range(TURNS + 1):
            for name, each in measured.items():
                for what, measure in each.items():
                    value = measure()
                    if turn:  # the first warms up
                        found[name].setdefault(what, []).append(value)
        rows = []
        for name, path in bundles.items():
            row: dict[str, Any] = {"bundle": name}
            row["MiB"] = f"{sum(f.stat().st_size for f in path.iterdir()) / 2**20:.2f}"
            core = onnx.load(path / "core.onnx", load_external_data=False)
            row["core nodes"] = len(core.graph.node)
            for what, values in found[name].items():
                ratio = statistics.median(values) / statistics.median(found[REFERENCE][what])
                row[what] = spread(values, 1 if what.startswith("tokens") else 3)
                row[what] += f", {ratio:.2f} of fused"
            apart = [d.largest for d in compare(models[name], models[REFERENCE])[-3:]]
            row["apart"] = f"{max(apart):.1g}"
            rows.append(row)
        for model in models.values():
            model.close()
    finish("flavours", rows, out)


if __name__ == "__main__":
    main()
