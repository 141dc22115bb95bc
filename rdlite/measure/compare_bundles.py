"""Two bundles of one model held against each other: each graph by itself, then all together."""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rdlite.api.model import Model
from rdlite.errors import InputError
from rdlite.ort.initial_state import start_at

Floats = npt.NDArray[np.float32]
#: Tokens that are read, a group at a time: a prompt, single ones, several with a past.
GROUPS = (16, 1, 1, 6)


@dataclass(frozen=True, slots=True)
class Difference:
    """How far two bundles are apart in one thing that they compute.

    Attributes:
        what: "prelude", "core step", "change", "exit probability", "coda", "logits at depth N".
        largest: the largest absolute difference.
        magnitude: the largest magnitude of the numbers compared.
        same_top: of logits, the share of positions where both find the same token likeliest.
    """

    what: str
    largest: float
    magnitude: float
    same_top: float | None = None

    def within(self, tolerance: float) -> bool:
        """Whether the difference is at most so large; one that is not a number never is."""
        return self.largest <= tolerance


def compare(
    model: Model, reference: Model, depths: Sequence[int] | None = None, seed: int = 0
) -> list[Difference]:
    """Compare two bundles of one model on random tokens.

    Prelude, core and coda are given the very same numbers, so that what one computes differently
    does not show in the next. Then both read the tokens by themselves, at several depths.

    Args:
        model: what is compared; any flavour and quantization.
        reference: what with.
        depths: core steps, ascending; None: 1, 4 and the model's mean depth.
        seed: selects tokens and initial states.

    Raises:
        InputError: they are not bundles of one model, or a number is out of bounds.
    """
    _check_same(model, reference)
    config = model.config
    if depths is None:
        depths = sorted({1, min(4, config.recurrence.mean_steps), config.recurrence.mean_steps})
    count = min(sum(GROUPS), model.context, reference.context)
    ids = np.random.default_rng(seed).integers(config.vocab_size, size=count).tolist()
    return [*_by_part(model, reference, ids, seed), *_together(model, reference, ids, depths, seed)]


def _check_same(model: Model, reference: Model) -> None:
    ours, theirs = (dataclasses.asdict(m.config) for m in (model, reference))
    for name, value in ours.items():
        if value != theirs[name]:
            raise InputError(
                f"{model.bundle.folder} and {reference.bundle.folder} are not of one model: "
                f"{name} is {value} and {theirs[name]}; give two bundles of one checkpoint"[:400]
            )


def _by_part(model: Model, reference: Model, ids: list[int], seed: int) -> list[Difference]:
    """Every graph by itself: what goes in is the reference's."""
    found: dict[str, list[tuple[Floats, Floats]]] = {}

    def compared(what: str, *pair: Floats) -> None:
        ours, theirs = (np.array(value) for value in pair)  # the runners' own change
        found.setdefault(what, []).append((ours, theirs))

    sequence, other = model.new_sequence(), reference.new_sequence()
    start = start_at(model.config, "random", seed)
    position = 0
    for size in GROUPS:
        group = ids[position : position + size]
        if not group:
            break
        runner, wanted = sequence.begin(group, 1), other.begin(group, 1)
        compared("prelude", runner.embeds, wanted.embeds)
        runner.embeds[...] = wanted.embeds
        for each in (runner, wanted):
            start(each, position)
            each.step(0)
        compared("core step", runner.states[1], wanted.states[1])
        compared("change", runner.change, wanted.change)
        if runner.exit_probability is not None and wanted.exit_probability is not None:
            compared("exit probability", runner.exit_probability, wanted.exit_probability)
        runner.states[1][...] = wanted.states[1]
        compared("coda", *(each.logits(1, each.size) for each in (runner, wanted)))
        for each_sequence in (sequence, other):
            each_sequence.commit(runner.size)
        position += runner.size
    result = []
    for what, pairs in found.items():
        ours, theirs = (np.concatenate([pair[i].reshape(-1) for pair in pairs]) for i in (0, 1))
        result.append(_difference(what, ours, theirs))
    return result


def _together(
    model: Model, reference: Model, ids: list[int], depths: Sequence[int], seed: int
) -> Iterator[Difference]:
    """From token ids to logits, each by itself."""
    pairs = zip(
        model.logits_by_depth(ids, depths, seed),
        reference.logits_by_depth(ids, depths, seed),
        strict=True,
    )
    for (steps, ours), (_, theirs) in pairs:
        same = float((ours.argmax(-1) == theirs.argmax(-1)).mean())
        yield _difference(f"logits at depth {steps}", ours, theirs, same)


def _difference(
    what: str, ours: Floats, theirs: Floats, same_top: float | None = None
) -> Difference:
    largest = float(np.abs(ours - theirs).max())
    return Difference(what, largest, float(np.abs(theirs).max()), same_top)
