"""A core step of one position in Python, Node and Chromium, in turn; and what each place takes.

    .venv/bin/python bench/javascript.py [--rounds 3] [--part steps|places]

Steps are medians of the rounds, in microseconds, one thread unless it says otherwise; "8 a call"
are eight core steps in one graph. Needs the `ui` extra, Chromium, and npm's packages in js/.
"""

import functools
import http.server
import json
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import click
from playwright.sync_api import Browser, sync_playwright
from rdlite.export import export_checkpoint
from rdlite.export.random_checkpoint import hub_config, write_random_checkpoint
from rdlite.quant import find_scheme

from rdlite import Cache
from rdlite.engine.engine import Engine
from rdlite.engine.sequence import Sequence
from rdlite.loader import find_model, open_bundle
from rdlite.serve.static_page import write_page

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "js" / "bench.js"
QUESTION = "What is 48 + 76?"
IN_PYTHON = "import rdlite; print(next(iter(rdlite.load().chat().send('What is 48 + 76?'))).text)"
#: Of Huginn's width, an eighth.
EIGHTH = {"width": 672, "heads": 7, "inner": 2240, "vocabulary": 8192, "context": 1024}
IN_A_WORKER = """async (job) => {
    const worker = new Worker("bench.js", { type: "module" });
    const next = () => new Promise((told, failed) => {
        worker.onmessage = (event) => told(event.data);
        worker.onerror = (event) => failed(event.message);
    });
    await next();
    const answer = next();
    worker.postMessage(job);
    const result = await answer;
    worker.terminate();
    return result;
}"""


