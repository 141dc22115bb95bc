"""Which tokens a constraint allows, token by token; through llguidance."""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from rdlite.config.constraint import Constraint
from rdlite.constrain.closing import HORIZON, Closing
from rdlite.errors import InputError, RdliteError, RuntimeFailure
from rdlite.tokenizer.tokenizer import Tokenizer

if TYPE_CHECKING:
    import llguidance

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
#: Between the parts of JSON: nothing, a space, or a new line that is indented. A weak model could
#: write spaces for ever.
WHITESPACE = r" |\n[ \t]{0,20}"
KEPT_GRAMMARS = 16
STRIDE = 16  # tokens from one look for a way to the end to the next


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
        self._compiled: OrderedDict[Constraint, llguidance.LLMatcher] = OrderedDict()

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
            matcher = self._compiled.get(constraint)
            if matcher is None:
                matcher = self._compile(self._tokenizer, constraint)
                self._compiled[constraint] = matcher
                if len(self._compiled) > KEPT_GRAMMARS:
                    self._compiled.popitem(last=False)
            else:
                self._compiled.move_to_end(constraint)
            assert self._closing is not None
            return TokenMask(
                matcher.deep_copy(), self._vocab_size, self._closing, max_tokens, self._context
            )

    def _compile(self, tokenizer: Tokenizer, constraint: Constraint) -> llguidance.LLMatcher:
        try:
            from llguidance import LLMatcher, LLTokenizer, grammar_from
        except ImportError as problem:
            raise RuntimeFailure(
                f"constraints need llguidance ({problem}); install it with: "
                "pip install 'rdlite[constrain]'"
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
                case "regex":
                    grammar = LLMatcher.grammar_from_regex(constraint.source)
                case _:
                    grammar = grammar_from("grammar", constraint.source)
            matcher = LLMatcher(self._trie, grammar, log_level=0)
        if matcher.is_error():
            raise InputError(_explain(constraint.kind, matcher.get_error()))
        return matcher


class TokenMask:
    """Bars the tokens that would break a constraint: a `LogitRule`.

    Follows drafts too: what was drafted is taken for the text until something else is chosen.
    Shortly before the answer would be cut, only what leads to its end is left.
    """

    def __init__(
        self,
        matcher: llguidance.LLMatcher,
        vocab_size: int,
        closing: Closing,
        max_tokens: int,
        context: int,
    ) -> None:
        """Use `Constraints.compile`."""
        self._closing = closing
        self._max_tokens = max_tokens
        self._context = context
        #: Tokens that the answer can have, and how many of them may be left when it must close.
        self._most = self._margin = 0
        #: Index of the first token of which only the way to the end was left.
        self._closes_at = 0
        self._way: list[int] = []
        #: By index / STRIDE, whether the way to the end takes nearly all that is left.
        self._tight: dict[int, bool] = {}
        self._matcher = matcher
        self._vocab_size = vocab_size
        self._bits = np.zeros(4 * -(-vocab_size // 32), np.uint8)
        self._address = self._bits.ctypes.data
        self._first = 0
        #: The answer, drafts included; how much of it was chosen; how much the matcher has read.
        self._text: list[int] = []
        self._chosen = 0
        self._read = 0
        #: By index in the answer, the tokens that may not stand there: bool [V].
        self._barred: dict[int, npt.NDArray[np.bool_]] = {}
        self._allowed: Integers | None = None  # what `allowed` returned since the last choice

    def begin(self, position: int) -> None:
        """Start an answer whose first token stands at `position`."""
        self._first, self._chosen, self._read = position, 0, 0
        self._most = self._closes_at = min(self._max_tokens, self._context - position + 1)
        self._margin = min(24, self._most // 4)
        self._text.clear()
        self._barred.clear()
        self._tight.clear()
        self._matcher.reset()

    def apply(self, logits: Floats, position: int) -> None:
        """Bar what may not stand at `position`; raises RuntimeFailure if nobody can tell."""
        np.copyto(logits, -np.inf, where=self._barred_at(position - self._first))

    def chose(self, token: int, position: int) -> None:
        """Go on from a token."""
        index = position - self._first
        self._put(index, token)
        self._chosen, self._allowed = index + 1, None
        self._barred.pop(index, None)

    def guessed(self, token: int, position: int) -> None:
        """Go on from a draft, until something else is chosen there."""
        self._put(position - self._first, token)

    def allowed(self) -> Integers | None:
        """Return the ids that may come next, ascending; None before the first token.

        For exit rules that look at predictions. A prompt is read as deeply as without a
        constraint: a first token that is certain would have it read in a single step.
        """
        if not self._chosen:
            return None
        if self._allowed is None:
            self._allowed = np.flatnonzero(~self._barred_at(self._chosen))
        return self._allowed

    def closed(self) -> bool:
        """Whether what was chosen was made to end, because there was no room for more."""
        return self._closes_at < self._chosen

    def _put(self, index: int, token: int) -> None:
        if index < len(self._text):
            if self._text[index] == token:
                return
            del self._text[index:]
            if self._closes_at > index:
                self._closes_at = self._most
            for late in [late for late in self._tight if late * STRIDE > index]:
                del self._tight[late]
            for late in [late for late in self._barred if late > index]:
                del self._barred[late]
            if self._read > index:
                self._matcher.rollback(self._read - index)
                self._read = index
        self._text.append(token)

    def _barred_at(self, index: int) -> npt.NDArray[np.bool_]:
        barred = self._barred.get(index)
        if barred is None:
            self._go_to(index)
            bits = self._bits
            self._matcher.unsafe_compute_mask_ptr(self._address, bits.nbytes)
            if self._matcher.is_error():
                self._fail()
            np.invert(bits, out=bits)
            barred = np.unpackbits(bits, count=self._vocab_size, bitorder="little").view(np.bool_)
            self._close(index, barred)
            self._barred[index] = barred
        return barred

    def _close(self, index: int, barred: npt.NDArray[np.bool_]) -> None:
        """Leave only the next token of the way to the end, if there is room for no other."""
        left = self._most - index
        if index < self._closes_at:
            # A way costs as much as some masks: one is looked for now and then, at the same
            # indices whatever was drafted, and at each only where the last one has become tight.
            if left > HORIZON or (index % STRIDE and not self._tight.get(index // STRIDE)):
                return
            way = self._closing.way(self._matcher.deep_copy(), left)
            if index % STRIDE == 0:
                long = HORIZON if way is None else len(way)
                self._tight[index // STRIDE] = long + self._margin + 2 * STRIDE >= left
            if way is None or len(way) + self._margin < left:
                return
            self._closes_at, self._way = index, way
        done = index - self._closes_at
        if done < len(self._way):
            barred.fill(True)
            barred[self._way[done]] = False
        else:
            barred |= ~self._closing.stops

    def _go_to(self, index: int) -> None:
        """Let the matcher have read exactly the first `index` tokens."""
        if self._read > index:
            self._matcher.rollback(self._read - index)
        elif self._read < index and not self._matcher.consume_tokens(
            self._text[self._read : index]
        ):
            self._fail()
        self._read = index

    def _fail(self) -> None:
        problem = " ".join(self._matcher.get_error().split())[:200]
        raise RuntimeFailure(f"the constraint cannot be followed any further: {problem}")


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
