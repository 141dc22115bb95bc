"""The loop: read a prompt in chunks, then one token after another; yields Tokens."""

import time
from collections.abc import Callable, Generator, Sequence

from rdlite.decode.plan import Plan
from rdlite.decode.prefill import read
from rdlite.decode.results import Choice, Token
from rdlite.engine.sequence import Sequence as EngineSequence
from rdlite.errors import Interrupted


def generate_tokens(
    sequence: EngineSequence, prompt: Sequence[int], plan: Plan
) -> Generator[Token, None, None]:
    """Read what of the prompt is not in `sequence` yet, then yield tokens until something ends it.

    `prompt` is not empty and fits in the context; `sequence.length` of its tokens, not all, are
    already read.
    """
    stats, position, recorder = plan.stats, len(prompt), plan.recorder
    stats.prompt_tokens, stats.reused_tokens = position, sequence.length
    plan.sampler.begin(prompt)
    choices = _way(plan)(sequence, prompt, plan)
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
            if plan.wavefront is not None:  # the others go on until a token ends them
                stats.finish = plan.wavefront.ended
    except Interrupted:
        pass
    finally:
        choices.close()
        sequence.drop_pending()


def _way(
    plan: Plan,
) -> Callable[[EngineSequence, Sequence[int], Plan], Generator[Choice, None, None]]:
    if plan.wavefront is not None:
        return _refine
    return _choose if plan.speculation is None else _speculate


def _choose(
    sequence: EngineSequence, prompt: Sequence[int], plan: Plan
) -> Generator[Choice, None, None]:
    """Read what is not read yet, choose a token, read that, and so on."""
    stats, controller = plan.stats, plan.controller
    fresh: Sequence[int] = prompt[sequence.length :]
    sequence.spread()
    while True:
        for chunk in read(sequence, fresh, controller, plan.start, plan.chunk):
            # Decoded for every chunk: this is what fills the coda's cache.
            logits = chunk.runner.logits(chunk.steps)[-1]
            if stats.new_tokens == 0:
                stats.prompt_steps += chunk.all_steps
        token, logprob = plan.sampler(logits, sequence.length)
        sequence.gather()
        yield token, logprob, chunk.steps, chunk.value
        fresh = (token,)


def _speculate(
    sequence: EngineSequence, prompt: Sequence[int], plan: Plan
) -> Generator[Choice, None, None]:
    """Like `_choose`, and with the same result, several positions at a time."""
    stats, speculation = plan.stats, plan.speculation
    assert speculation is not None
    first = next(choices := _choose(sequence, prompt, plan))
    choices.close()
    yield first
    most = min(sequence.context - sequence.length, plan.max_tokens - stats.new_tokens)
    yield from speculation.run(sequence, first[0], most, stats)


def _refine(
    sequence: EngineSequence, prompt: Sequence[int], plan: Plan
) -> Generator[Choice, None, None]:
    """Read the prompt at full depth, then refine a window of tokens together."""
    assert plan.wavefront is not None
    first = next(choices := _choose(sequence, prompt, plan))
    choices.close()
    sequence.gather(always=True)
    try:
        yield first
        yield from plan.wavefront.run(sequence, prompt, first[0], plan.max_tokens)
    finally:
        sequence.drop_pending()
        if sequence.engine.cache.share is None:  # what is left is not what each step leaves
            sequence.truncate(0)


def _text(plan: Plan, token: int) -> str:
    """What can be shown after `token`. Half a character is shown only if the model ends on it."""
    if plan.stream is None:
        return ""
    stop = token in plan.stop_ids
    piece = plan.stream.flush() if stop else plan.stream.push(token)
    return plan.stops.push(piece, plan.stats.new_tokens > plan.min_tokens)


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
