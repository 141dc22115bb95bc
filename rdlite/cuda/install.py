"""Finds what an NVIDIA GPU needs to be used, and says what is missing."""

from __future__ import annotations

import ctypes
import functools
import importlib.metadata
import sys
from typing import Any

from rdlite.ort.session import load_onnxruntime
from rdlite.utils.install import install_hint

PROVIDER = "CUDAExecutionProvider"
INSTEAD = "pip uninstall onnxruntime"


def what_is_missing(index: int = 0) -> str | None:
    """Return what stands in the way of running on a GPU, and the way out; None if nothing does."""
    installed = [name for name in ("onnxruntime", "onnxruntime-gpu") if _version(name)]
    if "onnxruntime-gpu" not in installed:
        return f"onnxruntime-gpu is not installed: {INSTEAD}; {install_hint('gpu')}"
    ort = load_onnxruntime()
    if PROVIDER not in ort.get_available_providers():
        if len(installed) == 2:
            return (
                "onnxruntime and onnxruntime-gpu are both installed and hide each other: "
                f"uninstall both, then {install_hint('gpu')}"
            )
        return f"this onnxruntime has no {PROVIDER}: {INSTEAD}; {install_hint('gpu')}"
    if _version("cuda-bindings") is None:
        return f"cuda-bindings is not installed: {install_hint('gpu')}"
    runtime = load_runtime()
    error, count = runtime.cudaGetDeviceCount()
    if int(error) == int(runtime.cudaError_t.cudaErrorInsufficientDriver):
        return "there is no NVIDIA driver, or it is too old for CUDA 13 (580 or newer is needed)"
    if int(error) or not count:
        return f"CUDA finds no GPU ({error_name(error)})"
    if index >= count:
        return f"there is no GPU number {index}; there are {count}, counted from 0"
    return _missing_libraries(ort)


def _missing_libraries(ort: Any) -> str | None:
    """Load the libraries that the provider needs; returns which cannot be."""
    import contextlib
    import io

    if not sys.platform.startswith("linux"):
        return None
    with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does not find
        ort.preload_dlls()
    for name, extra in (("cublasLt", "CUDA 13"), ("cudnn", "cuDNN 9")):
        if not any(_loads(f"lib{name}.so.{version}") for version in ("13", "9")):
            return (
                f"{extra} is missing (lib{name} cannot be loaded): pip install "
                "'onnxruntime-gpu[cuda,cudnn]'"
            )
    return None


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def describe_gpus() -> list[str]:
    """Return what GPUs there are, with their memory; empty if there are none that can be used."""
    if _version("cuda-bindings") is None:
        return []
    runtime = load_runtime()
    error, count = runtime.cudaGetDeviceCount()
    found = []
    for index in range(0 if int(error) else count):
        error, properties = runtime.cudaGetDeviceProperties(index)
        if not int(error):
            name = bytes(properties.name).split(b"\0")[0].decode(errors="replace")
            found.append(f"{index}: {name}, {properties.totalGlobalMem / 2**30:.1f} GiB")
    return found


@functools.cache
def load_runtime() -> Any:
    """Return cuda-bindings' module of CUDA's runtime, which must be installed."""
    from cuda.bindings import runtime

    return runtime


def error_name(error: Any) -> str:
    """Return the name of a CUDA error."""
    return str(getattr(error, "name", error))


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
