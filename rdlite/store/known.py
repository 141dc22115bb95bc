"""Models by short names: which repository each is, how large, and on what terms."""

from dataclasses import dataclass
from difflib import get_close_matches

from rdlite.utils.memory import IN_MEMORY

#: Bytes on the disk that a parameter of a model takes as int4, scales and the rest included.
INT4_BYTES = 0.57


@dataclass(frozen=True, slots=True)
class Known:
    """A model that has a short name.

    Attributes:
        repo: on the hub.
        family: of rdlite's.
        parameters: in billions.
        licence: as far as its publishers say; the repository's own page is what counts.
    """

    repo: str
    family: str
    parameters: float
    licence: str


_RETROFITTED = "Apache-2.0; read also that of"
KNOWN = {
    "huginn": Known("tomg-group-umd/huginn-0125", "huginn", 3.56, "Apache-2.0"),
    "ouro-1.4b": Known("ByteDance/Ouro-1.4B", "ouro", 1.4, "Apache-2.0"),
    "ouro-1.4b-thinking": Known("ByteDance/Ouro-1.4B-Thinking", "ouro", 1.4, "Apache-2.0"),
    "ouro-2.6b": Known("ByteDance/Ouro-2.6B", "ouro", 2.6, "Apache-2.0"),
    "ouro-2.6b-thinking": Known("ByteDance/Ouro-2.6B-Thinking", "ouro", 2.6, "Apache-2.0"),
    "nanbeige": Known("Nanbeige/Nanbeige4.2-3B", "nanbeige", 4.17, "see its page"),
    "recurrent-llama": Known(
        "smcleish/Recurrent-Llama-3.2-train-recurrence-32",
        "recurrent-llama",
        1.39,
        f"{_RETROFITTED} Llama 3.2",
    ),
    "recurrent-tinyllama": Known(
        "smcleish/Recurrent-TinyLlama-3T-train-recurrence-32",
        "recurrent-llama",
        1.1,
        f"{_RETROFITTED} TinyLlama",
    ),
    "recurrent-olmo": Known(
        "smcleish/Recurrent-OLMo-2-0425-train-recurrence-32",
        "recurrent-olmo",
        1.5,
        f"{_RETROFITTED} OLMo 2",
    ),
}


def near(word: str) -> str | None:
    """Return the short name that somebody may have meant."""
    found = get_close_matches(word.lower(), KNOWN, 1, 0.7)
    return found[0] if found else None


def fitting(free: int) -> list[str]:
    """Return the short names of models that run in so many bytes of memory as int4."""
    most = free / IN_MEMORY / INT4_BYTES / 1e9
    return [name for name, model in KNOWN.items() if model.parameters <= most]
