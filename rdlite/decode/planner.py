"""Checks the options of a generation and makes what its loop needs: a Plan."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from rdlite.config.cache import Cache
from rdlite.config.constraint import Constraint, constraint_of
from rdlite.config.depth import Depth, default_depth, with_threshold
from rdlite.config.exit_defaults import ExitDefaults
from rdlite.config.generation import GenerationConfig
from rdlite.config.model import ModelConfig
from rdlite.config.parallel import Parallel
from rdlite.config.sampling import Sampling
from rdlite.config.speculation import MAX_POSITIONS, Speculate, check_speculation
from rdlite.constrain.compiled import Constraints
from rdlite.constrain.mask import TokenMask
from rdlite.decode.logit_rules import LogitRule, MinTokens
from rdlite.decode.plan import CHUNK, Plan
from rdlite.decode.sampler import Sampler
from rdlite.decode.speculation.draft_schedule import (
    AutoSchedule,
    DraftSchedule,
    FixedSchedule,
    Schedules,
)
from rdlite.decode.speculation.rounds import Speculation
from rdlite.decode.speculation.staggered import Staggered
from rdlite.decode.speculation.staggered_schedule import AutoStagger, FixedStagger
from rdlite.decode.wavefront import Wavefront
from rdlite.errors import InputError
from rdlite.exit.controller import Controller
from rdlite.exit.recorder import Recorder
from rdlite.ort.initial_state import InitialState, start_at
from rdlite.ort.rng import NOISE, fill_initial_states
from rdlite.tokenizer.stream import StopScanner, TextStream
from rdlite.tokenizer.tokenizer import Tokenizer
from rdlite.utils.checks import check_integer

C = TypeVar("C", bound=Controller)
Floats = npt.NDArray[np.float32]
MAX_STOP_STRINGS = 64
MAX_ALTERNATIVES = 100


def as_list(name: str, values: Any) -> list[Any]:
    """Return what is iterable as a list; raises InputError for what is not."""
    try:
        return list(values)
    except TypeError:
        raise InputError(f"{name} must be text or a sequence, got {values!r:.60}") from None


class Planner:
    """Makes the plans of one model. Thread-safe."""

    def __init__(
        self,
        config: ModelConfig,
        exit_defaults: ExitDefaults | None,
        cache: Cache,
        generation_config: GenerationConfig,
        tokenizer: Tokenizer | None,
        context: int,
        staggers: bool = False,
    ) -> None:
        """Plan for a model.

        Args:
            config: and all up to `context`: of the model.
            exit_defaults: thresholds that it was tuned to.
            cache: what is kept of past positions.
            generation_config: what ends its texts.
            tokenizer: None: it has none.
            context: the longest text.
            staggers: speculation has positions in flight at different depths.
        """
        self._config = config
        self._exit_defaults = exit_defaults
        self._cache = cache
        self._generation_config = generation_config
        self._tokenizer = tokenizer
        self._rounds = Schedules(AutoSchedule)
        self._staggers = Schedules(AutoStagger) if staggers else None
        self._constraints = Constraints(
            tokenizer, config.vocab_size, generation_config.stop_ids, context
        )
        #: How deep the model thinks when it is not told.
        self.default_depth = default_depth(config.recurrence, exit_defaults)

    def __call__(
        self,
        max_tokens: int,
        depth: Depth | None,
        sampling: Sampling | None,
        seed: int,
        stop: str | Sequence[str],
        initial_state: str | Floats = "random",
        chunk: int = CHUNK,
        speculate: Speculate = None,
        top_logprobs: int = 0,
        changes: bool = False,
        draws: int | None = None,
        min_tokens: int = 0,
        constraint: Constraint | Mapping[str, Any] | type | None = None,
        sampler: Parallel | None = None,
    ) -> Plan:
        """Return the plan of a generation.

        Args:
            max_tokens: and all up to `changes`: as for `Model.generate`.
            depth: None: the model's default.
            sampling: None: greedy.
            seed: selects initial states, and draws.
            stop: texts that end it.
            initial_state: where states start.
            chunk: prompt positions read at once.
            speculate: whether to draft.
            top_logprobs: likeliest tokens to tell of each choice.
            changes: whether to tell how far each step moved the state.
            draws: a seed for the draws alone; None: `seed`.
            min_tokens: tokens before which neither a stop token nor a stop text ends it.
            constraint: what the text must look like.
            sampler: as for `Model.generate`.

        Raises:
            InputError: one of them is out of bounds.
        """
        for name, value, kind in (("depth", depth, Depth), ("sampling", sampling, Sampling)):
            if not isinstance(value, kind | None):
                raise InputError(f"{name} must be rdlite.{kind.__name__}(...), got {value!r:.60}")
        stops: list[str] = [stop] if isinstance(stop, str) else as_list("stop", stop)
        if len(stops) > MAX_STOP_STRINGS or not all(isinstance(s, str) and s for s in stops):
            raise InputError(
                f"stop must be at most {MAX_STOP_STRINGS} texts, and none may be empty"
            )
        stops += self._generation_config.stop_strings
        if stops and self._tokenizer is None:
            raise InputError("this bundle has no tokenizer.json, so stop texts cannot work")
        if changes and speculate is not None:
            raise InputError("changes need one token after the other: use speculate=None")
        if sampler is not None:
            others = {
                "speculate": speculate is not None,
                "changes": changes,
                "min_tokens": bool(min_tokens),
                "constraint": constraint is not None,
            }
            depth = self._full_depth(sampler, depth, others)
        depth, start = depth or self.default_depth, start_at(self._config, initial_state, seed)
        sampling = sampling or Sampling()
        stop_ids = frozenset(self._generation_config.stop_ids)
        max_tokens = check_integer("max_tokens", max_tokens, 1, 2**22)
        least = check_integer("min_tokens", min_tokens, 0, 2**22)
        given = constraint_of(constraint)
        mask = None if given is None else self._constraints.compile(given, max_tokens)
        rules: list[LogitRule] = [] if mask is None else [mask]
        if least:
            rules.insert(0, MinTokens(least, stop_ids))
        chooser = Sampler(
            sampling,
            self._config.vocab_size,
            seed if draws is None else draws,
            check_integer("top_logprobs", top_logprobs, 0, MAX_ALTERNATIVES),
            rules,
        )
        recorder = self._controlled(Recorder, depth) if changes else None
        controller = self.controller(depth) if recorder is None else recorder
        if mask is not None:
            controller.judge_only(mask.allowed)
        return Plan(
            controller=controller,
            max_tokens=max_tokens,
            start=start,
            sampler=chooser,
            stop_ids=stop_ids,
            stream=TextStream(self._tokenizer) if self._tokenizer else None,
            stops=StopScanner(stops),
            min_tokens=least,
            chunk=check_integer("chunk", chunk, 1, 4096),
            speculation=self._speculation(
                speculate, depth, sampling, start, chooser, stop_ids, mask
            ),
            recorder=recorder,
            mask=mask,
            wavefront=self._wavefront(sampler, depth, chooser, initial_state, seed),
        )

    def check_constraint(self, constraint: Constraint) -> None:
        """Raise InputError for a constraint that cannot be kept; it is compiled, and kept."""
        self._constraints.compile(constraint, 1)

    def controller(self, depth: Depth) -> Controller:
        """Return what takes the steps of a depth.

        Raises InputError if the model has not its rule, or was made for fewer steps.
        """
        return self._controlled(Controller, depth)

    def _controlled(self, kind: type[C], depth: Depth) -> C:
        config = self._config
        depth = with_threshold(depth, config, self._exit_defaults)
        return kind(depth, config.steps_or_default(depth.max_steps), config.vocab_size)

    def _full_depth(
        self, sampler: Parallel, depth: Depth | None, others: Mapping[str, bool]
    ) -> Depth:
        """Return the depth at which the parallel sampler reads the prompt; raises InputError."""
        if not isinstance(sampler, Parallel):
            raise InputError(f"sampler must be None or rdlite.Parallel(...), got {sampler!r:.60}")
        if self._config.recurrence.initial_state != "random":
            raise InputError(
                "the parallel sampler refines random states, and models of the family "
                f"{self._config.family} start at others; use sampler=None"
            )
        if isinstance(self._cache.share, int) and self._cache.share > 1:
            raise InputError(
                f"the parallel sampler keeps one cache slot; Cache(share={self._cache.share}) has "
                "more: leave share at None, 'last' or 1"
            )
        for name, given in others.items():
            if given:
                raise InputError(f"{name} and the parallel sampler exclude each other")
        if depth is not None and depth.exit is not None:
            raise InputError(
                "the parallel sampler reads the prompt at full depth and freezes tokens by its own "
                "rule; give a Depth without exit"
            )
        return depth or Depth(self.default_depth.max_steps)

    def _wavefront(
        self,
        wanted: Parallel | None,
        depth: Depth,
        sampler: Sampler,
        initial_state: str | Floats,
        seed: int,
    ) -> Wavefront | None:
        if wanted is None:
            return None
        if initial_state not in ("random", "zeros"):
            raise InputError(
                "the parallel sampler starts positions at initial_state random or zeros, "
                f"got {initial_state!r:.40}"
            )
        recurrence, zeros = self._config.recurrence, initial_state == "zeros"

        def fill(rows: Floats, position: int, step: int) -> None:
            if zeros or not recurrence.initial_std:
                rows.fill(0)
            elif step < 0:
                fill_initial_states(rows, recurrence, seed, position)
            else:
                fill_initial_states(rows, recurrence, seed, position, NOISE, step)

        steps = self._config.steps_or_default(depth.max_steps)
        return Wavefront(wanted, steps, sampler, fill, seed)

    def _speculation(
        self,
        wanted: Speculate,
        depth: Depth,
        sampling: Sampling,
        start: InitialState,
        sampler: Sampler,
        ends: frozenset[int],
        mask: TokenMask | None,
    ) -> Speculation | Staggered | None:
        wanted = check_speculation(wanted)
        if wanted is None:
            return None
        if self._cache.share is not None:
            raise InputError("speculate needs a cache slot for each step: Cache(share=None)")
        controller = self.controller(depth)
        if mask is not None:
            controller.judge_only(mask.allowed)
        how, most = (depth, sampling.temperature), controller.max_steps
        if wanted == "auto" and (controller.decodes or most == 1):
            return None
        positions = MAX_POSITIONS if wanted == "auto" else wanted[0]
        if self._staggers is not None and not controller.decodes:
            stagger: FixedStagger = (
                self._staggers.of(how, most) if wanted == "auto" else FixedStagger(*wanted)
            )
            return Staggered(stagger, positions, controller, start, sampler, ends)
        rounds: DraftSchedule = (
            self._rounds.of(how, most) if wanted == "auto" else FixedSchedule(*wanted)
        )
        width = self._config.hidden_size
        return Speculation(rounds, positions, controller, start, sampler, ends, width)
