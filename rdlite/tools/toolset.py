"""The functions of one conversation: what the template is told, the constraint, and the calls."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rdlite.config.constraint import Constraint
from rdlite.errors import InputError
from rdlite.tokenizer.thinking import CLOSE, split_thinking
from rdlite.tokenizer.tokenizer import Tokenizer
from rdlite.tools.function import read_function
from rdlite.tools.grammar import arguments_schema, call_rules, values_of
from rdlite.tools.splitter import ArgumentsPart, CallBegins, CallSplitter
from rdlite.tools.syntax import ToolSyntax
from rdlite.tools.values import in_place, regex_terminal

MAX_FUNCTIONS = 128
CHOICES = ("auto", "required")


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that a model asks for.

    Attributes:
        name: of the function.
        arguments: JSON, an object; cut off if the answer was.
    """

    name: str
    arguments: str


class Tools:
    """Functions that a model may call in its answers. Thread-safe."""

    def __init__(
        self,
        functions: Sequence[object],
        syntax: ToolSyntax,
        tokenizer: Tokenizer,
        check: Callable[[Constraint], None],
    ) -> None:
        """Use `Model.tools`."""
        if not 0 < len(functions) <= MAX_FUNCTIONS:
            raise InputError(f"tools must be 1 to {MAX_FUNCTIONS} functions, got {len(functions)}")
        self._functions = [
            read_function(given, f"tools[{index}]") for index, given in enumerate(functions)
        ]
        #: Names of the functions.
        self.names = [function.name for function in self._functions]
        if len(set(self.names)) < len(self.names):
            twice = next(name for name in self.names if self.names.count(name) > 1)
            raise InputError(f"tools has the function {twice!r} twice; names must differ")
        self._syntax, self._check = syntax, check
        self._values = [
            values_of(function, f"tools[{index}].function.parameters") if syntax.key else {}
            for index, function in enumerate(self._functions)
        ]
        self._token_id = tokenizer.token_id
        written = (text for text, _ in tokenizer.added_tokens().values())
        self._added = sorted(filter(None, written), key=len, reverse=True)

    @property
    def definitions(self) -> list[dict[str, Any]]:
        """What `Model.encode_chat` and chat templates take as `tools`."""
        return [function.for_template() for function in self._functions]

    def constraint(
        self,
        choice: str = "auto",
        parallel: bool = True,
        thinking: bool = False,
        content: Constraint | None = None,
    ) -> Constraint:
        """Return what an answer must look like.

        Args:
            choice: "auto": the model says something, calls functions, or both; "required": it calls
                functions; a function's name: it calls that one.
            parallel: whether there may be several calls.
            thinking: whether the prompt has opened a block of thinking, which comes first.
            content: what an answer without calls must look like ("auto").

        Raises:
            InputError: there is no such function, or the schema of one cannot be kept.
        """
        if choice not in CHOICES and choice not in self.names:
            raise InputError(
                f"tool_choice must be auto, required or a function of tools, got {choice!r:.60}"
            )
        chosen = [i for i, name in enumerate(self.names) if choice in (*CHOICES, name)]
        functions = [self._functions[i] for i in chosen]
        values = [self._values[i] for i in chosen]
        rules = call_rules(self._syntax, functions, values, self._added, self._token_id)
        free = choice == "auto" and content is None
        more = " (between head call)*" if parallel else ""
        # Where the answer is free, its constraint begins after the mark of the first call.
        calls = f"{'after_mark' if free else 'head'} call{more}"
        if choice == "auto" and content is not None:
            calls += " | content"
            rules += _content_rules(content)
        lines = "" if free or not thinking else r"/\n{0,2}/ "
        after = [CLOSE] if thinking else []
        constraint = Constraint(
            grammar="\n".join([f"start: {lines}calls", f"calls: {calls}", *rules]),
            after=[*after, self._syntax.mark] if free else after,
            optional=free,
        )
        try:
            self._check(constraint)
        except InputError:
            self._blame(content)
            raise
        return constraint

    def splitter(self) -> CallSplitter:
        """Return what tells the calls of one answer from its text, as it comes."""
        return CallSplitter(self._syntax, dict(zip(self.names, self._values, strict=True)))

    def parse(self, text: str, thinking: bool = False) -> tuple[str, list[ToolCall]]:
        """Return what a whole answer says, without its thinking, and the calls in it.

        Args:
            text: of the answer.
            thinking: whether the prompt has opened a block of thinking.
        """
        splitter = self.splitter()
        parts = splitter.push(split_thinking(text, thinking).content) + splitter.finish()
        said, names, arguments = "", [], []
        for part in parts:
            if isinstance(part, CallBegins):
                names.append(part.name)
                arguments.append("")
            elif isinstance(part, ArgumentsPart):
                arguments[part.index] += part.text
            else:
                said += part.text
        return said, [ToolCall(*pair) for pair in zip(names, arguments, strict=True)]

    def _blame(self, content: Constraint | None) -> None:
        """Raise InputError for the first schema that cannot be kept, if there is one."""
        schemas = [
            (f"tools[{index}].function.parameters", arguments_schema(function))
            for index, function in enumerate(self._functions)
        ]
        for where, schema in schemas:
            try:
                self._check(Constraint(json_schema=schema))
            except InputError as problem:
                raise InputError(f"{where}: {problem}") from None
        if content is not None:
            self._check(content)


def _content_rules(content: Constraint) -> list[str]:
    match content.kind:
        case "json_schema":
            schema = json.dumps(in_place(json.loads(content.source), {}))
            return [f"content: %json {schema}"]
        case "regex":
            return ["content: CONTENT", f"CONTENT: {regex_terminal(content.source)}"]
    raise InputError("tools and grammar exclude each other; give a regex or a JSON schema")
