"""Watches a model think: what it would have said after every core step of every new token.

Every state is decoded on its way, as exit rules do that look at predictions. That changes nothing
of what is generated: a step writes the core's cache and decoding the coda's, and what an early
state wrote there the last one overwrites.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rdlite.api.model import Model
from rdlite.config.depth import Depth, with_threshold
from rdlite.config.exit_rules import RULES
from rdlite.config.sampling import Sampling
from rdlite.decode.loop import generate_tokens
from rdlite.decode.results import Stats
from rdlite.decode.sampler import likeliest
from rdlite.engine.sequence import Sequence as EngineSequence
from rdlite.errors import InputError
from rdlite.exit.protocols import Step
from rdlite.exit.recorder import Recorder
from rdlite.utils.checks import check_integer
from rdlite.utils.numerics import log_softmax
from rdlite.utils.progress import Progress, meter

Floats = npt.NDArray[np.float32]
MAX_TOP = 100


@dataclass(frozen=True, slots=True)
class Candidate:
    """A token that could come next.

    Attributes:
        id: the token.
        token: how it is written: its text, or the name of a special token; "#17" where the model
            has no tokenizer. May hold anything: see `rdlite.labels`.
        probability: by the model's own distribution, before any sampling.
    """

    id: int
    token: str
    probability: float


@dataclass(frozen=True, slots=True)
class Thought:
    """Where a token stood after one core step.

    Attributes:
        change: how far the step moved the state, relative to its length; None if that is no number.
        exit_value: what the exit rule had said last; None without a rule, or if it said nothing
            yet. Of a prompt's positions that stop together, it is that of all of them.
        probability: of the token that was chosen in the end.
        likeliest: the tokens it would have chosen from, the likeliest first.
    """

    change: float | None
    exit_value: float | None
    probability: float
    likeliest: tuple[Candidate, ...]


@dataclass(frozen=True, slots=True)
class TokenTrace:
    """How one new token was found.

    Attributes:
        id: the token.
        token: how it is written, as of a Candidate.
        text: what can be shown after it; sometimes empty, as of a `rdlite.Token`.
        logprob: its log-probability (natural) at the end.
        thoughts: one for each core step that was taken.
    """

    id: int
    token: str
    text: str
    logprob: float
    thoughts: tuple[Thought, ...]

    @property
    def steps(self) -> int:
        """Core steps that were taken."""
        return len(self.thoughts)

    @property
    def settled(self) -> int:
        """The step from which on the likeliest token stayed the same."""
        tops = [thought.likeliest[0].id for thought in self.thoughts]
        return max((i for i in range(1, len(tops)) if tops[i] != tops[i - 1]), default=0) + 1


@dataclass(frozen=True, slots=True)
class Trace:
    """How a text was generated.

    Attributes:
        model: its name.
        prompt: as text, without a chat's template; None if it was given as ids and the model has
            no tokenizer.
        chat: whether it was the first message of a chat.
        depth: how deep was thought; a rule's threshold is filled in.
        sampling: how tokens were chosen.
        seed: of initial states and draws.
        tokens: the new ones.
        stats: as of a generation; its times are those of a run that was watched.
    """

    model: str
    prompt: str | None
    chat: bool
    depth: Depth
    sampling: Sampling
    seed: int
    tokens: tuple[TokenTrace, ...]
    stats: Stats

    @property
    def text(self) -> str:
        """The whole new text."""
        return "".join(token.text for token in self.tokens)

    def as_dict(self) -> dict[str, Any]:
        """Return all of it by name, as JSON can hold it; the text and each token's steps too."""
        found = dataclasses.asdict(self) | {"text": self.text, "stats": self.stats.as_dict()}
        for entry, token in zip(found["tokens"], self.tokens, strict=True):
            entry["steps"] = token.steps
        return found


