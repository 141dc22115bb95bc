"""The loop: read a prompt in chunks, then one token after another; yields Tokens."""

import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from rdlite import engine
from rdlite.cancellation import Cancellation
from rdlite.depth import Controller, Recorder
from rdlite.errors import Interrupted
from rdlite.group import Group
from rdlite.lane import Lane
from rdlite.sampling import Sampler
from rdlite.speculate import Choice, Speculation
from rdlite.start import Start
from rdlite.token_mask import TokenMask
from rdlite.tokenizer import StopScanner, TextStream


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """One new token.

    Attributes:
        id: the token.
        text: what can be shown after it; never half a character, so sometimes empty.
        steps: core steps that were run to choose it.
        exit_value: what the exit rule said last; None without a rule, or if it said nothing yet.
        logprob: its log-probability (natural) under the model's own distribution.
        alternatives: the likeliest tokens in its place and their log-probabilities, the likeliest
            first: as many as were asked for.
        changes: how far each core step moved the state, relative to its length; None unless asked
            for.
    """

    id: int
    text: str
    steps: int
    exit_value: float | None
    logprob: float
    alternatives: tuple[tuple[int, float], ...] = ()
    changes: tuple[float, ...] | None = None


@dataclass(slots=True)
class Stats:
    """What a generation took. Times in seconds.

    Attributes:
        prompt_tokens: positions of the prompt.
        reused_tokens: those of them that were in the cache already.
        new_tokens: tokens that were generated.
        core_steps: core steps that chose them, one position each.
        prompt_steps: core steps that read the prompt, times the positions that took them.
        rounds: of speculation: the groups in which the tokens after the first came.
        drafted: positions that were drafted.
        accepted: how many of those stayed.
        speculation: how the last rounds were: positions, and core steps of a draft; one position
            at full depth is plain decoding.
        time_to_first_token: from the start to the first token, the reading of the prompt included.
        decode_seconds: what the tokens after the first took.
        finish: why it ended: "stop" (a stop token), "stop-string", "length" (max_tokens),
            "context" (no room) or "cancelled".
    """

    prompt_tokens: int = 0
    reused_tokens: int = 0
    new_tokens: int = 0
    core_steps: int = 0
    prompt_steps: int = 0
    rounds: int = 0
    drafted: int = 0
    accepted: int = 0
    speculation: tuple[int, int] | None = None
    time_to_first_token: float = 0.0
    decode_seconds: float = 0.0
    finish: str = "cancelled"

    @property
    def tokens_per_second(self) -> float:
        """Speed of the tokens after the first, which is counted to the prompt."""
        rest = self.new_tokens - 1
        return rest / self.decode_seconds if rest > 0 and self.decode_seconds else 0.0

    @property
    def acceptance(self) -> float | None:
        """The part of the drafts that turned out right; None without drafts."""
        return self.accepted / self.drafted if self.drafted else None

    @property
    def mean_steps(self) -> float:
        """Core steps per new token."""
        return self.core_steps / self.new_tokens if self.new_tokens else 0.0

    @property
    def mean_prompt_steps(self) -> float:
        """Core steps per token of the prompt that was not in the cache."""
        read = self.prompt_tokens - self.reused_tokens
        return self.prompt_steps / read if read else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return all of it by name, the means and the speed too."""
        means = ("tokens_per_second", "mean_steps", "mean_prompt_steps", "acceptance")
        return asdict(self) | {name: getattr(self, name) for name in means}


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that `generate_tokens` needs to know of one generation."""

    controller: Controller
    max_tokens: int
    start: Start
    sampler: Sampler
    stop_ids: frozenset[int]
    stream: TextStream | None
    stops: StopScanner
    stats: Stats = field(default_factory=Stats)
    chunk: int = engine.CHUNK
    speculation: Speculation | None = None
    recorder: Recorder | None = None
    mask: TokenMask | None = None
    cancellation: Cancellation = field(default_factory=Cancellation)