class Isolated(http.server.SimpleHTTPRequestHandler):
    """Serves a folder with the headers that threads need."""

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def end_headers(self) -> None:
        """Isolate the page."""
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder on loopback; yields its address."""
    handler = functools.partial(Isolated, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/"
    server.shutdown()
    server.server_close()
    thread.join()


def python_step(bundle: Path) -> float:
    """Median microseconds of a step in Python."""
    sequence = Sequence(Engine(open_bundle(bundle), Cache(), 1), 256)
    runner = sequence.begin([5], 8)
    for number in range(8):
        runner.step(number)
    times: list[float] = []
    end = time.perf_counter() + 0.6
    while len(times) < 160 or time.perf_counter() < end:
        clock = time.perf_counter()
        runner.steps[len(times) % 8]()
        times.append(time.perf_counter() - clock)
    return 1e6 * statistics.median(times)


def node_steps(bundle: Path) -> list[float]:
    """Median microseconds of a step in Node, one a call and eight."""
    command = ["node", str(SCRIPT), str(bundle)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return list(json.loads(said))


def browser_steps(browser: Browser, address: str, threads: int) -> list[float]:
    """Median microseconds of a step in a worker of a tab, one a call and eight."""
    page = browser.new_page()
    page.goto(f"{address}empty.html")
    times = page.evaluate(IN_A_WORKER, threads)
    page.close()
    return list(times)


def write_site(bundle: Path, folder: Path) -> Path:
    """Write the page of a bundle, and what times it."""
    write_page(str(bundle), folder)
    (folder / "bench.js").write_text(SCRIPT.read_text())
    (folder / "empty.html").write_text("<!doctype html><title>bench</title>")
    return folder


def steps(browser: Browser, folder: Path, rounds: int) -> None:
    """Print the times of core steps."""
    checkpoint = write_random_checkpoint(
        folder / "random", hub_config(**EIGHTH, mean_steps=8, layers=(2, 4, 2))
    )
    models = {"nano": find_model("nano"), "huginn-eighth": folder / "eighth"}
    float32 = {"nano": folder / "nano-float32", "huginn-eighth": folder / "eighth-float32"}
    export_checkpoint(checkpoint, models["huginn-eighth"], quant=find_scheme("int8"))
    export_checkpoint(checkpoint, float32["huginn-eighth"])
    export_checkpoint(ROOT / "examples" / "nano" / "checkpoint", float32["nano"])
    heads = ["int8 bundle", "Python, float32", "Python", "Node", "Node, 8 a call", "Chromium"]
    print(f"| {' | '.join([*heads, 'Chromium, 8 a call', 'Chromium, 2 threads'])} |")
    print("|---" * 8 + "|")
    for name, bundle in models.items():
        rows = []
        with served(write_site(bundle, folder / f"{name}-page")) as address:
            for _ in range(rounds):
                row = [python_step(float32[name]), python_step(bundle), *node_steps(bundle)]
                row += browser_steps(browser, address, 1)
                rows.append([*row, browser_steps(browser, address, 2)[0]])
        own, *others = (statistics.median(column) for column in zip(*rows, strict=True))
        shown = " | ".join(f"{value:.1f} ({value / own:.2f}x)" for value in others)
        print(f"| {name} | {own:.1f} | {shown} |", flush=True)


def distributions(name: str, found: dict[str, int]) -> dict[str, int]:
    """Return the bytes of a distribution and of all that it needs."""
    distribution = metadata.distribution(name)
    found[name] = 0
    for path in distribution.files or ():
        place = Path(str(path.locate()))
        found[name] += place.stat().st_size if place.is_file() else 0
    for line in distribution.requires or ():
        needed = re.match(r"[\w.-]+", line)
        if "extra ==" not in line and needed and needed[0] not in found:
            try:
                distributions(needed[0], found)
            except metadata.PackageNotFoundError:  # for another system
                continue
    return found


def folder_bytes(*paths: Path) -> int:
    """Return the bytes of all files in some folders."""
    return sum(path.stat().st_size for root in paths for path in root.rglob("*") if path.is_file())


def fastest(run: Any, rounds: int) -> float:
    """Return the median seconds of a call."""
    times = []
    for _ in range(rounds):
        clock = time.perf_counter()
        run()
        times.append(time.perf_counter() - clock)
    return statistics.median(times)


def places(browser: Browser, folder: Path, rounds: int) -> None:
    """Print what each place takes on disk, and until nano's first token."""
    sizes = distributions("onnxruntime", distributions("rdlite", {}))
    own = folder_bytes(*(ROOT / part for part in ("rdlite", "export", "quant")))
    modules = ROOT / "js" / "node_modules"
    node = folder_bytes(ROOT / "js" / "src", ROOT / "rdlite" / "models" / "nano")
    node += folder_bytes(modules / "koffi", modules / "@koromix", modules / "@huggingface")
    runtime = modules / "onnxruntime-node"
    everything = folder_bytes(runtime)
    system = "win32" if sys.platform == "win32" else sys.platform
    node += folder_bytes(runtime / "bin" / "napi-v6" / system / "x64")
    site = write_site(find_model("nano"), folder / "page")
    quiet = {"check": True, "capture_output": True}
    start: Any = functools.partial

    def first_token(address: str) -> None:
        page = browser.new_page()
        page.goto(address)
        page.wait_for_function("!document.getElementById('model').textContent.startsWith('load')")
        page.locator("#question").fill(QUESTION)
        page.keyboard.press("Enter")
        page.locator(".answer .token").first.wait_for()
        page.close()

    with served(site) as address:
        rows = {
            "Python": (
                sum(sizes.values()) + own,
                fastest(start(subprocess.run, [sys.executable, "-c", IN_PYTHON], **quiet), rounds),
            ),
            "Node": (
                node,
                fastest(
                    start(subprocess.run, ["node", ROOT / "examples/node/answer.js"], **quiet),
                    rounds,
                ),
            ),
            "Chromium": (folder_bytes(site), fastest(start(first_token, address), rounds)),
        }
    print("| place | MB on disk | seconds to nano's first token |")
    print("|---|---|---|")
    for place, (size, seconds) in rows.items():
        print(f"| {place} | {size / 1e6:.0f} | {seconds:.2f} |")
    print(f"(onnxruntime-node with the libraries of all systems: {everything / 1e6:.0f} MB)")


@click.command(help=__doc__)
@click.option("--rounds", default=3, show_default=True)
@click.option("--part", type=click.Choice(["steps", "places"]))
def main(rounds: int, part: str | None) -> None:
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox"]
        )
        if part != "places":
            steps(browser, Path(folder), rounds)
        if part != "steps":
            places(browser, Path(folder), rounds)
        browser.close()


if __name__ == "__main__":
    main()
