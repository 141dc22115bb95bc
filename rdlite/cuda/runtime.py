"""NVIDIA GPUs: their memory through CUDA's runtime, onnxruntime's provider, and what is missing.

Written for onnxruntime-gpu of CUDA 13; cuda-bindings, NVIDIA's own, brings the runtime.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import threading
import weakref
from typing import Any

import numpy as np
import numpy.typing as npt

from rdlite.config.cuda import Cuda
from rdlite.cuda.arrays import Device, Host
from rdlite.cuda.install import PROVIDER, error_name, load_runtime, what_is_missing
from rdlite.errors import RuntimeFailure
from rdlite.ort.session import Provider, Run, load_onnxruntime

ERROR = 3  # onnxruntime's severity


def open_cuda(wanted: Cuda) -> Device:
    """Return a GPU to run models on.

    Raises:
        RuntimeFailure: something that this needs is missing; the message says what.
    """
    problem = what_is_missing(wanted.index)
    if problem is not None:
        raise RuntimeFailure(f"device 'cuda' cannot be used: {problem}")
    memory = CudaMemory(wanted.index)
    # It warns on every session that it finds no plugin of that name, though it needs none.
    load_onnxruntime().set_default_logger_severity(ERROR)
    options = {
        "device_id": str(wanted.index),
        "user_compute_stream": str(memory.stream),
        # Norms after a residual add sum up in float32.
        "enable_skip_layer_norm_strict_mode": "1",
        "arena_extend_strategy": "kSameAsRequested",
        "cudnn_conv_algo_search": "HEURISTIC",
    }
    if wanted.memory is not None:
        options["gpu_mem_limit"] = str(wanted.memory)
    # All graphs and copies follow each other on one stream, so that no call waits for its end.
    run_options = {"disable_synchronize_execution_providers": "1"}
    provider = Provider(PROVIDER, options, run_options, memory.hint, memory.lock)
    return Device("cuda", memory, provider, wanted.graphs)


class CudaMemory:
    """The memory of one GPU, and the stream on which all follows each other. Thread-safe."""

    kind = "cuda"

    def __init__(self, index: int) -> None:
        """Use GPU number `index`; raises RuntimeFailure if it cannot be used."""
        self.index = index
        #: Held while anything is put on the stream, as a capture takes all that is put there.
        self.lock = threading.RLock()
        self._runtime = runtime = load_runtime()
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

    def clear(self, address: int, size: int) -> None:
        """Fill memory with zeros."""
        with self.lock:
            self._call("cudaMemsetAsync", address, 0, size, self._stream)

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
        with self.lock:
            self._copy(array.ctypes.data, address, array.nbytes, self._down)
            self._call("cudaStreamSynchronize", self._stream)

    def copy(
        self, target: int, target_pitch: int, source: int, source_pitch: int, width: int, rows: int
    ) -> None:
        """Copy rows of `width` bytes, each so many bytes after the one before."""
        pitches = target, target_pitch, source, source_pitch
        with self.lock:
            self._call("cudaMemcpy2DAsync", *pitches, width, rows, self._across, self._stream)

    def available(self) -> int:
        """Return the bytes that are free."""
        self._call("cudaSetDevice", self.index)
        free: int = self._call("cudaMemGetInfo")[0]
        return free

    def capture(self, call: Run) -> Run:
        """Record what a call puts on the stream, without doing it; returns what does it.

        The call must have been made before, so that all memory that it needs is there.
        onnxruntime's own capture (`enable_cuda_graph`) waits for the end of each replay.
        """
        relaxed = self._runtime.cudaStreamCaptureMode.cudaStreamCaptureModeRelaxed
        with self.lock:
            self._call("cudaStreamBeginCapture", self._stream, relaxed)
            try:
                call()
            except BaseException:  # Ctrl-C too: a capture that goes on would take all that follows
                with contextlib.suppress(RuntimeFailure):
                    self._call(
                        "cudaGraphDestroy", *self._call("cudaStreamEndCapture", self._stream)
                    )
                raise
            (graph,) = self._call("cudaStreamEndCapture", self._stream)
            try:
                (recorded,) = self._call("cudaGraphInstantiate", graph, 0)
            finally:
                self._call("cudaGraphDestroy", graph)
        replay = functools.partial(self._replay, recorded)
        weakref.finalize(replay, self._runtime.cudaGraphExecDestroy, recorded)
        return replay

    def _replay(self, recorded: Any) -> None:
        with self.lock:
            self._call("cudaGraphLaunch", recorded, self._stream)

    def _copy(self, target: int, source: int, size: int, kind: Any) -> None:
        with self.lock:
            self._call("cudaMemcpyAsync", target, source, size, kind, self._stream)

    def _call(self, name: str, *arguments: Any) -> tuple[Any, ...]:
        error, *results = getattr(self._runtime, name)(*arguments)
        if int(error):
            raise RuntimeFailure(f"{name} failed on GPU {self.index}: {error_name(error)}")
        return tuple(results)
