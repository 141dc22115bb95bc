"""Many prompts at once: `Model.generate_many`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from typing import TYPE_CHECKING, Any, TypeVar

from rdlite.api.together import Together
from rdlite.decode.loop import generate_tokens
from rdlite.decode.results import Stats, Token
from rdlite.engine.sequence import Sequence
from rdlite.errors import InputError, RdliteError

if TYPE_CHECKING:
    from rdlite.api.loaded import Loaded

#: Called with the index of a prompt that has ended, and its statistics or what went wrong.
Finished = Callable[[int, Stats | RdliteError], None]
KEPT_BYTES = 64 * 2**20  # of caches that serve the next prompt again, a text
OPTIONS = frozenset(
    "max_tokens depth sampling seed stop initial_state chunk speculate top_logprobs changes "
    "min_tokens constraint sampler draws".split()
)
T = TypeVar("T")


def generate_many(
    model: Loaded,
    prompts: Iterable[Any],
    at_once: int,
    finished: Finished | None,
    options: Mapping[str, Any],
) -> Iterator[tuple[int, Token]]:
    """Yield as `Model.generate_many` does; its arguments are checked."""
    _check_options(options)
    engine = model.pool.check_open()
    waiting = enumerate(prompts)
    running: dict[int, tuple[Sequence, Stats]] = {}
    idle: list[Sequence] = []
    together: Together[int] = Together(engine, prompts_first=True)
    failure: RdliteError | None = None
    more = True

    def end(index: int, result: Stats | RdliteError) -> None:
        nonlocal failure
        if finished is not None:
            finished(index, result)
        elif isinstance(result, RdliteError) and failure is None:
            failure = result

    with closing(together):
        while more or running:
            while more and len(running) < at_once:
                item = next(waiting, None)
                if item is None:
                    more = False
                    break
                index, prompt = item
                try:
                    ids, plan = _plan(model, prompt, options)
                except RdliteError as problem:
                    end(index, problem)
                    continue
                sequence = idle.pop() if idle else model.new_sequence()
                running[index] = sequence, plan.stats
                together.add(index, sequence, generate_tokens(sequence, ids, plan))
            for index, event in together.turn():
                if isinstance(event, Token):
                    yield index, event
                    continue
                sequence, stats = running.pop(index)
                if event is None:
                    sequence.truncate(0)
                    if sequence.cache_bytes <= KEPT_BYTES:
                        idle.append(sequence)
                    end(index, stats)
                elif isinstance(event, RdliteError):
                    end(index, event)
                else:
                    raise event
    if failure is not None:
        raise failure


def _plan(model: Loaded, prompt: Any, options: Mapping[str, Any]) -> tuple[list[int], Any]:
    chosen: dict[str, Any] = {"depth": None, "sampling": None, "seed": 0, "stop": ()}
    chosen |= {"max_tokens": 64, **options}
    if isinstance(prompt, Mapping):
        own = dict(prompt)
        if "prompt" not in own:
            raise InputError(f"a prompt with options of its own needs 'prompt', got {prompt!r:.60}")
        prompt = own.pop("prompt")
        _check_options(own)
        chosen |= own
    return model.encode(prompt), model.plan(**chosen)


def _check_options(options: Mapping[str, Any]) -> None:
    unknown = sorted(set(options) - OPTIONS)
    if unknown:
        raise InputError(
            f"generate_many has no option {unknown[0]!r:.60}; it has {', '.join(sorted(OPTIONS))}"
        )
