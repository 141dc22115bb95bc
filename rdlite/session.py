"""The only module that imports onnxruntime: sessions over checked graphs, and bound calls."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt

from rdlite.errors import Interrupted, RuntimeFailure

# The official wheels send telemetry unless told otherwise; the user's own choice stands.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

MINIMUM_VERSION = (1, 30, 1)  # older ones read out of bounds on a malformed MatMulNBits
INSTALL_HINT = "install it with: pip install 'rdlite[cpu]'"

Array = npt.NDArray[Any]
Run = Callable[[], None]


def load_onnxruntime() -> Any:
    """Import onnxruntime and return the module; raises RuntimeFailure if missing or too old."""
    try:
        import onnxruntime
    except ImportError as problem:
        raise RuntimeFailure(
            f"onnxruntime cannot be imported ({problem}); {INSTALL_HINT}"
        ) from None
    numbers = tuple(int(n) for n in onnxruntime.__version__.split("+")[0].split(".")[:3])
    if numbers < MINIMUM_VERSION:
        wanted = ".".join(map(str, MINIMUM_VERSION))
        raise RuntimeFailure(
            f"onnxruntime {onnxruntime.__version__} is older than {wanted}, which is unsafe with "
            f"files from strangers; {INSTALL_HINT}"
        )
    return onnxruntime


class Interrupt:
    """Ends calls that were bound with it, from any thread, even those that are running."""

    def __init__(self) -> None:
        """Be not set. Raises RuntimeFailure if onnxruntime is missing."""
        #: onnxruntime's options of a call; one of them ends it.
        self.options = load_onnxruntime().RunOptions()
        # Without an id of its own, onnxruntime looks for one on every call and handles an error.
        self.options.add_run_config_entry("gpu_graph_id", "-1")

    def set(self) -> None:
        """End the call that is running, and every other one until `clear`."""
        self.options.terminate = True

    def clear(self) -> None:
        """Let calls run again."""
        self.options.terminate = False


class Session:
    """One loaded graph. Calls that are bound once can then be run from any thread."""

    def __init__(self, name: str, graph: bytes, folder: Path, threads: int | None) -> None:
        """Load a checked graph.

        Args:
            name: for messages.
            graph: the serialized ONNX model.
            folder: where its external data lies; onnxruntime memory-maps it from there.
            threads: threads for one operator; None lets onnxruntime choose, one a physical core.

        Raises:
            RuntimeFailure: onnxruntime is missing, or refuses the graph.
        """
        self._ort = load_onnxruntime()
        self._name = name
        entries = {
            # The graph comes as the bytes that were checked, so it has no folder of its own.
            "session.model_external_initializers_file_folder_path": str(folder.absolute()),
            # The parts run one after the other: threads that spin after one part's call would
            # take the cores from the next part's.
            "session.force_spinning_stop": "1",
        }
        try:
            options = self._ort.SessionOptions()
            options.log_severity_level = 4  # what goes wrong is raised, in one line
            options.intra_op_num_threads = threads or 0
            for key, value in entries.items():
                options.add_session_config_entry(key, value)
            self._session = self._ort.InferenceSession(
                graph, options, providers=["CPUExecutionProvider"]
            )
        except Exception as problem:  # onnxruntime's errors have no base of their own
            raise RuntimeFailure(f"onnxruntime refuses {name}.onnx: {_line(problem)}") from None

    def bind(
        self,
        inputs: Mapping[str, Array],
        outputs: Mapping[str, Array],
        interrupt: Interrupt | None = None,
    ) -> Run:
        """Bind arrays to all inputs and outputs; returns a call that works on them in place.

        The arrays must be C-contiguous and keep their addresses; the returned call keeps them
        alive. An output may be bound to the array of an input where the operator allows it (the
        cache). The call raises RuntimeFailure, or Interrupted when `interrupt` is set.
        """
        binding = self._session.io_binding()
        make_value = self._ort.OrtValue.ortvalue_from_numpy
        keep = []
        for arrays, bind in (
            (inputs, binding.bind_ortvalue_input),
            (outputs, binding.bind_ortvalue_output),
        ):
            for name, array in arrays.items():
                value = make_value(array)
                keep.append((array, value))
                bind(name, value)
        execute, name = self._session.run_with_iobinding, self._name
        options = None if interrupt is None else interrupt.options

        def run(_keep: object = keep) -> None:
            try:
                execute(binding, options)
            except Exception as problem:
                if options is not None and options.terminate:
                    raise Interrupted from None
                raise RuntimeFailure(f"onnxruntime failed in {name}: {_line(problem)}") from None

        return run


def _line(problem: Exception) -> str:
    return " ".join(str(problem).split())[:400]


def describe_runtime() -> dict[str, Any]:
    """Return onnxruntime's version, providers and telemetry, or what is wrong with it."""
    try:
        ort = load_onnxruntime()
    except RuntimeFailure as problem:
        return {"onnxruntime": str(problem)}
    return {
        "onnxruntime": ort.__version__,
        "providers": ort.get_available_providers(),
        "telemetry": "off" if os.environ.get("ORT_DISABLE_TELEMETRY") == "1" else "on (yours)",
    }
