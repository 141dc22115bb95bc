"""Text to token ids and back, through the tokenizers library; streams never split a character."""

import contextlib
from collections.abc import Iterator, Sequence

from rdlite.errors import BundleError, InputError, RdliteError
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
        """Return the text of token ids, without special tokens."""
        with _contained("the tokens cannot be decoded", InputError):
            text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
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

    def special_token_id(self, text: str) -> int | None:
        """Return the id of the special token written exactly so, or None."""
        token: int | None = self._tokenizer.token_to_id(text)
        added = self._tokenizer.get_added_tokens_decoder()
        return token if token in added and added[token].special else None
