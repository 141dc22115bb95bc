"""Many texts at once on a GPU: each has a lane, and one call takes a position of every lane.

There, weights are read once for all lanes, and what costs is the number of kernels, not of rows. So
a call takes all lanes at one depth: caches of a step lie side by side, the kernels go through them
as a batch, and a call is captured once for each step. Lanes that have no part in a call compute
too. They write where nobody looks, behind their last position, and a text that is at another depth
steps aside: what it goes on from is copied away, and back when its turn comes.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from rdlite.config.cache import Cache
from rdlite.config.model import ModelConfig
from rdlite.cuda.arrays import Captured, Device, DeviceArray
from rdlite.cuda.kv_cache import DeviceCacheSlot
from rdlite.cuda.lane_arrays import LaneArrays
from rdlite.cuda.runner import DeviceRunner, Places
from rdlite.errors import RuntimeFailure
from rdlite.ort.kv_cache import Floats, MakeSlot, named_layers
from rdlite.ort.row_batch import Piece
from rdlite.ort.row_runner import Asking
from rdlite.ort.session import Interrupt, Run, Session
from rdlite.ort.text import Arrays, Ask, Company, Text

#: The most lanes. Rows cost next to nothing where weights are float16, and much where packed.
WIDTH, PACKED_WIDTH = 16, 8
#: Of the memory that is free, what caches of lanes may take.
SHARE = 0.5


class Laned(Text, Protocol):
    """A text that can be given a lane."""

    lane: Lane | None

    def move(self, make_slot: MakeSlot | None, capacity: int = 0) -> None:
        """Go on in slots of another making."""

    def truncate(self, length: int) -> None:
        """Forget every position from `length` on."""


class Lane:
    """A text's place among others.

    Attributes:
        number: of the lane, from 0.
        parked: the position that it writes to when it has no part in a call.
        runner: of the position that it is at, if that is asked for beside other texts.
    """

    runner: LaneRunner | None

    def __init__(self, lanes: Lanes, number: int) -> None:
        self.lanes, self.number = lanes, number
        self.park()

    def park(self) -> None:
        """Write behind all that the text may write meanwhile."""
        self.parked = self.lanes.spare
        self.runner = None


class Lanes:
    """The lanes of one model, made when texts come that may share calls.

    They belong to one company of texts at a time, and its thread. Texts of another have none.
    """

    #: Positions need no company to have the bits of a row. Rows of a call must be at one depth.
    pairs, level, staggers = False, True, False

    def __init__(
        self,
        device: Device,
        config: ModelConfig,
        cache: Cache,
        context: int,
        sessions: dict[str, Session],
        packed: bool,
    ) -> None:
        """Take no memory yet; `packed` says whether weights of the core are."""
        self._device, self._config, self._sessions = device, config, sessions
        self._context = context  # positions of a lane
        #: Where a lane without part in a call writes: the last position, which none comes after to
        #: read what was written there. Tables of rotary embeddings go no further.
        self.spare = context - 1
        self._gathers = cache.share == "last"  # into other slots than the steps'
        size = cache.bytes_per_token(config, config.recurrence.mean_steps) // 2  # float16
        fits = int(SHARE * device.memory.available() / (size * context))
        most = PACKED_WIDTH if packed and "dense.core" not in sessions else WIDTH
        #: The most rows of one call.
        self.width = 1 if self._gathers else min(most, max(1, fits))
        #: Held while lanes are given and taken back, as companies may be in several threads; a
        #: company that nobody holds any more may end in the midst of it.
        self._lock = threading.RLock()
        #: Whose texts have lanes; None: no text has one.
        self._company: Company | None = None
        self._free = [*range(self.width)]
        self._owners: list[Lane | None] = [None] * self.width
        self._slots: dict[str, DeviceArray] = {}
        self._runs: dict[tuple[str, str, int], Run] = {}
        self._places: LaneArrays | None = None

    def join(self, text: Laned) -> None:
        """Give a text that is between two calls a lane, if there is one for its company."""
        if self.width == 1 or text.lane is not None:
            return
        company = text.desk.company
        with self._lock:
            taken = len(self._free) < self.width
            if not self._free or (taken and self._company is not company):
                return
            self._company = company
            number = self._free.pop()
            try:
                self._places = self._places or LaneArrays(
                    self._device, self._config, self.width, self._sessions
                )
                text.move(self._make_slot(number), self._context)
                text.lane = self._owners[number] = Lane(self, number)
            except RuntimeFailure:  # no memory: it goes on alone
                pass
            finally:
                if text.lane is None:
                    self._give_back(number)

    def leave(self, text: Laned) -> None:
        """Take a lane back; the text goes on in memory of its own."""
        lane = text.lane
        if lane is None:
            return
        lane.park()  # lest it and its runner keep each other alive, and the text's caches
        text.lane = None
        try:
            text.move(None)
        except RuntimeFailure:  # no memory for what it has read
            text.truncate(0)
            text.move(None)
        with self._lock:
            self._give_back(lane.number)

    def _give_back(self, number: int) -> None:
        self._owners[number] = None
        self._free.append(number)
        if len(self._free) == self.width:
            self._company = None

    def run(self, ask: Ask) -> None:
        """Do what one text asks."""
        self.run_pieces([(ask, 0, 1)])

    def run_pieces(self, pieces: Sequence[Piece], burst: bool = False) -> int:
        """Take a step with what texts ask for, all of one part and at one depth, a row each."""
        by_slot: dict[str, list[Ask]] = {}
        for ask, _, _ in pieces:
            by_slot.setdefault(ask.runner.slot_name(ask), []).append(ask)
        for name, asks in by_slot.items():
            if asks[0].part != "coda":
                self._make_way({ask.runner for ask in asks})
            self._place({ask.runner.lane.number: ask.runner.position for ask in asks})
            part, parity = asks[0].part, asks[0].number % 2
            key = part, name, parity if part == "core" else 0
            (self._runs.get(key) or self._bind(*key))()
        for ask, _, _ in pieces:
            ask.advance()
        return len(by_slot)

    def places(self, number: int) -> Places:
        """Return where a lane's numbers lie."""
        assert self._places is not None
        return self._places.of(number)

    def keep(self, number: int, state: DeviceArray) -> None:
        """Take the state that a lane decodes: others' steps go on over it."""
        assert self._places is not None
        self._places.decoded.part(number).copy_from(state)

    def logits(self, number: int) -> Floats:
        """Return what the last coda said of a lane: float32 [1, V]; overwritten by the next."""
        assert self._places is not None
        logits: Floats = self._places.logits[number].read()
        return logits

    def _make_way(self, runners: set[LaneRunner]) -> None:
        for owner in self._owners:
            if owner is not None and owner.runner is not None and owner.runner not in runners:
                owner.runner.step_aside()
        for runner in runners:
            runner.step_in()

    def _place(self, positions: dict[int, int]) -> None:
        """Say where each lane reads and writes."""
        held = self._places
        assert held is not None
        wanted = [
            positions.get(number, 0 if owner is None else owner.parked)
            for number, owner in enumerate(self._owners)
        ]
        if wanted != held.wanted:
            held.seqlens_k.write(np.array(wanted, np.int32))
            held.wanted = wanted
        held.calls += 1

    def _bind(self, part: str, name: str, parity: int) -> Run:
        held, config = self._places, self._config
        assert held is not None
        total = np.array(self._context, np.int32)
        data = self._slots[name]
        past, present = (
            named_layers(kind, data.shape[0], data.part) for kind in ("past_key_values", "present")
        )
        inputs: Arrays = {"seqlens_k": held.seqlens_k, "total_sequence_length": total, **past}
        if part == "prelude":
            inputs["input_ids"] = held.input_ids
            outputs: Arrays = {"embeds": held.embeds}
        elif part == "core":
            inputs |= {"state": held.states[parity], "embeds": held.embeds}
            outputs = {"next_state": held.states[1 - parity]}
            if config.recurrence.exit_threshold is not None:
                outputs["exit_probability"] = held.gate.array
        else:
            inputs |= {"state": held.decoded, "logit_positions": held.first}
            outputs = {"logits": held.all_logits}
        interrupt = Interrupt()
        session = self._sessions.get(f"dense.{part}") or self._sessions[part]
        run = session.bind(inputs, outputs | present, interrupt)
        self._runs[part, name, parity] = captured = Captured(self._device, run, interrupt)
        return captured

    def _make_slot(self, lane: int) -> MakeSlot:
        def make(name: str, layers: int, capacity: int, _: Floats | None) -> DeviceCacheSlot:
            if name not in self._slots:
                heads, size = self._config.num_key_value_heads, self._config.head_dim
                shape = (layers, 2, self.width, heads, self._context, size)
                self._slots[name] = self._device.zeros(shape)
            return DeviceCacheSlot(self._device, self._slots[name], lane, name)

        return make


