"""Text to token ids and back, through the tokenizers library; streams never split a character."""

import contextlib
from collections.abc import Iterator, Sequence

from rdlite.errors import BundleError, InputError, RdliteError
from rdlite.tokenizer.marks import is_mark
from rdlite.tokenizer.validate import check_tokenizer

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
MAX_TEXT_CHARACTERS = 16 * 2**20


@contextlib.contextmanager
def _contained(what: str, error: type[RdliteError]) -> Iterator[None]:
    """Turn whatever the library raises into `error`; when it panics, that is no Exception."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as problem:
        raise error(f"{what}: {problem}"[:300]) from None


class Tokenizer:
    """A tokenizer.json in use. Thread-safe."""

    def __init__(self, data: bytes, vocab_size: int) -> None:
        """Parse tokenizer.json; raises BundleError if it is broken or has too many tokens."""
        import tokenizers

        check_tokenizer(data, vocab_size)
        with _contained("tokenizer.json cannot be used", BundleError):
            self._tokenizer = tokenizers.Tokenizer.from_str(data.decode())
            # A prompt is never cut or padded without a word.
            self._tokenizer.no_truncation()
            self._tokenizer.no_padding()
            added = self._tokenizer.get_added_tokens_decoder()
        contents = {token.content for token in added.values()}
        #: Special tokens that mean something to the machine alone, and have no text.
        self._hidden = frozenset(
            id
            for id, token in added.items()
            if token.special and not is_mark(token.content, contents)
        )

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Return token ids. Raises InputError for text that cannot be encoded."""
        if not isinstance(text, str):
            raise InputError(f"a prompt must be text or token ids, got {type(text).__name__}")
        if len(text) > MAX_TEXT_CHARACTERS:
            raise InputError(f"the text has {len(text)} characters, at most {MAX_TEXT_CHARACTERS}")
        with _contained("the text cannot be encoded", InputError):
            encoding = self._tokenizer.encode(text, add_special_tokens=add_special_tokens)
        ids: list[int] = encoding.ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids, without special tokens but those that mark a part of it."""
        shown = [id for id in ids if id not in self._hidden]
        with _contained("the tokens cannot be decoded", InputError):
            text: str = self._tokenizer.decode(shown, skip_special_tokens=False)
        return text

    def written(self, token: int) -> str:
        """Return how a token is written: its text, or its name where it has none of its own.

        Special tokens have names, and those that are parts of characters.
        """
        text = self.decode([token])
        if text and REPLACEMENT not in text:
            return text
        name: str | None = self._tokenizer.id_to_token(token)
        return f"#{token}" if name is None else name

    def to_json(self) -> str:
        """Return its tokenizer.json, as it is used."""
        text: str = self._tokenizer.to_str()
        return text

    def same_vocabulary(self, other: "Tokenizer") -> bool:
        """Whether every id stands for the same token in both."""
        vocabulary: bool = self._tokenizer.get_vocab() == other._tokenizer.get_vocab()
        return vocabulary

    def token_id(self, text: str) -> int | None:
        """Return the id of the token written exactly so, or None."""
        token: int | None = self._tokenizer.token_to_id(text)
        return token

    def name(self, token: int) -> str | None:
        """Return how the vocabulary writes a token, or None if it has no such id."""
        name: str | None = self._tokenizer.id_to_token(token)
        return name

    def special_token_id(self, text: str) -> int | None:
        """Return the id of the special token written exactly so, or None."""
        token = self.token_id(text)
        added = self.added_tokens()
        return token if token in added and added[token][1] else None

    def added_tokens(self) -> dict[int, tuple[str, bool]]:
        """Return the tokens added to the vocabulary: how they are written, and if special."""
        added = self._tokenizer.get_added_tokens_decoder()
        return {id: (token.content, token.special) for id, token in added.items()}
