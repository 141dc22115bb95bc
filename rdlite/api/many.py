"""Many prompts at once: `Model.generate_many`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from typing import TYPE_CHECKING, Any

from rdlite.api.prefixes import Prefixes, Text
from rdlite.api.together import Together
from rdlite.decode.loop import generate_tokens
from rdlite.decode.results import Stats, Token
from rdlite.errors import InputError, RdliteError

if TYPE_CHECKING:
    from rdlite.api.loaded import Loaded

#: Called with the index of a prompt that has ended, and its statistics or what went wrong.
Finished = Callable[[int, Stats | RdliteError], None]
OPTIONS = frozenset(
    "max_tokens depth sampling seed stop initial_state chunk speculate top_logprobs changes "
    "min_tokens constraint sampler draws".split()
)


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
    texts: dict[int, Text] = {}
    held: list[Text] = []  # until what they share with others is read
    prefixes = Prefixes(model.new_sequence)
    together: Together[int] = Together(engine, prompts_first=True, most=at_once)
    failure: RdliteError | None = None
    more = True

    def end(index: int, result: Stats | RdliteError) -> None:
        nonlocal failure
        if finished is not None:
            finished(index, result)
        elif isinstance(result, RdliteError) and failure is None:
            failure = result

    def start(text: Text) -> bool:
        try:
            sequence = prefixes.place(text)
        except RdliteError as problem:
            del texts[text.index]
            end(text.index, problem)
            return True
        if sequence is not None:
            together.add(text.index, sequence, generate_tokens(sequence, text.ids, text.plan))
        return sequence is not None

    with closing(together):
        while more or texts:
            held = [text for text in held if not start(text)]
            while more and len(texts) < at_once:
                item = next(waiting, None)
                if item is None:
                    more = False
                    break
                index, prompt = item
                try:
                    text = texts[index] = _text(model, index, prompt, options)
                except RdliteError as problem:
                    end(index, problem)
                    continue
                if not start(text):
                    held.append(text)
            for index, event in together.turn():
                if isinstance(event, Token):
                    yield index, event
                    continue
                text = texts.pop(index)
                prefixes.end(text, well=event is None)
                if event is None:
                    end(index, text.plan.stats)
                elif isinstance(event, RdliteError):
                    end(index, event)
                else:
                    raise event
    if failure is not None:
        raise failure


def _text(model: Loaded, index: int, prompt: Any, options: Mapping[str, Any]) -> Text:
    chosen: dict[str, Any] = {"depth": None, "sampling": None, "seed": 0, "stop": ()}
    chosen |= {"max_tokens": 64, **options}
    if isinstance(prompt, Mapping):
        own = dict(prompt)
        if "prompt" not in own:
            raise InputError(f"a prompt with options of its own needs 'prompt', got {prompt!r:.60}")
        prompt = own.pop("prompt")
        _check_options(own)
        chosen |= own
    ids, plan = model.encode(prompt), model.plan(**chosen)
    how = None
    # A constraint may decide what exit rules look at; the parallel sampler leaves other entries.
    if chosen.get("constraint") is None and chosen.get("sampler") is None:
        how = [chosen.get(name) for name in ("depth", "seed", "initial_state", "chunk")]
    return Text(index, ids, plan, how)


def _check_options(options: Mapping[str, Any]) -> None:
    unknown = sorted(set(options) - OPTIONS)
    if unknown:
        raise InputError(
            f"generate_many has no option {unknown[0]!r:.60}; it has {', '.join(sorted(OPTIONS))}"
        )
