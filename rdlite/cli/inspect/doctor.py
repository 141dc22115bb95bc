"""`rdlite doctor`: what this machine and installation can do."""

import importlib.metadata
import platform
from typing import Any

import click

from rdlite.cli.shared.options import json_option
from rdlite.cli.shared.output import print_json
from rdlite.utils.cpu import usable_cores

PACKAGES = (
    *("rdlite", "numpy", "onnx", "onnx-ir", "tokenizers", "safetensors", "ml_dtypes"),
    *("jinja2", "click", "rich"),
)
RUNTIMES = ("onnxruntime", "onnxruntime-gpu")


@click.command()
@click.option("--threads", type=click.IntRange(1, 1024), help="Threads to read memory with.")
@json_option
def doctor(threads: int | None, as_json: bool) -> None:
    """Show versions, providers, threads and memory bandwidth.

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
        text = ", ".join(map(str, value)) if isinstance(value, list) else value
        click.echo(f"{key:<22} {text}")


def _report(threads: int | None) -> dict[str, Any]:
    from rdlite.cuda.install import describe_gpus, what_is_missing
    from rdlite.measure.memory_bandwidth import read_bandwidth
    from rdlite.ort.session import describe_runtime

    cores = usable_cores()
    threads = threads or cores
    report: dict[str, Any] = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": processor_name(),
        **{name: _version(name) or "not installed" for name in PACKAGES},
        **describe_runtime(),
        "cores": cores,
        "threads": threads,
        "read bandwidth": f"{read_bandwidth(threads) / 1e9:.1f} GB/s",
    }
    installed = [name for name in RUNTIMES if _version(name)]
    report["GPUs"] = describe_gpus() or "none that can be used"
    missing = what_is_missing()
    report["device cuda"] = "can be used" if missing is None else f"cannot be used: {missing}"
    if len(installed) > 1:
        report["problem"] = f"{' and '.join(installed)} are both installed; remove one"
    return report


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
