"""How users ask for the parallel sampler: its knobs, named as in the published code."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rdlite.errors import InputError
from rdlite.utils.checks import check_integer, check_number

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

FREEZE_STRATEGIES = ("latent-diff", "token-stability", "fixed")


@dataclass(frozen=True, slots=True)
class Look:
    """What the window held after one outer step.

    Attributes:
        step: the outer step, counted from 0.
        start: the text's position of the window's first row.
        tokens: ids from there on, the newest guess last.
        frozen: how many tokens of the whole text, the prompt included, can no longer change.
        states: float32 [S, E], the state of each row after the step; good until the next one.
    """

    step: int
    start: int
    tokens: tuple[int, ...]
    frozen: int
    states: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Parallel:
    """Draft and refine several tokens together (diffusion forcing, arXiv 2510.14961). Lossy.

    The prompt is read at full depth. Then each outer step runs the prelude, a few core steps and
    the coda over a window of unfinished positions, chooses all of their tokens anew, and appends
    positions; positions whose states have settled are frozen, and all before them.

    Attributes:
        inner_recurrence: core steps of an outer step. 1 to 64.
        ema_embeds: how much of a position's earlier embeddings stays in the new ones. 0 to 0.99.
        state_noise_mixing: how much of a state is replaced with noise before an outer step. 0 to 1.
        dampened_state_mixer: divide that by 1 + the core steps that the position has had.
        sqrt_mixer: mix by square roots, which keeps the variance.
        headway: positions appended in each outer step; past the first they start with random
            tokens. 1 to 16.
        freeze_strategy: "latent-diff": freeze up to the last position whose state moved by less
            than `exit_t`; "token-stability": up to the last whose token was chosen again more than
            steps / inner_recurrence times; "fixed": one position after the other, from the outer
            step on that makes up the full depth.
        exit_t: threshold of latent-diff: length of the move relative to the state. 0 to 10.
        max_wavefront: most positions of the window; the wave stands until some are frozen.
            2 to 1024.
        continuous_compute: start new positions at the state of the last ones, not at random.
        max_diffusion_steps: most outer steps. 1 to 2^20.
        observe: called with a Look after each outer step; None: nobody looks.

    Raises InputError for numbers out of bounds.
    """

    inner_recurrence: int = 4
    ema_embeds: float = 0.1
    state_noise_mixing: float = 0.5
    dampened_state_mixer: bool = True
    sqrt_mixer: bool = False
    headway: int = 1
    freeze_strategy: str = "latent-diff"
    exit_t: float = 0.03
    max_wavefront: int = 128
    continuous_compute: bool = False
    max_diffusion_steps: int = 4096
    observe: Callable[[Look], object] | None = None

    def __post_init__(self) -> None:
        """Check the bounds."""
        check_integer("inner_recurrence", self.inner_recurrence, 1, 64)
        check_number("ema_embeds", self.ema_embeds, 0, 0.99)
        check_number("state_noise_mixing", self.state_noise_mixing, 0, 1)
        check_integer("headway", self.headway, 1, 16)
        check_number("exit_t", self.exit_t, 0, 10)
        check_integer("max_wavefront", self.max_wavefront, 2, 1024)
        check_integer("max_diffusion_steps", self.max_diffusion_steps, 1, 2**20)
        for name in ("dampened_state_mixer", "sqrt_mixer", "continuous_compute"):
            if type(getattr(self, name)) is not bool:
                raise InputError(f"{name} must be True or False, got {getattr(self, name)!r:.40}")
        if self.freeze_strategy not in FREEZE_STRATEGIES:
            raise InputError(
                f"freeze_strategy must be one of {', '.join(FREEZE_STRATEGIES)}, "
                f"got {self.freeze_strategy!r:.40}"
            )
        if self.headway >= self.max_wavefront:
            raise InputError(
                f"headway must be below max_wavefront ({self.max_wavefront}), got {self.headway}"
            )


def parse_sampler(text: str) -> Parallel | None:
    """Return what a command line asks for: "plain", or "parallel" with knobs behind a colon.

    Raises InputError, as for "parallel:exit_t=high".
    """
    kind, _, rest = text.partition(":")
    if kind == "plain" and not rest:
        return None
    if kind != "parallel":
        raise InputError(
            f"sampler must be plain, parallel or parallel:KNOB=VALUE,..., got {text!r:.60}"
        )
    knobs = {f.name: f.default for f in dataclasses.fields(Parallel) if f.name != "observe"}
    given: dict[str, Any] = {}
    for item in rest.split(",") if rest else ():
        name, _, value = item.partition("=")
        if name not in knobs:
            raise InputError(f"sampler: no knob {name!r:.40}; there are {', '.join(knobs)}")
        given[name] = _converted(name, value, knobs[name])
    return Parallel(**given)


def _converted(name: str, value: str, default: Any) -> Any:
    try:
        if isinstance(default, bool):
            return {"true": True, "false": False}[value.lower()]
        return type(default)(value)
    except (KeyError, ValueError):
        kind = {bool: "true or false", int: "a whole number", float: "a number"}[type(default)]
        raise InputError(f"sampler: {name} must be {kind}, got {value!r:.40}") from None
