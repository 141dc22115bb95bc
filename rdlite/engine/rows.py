"""The graphs of a model by rows: sessions, and calls that take rows of any texts.

A large part has one session for everything, as its weights must not be loaded twice: a chunk of a
prompt goes through its first attention node. The nodes that a call does not need work on one spare
position, which costs little beside large products. Where it would not, in small parts, there is a
session for each of several widths, made when it is first needed, and the plain one for chunks.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from rdlite.config.model import ModelConfig
from rdlite.graphs.derived.rows import has_attention, with_rows
from rdlite.graphs.derived.unrolled import STEPS, with_steps
from rdlite.ort.kv_cache import MakeSlot, Slot
from rdlite.ort.row_batch import ChunkSession, Piece, RowBatch
from rdlite.ort.session import Array, Session
from rdlite.ort.text import Ask

#: Bytes of weights from which on a part has one session only.
LARGE = 64 * 2**20
LARGE_WIDTH = 8
WIDTHS = (2, 4, 8, 16)
#: Makes the session of a graph.
Make = Callable[[bytes], Session]


class PartRows:
    """One part by rows. Thread-safe."""

    def __init__(
        self,
        part: str,
        graph: bytes,
        make: Make,
        config: ModelConfig,
        even: bool,
        spare: Slot | None,
    ) -> None:
        """Make it; `spare` is a cache of one position, None where the graph has no attention."""
        self._part, self._graph, self._make = part, graph, make
        self._config, self._even, self._spare = config, even, spare
        #: By width, and core steps of a call.
        self._sessions: dict[tuple[int, int], Session] = {}
        #: Those that nobody uses: a caller takes one and puts it back.
        self._idle: dict[tuple[int, int], list[RowBatch]] = {}
        self._lock = threading.Lock()
        self.large = _weight_bytes(graph) >= LARGE
        #: Takes chunks of one text.
        self.chunks: Session | ChunkSession
        if spare is not None and self.large:
            session = make(with_rows(graph, LARGE_WIDTH, picked=True))
            self._sessions[LARGE_WIDTH, 1] = session
            self.chunks = ChunkSession(session, LARGE_WIDTH, spare)
        else:
            self.chunks = make(graph)
        #: The most rows of one call.
        self.width = LARGE_WIDTH if self.large else WIDTHS[-1]

    def run(self, pieces: Sequence[Piece], burst: bool) -> int:
        """Call it on rows, `width` at most, as `EngineRows.run_pieces`."""
        count = sum(high - low for _, low, high in pieces)
        width = next(each for each in WIDTHS if each >= count)
        if self.large or self._spare is None:
            width = self.width
        several = self._spare is not None and not self.large and self._part == "core"
        steps = STEPS if several and all(ask.wants(STEPS) for ask, _, _ in pieces) else 1
        idle = self._idle.setdefault((width, steps), [])
        try:
            batch = idle.pop()
        except IndexError:
            batch = self._batch(self._session(width, steps), width, steps)
        try:
            return batch.run(pieces, burst)
        finally:
            idle.append(batch)

    def _session(self, width: int, steps: int) -> Session:
        if self._spare is None:
            assert isinstance(self.chunks, Session)
            return self.chunks
        with self._lock:
            if (width, steps) not in self._sessions:
                graph = self._graph if steps == 1 else with_steps(self._graph)
                self._sessions[width, steps] = self._make(with_rows(graph, width, picked=True))
            return self._sessions[width, steps]

    def _batch(self, session: Session, width: int, steps: int) -> RowBatch:
        config = self._config
        floats = np.zeros((2, 1, width, config.hidden_size), np.float32)
        if self._part == "prelude":
            inputs = {"input_ids": np.zeros((1, width), np.int64)}
            outputs = [{"embeds": floats[0]}]
        elif self._part == "core":
            inputs = {"state": floats[0], "embeds": floats[1]}
            outputs = [self._results(width) for _ in range(steps)]
        else:
            inputs = {"state": floats[0], "logit_positions": np.zeros((1, width), np.int64)}
            outputs = [{"logits": np.zeros((1, width, config.vocab_size), np.float32)}]
        return RowBatch(session, width, self._even, inputs, outputs, self._spare)

    def _results(self, width: int) -> dict[str, Array]:
        """What a core step gives."""
        config = self._config
        results: dict[str, Array] = {
            "next_state": np.zeros((1, width, config.hidden_size), np.float32),
            "change": np.zeros((1, width), np.float32),
        }
        if config.recurrence.exit_threshold is not None:
            results["exit_probability"] = np.zeros((1, width), np.float32)
        return results


class EngineRows:
    """All parts by rows. Thread-safe."""

    #: Rows of a call may be at different depths.
    level = False

    def __init__(
        self,
        graphs: Mapping[str, bytes],
        make: Callable[[str, bytes], Session],
        config: ModelConfig,
        pairs: bool,
        slot: Callable[[str], Slot],
    ) -> None:
        """Load the graphs.

        Args:
            graphs: by part.
            make: loads a graph of a part, whose nodes must run in its order.
            config: of the model.
            pairs: rows of a call must be an even number.
            slot: returns a cache of one position for a part.
        """
        self.pairs = pairs
        self.parts = {
            part: PartRows(
                part,
                graph,
                lambda changed, part=part: make(part, changed),  # type: ignore[misc]
                config,
                pairs,
                slot(part) if has_attention(graph) else None,
            )
            for part, graph in graphs.items()
        }
        #: The most rows of one call.
        self.width = min(part.width for part in self.parts.values())
        #: A large core reads its weights once for rows at several depths. In a small one a row
        #: costs nearly as much as a call, so few calls of many rows are better.
        self.staggers = self.parts["core"].large

    def join(self, text: object) -> None:
        """Take a text in; nothing is to be done: its caches are bound where they lie."""

    def leave(self, text: object) -> None:
        """Let it go."""

    def run(self, ask: Ask) -> None:
        """Take the step that one text asks for."""
        for low in range(0, ask.size, self.width):
            self.run_pieces([(ask, low, min(low + self.width, ask.size))])

    def run_pieces(self, pieces: Sequence[Piece], burst: bool = False) -> int:
        """Take a step with what texts ask for, as `Rows` says; what was done before it fails stays.

        Raises RuntimeFailure if onnxruntime cannot do it.
        """
        first = pieces[0][0]
        if len(pieces) == 1 and first.runner.needs_no_rows:
            calls: int = first.runner.run_alone(first)
            return calls
        return self.parts[first.part].run(pieces, burst)


def spare_slot(make: MakeSlot, layers: int, scales: object) -> Slot:
    """Return a cache of one position."""
    slot = make("spare", layers, 1, scales)  # type: ignore[arg-type]
    slot.write(np.zeros_like(slot.read(0, 1)))
    return slot


def _weight_bytes(graph: bytes) -> int:
    import onnx
    from onnx.helper import tensor_dtype_to_np_dtype as dtype

    return sum(
        int(np.prod(tensor.dims)) * dtype(tensor.data_type).itemsize
        for tensor in onnx.ModelProto.FromString(graph).graph.initializer
    )
