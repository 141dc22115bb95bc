"""How long a window stands still while a model works in the same process.

    .venv/bin/python bench/desktop_pauses.py

A Qt timer wants to tick every 2 ms on the main thread while the desktop app's worker opens a model,
reads a prompt and answers on its own thread. Two threads of Python share one lock, which is let go
in onnxruntime's calls; what is left shows as gaps between ticks. "Nothing" is the timer alone. The
models: nano, and Huginn's shape at an eighth of its width with random int4 weights.
"""

import os
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
from rdlite.export import export_checkpoint
from rdlite.export.random_checkpoint import hub_config, write_random_checkpoint
from rdlite.quant import find_scheme
from report import finish

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
sys.path.insert(0, str(Path(__file__).parents[1] / "examples" / "desktop"))

PROMPT = "a = 7, b = a + 5, c = b * 3, d = c - 4, e = d * 7; what is e mod 10? " * 4


@click.command(help=__doc__)
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write the results here.")
def main(out: Path | None) -> None:
    from PySide6.QtCore import QCoreApplication, QObject, Qt, QThread, QTimer, Signal

    import rdlite
    from worker import Turn, Worker

    class Asker(QObject):
        open = Signal(str)
        ask = Signal(object)

    app = QCoreApplication([])
    thread, worker, asker = QThread(), Worker(), Asker()
    worker.moveToThread(thread)
    asker.open.connect(worker.open)
    asker.ask.connect(worker.answer)
    ticks: list[float] = []
    timer = QTimer(interval=2, timerType=Qt.TimerType.PreciseTimer)
    timer.timeout.connect(lambda: ticks.append(time.perf_counter()))
    timer.start()
    done: list[object] = []
    failures: list[str] = []
    worker.opened.connect(done.append)
    worker.ended.connect(done.append)
    worker.failed.connect(failures.append)
    tokens: list[float] = []
    worker.token.connect(lambda _: tokens.append(time.perf_counter()))
    thread.start()
    rows: list[dict[str, Any]] = []

    def watch(model: str, what: str, begin: float, end: float) -> None:
        inside = [begin, *(tick for tick in ticks if begin < tick < end), end]
        gaps = sorted(1e3 * (b - a) for a, b in pairwise(inside))
        rows.append(
            {
                "model": model,
                "while": what,
                "seconds": round(end - begin, 2),
                "median gap, ms": round(gaps[len(gaps) // 2], 1),
                "99% below, ms": round(gaps[int(len(gaps) * 0.99)], 1),
                "longest, ms": round(gaps[-1], 1),
            }
        )

    def wait() -> float:
        while not done and not failures:
            app.processEvents()
            time.sleep(0.0002)
        if failures:
            raise click.ClickException(failures[0])
        done.clear()
        return time.perf_counter()

    begin = time.perf_counter()
    while time.perf_counter() < begin + 2:
        app.processEvents()
        time.sleep(0.0002)
    watch("", "nothing", begin, time.perf_counter())
    with tempfile.TemporaryDirectory() as folder:
        config = hub_config(672, 7, 2280, 16384, 4096, 32)
        checkpoint = write_random_checkpoint(Path(folder) / "checkpoint", config, "bfloat16")
        large = export_checkpoint(checkpoint, Path(folder) / "eighth", quant=find_scheme("int4"))
        for name, path in (("nano", "nano"), ("Huginn's shape", str(large))):
            begin = time.perf_counter()
            asker.open.emit(path)
            watch(name, "opening", begin, wait())
            turn = Turn(PROMPT, rdlite.Depth(16))
            tokens.clear()
            begin = time.perf_counter()
            asker.ask.emit(turn)
            while not tokens and not failures:
                app.processEvents()
                time.sleep(0.0002)
            watch(name, "reading a prompt", begin, tokens[0])
            if name != "nano":
                QTimer.singleShot(10_000, turn.cancel)
            watch(name, "answering", tokens[0], wait())
    thread.quit()
    thread.wait()
    finish("desktop_pauses", rows, out)


if __name__ == "__main__":
    main()
