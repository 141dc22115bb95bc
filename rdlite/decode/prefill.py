"""Reads a prompt in chunks."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from rdlite.decode.plan import CHUNK
from rdlite.engine.sequence import Sequence as EngineSequence
from rdlite.exit.controller import Controller
from rdlite.exit.ragged import Group
from rdlite.ort.initial_state import Start
from rdlite.ort.runner import Lane


class Chunk(NamedTuple):
    """Positions that were read together, after the last core step of each.

    Attributes:
        lane: the S positions.
        steps: core steps that the last position took; `lane.logits(steps)` decodes.
        all_steps: core steps that all of them took, summed.
        value: what the exit rule said last: of the last position, or of all if they stop together.
    """

    lane: Lane
    steps: int
    all_steps: int
    value: float | None


def read(
    sequence: EngineSequence,
    ids: Sequence[int],
    controller: Controller,
    start: Start,
    chunk: int = CHUNK,
) -> Iterator[Chunk]:
    """Read positions in chunks; those of a chunk stop together, or each at its own step."""
    group = None
    if controller.each and len(ids) > 1:
        group = Group(controller, min(chunk, len(ids)), sequence.config.hidden_size)
    for first in range(0, len(ids), chunk):
        lane = sequence.begin(list(ids[first : first + chunk]), controller.max_steps)
        start(lane, sequence.length)
        last = lane.size - 1
        if group is None or last == 0:
            steps = controller.think(lane)
            yield Chunk(lane, steps, steps * lane.size, controller.value)
        else:
            controller.start(0, lane.size)
            group.take(lane, 0, 0)
            lane = group.finish(sequence, sequence.length, lane.size)
            all_steps = int(group.steps[: lane.size].sum())
            yield Chunk(lane, int(group.steps[last]), all_steps, controller.value_of(last))
        sequence.commit(lane.size)
