"""One call into a graph by rows: rows of any texts and depths, side by side.

States are copied in and out, caches are bound where they lie. What is bound to a row stays until
another text or step takes its place; calls that come again, on the same caches, are kept.
"""

import itertools
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rdlite.graphs.rows import OWN, PICK, PLACE, own_name
from rdlite.ort.kv_cache import Slot
from rdlite.ort.runner import Ask
from rdlite.ort.session import Array, Binding, Session

#: Calls that are remembered, so that those which come again are bound once.
REPEATED = 512
#: Tells what is bound to a row apart from whatever was there before.
_serials = itertools.count(1)
#: An ask and those of its rows that a call takes, from one up to another.
Piece = tuple[Ask, int, int]


class BoundSlot:
    """A slot of a cache, ready to be bound to any row."""

    def __init__(self, session: Session, slot: Slot) -> None:
        self.serial = next(_serials)
        self._arrays = slot.inputs()  # alive as long as this
        self.inputs = [*session.values(self._arrays).items()]
        self.outputs = [*session.values(slot.outputs()).items()]


@dataclass(frozen=True, slots=True)
class Bound:
    """A call, the caches that its rows are bound to, by serial, and what it works on besides."""

    binding: Binding
    serials: list[int]
    arrays: object


class RowBatch:
    """Buffers of up to `width` rows, and the calls on them. Thread-safe."""

    def __init__(
        self,
        session: Session,
        width: int,
        even: bool,
        inputs: Mapping[str, Array],
        outputs: Mapping[str, Array],
        spare: Slot | None,
    ) -> None:
        """Make it.

        Args:
            session: of a graph `with_rows`, picked, of this width; without attention of any.
            width: the most rows of a call.
            even: make the rows of a call an even number.
            inputs: what the graph takes for all rows, [1, width, ...] by name.
            outputs: what it gives, the same.
            spare: a cache of one position for attention nodes that no row needs; None: the graph
                has no attention.
        """
        self.width = width
        self.session = session
        self._even = even
        self._inputs, self._outputs = inputs, outputs
        self._in = {name: array[0] for name, array in inputs.items()}
        self._out = {name: array[0] for name, array in outputs.items()}
        self._seqlens = np.zeros(width, np.int32)
        self._totals = np.ones(width, np.int32)
        self._spare = None if spare is None else BoundSlot(session, spare)
        self._names = [_Names(row) for row in range(width)]
        #: By the number of rows; and by rows and their caches, of calls that come again and again.
        self._bindings: dict[int, Bound] = {}
        self._repeated: dict[tuple[int, ...], Bound | None] = {}
        self._lock = threading.Lock()

    def run(self, pieces: Sequence[Piece]) -> None:
        """Do what is asked, `width` rows at most; raises RuntimeFailure."""
        used = sum(high - low for _, low, high in pieces)
        rows = used + used % 2 if self._even else used
        with self._lock:
            at, slots = 0, list[BoundSlot]()
            for ask, low, high in pieces:
                runner = ask.runner
                runner.load(ask, low, high, self._in, at)
                if self._spare is not None:
                    for row in range(low, high):
                        slot, position = runner.seat(ask, self.session, row)
                        slots.append(slot)
                        self._seqlens[at + row - low] = position
                        self._totals[at + row - low] = position + 1
                at += high - low
            if self._spare is not None and at < self.width:
                self._seqlens[at:] = 0
                self._totals[at:] = 1
                slots += [self._spare] * (self.width - at)
            self._bound_to(rows, slots).run()
            at = 0
            for ask, low, high in pieces:
                ask.runner.store(ask, low, high, self._out, at)
                at += high - low

    def _bound_to(self, rows: int, slots: Sequence[BoundSlot]) -> Binding:
        """Return a call of so many rows on these caches."""
        key = (rows, *[slot.serial for slot in slots])
        found = self._repeated.get(key)
        if found is not None:
            return found.binding
        again = key in self._repeated  # it may come often
        if again:
            found = self._bind(rows)
        else:
            found = self._bindings.get(rows)
            if found is None:
                found = self._bindings[rows] = self._bind(rows)
        for row, slot in enumerate(slots):
            if found.serials[row] != slot.serial:
                self._put(found.binding, found.serials, row, slot)
        if not again and len(self._repeated) >= REPEATED:
            del self._repeated[next(iter(self._repeated))]
        self._repeated[key] = found if again else None  # last: it is whole now
        return found.binding

    def _put(self, binding: Binding, bound: list[int], row: int, slot: BoundSlot) -> None:
        names = self._names[row]
        bound[row] = 0  # until it is whole
        for name, value in slot.inputs:
            binding.input(names[name], value)
        for name, value in slot.outputs:
            binding.output(names[name], value)
        bound[row] = slot.serial

    def _bind(self, rows: int) -> Bound:
        binding = self.session.binding()
        inputs: dict[str, Array] = {name: each[:, :rows] for name, each in self._inputs.items()}
        if "logit_positions" in inputs:
            inputs["logit_positions"] = np.arange(rows, dtype=np.int64)
        outputs = {name: each[:, :rows] for name, each in self._outputs.items()}
        if self._spare is None:
            inputs["seqlens_k"] = self._seqlens[:1]
            inputs["total_sequence_length"] = self._totals[:1].reshape(())
        else:
            inputs |= picks([[row if row < rows else 0] for row in range(self.width)], rows)
            for row, names in enumerate(self._names):
                inputs[names["seqlens_k"]] = self._seqlens[row : row + 1]
                inputs[names["total_sequence_length"]] = self._totals[row : row + 1].reshape(())
        for name, value in self.session.values(inputs).items():
            binding.input(name, value)
        for name, value in self.session.values(outputs).items():
            binding.output(name, value)
        return Bound(binding, [0] * self.width, (inputs, outputs))


