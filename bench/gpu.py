"""rdlite on an NVIDIA GPU: does it say what the CPU says, and how fast is it?

    pip install '.[gpu,bench,train]'
    python bench/gpu.py --json bench/results/gpu.json

First parity: the published implementation's answers on small checkpoints, and nano's greedy tokens
against the CPU's, with exit rules, cache policies, drafts and captured graphs. Then speed at
Huginn-0125's shape with random weights: the core step in int4 and in float16 against the bandwidth
measured in the same run, the host's part of it, tokens per second at several depths, and the
PyTorch model of this project in bfloat16. What fails is reported in its row, and the rest goes on.
Needs about 20 GB of memory on the GPU, 40 GB of disk and 40 GB of memory for the float16 part.
"""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
from gpu_parity import parity
from random_bundle import write_random_bundle
from report import finish
from shapes import HUGINN, MODELS

import rdlite
from rdlite import Cache, Cuda, Depth, Model
from rdlite.cuda.install import describe_gpus
from rdlite.cuda.runtime import CudaMemory

DEPTHS = (4, 8, 16, 32)
TOKENS, REPEATS, STEPS = 24, 3, 32
CONTEXT, TEXTS, LONG = 512, (1, 8, 16), 64
Row = dict[str, Any]


def bandwidth(index: int = 0, size: int = 2**31) -> float:
    """Bytes a second that a copy within the GPU's memory reads and writes, the best of several."""
    memory = CudaMemory(index)
    source, target = memory.allocate(size), memory.allocate(size)
    probe, best = np.zeros(1, np.uint8), 0.0
    for _ in range(10):
        memory.download(probe, source)  # waits
        clock = time.perf_counter()
        memory.copy(target, size, source, size, size, 1)
        memory.download(probe, target)
        best = max(best, 2 * size / (time.perf_counter() - clock))
    memory.free(source)
    memory.free(target)
    return best


def core_step(model: Model, steps: int = STEPS) -> tuple[float, float]:
    """Seconds of a core step of one position, and the host's part of them; medians."""
    sequence = model.new_sequence()
    runner = sequence.begin([1], steps)
    runner.fill_state(lambda rows: rows.fill(0.1))
    whole, host = [], []
    for _ in range(20):
        runner.change.sum()  # waits for what came before
        clock = time.perf_counter()
        for number in range(steps):
            runner.step(number)
        host.append((time.perf_counter() - clock) / steps)
        runner.change.sum()
        whole.append((time.perf_counter() - clock) / steps)
    return statistics.median(whole), statistics.median(host)


def tokens_per_second(model: Model, depth: Depth, **how: Any) -> float:
    """Tokens a second after the first, the median of several generations."""
    ids = np.random.default_rng(0).integers(0, min(1000, model.config.vocab_size), 16).tolist()
    model.generate(ids, 4, depth, **how).stats  # noqa: B018  (binds and captures)
    rates = [
        model.generate(ids, TOKENS, depth, **how).stats.tokens_per_second for _ in range(REPEATS)
    ]
    return statistics.median(rates)


def together(model: Model, depth: Depth, texts: int) -> float:
    """Tokens a second of several texts at once, the best of several; their prompts counted in."""
    rng = np.random.default_rng(0)
    prompts = [
        rng.integers(0, min(1000, model.config.vocab_size), 16).tolist() for _ in range(texts)
    ]
    best = 0.0
    for _ in range(REPEATS):
        clock = time.perf_counter()
        many = model.generate_many(prompts, texts, max_tokens=LONG, depth=depth)
        count = sum(1 for _ in many)
        best = max(best, count / (time.perf_counter() - clock))
    return best


def attempt(row: Row, measure: Callable[[], Row]) -> Row:
    """Return a row with what was measured, or with what went wrong."""
    try:
        return row | measure()
    except Exception as problem:
        return row | {"failed": " ".join(f"{type(problem).__name__}: {problem}".split())[:300]}


