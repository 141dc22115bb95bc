"""Reads a prompt in chunks."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from rdlite.decode.plan import CHUNK
from rdlite.engine.sequence import Sequence as EngineSequence
from rdlite.exit.controller import Controller
from rdlite.exit.ragged import RaggedBatch
from rdlite.ort.initial_state import InitialState
from rdlite.ort.runner import Runner


class Chunk(NamedTuple):
    """Positions that were read together, after the last core step of each.

    Attributes:
        runner: the S positions.
        steps: core steps that the last position took; `runner.logits(steps)` decodes.
        all_steps: core steps that all of them took, summed.
        value: what the exit rule said last: of the last position, or of all if they stop together.
    """

    runner: Runner
    steps: int
    all_steps: int
    value: float | None


def read(
    sequence: EngineSequence,
    ids: Sequence[int],
    controller: Controller,
    start: InitialState,
    chunk: int = CHUNK,
) -> Iterator[Chunk]:
    """Read positions in chunks; those of a chunk stop together, or each at its own step."""
    group = None
    if controller.each and len(ids) > 1:
        group = RaggedBatch(controller, min(chunk, len(ids)), sequence.config.hidden_size)
    for first in range(0, len(ids), chunk):
        runner = sequence.begin(list(ids[first : first + chunk]), controller.max_steps)
        start(runner, sequence.length)
        last = runner.size - 1
        if group is None or last == 0:
            steps = controller.run_steps(runner)
            yield Chunk(runner, steps, steps * runner.size, controller.value)
        else:
            controller.start(0, runner.size)
            group.take(runner, 0, 0)
            runner = group.finish(sequence, sequence.length, runner.size)
            all_steps = int(group.steps[: runner.size].sum())
            yield Chunk(runner, int(group.steps[last]), all_steps, controller.value_of(last))
        sequence.commit(runner.size)
