"""Where the time of a core step goes: onnxruntime's own profile, by operator.

    .venv/bin/python bench/profile_step.py

Writes int4 bundles of Huginn's core and of Ouro-1.4B's with random weights, and takes nano as it
is. Each is run over contexts of 64, 1,000 and 4,000 positions (nano: 64), one new position a step,
first as it is, the contexts in turn, and then, in sessions of their own, under onnxruntime's
profiler. "step" is the median without the profiler, "of 64" the median of its ratios to the step
at context 64 of the same turn. The operators' shares are of the profiled time, and "between" is
what lies in no operator: hand-offs and the call itself.
"""

import json
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from core_step import timed
from random_bundle import write_random_bundle, write_random_huginn
from report import finish, spread
from shapes import MODELS

from rdlite import Cache
from rdlite.engine import sequence as engine_sequence
from rdlite.engine.engine import Engine
from rdlite.loader import open_bundle
from rdlite.ort.session import load_onnxruntime

CONTEXTS, LONGEST, STEPS = (64, 1000, 4000), 4096, 15


def time_steps(engine: Engine, contexts: Sequence[int]) -> dict[int, list[float]]:
    """Seconds of core steps of one position behind so many others, in turn."""
    text = engine_sequence.Sequence(engine, LONGEST)
    for array in text.runner(LONGEST - 1, 1, 1).core_arrays(0)[0].values():
        if array.ndim == 4:  # caches of numbers nobody wrote would be one and the same page
            array.fill(0.01)
    times: dict[int, list[float]] = {context: [] for context in contexts}
    for _ in range(STEPS + 2):
        for context, found in times.items():
            runner = text.runner(context, 1, 1)
            runner.put_embeds(np.ones((1, engine.config.hidden_size), np.float32))
            runner.put_state(0, np.ones((1, engine.config.hidden_size), np.float32))
            found.append(timed(lambda runner=runner: runner.step(0)))
    return {context: found[2:] for context, found in times.items()}


def profile(bundle: Path | str, context: int, threads: int, folder: Path) -> dict[str, float]:
    """Return the share of each operator in the time of profiled core steps."""
    ort = load_onnxruntime()
    plain = ort.SessionOptions

    class Profiled(plain):  # type: ignore[misc, valid-type]
        def __init__(self) -> None:
            super().__init__()
            self.enable_profiling = True
            self.profile_file_prefix = str(folder / "profile")

    ort.SessionOptions = Profiled
    try:
        engine = Engine(open_bundle(bundle), Cache(1), threads)
    finally:
        ort.SessionOptions = plain
    time_steps(engine, [context])
    files = [session._session.end_profiling() for session in engine.sessions.values()]
    events = json.loads(Path(files[[*engine.sessions].index("core")]).read_text())
    runs = sorted(
        (e for e in events if e["name"] == "model_run"), key=lambda e: e["ts"], reverse=True
    )[:STEPS]
    first = min(e["ts"] for e in runs)
    total = sum(e["dur"] for e in runs)
    shares: dict[str, float] = defaultdict(float)
    for event in events:
        operator = event.get("args", {}).get("op_name")
        if operator and event["ts"] >= first and event["name"].endswith("_kernel_time"):
            shares[operator] += event["dur"] / total
    return {**shares, "between": 1 - sum(shares.values())}


@click.command(help=__doc__)
@click.option("--threads", default=2, show_default=True, type=click.IntRange(1, 256))
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write the results here.")
def main(threads: int, out: Path | None) -> None:
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        family, raw = MODELS["Ouro-1.4B"]
        ouro = write_random_bundle(folder / "ouro", 4, family, raw | {"vocab_size": 288})
        huginn = write_random_huginn(folder / "huginn", 4, (0, 4, 0), 262)
        for title, bundle, contexts in (
            ("Huginn int4", huginn, CONTEXTS),
            ("Ouro-1.4B int4", ouro, CONTEXTS),
            ("nano", "nano", CONTEXTS[:1]),
        ):
            engine = Engine(open_bundle(bundle), Cache(1), threads)
            times = time_steps(engine, contexts)
            for context, found in times.items():
                ratios = [one / base for one, base in zip(found, times[64], strict=True)]
                shares = profile(bundle, context, threads, folder)
                main_ones = sorted(shares.items(), key=lambda pair: -pair[1])[:6]
                rows.append(
                    {
                        "core": title,
                        "context": context,
                        "step ms": spread([1e3 * one for one in found], 3),
                        "of 64": f"{statistics.median(ratios):.2f}x",
                        "operators": ", ".join(f"{op} {part:.1%}" for op, part in main_ones),
                    }
                )
            del engine
    finish("profile_step", rows, out)


if __name__ == "__main__":
    main()
