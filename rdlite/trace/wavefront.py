"""Watches the parallel sampler: which position had which token after which outer step."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from rdlite.api.model import Model
from rdlite.config.depth import Depth
from rdlite.config.parallel import Look, Parallel
from rdlite.config.sampling import Sampling


@dataclass(frozen=True, slots=True)
class Row:
    """The window after an outer step.

    Attributes:
        step: the outer step, counted from 1.
        position: of its first token in the text, counted from 0.
        frozen: texts of its tokens that can no longer change.
        guesses: texts of those that can.
    """

    step: int
    position: int
    frozen: tuple[str, ...]
    guesses: tuple[str, ...]


def trace_wavefront(
    model: Model,
    prompt_or_ids: str | Sequence[int],
    sampler: Parallel,
    max_tokens: int = 32,
    depth: Depth | None = None,
    sampling: Sampling | None = None,
    seed: int = 0,
    stop: str | Sequence[str] = (),
    chat: bool = False,
) -> tuple[str, list[Row]]:
    """Generate what `model.generate` would with the same arguments, and watch the window.

    Args:
        model: with a tokenizer.
        prompt_or_ids: and all up to `stop`: as for `Model.generate`.
        sampler: its knobs.
        max_tokens: most new tokens.
        depth: at which the prompt is read.
        sampling: how tokens are chosen.
        seed: selects initial states, noise and draws.
        stop: texts that end it.
        chat: the prompt is text, and the first message of a chat.

    Returns:
        The new text, and the window after each outer step.

    Raises:
        InputError: an argument is out of bounds (ContextError: the prompt does not fit).
    """
    tokenizer, rows = model.tokenizer, list[Row]()
    if chat and isinstance(prompt_or_ids, str):
        prompt_or_ids = model.encode_chat([{"role": "user", "content": prompt_or_ids}])

    def observe(look: Look) -> None:
        texts = tuple(tokenizer.decode([token]) for token in look.tokens)
        done = look.frozen - look.start
        rows.append(Row(look.step + 1, look.start, texts[:done], texts[done:]))

    watched = dataclasses.replace(sampler, observe=observe)
    text = model.generate(
        prompt_or_ids, max_tokens, depth, sampling, seed, stop, sampler=watched
    ).text
    return text, rows
