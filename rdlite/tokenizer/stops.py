"""Where answers end: one rule for all that the files of a model say of it.

The files of many models disagree. So an answer ends at every token that any of them calls the end,
if it can be one: a token of the vocabulary, none of ordinary text, none that opens or closes
thinking. See docs/stops.md.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from rdlite.errors import RdliteError
from rdlite.tokenizer.chat_template import ChatTemplate
from rdlite.tokenizer.marks import is_thinking_mark
from rdlite.tokenizer.tokenizer import Tokenizer

#: How tokens are written that are there for the machine.
_CONTROL = re.compile(r"<\|?[^<>\s]{1,60}\|?>|\[[A-Z_/]{2,40}\]")
_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
#: What stands after an answer and looks like a mark, though it may be several tokens.
_MARK = re.compile(r"<\|[^<>|\s]{1,60}\|>|<end_of_turn>|</s>")
_ANSWER = "rdliteanswer"
TEMPLATE = "chat template"


@dataclass(slots=True)
class Stops:
    """Where answers end, and who says so.

    Attributes:
        ids: token id -> the sources that name it.
        strings: text -> likewise.
        ignored: what a source names and is no end -> why.
    """

    ids: dict[int, list[str]] = field(default_factory=dict)
    strings: dict[str, list[str]] = field(default_factory=dict)
    ignored: dict[str, str] = field(default_factory=dict)

    def add(self, id: int, source: str) -> None:
        """Take a token."""
        sources = self.ids.setdefault(id, [])
        if source not in sources:
            sources.append(source)

    def sources(self) -> dict[str, str]:
        """Return who names each, by what a generation_config.json of a bundle calls it."""
        names = {str(id): ", ".join(said) for id, said in self.ids.items()}
        return names | {text: ", ".join(said) for text, said in self.strings.items()}


def find_stops(
    ids: Iterable[tuple[str, int]],
    tokens: Iterable[tuple[str, str]],
    tokenizer: Tokenizer | None,
    template: ChatTemplate | None,
    vocab_size: int,
    special_tokens: Mapping[str, str] | None = None,
) -> Stops:
    """Return where answers end.

    Args:
        ids: pairs of a source, like "config.json", and a token id that it calls the end.
        tokens: likewise, of tokens as they are written.
        tokenizer: None: nothing is known of the tokens but how many there are.
        template: what it puts after an answer ends one.
        vocab_size: of the model.
        special_tokens: that the tokenizer's config names: these are not ordinary text.
    """
    stops = Stops()
    named = set((special_tokens or {}).values())
    for source, id in ids:
        why = _no_end(id, tokenizer, vocab_size, named)
        if why is None:
            stops.add(id, source)
        else:
            stops.ignored[f"{id} ({source})"] = why
    for source, text in tokens:
        found = tokenizer.token_id(text) if tokenizer else None
        if found is None or found >= vocab_size:
            continue
        if is_thinking_mark(text):
            stops.ignored[f"{text} ({source})"] = "it is a mark of thinking"
        elif text in named or _no_end(found, tokenizer, vocab_size, named) is None:
            stops.add(found, source)
    if tokenizer is not None and template is not None:
        _ask_template(stops, tokenizer, template, vocab_size, named)
    return stops


def _no_end(id: int, tokenizer: Tokenizer | None, vocab_size: int, named: set[str]) -> str | None:
    """Why a token cannot end answers; None if it can."""
    if not 0 <= id < vocab_size:
        return f"outside 0 to {vocab_size - 1}"
    if tokenizer is None:
        return None
    text = tokenizer.name(id)
    if text is None:
        return "the tokenizer has no such token"
    if is_thinking_mark(text):
        return f"{text} is a mark of thinking"
    _, special = tokenizer.added_tokens().get(id, (text, False))
    if special or text in named or (_CONTROL.fullmatch(text) and not _BYTE.fullmatch(text)):
        return None
    return f"{text!r:.40} is ordinary text"


def _ask_template(
    stops: Stops, tokenizer: Tokenizer, template: ChatTemplate, vocab_size: int, named: set[str]
) -> None:
    """Take what follows an answer in the template's text, if that is a token or looks like one."""
    added = sorted((text for text, _ in tokenizer.added_tokens().values()), key=len, reverse=True)
    question = {"role": "user", "content": "question"}
    talk = [question, {"role": "assistant", "content": _ANSWER}]
    for messages in (talk, [*talk, question]):
        try:
            text = template.render(messages, add_generation_prompt=False)
        except RdliteError:  # it may want what nobody can guess
            continue
        after = text.rpartition(_ANSWER)[2].lstrip()
        if _ANSWER not in text or not after:
            continue
        mark = next((token for token in added if token and after.startswith(token)), None)
        id = None if mark is None else tokenizer.token_id(mark)
        if id is not None:
            if _no_end(id, tokenizer, vocab_size, named) is None:
                stops.add(id, TEMPLATE)
        elif found := _MARK.match(after):
            id = tokenizer.token_id(found[0])  # in the vocabulary, though not among the added
            if id is None:
                stops.strings.setdefault(found[0], [TEMPLATE])
            elif id < vocab_size:
                stops.add(id, TEMPLATE)
