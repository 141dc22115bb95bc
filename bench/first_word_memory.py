"""From a name to a model: the disk and the memory that it takes at most, while shards arrive.

    .venv/bin/python bench/first_word_memory.py

Makes a random checkpoint of Huginn's shape in many shards, serves it with the hub server of the
tests, and has `rdlite inspect NAME:SCHEME --yes` fetch it, in a process of its own. Reports that
process's largest resident memory as the kernel counts it, the most that the store took on the disk,
and the requests of a second start. To hold: disk <= bundle + two shards; memory <= 300 MiB + the
largest tensor of a shard, as float32; no request.
"""

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import click
from rdlite.export.random_checkpoint import hub_config, write_random_checkpoint
from report import finish
from safetensors.numpy import load_file, save

TESTS = Path(__file__).parents[1] / "tests"
RUN = """
import sys
from rdlite.cli.main import main
try:
    main(sys.argv[1:])
finally:
    status = open("/proc/self/status").read()
    print(status.split("VmHWM:")[1].split()[0], file=sys.stderr)
"""


def hub_server() -> Any:
    """Return the tests' module with the server."""
    sys.path.insert(0, str(TESTS / "support"))
    spec = importlib.util.spec_from_file_location("hub", TESTS / "rdlite" / "conftest.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def shards_of(checkpoint: Path, count: int) -> tuple[dict[str, bytes], int]:
    """Return a checkpoint's files, weights in so many shards, and its largest tensor's bytes."""
    tensors = load_file(checkpoint / "model.safetensors")
    files = {p.name: p.read_bytes() for p in checkpoint.iterdir() if p.suffix != ".safetensors"}
    names, places = list(tensors), {}
    for i in range(count):
        part = names[i * len(names) // count : (i + 1) * len(names) // count]
        shard = f"model-{i + 1:05}-of-{count:05}.safetensors"
        files[shard] = save({name: tensors[name] for name in part})
        places |= dict.fromkeys(part, shard)
    files["model.safetensors.index.json"] = json.dumps({"weight_map": places}).encode()
    return files, max(4 * tensor.size for tensor in tensors.values())


def on_disk(folder: Path) -> int:
    """Bytes that a folder's files take, without their holes."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # renamed or used up just now
                total += 512 * os.stat(os.path.join(place, name)).st_blocks
    return total


@click.command(help=__doc__)
@click.option("--width", default=1024, show_default=True, help="Huginn-0125 has 5280.")
@click.option("--shards", default=12, show_default=True)
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write the results here.")
def main(width: int, shards: int, out: Path | None) -> None:
    hub, rows = hub_server(), []
    with tempfile.TemporaryDirectory() as folder, hub.HubServer() as server:
        root = Path(folder)
        config = hub_config(
            width=width, heads=width // 64, inner=width * 7 // 2, vocabulary=16384, context=1024,
            mean_steps=4,
        )  # fmt: skip
        checkpoint = write_random_checkpoint(root / "checkpoint", config, drawn=100_000)
        files, largest = shards_of(checkpoint, shards)
        digests = {id(data): hub._digest(data) for data in files.values()}
        hub._digest = lambda data: digests[id(data)]  # or each answer would hash everything
        hub.commit_of = lambda files: "a" * 40
        server.repos["tiny/large"] = files
        threading.Thread(target=server.serve_forever, daemon=True).start()
        biggest = max(len(data) for name, data in files.items() if name.endswith(".safetensors"))
        for scheme in ("int4", "int8"):
            home = root / scheme
            env = {
                **os.environ,
                "HF_ENDPOINT": server.url,
                "HF_HOME": str(root / "hub"),
                "RDLITE_HOME": str(home),
            }
            words = [sys.executable, "-c", RUN, "inspect", f"tiny/large:{scheme}", "--yes"]
            clock, most = time.perf_counter(), 0
            process = subprocess.Popen(
                words, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
            )
            while process.poll() is None:
                most = max(most, on_disk(home))
                time.sleep(0.02)
            assert process.stderr
            said = process.stderr.read()
            if process.returncode:
                raise click.ClickException(said)
            seconds, requests = time.perf_counter() - clock, len(server.requests)
            bundle = on_disk(home)
            subprocess.run(words, env=env, check=True, capture_output=True)
            peak, allowed = int(said.split()[-1]) / 1024, 300 + largest / 2**20
            rows.append(
                {
                    "scheme": scheme,
                    "checkpoint MiB": round(sum(map(len, files.values())) / 2**20),
                    "largest shard MiB": round(biggest / 2**20),
                    "bundle MiB": round(bundle / 2**20),
                    "peak disk MiB": round(most / 2**20),
                    "allowed disk MiB": round((bundle + 2 * biggest) / 2**20),
                    "peak memory MiB": round(peak),
                    "allowed memory MiB": round(allowed),
                    "requests of a second start": len(server.requests) - requests,
                    "seconds": round(seconds, 1),
                }
            )
        server.shutdown()
    finish("first_word_memory", rows, out)


if __name__ == "__main__":
    main()
