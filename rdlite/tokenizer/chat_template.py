"""Chat templates: messages to the text that the model was trained on."""

import json
import re
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import jinja2.exceptions
import jinja2.meta

from rdlite.errors import BundleError, InputError
from rdlite.tokenizer.template_functions import MAX_RENDERED_CHARACTERS, TooMuch
from rdlite.tokenizer.template_sandbox import Sandbox

MAX_TEMPLATE_CHARACTERS = 64 * 1024
MAX_VARIABLES, MAX_VARIABLE_CHARACTERS = 64, 64 * 1024
#: What a rendering brings itself.
OWN_VARIABLES = ("messages", "add_generation_prompt", "tools")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
#: Names under which programs keep what a model thought before it answered; the first is the one
#: that templates read.
_THOUGHTS = ("reasoning_content", "thinking", "reasoning")


class ChatTemplate:
    """A compiled chat template. Raises BundleError if it does not compile."""

    def __init__(self, source: str, special_tokens: Mapping[str, str] | None = None) -> None:
        if len(source) > MAX_TEMPLATE_CHARACTERS:
            raise BundleError(
                f"the chat template has {len(source)} characters, "
                f"at most {MAX_TEMPLATE_CHARACTERS} are allowed"
            )
        self._special_tokens = dict(special_tokens or {})
        self._sandbox = Sandbox()
        self._lock = threading.Lock()
        try:
            self._template = self._sandbox.from_string(source)
            names = jinja2.meta.find_undeclared_variables(self._sandbox.parse(source))
        except Exception as problem:  # a stranger's program can break the compiler in many ways
            raise BundleError(f"the chat template cannot be used: {_line(problem)}") from None
        #: Names of the variables of its own that it asks for, like enable_thinking.
        self.variables = frozenset(
            names - {*OWN_VARIABLES, *self._sandbox.globals, *self._special_tokens}
        )

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        template_variables: Mapping[str, Any] | None = None,
    ) -> str:
        """Return the text of a conversation, ready to be encoded without special tokens.

        The text is the one that transformers' `apply_chat_template` makes of it.

        Args:
            messages: each with `role` ("system", "user", "assistant"), `content`, and what else the
                template asks for, like `reasoning_content`; what is None is left out.
            add_generation_prompt: end with the header of the assistant's next turn.
            tools: JSON schemas of functions that the model may call.
            template_variables: the template's own, see `variables`; it decides what they do.

        Raises:
            InputError: a variable is out of bounds, or the template refuses these messages, or does
                what templates may not do.
        """
        pieces, size = [], 0
        values: dict[str, Any] = {
            # Templates ask whether these are none, so they have to be something.
            "tools": None if tools is None else [dict(tool) for tool in tools],
            "documents": None,
            **self._special_tokens,
            **check_variables(template_variables or {}),
        }
        try:
            with self._lock:  # the budget is the sandbox's, so renderings take turns
                self._sandbox.start()
                for piece in self._template.generate(
                    values,
                    messages=[_plain(message) for message in messages],
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
        except RecursionError:
            raise InputError(
                "the chat template does more than it may: its macros call themselves too deep"
            ) from None
        except jinja2.TemplateError as problem:
            raise InputError(
                f"the chat template refuses this conversation: {_line(problem)}"
            ) from None
        except Exception as problem:  # a stranger's program can raise anything
            raise InputError(
                f"the chat template fails on this conversation: {_line(problem)}"
            ) from None
        return "".join(pieces)


def check_variables(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Return variables of a template; raises InputError for what may be none.

    Args:
        variables: JSON by name.
    """
    if len(variables) > MAX_VARIABLES:
        raise InputError(
            f"there are {len(variables)} template variables, at most {MAX_VARIABLES} are read"
        )
    for name in variables:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise InputError(f"the template variable {name!r:.60} is not a name")
        if name in OWN_VARIABLES:
            raise InputError(
                f"the template variable {name!r} cannot be set: it comes from the request itself"
            )
    try:
        size = len(json.dumps(variables, allow_nan=False))
    except (TypeError, ValueError, RecursionError):
        raise InputError("template variables must be what JSON can say") from None
    if size > MAX_VARIABLE_CHARACTERS:
        raise InputError(
            f"template variables have {size} characters as JSON, at most {MAX_VARIABLE_CHARACTERS} "
            "are read"
        )
    return dict(variables)


def _plain(message: Mapping[str, Any]) -> dict[str, Any]:
    """Return a message as templates expect it: nothing that is None, thoughts under their name."""
    given = {key: value for key, value in message.items() if value is not None}
    thought = next((given[name] for name in _THOUGHTS if name in given), None)
    return given if thought is None else {"thinking": thought, **given, _THOUGHTS[0]: thought}


def _line(problem: Exception) -> str:
    if isinstance(problem, jinja2.TemplateSyntaxError):
        return f"line {problem.lineno}: " + " ".join(str(problem.message).split())[:200]
    return " ".join(str(problem).split())[:200]
