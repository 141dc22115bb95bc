"""A text as its runners see it: what it holds, and what it says to others beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from rdlite.config.model import ModelConfig
from rdlite.ort.kv_cache import Slot
from rdlite.ort.session import Array, Interrupt, Session
from rdlite.ort.step_caches import StepCaches

Floats = npt.NDArray[np.float32]
#: By a graph's names; of a GPU they are `rdlite.cuda.arrays.DeviceArray`s.
Arrays = dict[str, Any]
#: Told how many core steps were taken; whether no more are wanted.
Settled = Callable[[int], bool]


class Desk:
    """Where a text asks for its turn, if others are worked on in the same thread."""

    def __init__(self) -> None:
        self.company: Company | None = None


class Company(Protocol):
    """Texts that are worked on together.

    Attributes:
        bursts: whether one text may take several core steps before others have their turn.
    """

    bursts: bool

    @property
    def alone(self) -> bool:
        """Whether there is one text only."""

    def wait(self, desk: Desk) -> None:
        """Return when it is this text's turn to make a call."""

    def by_rows(self, desk: Desk, ask: Ask) -> None:
        """Return when calls that took rows of other texts too have done what is asked."""


class Ask:
    """What a runner by rows wants of a part of the model.

    Attributes:
        runner: whose positions, a row each.
        part: "prelude", "core" or "coda".
        number: of the next core step, from 0; or how many were taken before the coda.
        size: how many rows.
        taken: how many of them the calls of this step have taken.
        done: whether there is no more to do.
        problem: why one of them failed.
    """

    __slots__ = ("done", "end", "number", "part", "problem", "runner", "settled", "size", "taken")

    def __init__(
        self,
        runner: Any,
        part: str,
        number: int,
        end: int | None = None,
        settled: Settled | None = None,
    ) -> None:
        """Ask for one step; or, for a single row, for those up to `end`, or until it settles."""
        self.runner, self.part, self.number = runner, part, number
        self.size: int = runner.size
        self.taken = 0
        self.end = number + 1 if end is None else end
        self.settled = settled
        self.done = False
        self.problem: Exception | None = None

    def wants(self, steps: int) -> bool:
        """Whether a call may take so many core steps."""
        return steps == 1 or self.runner.takes_block(self.number, self.end, self.settled)

    def advance(self) -> bool:
        """Take note that a step was taken with all rows; returns whether it was the last."""
        self.number += 1
        settled = self.settled is not None and self.settled(self.number)
        self.done = settled or self.number >= self.end
        return self.done


class Text(Protocol):
    """What a runner takes of the text that it reads."""

    config: ModelConfig
    sessions: Mapping[str, Session]
    interrupt: Interrupt
    desk: Desk
    steps_cache: StepCaches
    #: Its place among others on a GPU, where it has one.
    lane: Any
    #: Positions that the caches have room for.
    capacity: int
    seqlens_k: Array
    total_sequence_length: Array

    @property
    def end(self) -> int:
        """Behind the last position that was read, kept or not."""

    def outer_slot(self, part: str) -> Slot:
        """The cache of the prelude or the coda."""

    def rows(self, size: int) -> list[Floats]:
        """Room for three float32 [1, size, E]."""

    def logit_rows(self, positions: int) -> Floats:
        """Room for float32 [1, positions, V]."""
