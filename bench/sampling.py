"""What choosing a token costs at the size of real vocabularies, beside everything else.

    .venv/bin/python bench/sampling.py

Times draws from random logits of 65,536 ids (Huginn's) and 166,000 (about Nanbeige's). "peaked" has
a few likely tokens, as a trained model's have; "flat" is what an untrained one says. All ways take
turns; a time is that of the choice and of the token's log-probability.
"""

import time
from pathlib import Path
from typing import Any

import click
import numpy as np
from report import finish, spread

from rdlite import Sampling
from rdlite.decode.sampler import Sampler

SIZES = (65_536, 166_000)
WAYS = {
    "greedy": Sampling(),
    "temperature 0.8": Sampling(temperature=0.8),
    "top-p 0.9": Sampling(temperature=0.8, top_p=0.9),
    "min-p 0.05": Sampling(temperature=0.8, min_p=0.05),
    "top-k 40": Sampling(temperature=0.8, top_k=40),
}


@click.command(help=__doc__)
@click.option("--rounds", default=101, show_default=True, type=click.IntRange(1, 10_000))
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write the results here.")
def main(rounds: int, out: Path | None) -> None:
    rows: list[dict[str, Any]] = []
    rng = np.random.default_rng(0)
    for size in SIZES:
        noise = rng.normal(0, 1, size).astype(np.float32)
        kinds = {"peaked": 3 * noise + 8 * (rng.random(size) < 1e-4), "flat": 0.01 * noise}
        found: dict[tuple[str, str], list[float]] = {}
        samplers = {way: Sampler(sampling, size, 1) for way, sampling in WAYS.items()}
        for turn in range(rounds + 1):
            for kind, logits in kinds.items():
                logits = logits.astype(np.float32)
                for way, sampler in samplers.items():
                    clock = time.perf_counter()
                    sampler(logits, turn)
                    if turn:
                        seconds = time.perf_counter() - clock
                        found.setdefault((kind, way), []).append(1e3 * seconds)
        rows += [
            {"ids": size, "logits": kind, "way": way, "ms": spread(times, 3)}
            for (kind, way), times in found.items()
        ]
    finish("sampling", rows, out)


if __name__ == "__main__":
    main()
