"""What a request may say of functions: tools, tool_choice, parallel_tool_calls."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from rdlite.api.model import Model
from rdlite.errors import ContextError, InputError
from rdlite.serve.requests.strict import MAX_LABEL, Strict
from rdlite.tools.syntax import NO_TOOLS
from rdlite.tools.toolset import MAX_FUNCTIONS, Tools

#: Functions, which the model's syntax decides about.
Functions = Annotated[list[dict[str, Any]], Field(max_length=MAX_FUNCTIONS)]


class ParameterError(InputError):
    """A parameter asks for what cannot be done.

    Attributes:
        param: its name.
    """

    def __init__(self, message: str, param: str) -> None:
        super().__init__(message)
        self.param = param


class ChosenFunction(Strict):
    """The name of a function."""

    name: str = Field(max_length=MAX_LABEL)


class FunctionChoice(Strict):
    """The one function to call."""

    type: Literal["function"]
    function: ChosenFunction


ToolChoice = Literal["none", "auto", "required"] | FunctionChoice


def chosen(choice: ToolChoice | None) -> str | None:
    """Return "none", "auto", "required" or the name of the function to call, if one is given."""
    return choice.function.name if isinstance(choice, FunctionChoice) else choice


@contextlib.contextmanager
def naming(param: str) -> Iterator[None]:
    """Say of what is wrong inside that it is a parameter's fault."""
    try:
        yield
    except (ParameterError, ContextError):
        raise
    except InputError as problem:
        raise ParameterError(str(problem), param) from None


def tools_for(
    model: Model, functions: Sequence[dict[str, Any]] | None, choice: str | None, called: bool
) -> Tools | None:
    """Return the functions that an answer may call; None: it calls none.

    Args:
        model: that answers.
        functions: as the request has them.
        choice: "none", "auto", "required" or a function's name; None: "auto" if there are any.
        called: whether functions were called earlier in the conversation.

    Raises:
        ParameterError: the model has no tools, or they are none.
    """
    if called and model.tool_syntax is None:
        raise ParameterError(f"messages have calls of functions, but {NO_TOOLS}", "messages")
    if not functions:
        if choice in (None, "none", "auto"):
            return None
        raise ParameterError(f"tool_choice {choice!r:.60} needs tools", "tool_choice")
    if choice == "none":
        return None
    with naming("tools"):
        return model.tools(functions)
