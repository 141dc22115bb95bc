"""What lies side by side for the lanes of a GPU, but for the caches."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from rdlite.config.model import ModelConfig
from rdlite.cuda.arrays import Change, Device, Readback
from rdlite.cuda.runner import Places
from rdlite.ort.kv_cache import Floats
from rdlite.ort.session import Interrupt, Session


class LaneArrays:
    """Ids, states, logits and positions of all lanes: [lanes, ...]."""

    def __init__(
        self, device: Device, config: ModelConfig, width: int, sessions: dict[str, Session]
    ) -> None:
        """Make those of `width` lanes; raises RuntimeFailure if there is no memory for them."""
        shape = (width, 1, config.hidden_size)
        self.input_ids = device.empty((width, 1), np.int64)
        self.input_ids.write(np.zeros((width, 1)))
        self.embeds, self.decoded = device.zeros(shape), device.zeros(shape)
        self.states = device.zeros(shape), device.zeros(shape)
        self.change = Change(device, sessions["change"], self.states, Interrupt())
        self.gate = Readback(device, (width, 1), np.float32)
        self.seqlens_k = device.empty((width,), np.int32)
        self.first = device.empty((1,), np.int64)
        self.first.write(np.zeros(1))
        self.all_logits = device.empty((width, 1, config.vocab_size), np.float32)
        self.logits = [Readback.over(device, self.all_logits.part(n)) for n in range(width)]
        self.wanted: list[int] = []
        #: How many calls there were, so that what one left is read once for all lanes.
        self.calls = 0
        self._read: dict[str, tuple[int, Floats]] = {}

    def of(self, lane: int) -> Places:
        """Return where one lane's numbers lie."""
        return Places(
            self.input_ids.part(lane).with_axis(),
            self.embeds.part(lane).with_axis(),
            tuple(state.part(lane).with_axis() for state in self.states),
            lambda step: self._row(lane, "change", lambda: self.change.read(step)),
            lambda: self._row(lane, "gate", self.gate.read),
        )

    def _row(self, lane: int, what: str, read: Callable[[], Floats]) -> Floats:
        calls, rows = self._read.get(what, (-1, None))
        if calls != self.calls or rows is None:
            rows = read()
            self._read[what] = self.calls, rows
        row: Floats = rows[lane : lane + 1]
        return row
