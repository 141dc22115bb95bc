"""NVIDIA GPUs: their memory through CUDA's runtime, onnxruntime's provider, and what is missing.

Written for onnxruntime-gpu of CUDA 13; cuda-bindings, NVIDIA's own, brings the runtime.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.metadata
import sys
import weakref
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rdlite.config import check_integer
from rdlite.device import Device, Host
from rdlite.errors import InputError, RuntimeFailure
from rdlite.session import Provider, load_onnxruntime

PROVIDER = "CUDAExecutionProvider"
INSTALL_HINT = "pip uninstall onnxruntime; pip install 'rdlite[gpu]'"


@dataclass(frozen=True, slots=True)
class Cuda:
    """Run on an NVIDIA GPU: `rdlite.load(device=rdlite.Cuda(...))`; "cuda" is `Cuda()`.

    Attributes:
        index: which of several, 0 to 63.
        graphs: capture each core step of a single position once and replay it, which takes less
            of the host's time. For one generation at a time: what another thread does meanwhile
            would be captured too.
        memory: most bytes of the GPU's memory for weights and intermediate results; caches come
            on top. None: all of it.

    Raises InputError for numbers out of bounds.
    """

    index: int = 0
    graphs: bool = False
    memory: int | None = None

    def __post_init__(self) -> None:
        """Check the bounds."""
        check_integer("index", self.index, 0, 63)
        if type(self.graphs) is not bool:
            raise InputError(f"graphs must be True or False, got {self.graphs!r:.40}")
        if self.memory is not None:
            check_integer("memory", self.memory, 2**20, 2**50)


def open_cuda(wanted: Cuda) -> Device:
    """Return a GPU to run models on.

    Raises:
        RuntimeFailure: something that this needs is missing; the message says what.
    """
    problem = what_is_missing(wanted.index)
    if problem is not None:
        raise RuntimeFailure(f"device 'cuda' cannot be used: {problem}")
    memory = CudaMemory(wanted.index)
    options = {
        "device_id": str(wanted.index),
        "user_compute_stream": str(memory.stream),
        "enable_cuda_graph": str(int(wanted.graphs)),
        # Norms after a residual add sum up in float32.
        "enable_skip_layer_norm_strict_mode": "1",
        "arena_extend_strategy": "kSameAsRequested",
        "cudnn_conv_algo_search": "HEURISTIC",
    }
    if wanted.memory is not None:
        options["gpu_mem_limit"] = str(wanted.memory)
    # All graphs and copies follow each other on one stream, so that no call waits for its end.
    run_options = {"disable_synchronize_execution_providers": "1"}
    provider = Provider(PROVIDER, options, run_options, memory.hint)
    return Device("cuda", memory, provider, wanted.graphs)


def what_is_missing(index: int = 0) -> str | None:
    """Return what stands in the way of running on a GPU, and the way out; None if nothing does."""
    installed = [name for name in ("onnxruntime", "onnxruntime-gpu") if _version(name)]
    if "onnxruntime-gpu" not in installed:
        return f"onnxruntime-gpu is not installed: {INSTALL_HINT}"
    ort = load_onnxruntime()
    if PROVIDER not in ort.get_available_providers():
        if len(installed) == 2:
            return (
                "onnxruntime and onnxruntime-gpu are both installed and hide each other: "
                "uninstall both, then pip install 'rdlite[gpu]'"
            )
        return f"this onnxruntime has no {PROVIDER}: {INSTALL_HINT}"
    if _version("cuda-bindings") is None:
        return "cuda-bindings is not installed: pip install 'rdlite[gpu]'"
    runtime = _runtime()
    error, count = runtime.cudaGetDeviceCount()
    if int(error) == int(runtime.cudaError_t.cudaErrorInsufficientDriver):
        return "there is no NVIDIA driver, or it is too old for CUDA 13 (580 or newer is needed)"
    if int(error) or not count:
        return f"CUDA finds no GPU ({_name(error)})"
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
    runtime = _runtime()
    error, count = runtime.cudaGetDeviceCount()
    found = []
    for index in range(0 if int(error) else count):
        error, properties = runtime.cudaGetDeviceProperties(index)
        if not int(error):
            name = bytes(properties.name).split(b"\0")[0].decode(errors="replace")
            found.append(f"{index}: {name}, {properties.totalGlobalMem / 2**30:.1f} GiB")
    return found


class CudaMemory:
    """The memory of one GPU, and the stream on which all follows each other."""

    kind = "cuda"

    def __init__(self, index: int) -> None:
        """Use GPU number `index`; raises RuntimeFailure if it cannot be used."""
        self.index = index
        self._runtime = runtime = _runtime()
        self._call("cudaSetDevice", index)
        (self._stream,) = self._call("cudaStreamCreateWithFlags", runtime.cudaStreamNonBlocking)
        #: Its address, for onnxruntime.
        self.stream = int(self._stream)
        kinds = runtime.cudaMemcpyKind
        self._up = kinds.cudaMemcpyHostToDevice
        self._down = kinds.cudaMemcpyDeviceToHost
        self._across = kinds.cudaMemcpyDeviceToDevice

    def allocate(self, size: int) -> int:
        """Return the address of new memory; raises RuntimeFailure that says what is free."""
        self._call("cudaSetDevice", self.index)  # of this thread
        error, address = self._runtime.cudaMalloc(size)
        if int(error):
            self._runtime.cudaGetLastError()  # clears it
            raise RuntimeFailure(
                f"there is no memory on GPU {self.index} for another {size:,} bytes of cache: "
                f"{self._what_is_free()}; use a smaller context, fewer steps, or Cache(share=1)"
            )
        return int(address)

    def free(self, address: int) -> None:
        """Give memory back; waits for what uses it."""
        self._runtime.cudaFree(address)

    def hint(self, said: str) -> str:
        """Return what to add to what onnxruntime said when it failed."""
        if "allocat" in said.lower() or "out of memory" in said.lower():
            return f"; {self._what_is_free()}; use int4 weights, or close what else is on this GPU"
        return "; 'rdlite doctor' says what is there"

    def _what_is_free(self) -> str:
        free, total = self._call("cudaMemGetInfo")
        return f"{free:,} of {total:,} bytes are free"

    def host(self, size: int) -> npt.NDArray[np.uint8]:
        """Return pinned memory."""
        (address,) = self._call("cudaMallocHost", size)
        buffer = (ctypes.c_uint8 * size).from_address(int(address))
        weakref.finalize(buffer, self._runtime.cudaFreeHost, int(address))
        return np.ctypeslib.as_array(buffer)

    def upload(self, address: int, array: Host) -> None:
        """Copy an array there; memory that is not pinned is staged before this returns."""
        self._copy(address, array.ctypes.data, array.nbytes, self._up)

    def download(self, array: Host, address: int) -> None:
        """Copy from there, and wait."""
        self._copy(array.ctypes.data, address, array.nbytes, self._down)
        self._call("cudaStreamSynchronize", self._stream)

    def copy(
        self, target: int, target_pitch: int, source: int, source_pitch: int, width: int, rows: int
    ) -> None:
        """Copy rows of `width` bytes, each so many bytes after the one before."""
        pitches = target, target_pitch, source, source_pitch
        self._call("cudaMemcpy2DAsync", *pitches, width, rows, self._across, self._stream)

    def _copy(self, target: int, source: int, size: int, kind: Any) -> None:
        self._call("cudaMemcpyAsync", target, source, size, kind, self._stream)

    def _call(self, name: str, *arguments: Any) -> tuple[Any, ...]:
        error, *results = getattr(self._runtime, name)(*arguments)
        if int(error):
            raise RuntimeFailure(f"{name} failed on GPU {self.index}: {_name(error)}")
        return tuple(results)


@functools.cache
def _runtime() -> Any:
    from cuda.bindings import runtime

    return runtime


def _name(error: Any) -> str:
    return str(getattr(error, "name", error))


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
