"""One call into a graph by rows: rows of any texts and depths, side by side.

States are copied in and out, caches are bound where they lie. What is bound to a row stays until
another text or step takes its place; calls that come again, on the same caches, are kept.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rdlite.graphs.derived.rows import OWN, PICK, PLACE, own_name
from rdlite.graphs.derived.unrolled import LAYERED, layer_name, step_name
from rdlite.ort.kv_cache import Slot
from rdlite.ort.session import Array, Binding, Session
from rdlite.ort.text import Ask

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
    """Buffers of up to `width` rows, and the calls on them. For one thread at a time."""

    def __init__(
        self,
        session: Session,
        width: int,
        even: bool,
        inputs: Mapping[str, Array],
        outputs: Sequence[Mapping[str, Array]],
        spare: Slot | None,
    ) -> None:
        """Make it.

        Args:
            session: of a graph `with_rows`, picked, of this width; without attention of any.
            width: the most rows of a call.
            even: make the rows of a call an even number.
            inputs: what the graph takes for all rows, [1, width, ...] by name.
            outputs: what it gives, the same, for each of its steps.
            spare: a cache of one position for attention nodes that no row needs; None: the graph
                has no attention.
        """
        self.width = width
        self.session = session
        self.steps = len(outputs)
        self._even = even
        self._inputs, self._outputs = inputs, outputs
        self._in = {name: array[0] for name, array in inputs.items()}
        self._out = [{name: array[0] for name, array in given.items()} for given in outputs]
        self._seqlens = np.zeros(width, np.int32)
        self._totals = np.ones(width, np.int32)
        self._spare = None if spare is None else BoundSlot(session, spare)
        #: By step and row.
        self._names = [
            _Names(row, 0 if spare is None else step * len(spare.inputs()) // 2)
            for step in range(self.steps)
            for row in range(width)
        ]
        #: By the number of rows; and by rows and their caches, of calls that come again and again.
        self._bindings: dict[int, Bound] = {}
        self._repeated: dict[tuple[int, ...], Bound | None] = {}

    def run(self, pieces: Sequence[Piece], burst: bool = False) -> int:
        """Take a step, or several, with what is asked; raises RuntimeFailure.

        Args:
            pieces: of texts, `width` rows at most; those of one text are in the order of its
                positions, and where several steps are taken, all want so many.
            burst: call again until one of these texts has taken its last step.

        Returns:
            How many calls it took.
        """
        rows = at = 0
        for ask, low, high in pieces:
            ask.runner.load(ask, low, high, self._in, rows)
            rows += high - low
        rows += rows % 2 if self._even else 0
        calls, goes = 0, True
        while goes:
            self._bound_to(rows, self._seats(pieces)).run()
            calls, at, goes = calls + 1, 0, burst
            for ask, low, high in pieces:
                if self._store(ask, low, high, at):
                    goes = False
                at += high - low
            if goes and (goes := all(ask.wants(self.steps) for ask, _, _ in pieces)):
                np.copyto(self._in["state"][:at], self._out[-1]["next_state"][:at])
        return calls

    def _store(self, ask: Ask, low: int, high: int, at: int) -> bool:
        """Give a text what came of its rows; returns whether it wants no more of this call."""
        end = ask.number + self.steps
        if self.steps > 1 and ask.settled is None:
            ask.number = end - 1
            ask.runner.store(ask, low, high, self._out[-1], at)
            return ask.advance()
        for arrays in self._out:
            ask.runner.store(ask, low, high, arrays, at)
            if high < ask.size:
                return True
            if ask.advance():
                if ask.number < end:
                    ask.runner.take_back(ask.number, end)
                return True
        return False

    def _seats(self, pieces: Sequence[Piece]) -> list[BoundSlot]:
        """Write where rows are in their texts; returns the caches that they work on."""
        slots = list[BoundSlot]()
        if self._spare is None:
            return slots
        for step in range(self.steps):
            at = 0
            for ask, low, high in pieces:
                for row in range(low, high):
                    slot, position = ask.runner.seat(ask, self.session, row, step)
                    slots.append(slot)
                    self._seqlens[at] = position
                    self._totals[at] = position + 1
                    at += 1
            slots += [self._spare] * (self.width - at)
        self._seqlens[at:] = 0
        self._totals[at:] = 1
        return slots

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
        outputs = {
            step_name(name, step) if self.steps > 1 else name: each[:, :rows]
            for step, given in enumerate(self._outputs)
            for name, each in given.items()
        }
        if self._spare is None:
            inputs["seqlens_k"] = self._seqlens[:1]
            inputs["total_sequence_length"] = self._totals[:1].reshape(())
        else:
            inputs |= picks([[row if row < rows else 0] for row in range(self.width)], rows)
            for row, names in enumerate(self._names[: self.width]):
                inputs[names["seqlens_k"]] = self._seqlens[row : row + 1]
                inputs[names["total_sequence_length"]] = self._totals[row : row + 1].reshape(())
        for name, value in self.session.values(inputs).items():
            binding.input(name, value)
        for name, value in self.session.values(outputs).items():
            binding.output(name, value)
        return Bound(binding, [0] * len(self._names), (inputs, outputs))


class _Names(dict[str, str]):
    """The names that a row has for its own values, at one of the steps of a call."""

    def __init__(self, row: int, layers: int) -> None:
        """Have none yet; `layers` are those of the steps before."""
        self._row, self._layers = row, layers

    def __missing__(self, name: str) -> str:
        layered = name.startswith(LAYERED)
        self[name] = own_name(self._row, layer_name(name, self._layers) if layered else name)
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