class _Names(dict[str, str]):
    """The names that a row has for its own values."""

    def __init__(self, row: int) -> None:
        self._row = row

    def __missing__(self, name: str) -> str:
        self[name] = own_name(self._row, name)
        return self[name]


def picks(rows: Sequence[Sequence[int]], size: int) -> dict[str, npt.NDArray[np.int64]]:
    """Return which positions each attention node reads, and that their results come in order."""
    chosen = {f"{PICK}.{index}": np.array(row, np.int64) for index, row in enumerate(rows)}
    return {**chosen, PLACE: np.arange(size, dtype=np.int64)}


class ChunkSession:
    """A session by rows that takes chunks of one text as the plain graph does."""

    def __init__(self, session: Session, width: int, spare: Slot) -> None:
        self._session = session
        self._width = width
        self._spare = spare

    def bind(
        self,
        inputs: Mapping[str, Any],
        outputs: Mapping[str, Any],
        interrupt: Any = None,
    ) -> Any:
        """Bind as `Session.bind` does; the first attention node reads all positions."""
        size = next(iter(inputs.values())).shape[1]  # input_ids or state
        shared = {"seqlens_k": np.zeros(1, np.int32), "total_sequence_length": np.ones((), "i4")}
        own = [self._spare.inputs() | shared] * self._width
        results = [self._spare.outputs()] * self._width
        own[0] = {name: array for name, array in inputs.items() if _is_own(name)}
        results[0] = {name: array for name, array in outputs.items() if _is_own(name)}
        whole = {name: array for name, array in inputs.items() if not _is_own(name)}
        given = {name: array for name, array in outputs.items() if not _is_own(name)}
        for row in range(self._width):
            whole |= {own_name(row, name): array for name, array in own[row].items()}
            given |= {own_name(row, name): array for name, array in results[row].items()}
        whole |= picks([range(size), *[[0]] * (self._width - 1)], size)
        return self._session.bind(whole, given, interrupt)


def _is_own(name: str) -> bool:
    return name.startswith(OWN)
