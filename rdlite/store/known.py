"""Models by short names: which repository each is, and how large."""

from dataclasses import dataclass
from difflib import get_close_matches


@dataclass(frozen=True, slots=True)
class Known:
    """A model that has a short name.

    `parameters` in billions; None where nobody says.
    """

    repo: str
    family: str
    parameters: float | None


KNOWN = {
    "huginn": Known("tomg-group-umd/huginn-0125", "huginn", 3.56),
    "ouro-1.4b": Known("ByteDance/Ouro-1.4B", "ouro", 1.4),
    "ouro-1.4b-thinking": Known("ByteDance/Ouro-1.4B-Thinking", "ouro", 1.4),
    "ouro-2.6b": Known("ByteDance/Ouro-2.6B", "ouro", 2.6),
    "ouro-2.6b-thinking": Known("ByteDance/Ouro-2.6B-Thinking", "ouro", 2.6),
    "nanbeige": Known("Nanbeige/Nanbeige4.2-3B", "nanbeige", 4.17),
}


def near(word: str) -> str | None:
    """Return the short name that somebody may have meant."""
    found = get_close_matches(word.lower(), KNOWN, 1, 0.7)
    return found[0] if found else None
