"""The packaged desktop app: how large it is, how soon it is there, how much memory it takes.

    .venv/bin/python examples/desktop/package.py
    xvfb-run -a .venv/bin/python bench/desktop.py

Starts the folder's self-test, which shows the window, opens nano and asks it a question, and takes
the time and the resident memory when each of these has happened. "Cold" starts come after the
folder's files were dropped from the kernel's page cache; a disk that caches for itself may still
be quick. "From Python" is the same app started by this Python, for comparison. On a display if
there is one, else off the screen. Linux only.
"""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import click
from report import finish, spread

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "build" / "desktop" / "rdlite-desktop"
STAGES = ("window", "model", "token")  # what the self-test prints, and then the answer
PAGE = os.sysconf("SC_PAGE_SIZE")


def drop_from_cache(folder: Path) -> None:
    """Ask the kernel to forget what it holds of a folder's files."""
    os.sync()
    for path in folder.rglob("*"):
        if path.is_file():
            file = os.open(path, os.O_RDONLY)
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(file)


def start(command: Sequence[str | Path]) -> tuple[dict[str, float], dict[str, float]]:
    """Run a self-test; return seconds since its start and MiB resident, by stage."""
    platform = "xcb" if os.environ.get("DISPLAY") else "offscreen"
    started = time.perf_counter()
    process = subprocess.Popen(
        [*command, "--self-test"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"QT_QPA_PLATFORM": platform},
    )
    assert process.stdout is not None
    seconds, memory = {}, {}
    for line in process.stdout:
        stage = line.decode().strip()
        seconds[stage] = time.perf_counter() - started
        if stage in STAGES:
            pages = Path(f"/proc/{process.pid}/statm").read_text().split()[1]
            memory[stage] = int(pages) * PAGE / 2**20
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode or not set(STAGES) <= memory.keys():
        raise click.ClickException(f"the self-test failed with code {process.returncode}")
    memory["peak"] = usage.ru_maxrss / 1024
    return seconds, memory


def measure(name: str, command: Sequence[str | Path], count: int, cold: bool) -> dict[str, Any]:
    """Start it some times; return a row of the table."""
    runs = []
    for _ in range(count):
        if cold:
            drop_from_cache(FOLDER)
        runs.append(start(command))
    row: dict[str, Any] = {"start": name}
    names = {"window": "window shown, s", "model": "model open, s", "token": "first token, s"}
    for stage, title in names.items():
        row[title] = spread([seconds[stage] for seconds, _ in runs], 2)
    for stage, title in (
        ("window", "window, MiB"),
        ("token", "answering, MiB"),
        ("peak", "peak, MiB"),
    ):
        row[title] = round(median(memory[stage] for _, memory in runs))
    return row


@click.command(help=__doc__)
@click.option("--count", default=5, show_default=True, type=click.IntRange(1, 100))
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write the results here.")
def main(count: int, out: Path | None) -> None:
    program = FOLDER / "rdlite-desktop"
    if not program.is_file():
        raise click.ClickException(f"there is no {program}; make it: examples/desktop/package.py")
    files = [path for path in FOLDER.rglob("*") if path.is_file() and not path.is_symlink()]
    size = sum(path.stat().st_size for path in files)
    pack = f"tar -c -C '{FOLDER.parent}' {FOLDER.name} | xz -T0 -6 | wc -c"
    packed = int(subprocess.run(pack, shell=True, capture_output=True, check=True).stdout)
    start([program])  # the first one reads everything
    rows = [
        measure("folder, cold", [program], count, cold=True),
        measure("folder, warm", [program], count, cold=False),
        measure("from Python", [sys.executable, ROOT / "examples" / "desktop"], count, cold=False),
    ]
    rows[0] |= {"on disk, MiB": round(size / 2**20), "as .tar.xz, MiB": round(packed / 2**20)}
    finish("desktop", rows, out)


if __name__ == "__main__":
    main()
