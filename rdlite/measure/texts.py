"""Texts to measure on: read as tokens, cut into windows."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from rdlite.api.model import Model
from rdlite.errors import InputError
from rdlite.utils.checks import check_integer

MAX_WINDOW = 4096
TOKEN_BYTES = 64  # of text that are read for each token wanted; most have 3 to 6


def check_texts(texts: Sequence[Sequence[int]]) -> None:
    """Raise InputError unless each text has two tokens, so that one follows another."""
    if not texts or min(map(len, texts)) < 2:
        raise InputError("a text to measure on needs at least 2 tokens")


def read_tokens(model: Model, path: str | Path, most: int) -> list[int]:
    """Return the first token ids of a text file; no more of it is read than they need.

    Args:
        model: needs a tokenizer.
        path: of the file. What is not UTF-8 in it is replaced.
        most: how many ids at most.

    Raises InputError if the file cannot be read.
    """
    try:
        with open(path, "rb") as file:
            text = file.read(most * TOKEN_BYTES)
    except OSError as problem:
        raise InputError(f"the text {path} cannot be read: {problem.strerror}") from None
    return model.tokenizer.encode(text.decode(errors="replace"))[:most]


def text_name(path: str | Path) -> str:
    """Return the name of a text file for people: one printable line of at most 80 characters."""
    return "".join(c if c.isprintable() else "?" for c in Path(path).name)[:80]


def windows(ids: Sequence[int], window: int, context: int) -> Iterator[Sequence[int]]:
    """Cut a text into windows; a last one of a single token is left out.

    Raises InputError if the text is too short or the window out of bounds.
    """
    check_integer("window", window, 2, min(context, MAX_WINDOW))
    if len(ids) < 2:
        raise InputError(f"the text has {len(ids)} tokens; at least 2 are needed")
    for first in range(0, len(ids) - 1, window):
        yield ids[first : first + window]
