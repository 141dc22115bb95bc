"""The only module that imports onnxruntime: sessions over checked graphs, and bound calls."""

import contextlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from rdlite.errors import Interrupted, RuntimeFailure
from rdlite.ort.huge_pages import huge_pages
from rdlite.utils.install import install_hint

# The official wheels send telemetry unless told otherwise; the user's own choice stands.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

MINIMUM_VERSION = (1, 30, 1)  # older ones read out of bounds on a malformed MatMulNBits

Array = npt.NDArray[Any]
Run = Callable[[], None]
CPU = "CPUExecutionProvider"


@dataclass(frozen=True, slots=True)
class Provider:
    """What onnxruntime runs graphs with, and how that is told to do it.

    Attributes:
        name: of the execution provider.
        options: its options.
        run_options: of every call.
        hint: adds to what onnxruntime said when it failed: what to do.
        lock: held while a call is made; None: calls may be made from several threads at once.
    """

    name: str = CPU
    options: Mapping[str, str] = field(default_factory=dict)
    run_options: Mapping[str, str] = field(default_factory=dict)
    hint: Callable[[str], str] = lambda said: ""
    lock: contextlib.AbstractContextManager[Any] | None = None


def load_onnxruntime() -> Any:
    """Import onnxruntime and return the module; raises RuntimeFailure if missing or too old."""
    try:
        import onnxruntime
    except ImportError as problem:
        raise RuntimeFailure(
            f"onnxruntime cannot be imported ({problem}); {install_hint('cpu')}"
        ) from None
    numbers = tuple(int(n) for n in onnxruntime.__version__.split("+")[0].split(".")[:3])
    if numbers < MINIMUM_VERSION:
        wanted = ".".join(map(str, MINIMUM_VERSION))
        raise RuntimeFailure(
            f"onnxruntime {onnxruntime.__version__} is older than {wanted}, which is unsafe with "
            f"files from strangers; {install_hint('cpu')}"
        )
    return onnxruntime


class Addressed(Protocol):
    """An array in memory that onnxruntime reaches by its address."""

    #: What onnxruntime calls where it lies, and which of several that is.
    place: tuple[str, int]
    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


class Interrupt:
    """Ends calls that were bound with it, from any thread, even those that are running."""

    def __init__(self) -> None:
        self.is_set = False
        self._options: Any = None

    def options(self, provider: Provider) -> Any:
        """Return onnxruntime's options of a call of this provider, which end it when this is set.

        A text has one provider.
        """
        if self._options is None:
            options = load_onnxruntime().RunOptions()
            # Without a number, onnxruntime looks for one on every call and handles an error.
            options.add_run_config_entry("gpu_graph_id", "-1")
            for key, value in provider.run_options.items():
                options.add_run_config_entry(key, value)
            self._options = options
            options.terminate = self.is_set  # last, lest a `set` in the meantime be missed
        return self._options

    def set(self) -> None:
        """End the call that is running, and every other one until `clear`."""
        self._set(True)

    def clear(self) -> None:
        """Let calls run again."""
        self._set(False)

    def _set(self, ends: bool) -> None:
        self.is_set = ends
        if self._options is not None:
            self._options.terminate = ends


@dataclass(frozen=True, slots=True)
class Binding:
    """A call into a session that keeps none of the arrays alive that it works on.

    Attributes:
        input: binds a value of `Session.values` to the name of an input.
        output: the same for outputs.
        run: raises RuntimeFailure.
    """

    input: Callable[[str, Any], None]
    output: Callable[[str, Any], None]
    run: Run