def speed(bundle: Path, weights: str, copy: float, open_model: Callable[..., Model]) -> list[Row]:
    """Time one bundle, with and without captured graphs."""
    rows: list[Row] = []
    for graphs in (False, True) if weights == "int4" else (True,):
        how = {"weights": weights, "graphs": graphs}

        def timed(graphs: bool = graphs, how: Row = how) -> Row:
            with open_model(bundle, graphs, context=CONTEXT) as model:
                size = (bundle / "core.onnx.data").stat().st_size
                if weights == "float16":
                    size //= 2  # float32 on disk
                step, host = core_step(model)
                rows.append(
                    how
                    | {
                        "what": "core step",
                        "ms": round(step * 1e3, 4),
                        "of copy bandwidth": f"{size / step / copy:.0%}",
                        "host us": round(host * 1e6, 1),
                    }
                )
                for steps in DEPTHS:
                    rate = tokens_per_second(model, Depth(steps))
                    rows.append(how | {"what": f"decode r={steps}", "tokens/s": round(rate, 1)})
                for name, depth, more in (
                    ("latent-diff, r<=32", Depth(32, exit="latent-diff"), {}),
                    ("the same, asked every 4th", Depth(32, exit="latent-diff", check_every=4), {}),
                    ("kl, r<=32", Depth(32, exit="kl"), {}),
                    ("drafts (4, 8), r=32", Depth(32), {"speculate": (4, 8)}),
                ):
                    rate = tokens_per_second(model, depth, **more)
                    rows.append(how | {"what": name, "tokens/s": round(rate, 1)})
                for texts in TEXTS:
                    rate = together(model, Depth(32), texts)
                    rows.append(
                        how | {"what": f"{texts} at once, r=32", "tokens/s": round(rate, 1)}
                    )
            return {}

        done = attempt(how | {"what": "all"}, timed)
        if "failed" in done:
            rows.append(done)
    return rows


def torch_rows() -> list[Row]:
    """The PyTorch model of this project in bfloat16, one token at a time, with no past to read."""

    def timed() -> list[Row]:
        import torch

        sys.path.insert(0, str(Path(__file__).parents[1] / "examples" / "nano"))
        from huginn import Huginn, HuginnConfig  # type: ignore[attr-defined]

        width, heads, inner, vocabulary, context, steps = HUGINN
        config = HuginnConfig(width, heads, inner, vocabulary, context, mean_steps=steps)
        with torch.device("cuda"):
            model = Huginn(config)
        rotations = model.rotations
        model = model.to(torch.bfloat16)
        model.rotations = rotations.cuda()  # complex numbers have no bfloat16
        rows, ids = [], torch.tensor([[1]], device="cuda")
        for steps in DEPTHS:
            rates = []
            for repeat in range(REPEATS + 1):
                torch.cuda.synchronize()
                clock = time.perf_counter()
                for _ in range(TOKENS):
                    with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
                        hidden = model(ids, steps)
                        head = model.transformer["wte"].weight
                        torch.nn.functional.linear(
                            hidden[0, -1].to(head.dtype), head
                        ).argmax().item()
                if repeat:
                    rates.append(TOKENS / (time.perf_counter() - clock))
            rows.append(
                {
                    "weights": "PyTorch bfloat16",
                    "what": f"decode r={steps}",
                    "tokens/s": round(statistics.median(rates), 1),
                }
            )
        return rows

    try:
        return timed()
    except Exception as problem:
        return [{"weights": "PyTorch bfloat16", "failed": f"{problem}"[:300]}]


def open_on_gpu(
    bundle: Path, graphs: bool, cache: Cache | None = None, context: int | None = None
) -> Model:
    """Load a bundle on the first GPU."""
    return rdlite.load(bundle, device=Cuda(graphs=graphs), cache=cache, context=context)


@click.command(help=__doc__)
@click.option("--float16/--no-float16", default=True, help="Time float16 weights too (14 GB).")
@click.option("--speed/--no-speed", "timed", default=True, help="Time at Huginn's size.")
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write the results here.")
def main(float16: bool, timed: bool, out: Path | None) -> None:
    rows: list[Row] = [{"what": "GPU", "note": "; ".join(describe_gpus())}]

    def add(more: list[Row]) -> None:
        rows.extend(more)
        for row in more:  # as they come, since all of it takes minutes
            print(json.dumps(row), file=sys.stderr, flush=True)

    add(parity(open_on_gpu))
    if timed:
        copy = bandwidth()
        add([{"what": "copy bandwidth", "note": f"{copy / 1e12:.2f} TB/s"}])
        family, raw = MODELS["Huginn-0125"]
        with tempfile.TemporaryDirectory() as name:
            bundle = write_random_bundle(Path(name) / "int4", 4, family, raw)
            add(speed(bundle, "int4", copy, open_on_gpu))
            if float16:
                bundle = write_random_bundle(Path(name) / "float", None, family, raw)
                add(speed(bundle, "float16", copy, open_on_gpu))
        add(torch_rows())
    finish("gpu", rows, out)


if __name__ == "__main__":
    main()
