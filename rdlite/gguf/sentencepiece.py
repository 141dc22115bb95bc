"""Tokenizers that llama.cpp calls "llama": words with ▁ for a space, and bytes for what is unknown.

Such a file has a score for each token where a tokenizer.json has merges. llama.cpp joins the two
neighbours whose token has the best score, so every way to put a token together is a merge, and
merges come in the order of scores.
"""

from collections.abc import Mapping, Sequence
from typing import Any

SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
#: Kinds of components of a tokenizer.json that put a space before a text.
PREPENDS = ("Prepend", "Metaspace")


def merges_of(scores: Mapping[str, float]) -> list[tuple[str, str]]:
    """Return the merges of tokens with scores, the best first."""
    found = [
        (-score, token, at)
        for token, score in scores.items()
        for at in range(1, len(token))
        if token[:at] in scores and token[at:] in scores
    ]
    found.sort()
    return [(token[:at], token[at:]) for _, token, at in found]


def from_pieces(
    tokens: Sequence[str],
    scores: Sequence[float],
    skipped: set[int],
    apart: set[int],
    unknown: str | None,
    prefixed: bool,
) -> dict[str, Any]:
    """Return normalizer, pre_tokenizer, decoder and model of a tokenizer.json.

    Args:
        tokens: by their ids.
        scores: of each.
        skipped: ids that are no tokens.
        apart: ids that are never put together from others: special ones and bytes.
        unknown: the token for what is none, if there is one.
        prefixed: whether a space is put before a text.
    """
    vocabulary = {token: id for id, token in enumerate(tokens) if id not in skipped}
    joined = {token: float(scores[id]) for token, id in vocabulary.items() if id not in apart}
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    back = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
    prepend = [{"type": "Prepend", "prepend": SPACE}] if prefixed else []
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefixed else []
    return {
        "normalizer": {"type": "Sequence", "normalizers": [*prepend, replace]},
        "pre_tokenizer": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [back, {"type": "ByteFallback"}, {"type": "Fuse"}, *strip],
        },
        "model": {
            "type": "BPE",
            "vocab": vocabulary,
            "merges": [list(pair) for pair in merges_of(joined)],
            "byte_fallback": True,
            "fuse_unk": True,
            "unk_token": unknown,
        },
    }


def prefixes(tokenizer: Mapping[str, Any]) -> bool:
    """Whether a tokenizer.json puts a space before a text."""

    def does(component: Any) -> bool:
        if not isinstance(component, dict):
            return False
        inner = component.get("normalizers") or component.get("pretokenizers") or []
        kind = component.get("type")
        scheme = component.get("prepend_scheme")
        spaced = scheme != "never" if scheme else component.get("add_prefix_space", True)
        return (kind in PREPENDS and bool(spaced)) or any(map(does, inner))

    return does(tokenizer.get("normalizer")) or does(tokenizer.get("pre_tokenizer"))