class Session:
    """One loaded graph. Calls that are bound once can then be run from any thread."""

    def __init__(
        self,
        name: str,
        graph: bytes,
        folder: Path,
        threads: int | None,
        provider: Provider | None = None,
        weights: Mapping[str, Array] | None = None,
        in_order: bool = False,
        large: bool = False,
        copied: bool = False,
    ) -> None:
        """Load a checked graph.

        Args:
            name: for messages.
            graph: the serialized ONNX model.
            folder: where its external data lies; onnxruntime memory-maps it from there.
            threads: threads for one operator; None lets onnxruntime choose, one a physical core.
            provider: what runs it; None: the CPU.
            weights: by name, those that are given here and not in files; they are kept.
            in_order: whether nodes must run in the order of the graph, which onnxruntime changes
                where it sees no edge between them.
            large: whether its weights are worth huge pages.
            copied: whether onnxruntime copies `weights`. It must where they are converted, or go to
                a device: it looks for others in files then.

        Raises:
            RuntimeFailure: onnxruntime is missing, or refuses the graph, or would run it, or a
                part of it, with another provider.
        """
        self._provider = provider = provider or Provider()
        self._ort = load_onnxruntime()
        self._name = name
        make = self._ort.OrtValue.ortvalue_from_numpy
        #: They are looked at where they lie, unless they are copied.
        self._weights = {name: make(array) for name, array in (weights or {}).items()}
        entries = {
            # The graph comes as the bytes that were checked, so it has no folder of its own.
            "session.model_external_initializers_file_folder_path": str(folder.absolute()),
            # The parts run one after the other: threads that spin after one part's call would
            # take the cores from the next part's.
            "session.force_spinning_stop": "1",
            # Loads five times as fast. The mapped weights stay in memory until all are packed, but
            # those are clean pages of a file, which the system takes back where memory is short.
            "session.prepack.enable_parallel": "1",
        }
        try:
            options = self._ort.SessionOptions()
            options.log_severity_level = 4  # what goes wrong is raised, in one line
            options.intra_op_num_threads = threads or 0
            if in_order:
                options.execution_order = self._ort.ExecutionOrder.PRIORITY_BASED
            if copied and self._weights:
                options.add_external_initializers([*self._weights], [*self._weights.values()])
            else:
                for weight, value in self._weights.items():
                    options.add_initializer(weight, value)
            if provider.name != CPU:  # a part that ran there would be slow in silence
                entries["session.disable_cpu_ep_fallback"] = "1"
            for key, value in entries.items():
                options.add_session_config_entry(key, value)
            with huge_pages() if large else contextlib.nullcontext():
                self._session = self._ort.InferenceSession(
                    graph, options, providers=[(provider.name, dict(provider.options))]
                )
        except Exception as problem:  # onnxruntime's errors have no base of their own
            said = _line(problem)
            raise RuntimeFailure(
                f"onnxruntime refuses {name}.onnx: {said}{provider.hint(said)}"
            ) from None
        # Beneath onnxruntime's Python, which takes a tenth of nano's step for itself, and more than
        # half of the time to bind.
        native = self._ort.capi._pybind_state
        cpu = native.OrtDevice(native.OrtDevice.cpu(), native.OrtDevice.default_memory(), 0)
        make = native.OrtValue.ortvalue_from_numpy
        self._value: Callable[[Array], Any] = lambda array: make(array, cpu)
        self._run = self._session._sess.run_with_iobinding
        used = self._session.get_providers()
        if provider.name not in used:
            raise RuntimeFailure(
                f"onnxruntime would run {name}.onnx with {', '.join(used)}, not with "
                f"{provider.name}{provider.hint('')}"
            )

    def bind(
        self,
        inputs: Mapping[str, Array | Addressed],
        outputs: Mapping[str, Array | Addressed],
        interrupt: Interrupt | None = None,
    ) -> Run:
        """Bind arrays to all inputs and outputs; returns a call that works on them in place.

        The arrays must be C-contiguous and keep their addresses; the returned call keeps them
        alive. An output may be bound to the array of an input where the operator allows it (the
        cache). The call raises RuntimeFailure, or Interrupted when `interrupt` is set.
        """
        outer = self._session.io_binding()
        inner, keep = outer._iobinding, list[object]()
        for arrays, bind, bind_address in (
            (inputs, inner.bind_ortvalue_input, outer.bind_input),
            (outputs, inner.bind_ortvalue_output, outer.bind_output),
        ):
            for name, array in arrays.items():
                keep.append(array)
                if isinstance(array, np.ndarray):
                    bind(name, self._value(array))
                else:
                    bind_address(name, *array.place, array.dtype, array.shape, array.address)
        execute, name, hint = self._run, self._name, self._provider.hint
        lock = self._provider.lock
        if interrupt is not None:
            options = interrupt.options(self._provider)
        else:
            options = Interrupt().options(self._provider) if self._provider.run_options else None

        def run(_keep: object = keep) -> None:
            try:
                execute(inner, options)
            except Exception as problem:
                if interrupt is not None and interrupt.is_set:
                    raise Interrupted from None
                said = _line(problem)
                raise RuntimeFailure(f"onnxruntime failed in {name}: {said}{hint(said)}") from None

        if lock is None:
            return run

        def locked() -> None:
            with lock:
                run()

        return locked

    def values(self, arrays: Mapping[str, Array]) -> dict[str, Any]:
        """Return what `Binding` takes for arrays, which must outlive the calls that use it."""
        return {name: self._value(array) for name, array in arrays.items()}

    def binding(self) -> "Binding":
        """Return a call whose arrays may be bound anew, one by one, between runs."""
        inner, run = self._session.io_binding()._iobinding, self._run

        def execute() -> None:
            try:
                run(inner, None)
            except Exception as problem:
                said = _line(problem)
                raise RuntimeFailure(f"onnxruntime failed in {self._name}: {said}") from None

        return Binding(inner.bind_ortvalue_input, inner.bind_ortvalue_output, execute)


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
