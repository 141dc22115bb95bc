"""Constraints compiled for a model: JSON schemas, regular expressions and grammars."""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from rdlite.config.constraint import Constraint
from rdlite.constrain.closing import Closing
from rdlite.constrain.gate import Gate, Mark
from rdlite.constrain.mask import TokenMask
from rdlite.errors import InputError, RdliteError, RuntimeFailure
from rdlite.tokenizer.thinking import CLOSE
from rdlite.tokenizer.tokenizer import Tokenizer
from rdlite.utils.install import install_hint

if TYPE_CHECKING:
    import llguidance

K = TypeVar("K")
V = TypeVar("V")
#: What is kept of a constraint: its matcher, and the texts of its grammar as tokens.
Compiled: TypeAlias = "tuple[llguidance.LLMatcher, list[list[int]]]"
MAX_LITERALS = 64
#: Between the parts of JSON: nothing, a space, or a new line that is indented. A weak model could
#: write spaces for ever.
WHITESPACE = r" |\n[ \t]{0,20}"
KEPT = 16  # grammars, and marks


class Constraints:
    """Compiles constraints for one model, and keeps those of late. Thread-safe."""

    def __init__(
        self,
        tokenizer: Tokenizer | None,
        vocab_size: int,
        stop_ids: Iterable[int],
        context: int,
    ) -> None:
        """Nothing is loaded before the first constraint.

        Args:
            tokenizer: the model's; None: it has none, and cannot be constrained.
            vocab_size: size V of the vocabulary.
            stop_ids: tokens that end an answer.
            context: the longest text, in tokens.
        """
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._stop_ids = sorted(stop_ids)
        self._context = context
        self._lock = threading.Lock()
        self._trie: llguidance.LLTokenizer | None = None
        self._closing: Closing | None = None
        self._compiled: OrderedDict[tuple[str, str, bool], Compiled] = OrderedDict()
        self._marks: OrderedDict[str, Mark] = OrderedDict()

    def compile(self, constraint: Constraint, max_tokens: int) -> TokenMask:
        """Return the mask of one answer, of up to `max_tokens`.

        Raises:
            InputError: the constraint is not valid or uses what is not supported, or the model has
                no tokenizer or no stop token.
            RuntimeFailure: llguidance is not installed.
        """
        if self._tokenizer is None:
            raise InputError("this bundle has no tokenizer.json, so its text cannot be constrained")
        if not self._stop_ids:
            raise InputError(
                "this model has no token that ends a text, so a constrained text could not end"
            )
        with self._lock:
            key = (constraint.kind, constraint.source, bool(constraint.after))
            found = self._compiled.get(key) or self._compile(self._tokenizer, constraint)
            _keep(self._compiled, key, found)
            matcher, literals = found
            assert self._closing is not None
            return TokenMask(
                matcher.deep_copy(),
                self._vocab_size,
                self._closing,
                max_tokens,
                self._context,
                self._gate(constraint) if constraint.after else None,
                literals,
            )

    def _gate(self, constraint: Constraint) -> Gate:
        assert self._closing is not None
        marks = {}
        for text in (CLOSE, *constraint.after):
            marks[text] = self._marks.get(text) or Mark(text, self._closing.pieces)
            _keep(self._marks, text, marks[text])
        return Gate([marks[text] for text in constraint.after], marks[CLOSE], constraint.optional)

    def _compile(self, tokenizer: Tokenizer, constraint: Constraint) -> Compiled:
        try:
            from llguidance import LLMatcher, LLTokenizer, grammar_from
        except ImportError as problem:
            raise RuntimeFailure(
                f"constraints need llguidance ({problem}): {install_hint('constrain')}"
            ) from None
        if self._trie is None:
            with _contained("tokenizer.json cannot be used for constraints", RuntimeFailure):
                self._trie = LLTokenizer(
                    tokenizer.to_json(), n_vocab=self._vocab_size, eos_token=self._stop_ids
                )
                self._closing = Closing(self._trie)
        with _contained(f"{constraint.kind} cannot be used", InputError):
            match constraint.kind:
                case "json_schema":
                    grammar = LLMatcher.grammar_from_json_schema(
                        constraint.source, {"whitespace_pattern": WHITESPACE}
                    )
                    if constraint.after:
                        grammar = _after_lines(grammar)
                case "regex":
                    grammar = LLMatcher.grammar_from_regex(constraint.source)
                case _:
                    grammar = grammar_from("grammar", constraint.source)
            matcher = LLMatcher(self._trie, grammar, log_level=0)
        if matcher.is_error():
            raise InputError(_explain(constraint.kind, matcher.get_error()))
        texts = _literals(constraint.source) if constraint.kind == "grammar" else []
        return matcher, [self._trie.tokenize_str(text) for text in texts]


def _after_lines(grammar: str) -> str:
    """Let JSON begin on a line of its own, as it does after a block of thinking."""
    parts = json.loads(grammar)["grammars"]
    first = {"lark_grammar": f"start: /\\n{{0,2}}/ @{parts[0]['name']}"}
    return json.dumps({"grammars": [first, *parts]})


def _literals(grammar: str) -> list[str]:
    """Return the quoted texts of a grammar, the longest first, and not too many of them."""
    quoted = set(re.findall(r'"(?:[^"\\\n]|\\.)+"', grammar))
    texts = []
    for text in sorted(quoted, key=lambda text: (-len(text), text))[:MAX_LITERALS]:
        with contextlib.suppress(ValueError):  # Lark has more escapes than JSON
            texts.append(json.loads(text))
    return texts


def _keep(kept: OrderedDict[K, V], key: K, value: V) -> None:
    """Keep a value as the one that was used last, and no more than KEPT of them."""
    kept[key] = value
    kept.move_to_end(key)
    if len(kept) > KEPT:
        kept.popitem(last=False)


def _explain(kind: str, problem: str) -> str:
    """Return what llguidance says of a constraint, as one line."""
    found = re.match(r"Unimplemented keys: (\[.*\])", problem)
    if found:
        names = ", ".join(json.loads(found[1]))
        return f"{kind} uses what is not supported: {names:.200}; leave it out"
    return f"{kind} cannot be used: {' '.join(problem.split())}"[:400]


@contextlib.contextmanager
def _contained(what: str, error: Callable[[str], RdliteError]) -> Iterator[None]:
    """Turn whatever the library raises into `error`; when it panics, that is no Exception."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, GeneratorExit, RdliteError):
        raise
    except BaseException as problem:
        raise error(f"{what}: {' '.join(str(problem).split())}"[:300]) from None
