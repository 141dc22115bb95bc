"""`rdlite doctor`: what this machine and installation can do."""

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import click

from rdlite.cli.shared.options import json_option
from rdlite.cli.shared.output import print_json
from rdlite.errors import InputError
from rdlite.utils.cpu import usable_cores

PACKAGES = (
    *("rdlite", "numpy", "onnx", "onnx-ir", "tokenizers", "safetensors", "ml_dtypes"),
    *("jinja2", "click", "rich"),
)
RUNTIMES = ("onnxruntime", "onnxruntime-gpu")
#: Below this, a laptop's memory is slower than it should be: one module of two, or a busy machine.
SLOW_BYTES_PER_SECOND = 8e9
NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")


@click.command()
@click.option("--threads", type=click.IntRange(1, 1024), help="Threads to read memory with.")
@json_option
def doctor(threads: int | None, as_json: bool) -> None:
    """Show versions, providers, threads and memory bandwidth, and what to do about problems.

    The read bandwidth limits the speed of every large model, because each core step reads the
    core's weights once.

    \b
    Example:
        rdlite doctor
    """
    report = _report(threads)
    if as_json:
        print_json(report)
        return
    for key, value in report.items():
        if key != "problems":
            text = ", ".join(map(str, value)) if isinstance(value, list) else value
            click.echo(f"{key:<22} {text}")
    if not report["problems"]:
        click.echo("\nNothing to mend.")
        return
    click.echo("\nTo mend:")
    for problem in report["problems"]:
        click.echo(f"- {problem}")


def in_one_line() -> str:
    """Return what rdlite runs on: Python, onnxruntime, cores and processor."""
    runtimes = [f"{name} {_version(name)}" for name in RUNTIMES if _version(name)]
    return ", ".join(
        (
            f"Python {platform.python_version()}",
            *(runtimes or ["no onnxruntime"]),
            f"{usable_cores()} cores",
            processor_name(),
        )
    )


def _report(threads: int | None) -> dict[str, Any]:
    from rdlite.cuda.install import describe_gpus, what_is_missing
    from rdlite.measure.memory_bandwidth import read_bandwidth
    from rdlite.ort.session import describe_runtime
    from rdlite.store.home import home

    cores = usable_cores()
    threads = threads or cores
    runtime, bandwidth = describe_runtime(), read_bandwidth(threads)
    missing = what_is_missing()
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": processor_name(),
        **{name: _version(name) or "not installed" for name in PACKAGES},
        **runtime,
        "cores": cores,
        "threads": threads,
        "read bandwidth": f"{bandwidth / 1e9:.1f} GB/s",
        "GPUs": describe_gpus() or "none that can be used",
        "device cuda": "can be used" if missing is None else f"cannot be used: {missing}",
        "store": str(home()),
        "problems": _problems(runtime, bandwidth, missing),
    }


def _problems(runtime: dict[str, Any], bandwidth: float, missing: str | None) -> list[str]:
    """What is wrong here, a line each with the way out; without a GPU, none is missing."""
    from rdlite.store.home import VARIABLE, home
    from rdlite.store.settings import read_settings

    found = [
        f"{name} is not installed: pip install {name}"
        for name in PACKAGES[1:]
        if not _version(name)
    ]
    if "providers" not in runtime:
        found.append(str(runtime["onnxruntime"]))
    if all(map(_version, RUNTIMES)):
        found.append(
            f"{' and '.join(RUNTIMES)} are both installed and hide each other: pip uninstall both, "
            "then install the one for this machine"
        )
    elif missing and NVIDIA_DRIVER.exists():
        found.append(f"there is an NVIDIA GPU, and it cannot be used: {missing}")
    if bandwidth < SLOW_BYTES_PER_SECOND:
        found.append(
            f"memory is read at {bandwidth / 1e9:.1f} GB/s only, which bounds the speed of large "
            "models: close other programs; a machine with one memory module gains from a second"
        )
    folder = home()
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        found.append(f"models cannot be kept in {folder}: make it writable, or set {VARIABLE}")
    try:
        read_settings()
    except InputError as problem:
        found.append(f"the settings are not used: {problem}")
    return found


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def processor_name() -> str:
    """Return what the processor calls itself."""
    try:
        with open("/proc/cpuinfo") as file:
            names = [
                line.split(":", 1)[1].strip() for line in file if line.startswith("model name")
            ]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()
