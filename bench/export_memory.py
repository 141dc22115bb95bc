"""Peak memory of an export: it must not grow with the checkpoint.

    .venv/bin/python bench/export_memory.py

Makes random checkpoints of Huginn's shape at 1/16, 1/8 and 1/4 of its width (all layers, heads of
96, the full vocabulary of 65536), exports each in a process of its own, and reports that process's
largest resident memory as the kernel counts it: the number that `/usr/bin/time -v` prints as
"Maximum resident set size". Checkpoints are made in processes of their own too, because a child
inherits its parent's peak.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
from report import finish

# width, heads: Huginn-0125 is 5280 wide with 55 heads of 96, its MLP 17920
SIZES = {"1/16": (384, 4), "1/8": (672, 7), "1/4": (1344, 14)}
RANDOM = "-m rdlite.export.random_checkpoint --vocabulary 65536 --context 4096 --steps 32"
EXPORT = "import sys, rdlite.export as e; e.export_checkpoint(sys.argv[1], sys.argv[2])"


def measure(arguments: list[str]) -> tuple[float, float]:
    """Run a Python process; return its peak resident memory in MiB and its seconds."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise click.ClickException(f"a process failed with code {process.returncode}")
    return usage.ru_maxrss / 1024, time.perf_counter() - started


@click.command(help=__doc__)
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write the results here.")
def main(out: Path | None) -> None:
    base, _ = measure(["-c", "import rdlite.export"])
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, (width, heads) in SIZES.items():
            for dtype in ("float32", "bfloat16"):
                checkpoint = Path(folder) / "in"
                inner = 17920 * width // 5280
                options = f"--width {width} --heads {heads} --inner {inner} --dtype {dtype}"
                measure([*RANDOM.split(), str(checkpoint), *options.split()])
                size = (checkpoint / "model.safetensors").stat().st_size / 2**20
                bundle = Path(folder) / f"out-{len(rows)}"
                peak, seconds = measure(["-c", EXPORT, str(checkpoint), str(bundle)])
                rows.append(
                    {
                        "width": name,
                        "dtype": dtype,
                        "checkpoint MiB": round(size),
                        "largest tensor MiB": round(65536 * width * 4 / 2**20),
                        "peak MiB": round(peak),
                        "over the imports MiB": round(peak - base),
                        "seconds": round(seconds, 1),
                    }
                )
    finish("export_memory", rows, out)


if __name__ == "__main__":
    main()
