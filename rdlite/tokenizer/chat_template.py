"""Chat templates: messages to the text that the model was trained on."""

import threading
from collections.abc import Mapping, Sequence

import jinja2
import jinja2.exceptions

from rdlite.errors import BundleError, InputError
from rdlite.tokenizer.template_sandbox import MAX_RENDERED_CHARACTERS, Sandbox, TooMuch

MAX_TEMPLATE_CHARACTERS = 64 * 1024


class ChatTemplate:
    """A compiled chat template. Raises BundleError if it does not compile."""

    def __init__(self, source: str, special_tokens: Mapping[str, str] | None = None) -> None:
        if len(source) > MAX_TEMPLATE_CHARACTERS:
            raise BundleError(
                f"the chat template has {len(source)} characters, "
                f"at most {MAX_TEMPLATE_CHARACTERS} are read"
            )
        self._special_tokens = dict(special_tokens or {})
        self._sandbox = Sandbox()
        self._lock = threading.Lock()
        try:
            self._template = self._sandbox.from_string(source)
        except Exception as problem:  # a stranger's program can break the compiler in many ways
            raise BundleError(f"the chat template cannot be used: {_line(problem)}") from None

    def render(
        self, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Return the text of a conversation, ready to be encoded without special tokens.

        Args:
            messages: each with `role` ("system", "user", "assistant") and `content`.
            add_generation_prompt: end with the header of the assistant's next turn.

        Raises:
            InputError: the template refuses these messages, or does what templates may not do.
        """
        pieces, size = [], 0
        try:
            with self._lock:  # the budget is the sandbox's, so renderings take turns
                self._sandbox.start()
                for piece in self._template.generate(
                    self._special_tokens,
                    messages=[dict(message) for message in messages],
                    add_generation_prompt=add_generation_prompt,
                ):
                    pieces.append(piece)
                    size += len(piece)
                    if size > MAX_RENDERED_CHARACTERS:
                        raise TooMuch(f"more than {MAX_RENDERED_CHARACTERS} characters")
        except jinja2.exceptions.SecurityError as problem:
            raise InputError(f"the chat template tried to leave its sandbox: {problem}") from None
        except TooMuch as problem:
            raise InputError(f"the chat template does more than it may: {problem}") from None
        except jinja2.TemplateError as problem:
            raise InputError(
                f"the chat template refuses this conversation: {_line(problem)}"
            ) from None
        except Exception as problem:  # a stranger's program can raise anything
            raise InputError(
                f"the chat template fails on this conversation: {_line(problem)}"
            ) from None
        return "".join(pieces)


def _line(problem: Exception) -> str:
    return " ".join(str(problem).split())[:200]