class LaneRunner(Asking, DeviceRunner):
    """One position of a text that has a lane; alone it is called as without."""

    def __init__(self, text: Text, device: Device, lane: Lane) -> None:
        self.lane = lane
        self._rows, self._plain, self._alone = lane.lanes, True, False
        super().__init__(text, 1, device)
        self._has_length = False  # calls beside others have theirs
        self._own = self._at
        self._beside = lane.lanes.places(lane.number)

    def place(self, position: int) -> None:
        """Serve a position, beside other texts or not until the next is placed."""
        super().place(position)
        self._use(self._own if self._alone else self._beside)
        if self._alone:
            self._write_length()
        else:
            text = self._text()
            assert text is not None  # it holds its runners
            self.lane.parked = min(max(position + 1, text.end), self.lane.lanes.spare)
            self.lane.runner = self

    def step_aside(self) -> None:
        """Keep elsewhere what a call of others goes over."""
        if self._at is self._beside:
            self._own.copy_from(self._beside)
            self._use(self._own)

    def step_in(self) -> None:
        """Bring it back."""
        if self._at is self._own:
            self._beside.copy_from(self._own)
            self._use(self._beside)

    def logits(self, steps: int, positions: int = 1) -> Floats:
        """Decode the state after `steps` steps: float32 [1, V]."""
        if self._alone:
            return super().logits(steps, positions)
        if self._decoded != (steps, 1):
            self.lane.lanes.keep(self.lane.number, self._states[steps % 2])
            self._ask("coda", steps)
            self._logits = self.lane.lanes.logits(self.lane.number)
            self._decoded = (steps, 1)
        return self._logits

    def slot_name(self, ask: Ask) -> str:
        """Return the name of the cache that a call works on."""
        if ask.part != "core":
            return ask.part
        slot: Any = self._core.slots[self._core.index(ask.number)]
        name: str = slot.name
        return name