class Generation:
    """New tokens as they come. Iterate once; `text`, `ids` and `stats` run it to its end."""

    def __init__(self, tokens: Generator[Token, None, None], plan: Plan) -> None:
        """Use `Model.generate` or `Chat.send`."""
        self._tokens = tokens
        self._stats = plan.stats
        self._cancellation = plan.cancellation
        self._texts: list[str] = []
        self._ids: list[int] = []

    def __iter__(self) -> Iterator[Token]:
        """Yield the tokens that were not yielded yet."""
        for token in self._tokens:
            self._texts.append(token.text)
            self._ids.append(token.id)
            yield token

    def close(self) -> None:
        """End it now; what was generated so far stays. May be called twice."""
        self._tokens.close()

    def cancel(self) -> None:
        """End it from any thread, at once, even while it reads a prompt or takes a core step.

        Whoever iterates sees it end; `stats.finish` is then "cancelled", unless it had ended
        already. May be called twice.
        """
        self._cancellation.ask()

    @property
    def text(self) -> str:
        """The whole new text."""
        self._drain()
        return "".join(self._texts)

    @property
    def ids(self) -> list[int]:
        """The new token ids, a stop token included."""
        self._drain()
        return list(self._ids)

    @property
    def stats(self) -> Stats:
        """Counts, times and the reason it ended."""
        self._drain()
        return self._stats

    def _drain(self) -> None:
        for _ in self:
            pass


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
    sequence: engine.Sequence,
    ids: Sequence[int],
    controller: Controller,
    start: Start,
    chunk: int = engine.CHUNK,
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


def generate_tokens(
    sequence: engine.Sequence, prompt: Sequence[int], plan: Plan
) -> Iterator[Token]:
    """Read what of the prompt is not in `sequence` yet, then yield tokens until something ends it.

    `prompt` is not empty and fits in the context; `sequence.length` of its tokens, not all, are
    already read.
    """
    stats, position, recorder = plan.stats, len(prompt), plan.recorder
    stats.prompt_tokens, stats.reused_tokens = position, sequence.length
    plan.sampler.begin(prompt)
    choices = (_choose if plan.speculation is None else _speculate)(sequence, prompt, plan)
    clock = time.perf_counter()
    try:
        with plan.cancellation.of(sequence.interrupt):
            for token, logprob, steps, value in choices:
                position += 1
                stats.new_tokens += 1
                stats.core_steps += steps
                text = _text(plan, token)
                stats.finish = _finish(plan, token, position, sequence.context)
                if stats.finish != "cancelled":
                    text += plan.stops.flush()
                if stats.new_tokens == 1:
                    stats.time_to_first_token = time.perf_counter() - clock
                else:
                    stats.decode_seconds += time.perf_counter() - clock
                yield Token(
                    id=token,
                    text=text,
                    steps=steps,
                    exit_value=value,
                    logprob=logprob,
                    alternatives=plan.sampler.alternatives,
                    changes=None if recorder is None else tuple(recorder.changes),
                )
                if stats.finish != "cancelled":
                    return
                clock = time.perf_counter()
    except Interrupted:
        pass
    finally:
        choices.close()
        sequence.drop_pending()


def _choose(
    sequence: engine.Sequence, prompt: Sequence[int], plan: Plan
) -> Generator[Choice, None, None]:
    """Read what is not read yet, choose a token, read that, and so on."""
    stats, controller = plan.stats, plan.controller
    fresh: Sequence[int] = prompt[sequence.length :]
    sequence.spread()
    while True:
        for chunk in read(sequence, fresh, controller, plan.start, plan.chunk):
            # Decoded for every chunk: this is what fills the coda's cache.
            logits = chunk.lane.logits(chunk.steps)[-1]
            if stats.new_tokens == 0:
                stats.prompt_steps += chunk.all_steps
        token, logprob = plan.sampler(logits, sequence.length)
        sequence.gather()
        yield token, logprob, chunk.steps, chunk.value
        fresh = (token,)


def _speculate(
    sequence: engine.Sequence, prompt: Sequence[int], plan: Plan
) -> Generator[Choice, None, None]:
    """Like `_choose`, and with the same result, several positions at a time."""
    stats, speculation = plan.stats, plan.speculation
    assert speculation is not None
    first = next(choices := _choose(sequence, prompt, plan))
    choices.close()
    yield first
    token = first[0]
    while True:
        most = min(sequence.context - sequence.length, plan.max_tokens - stats.new_tokens)
        token = yield from speculation.round(sequence, token, most, stats)


def _text(plan: Plan, token: int) -> str:
    """What can be shown after `token`. Half a character is shown only if the model ends on it."""
    if plan.stream is None:
        return ""
    stop = token in plan.stop_ids
    return plan.stops.push(plan.stream.flush() if stop else plan.stream.push(token))


def _finish(plan: Plan, token: int, position: int, context: int) -> str:
    if token in plan.stop_ids:
        return "length" if plan.mask is not None and plan.mask.closed() else "stop"
    if plan.stops.stopped:
        return "stop-string"
    if plan.stats.new_tokens >= plan.max_tokens:
        return "length"
    if position > context:
        return "context"
    return "cancelled"
