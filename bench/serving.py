"""Many clients at once: `rdlite serve` beside llama.cpp's server, in one run.

    .venv/bin/python bench/serving.py --llama-server PATH

Writes a Huginn of `--width` (four layers in its core, one step a token) with random weights in
int4, and a dense Llama of the same four layers in Q4_0: the same products for a token. Each server
gets 1, 2, 4, 8 and 16 clients, each of which asks for one answer after another; the servers take
turns.
Without --llama-server the peer is llama-cpp-python's server, which answers one request at a time.
"""

import contextlib
import http.client
import itertools
import json
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from llama_cpp_peer import write_llama
from rdlite.export.random_checkpoint import hub_config, write_random_checkpoint
from report import finish

CLIENTS, TOKENS, PROMPT = (1, 2, 4, 8, 16), 24, "The lighthouse keeper counted the ships."
READY_S = 120
_numbers = itertools.count(10_000)


class Server:
    """A server in a process of its own."""

    def __init__(self, command: list[str], port: int, extra: dict[str, Any]) -> None:
        self.extra = extra
        self.process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self.port = port
        end, said = time.monotonic() + READY_S, ""
        while True:
            if self.process.poll() is not None or time.monotonic() > end:
                self.stop()
                raise click.ClickException(f"{' '.join(command)} does not answer: {said}")
            try:
                self.ask("x", TOKENS)
                return
            except (OSError, http.client.HTTPException) as problem:
                said = str(problem)
            time.sleep(0.2)

    def ask(self, prompt: str, tokens: int) -> float:
        """Ask for so many tokens; returns the seconds to the first of them."""
        body = {"prompt": prompt, "max_tokens": tokens, "temperature": 0, "stream": True}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=READY_S)
        clock, first = time.perf_counter(), 0.0
        try:
            connection.request(
                "POST",
                "/v1/completions",
                json.dumps({**body, **self.extra}),
                {"Content-Type": "application/json"},
            )
            answer = connection.getresponse()
            if answer.status != 200:
                raise http.client.HTTPException(answer.read().decode())
            for line in answer:
                if line.startswith(b"data: {") and not first:
                    first = time.perf_counter() - clock
                reason = re.search(rb'"finish_reason": ?"(\w+)"', line)
                if reason and reason[1] != b"length":
                    raise click.ClickException(f"an answer ended early: {line.decode():.200}")
        finally:
            connection.close()
        return first

    def stop(self) -> None:
        """End the process."""
        self.process.terminate()
        self.process.wait()


def load(server: Server, clients: int, answers: int) -> tuple[float, list[float]]:
    """Let so many clients ask for so many answers each; returns tokens a second and first waits."""
    waits: list[float] = []

    def client() -> None:
        for _ in range(answers):  # each prompt is new from its first letter on
            waits.append(server.ask(f"{str(next(_numbers))[::-1]} {PROMPT}", TOKENS))

    threads = [threading.Thread(target=client) for _ in range(clients)]
    clock = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return clients * answers * TOKENS / (time.perf_counter() - clock), waits


@contextlib.contextmanager
def servers(
    folder: Path, width: int, threads: int, llama_server: str | None
) -> Iterator[dict[str, Server]]:
    """Start both servers on models of one shape."""
    heads, inner = width // 96, width * 10 // 3 // 256 * 256
    checkpoint, bundle, llama = folder / "checkpoint", folder / "bundle", folder / "llama.gguf"
    config = hub_config(width, heads, inner, 288, 4096, 1, (0, 4, 0))
    write_random_checkpoint(checkpoint, config)
    export = ["export", str(checkpoint), "-o", str(bundle), "--scheme", "int4"]
    subprocess.run([sys.executable, "-m", "rdlite", *export], check=True)
    write_llama(llama, width, heads, inner, 4, 288, text=True)
    ports = [free_port(), free_port()]
    slots, context = str(max(CLIENTS)), 256
    ours = [sys.executable, "-m", "rdlite", "serve", str(bundle), "--port", str(ports[0])]
    ours += ["--slots", slots, "--threads", str(threads), "--steps", "1", "--exit-rule", "off"]
    if llama_server:
        theirs = [llama_server, "-m", str(llama), "--port", str(ports[1]), "-np", slots]
        theirs += ["-c", str(context * max(CLIENTS)), "-t", str(threads), "--no-webui"]
    else:
        theirs = [sys.executable, "-m", "llama_cpp.server", "--model", str(llama)]
        theirs += ["--port", str(ports[1]), "--n_ctx", str(context), "--n_threads", str(threads)]
        theirs += ["--interrupt_requests", "false"]
    peer = "llama.cpp" if llama_server else "llama-cpp-python"
    started: dict[str, Server] = {}
    try:
        started["rdlite"] = Server(ours, ports[0], {"min_tokens": TOKENS})
        started[peer] = Server(theirs, ports[1], {"ignore_eos": True, "cache_prompt": False})
        yield started
    finally:
        for server in started.values():
            server.stop()


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@click.command(help=__doc__)
@click.option("--llama-server", help="llama.cpp's server: a path, or a name in PATH.")
@click.option("--width", default=2688, show_default=True, type=click.IntRange(96, 8192))
@click.option("--threads", default=2, show_default=True, type=click.IntRange(1, 256))
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1, 100))
@click.option("--answers", default=2, show_default=True, help="Of each client in a round.")
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write the results here.")
def main(
    llama_server: str | None, width: int, threads: int, rounds: int, answers: int, out: Path | None
) -> None:
    speeds: dict[tuple[str, int], list[float]] = {}
    waits: dict[tuple[str, int], list[float]] = {}
    with (
        tempfile.TemporaryDirectory() as name,
        servers(Path(name), width, threads, llama_server) as started,
    ):
        for _ in range(rounds):
            for clients in CLIENTS:
                for server_name, server in started.items():
                    speed, first = load(server, clients, answers)
                    speeds.setdefault((server_name, clients), []).append(speed)
                    waits.setdefault((server_name, clients), []).extend(first)
    rows = []
    for (server_name, clients), measured in speeds.items():
        one = statistics.median(speeds[server_name, 1])
        first = sorted(waits[server_name, clients])
        rows.append(
            {
                "server": server_name,
                "clients": clients,
                "tokens/s": round(statistics.median(measured), 1),
                "of one client": f"{statistics.median(measured) / one:.2f}x",
                "first token p50 ms": round(1e3 * statistics.median(first)),
                "first token p95 ms": round(1e3 * first[int(0.95 * len(first))]),
            }
        )
    finish("serving", sorted(rows, key=lambda row: str(row["server"]), reverse=True), out)


if __name__ == "__main__":
    main()