def trace(
    model: Model,
    prompt_or_ids: str | Sequence[int],
    max_tokens: int = 32,
    depth: Depth | None = None,
    sampling: Sampling | None = None,
    seed: int = 0,
    stop: str | Sequence[str] = (),
    chat: bool = False,
    top: int = 5,
    progress: Progress | None = None,
) -> Trace:
    """Generate what `model.generate` would with the same arguments, and watch.

    Args:
        model: any.
        prompt_or_ids: text, or token ids.
        max_tokens: most new tokens, 1 to 2^22.
        depth: how deep to think; None: the model's default.
        sampling: how tokens are chosen; None: greedy.
        seed: selects initial states and draws.
        stop: texts that end it.
        chat: the prompt is text, and the first message of a chat.
        top: likeliest tokens to keep of every step, 1 to 100; at most the vocabulary.
        progress: called with (tokens done, `max_tokens`).

    Raises:
        InputError: an argument is out of bounds, or text is given to a model without a tokenizer
            (ContextError: the prompt does not fit).
    """
    check_integer("top", top, 1, MAX_TOP)
    plan = model.plan(max_tokens, depth, sampling, seed, stop)
    tokenizer = model.tokenizer if plan.stream is not None else None
    if not isinstance(prompt_or_ids, str):
        if chat:
            raise InputError(f"a message must be text, got {prompt_or_ids!r:.60}")
        ids = model.check_ids(prompt_or_ids)
    elif chat:
        ids = model.encode_chat([{"role": "user", "content": prompt_or_ids}])
    else:
        ids = model.check_ids(model.tokenizer.encode(prompt_or_ids))
    depth = _resolved(depth or model.default_depth, model)
    sequence = model.new_sequence()
    watcher = Watcher(depth, plan.controller.max_steps, model.config.vocab_size, sequence, len(ids))
    plan = dataclasses.replace(plan, controller=watcher)
    written = tokenizer.written if tokenizer else "#{}".format
    advance, tokens = meter(max_tokens, progress), []
    for token in generate_tokens(sequence, ids, plan):
        thoughts = watcher.thoughts(token.id, top, written)
        tokens.append(TokenTrace(token.id, written(token.id), token.text, token.logprob, thoughts))
        advance(1)
    prompt = prompt_or_ids if isinstance(prompt_or_ids, str) else None
    return Trace(
        model=model.bundle.manifest.name,
        prompt=tokenizer.decode(ids) if prompt is None and tokenizer else prompt,
        chat=chat,
        depth=depth,
        sampling=sampling or Sampling(),
        seed=seed,
        tokens=tuple(tokens),
        stats=plan.stats,
    )


def _resolved(depth: Depth, model: Model) -> Depth:
    """Return `depth` with what it leaves to the model and to its rule filled in."""
    depth = with_threshold(depth, model.config, model.bundle.manifest.exit)
    if depth.exit is not None and depth.threshold is None:
        depth = dataclasses.replace(depth, threshold=RULES[depth.exit].default)
    if depth.max_steps is None:
        depth = dataclasses.replace(depth, max_steps=model.config.steps_or_default(None))
    return depth


class Watcher(Recorder):
    """Takes the steps that a Controller takes, and keeps what the last position did at each.

    Positions of a prompt that stop together are decoded together after every step, so that what
    is seen is what they would have said if all had stopped there. With `prompt="each"` they are
    decoded when all are done: what the last one would have said at a step, the others being ready.
    """

    def __init__(
        self,
        depth: Depth,
        max_steps: int,
        vocab_size: int,
        sequence: EngineSequence,
        prompt_size: int,
    ) -> None:
        """Watch positions of `sequence`, from the last of the prompt on."""
        super().__init__(depth, max_steps, vocab_size)
        self._sequence = sequence
        self._first = prompt_size - 1  # of the positions that choose a token
        #: By step: the change, what the rule said last, and log-probabilities or a state.
        self._seen: list[tuple[float, float | None, Floats]] = []
        self._undecoded = False

    def start(self, first: int = 0, size: int = 1) -> None:
        """Forget what was seen of `size` rows from `first` on."""
        super().start(first, size)
        self._seen.clear()
        self._undecoded = False

    def record(self, runner: Step, steps: int, row: int, apart: bool = False) -> None:
        """Keep what a step did, and what would have been said after it.

        Of positions that leave one by one it keeps the state, which cannot be decoded yet: the
        coda's cache lacks those on the left that have left.
        """
        if not apart and self._sequence.length + runner.size <= self._first:
            return  # it chooses nothing, so it is not decoded
        super().record(runner, steps, row, apart)
        seen = runner.states[steps % 2][0, -1].copy() if apart else _logs(runner.logits(steps)[-1])
        self._seen.append((self.changes[-1], self.value_of(row), seen))
        self._undecoded = apart

    def thoughts(self, chosen: int, top: int, written: Callable[[int], str]) -> tuple[Thought, ...]:
        """Return what was seen of the position that chose a token, which was read just now."""
        if self._undecoded:
            self._decode()
        found = []
        for change, value, logs in self._seen:
            tokens = likeliest(logs, min(top, logs.size))
            candidates = (Candidate(i, written(i), math.exp(logs[i])) for i in tokens.tolist())
            found.append(
                Thought(
                    change=change if math.isfinite(change) else None,
                    exit_value=value,
                    probability=math.exp(logs[chosen]),
                    likeliest=tuple(candidates),
                )
            )
        return tuple(found)

    def _decode(self) -> None:
        """Turn the states that were kept into log-probabilities; the cache stays as it is."""
        position = self._sequence.length - 1
        runner = self._sequence.runner(position, 1, len(self._seen))
        slot = self._sequence.outer_slot("coda")
        kept = slot.read(position, position + 1).copy()
        for steps, (change, value, state) in enumerate(self._seen, 1):
            runner.put_state(steps, state[None])
            self._seen[steps - 1] = change, value, _logs(runner.logits(steps)[-1])
        slot.write(kept, position)  # read alone, a position may be rounded otherwise
        self._undecoded = False


def _logs(logits: Floats) -> Floats:
    """Log-probabilities of logits [V]; where these are no numbers, nothing is likely."""
    with np.errstate(invalid="ignore"):
        return np.nan_to_num(log_softmax(logits), nan=-np.inf)
