"""Chat templates from strangers: Jinja2 in its immutable sandbox, with bounds on work and size.

On top of the sandbox, every loop iteration and every character made is counted, strings cannot be
multiplied or padded, and only the filters and string methods that chat templates use exist.
"""

import functools
import json
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jinja2
import jinja2.exceptions
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

from rdlite.errors import BundleError, InputError

MAX_TEMPLATE_CHARACTERS = 64 * 1024
MAX_ITERATIONS = 100_000
MAX_RENDERED_CHARACTERS = 16 * 2**20

_FILTERS = """capitalize d default dictsort first float int items join last length list lower map
    reject rejectattr replace reverse safe select selectattr sort string title tojson trim unique
    upper""".split()
_METHODS = """append capitalize count endswith find get index items keys lower lstrip replace
    rstrip split splitlines startswith strip title upper values""".split()


#: What Python raises when a template computes something that cannot be.
_TEMPLATE_FAULTS = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    TypeError,
    ValueError,
)


class _TooMuch(Exception):
    """A template asked for more work or memory than chat templates need."""


class _Sandbox(jinja2.sandbox.ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(["*", "**", "%", "+"])

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            autoescape=False,
            extensions=[_Generation, jinja2.ext.loopcontrols],
        )
        own = {"replace": _replace, "join": _join, "tojson": _to_json}
        self.filters = {name: self._metered(own.get(name, self.filters[name])) for name in _FILTERS}
        self.filters["_counted"] = self._counted
        self.filters["_bounded"] = self._bounded
        self.globals = {
            "raise_exception": _raise_exception,
            "range": self._range,
            "namespace": jinja2.utils.Namespace,
        }
        self.start()

    def start(self) -> None:
        """Give a rendering its budget."""
        self._iterations = 0
        self._characters = 0

    def _parse(self, source: str, name: str | None, filename: str | None) -> jinja2.nodes.Template:
        tree = super()._parse(source, name, filename)
        for loop in tree.find_all(jinja2.nodes.For):
            loop.iter = jinja2.nodes.Filter(loop.iter, "_counted", [], [], None, None)
        for concat in list(tree.find_all(jinja2.nodes.Concat)):
            concat.nodes = [
                jinja2.nodes.Filter(node, "_bounded", [], [], None, None) for node in concat.nodes
            ]
        return tree

    def _iterate(self, count: int) -> None:
        self._iterations += count
        if self._iterations > MAX_ITERATIONS:
            raise _TooMuch(f"more than {MAX_ITERATIONS} loop iterations")

    def _counted(self, values: Iterable[Any]) -> Iterator[Any]:
        for value in values:
            self._iterate(1)
            yield value

    def _range(self, *arguments: int) -> range:
        values = range(*arguments)
        self._iterate(len(values))
        return values

    def _bounded(self, value: Any) -> Any:
        if isinstance(value, str | list | tuple):
            self._characters += len(value)
            if self._characters > MAX_RENDERED_CHARACTERS:
                raise _TooMuch(f"more than {MAX_RENDERED_CHARACTERS} characters")
        return value

    def _metered(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def metered(*args: Any, **kwargs: Any) -> Any:
            return self._bounded(function(*args, **kwargs))

        return metered

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "+":
            return self._bounded(left + right)
        numbers = isinstance(left, int | float) and isinstance(right, int | float)
        if operator == "**" or not numbers:
            raise _TooMuch(f"the operator {operator} on {type(left).__name__}")
        return left * right if operator == "*" else left % right

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, str | bytes | list | tuple | dict) and attr not in _METHODS:
            return False
        return super().is_safe_attribute(obj, attr, value)

    def unsafe_undefined(self, obj: Any, attribute: str) -> Any:
        raise jinja2.exceptions.SecurityError(f"{attribute!r:.60} of a {type(obj).__name__}")

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        owner = getattr(__obj, "__self__", None)
        if isinstance(owner, str) and getattr(__obj, "__name__", "") == "replace":
            return __self._bounded(_replace(owner, *args))
        return __self._bounded(super().call(__context, __obj, *args, **kwargs))


class _Generation(jinja2.ext.Extension):
    """`{% generation %}…{% endgeneration %}`, which marks turns for training: no effect."""

    tags = {"generation"}  # noqa: RUF012  (the base class wants a set)

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _replace(text: str, old: str, new: str, count: int = -1) -> str:
    text, old, new = str(text), str(old), str(new)
    if text.count(old) * len(new) + len(text) > MAX_RENDERED_CHARACTERS:
        raise _TooMuch("a replacement of too many characters")
    return text.replace(old, new, count)


def _join(values: Iterable[Any], separator: str = "", attribute: str | None = None) -> str:
    if attribute is not None:
        values = [value[attribute] for value in values]
    texts = [str(value) for value in values]
    size = sum(map(len, texts)) + len(separator) * len(texts)
    if size > MAX_RENDERED_CHARACTERS:
        raise _TooMuch(f"a text of {size} characters")
    return str(separator).join(texts)


def _to_json(value: Any, indent: int | None = None) -> str:
    # Jinja2's own escapes for HTML, which chat templates do not want.
    return json.dumps(value, ensure_ascii=False, indent=None if indent is None else min(indent, 8))


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


class ChatTemplate:
    """A compiled chat template. Raises BundleError if it does not compile."""

    def __init__(self, source: str, special_tokens: Mapping[str, str] | None = None) -> None:
        if len(source) > MAX_TEMPLATE_CHARACTERS:
            raise BundleError(
                f"the chat template has {len(source)} characters, "
                f"at most {MAX_TEMPLATE_CHARACTERS} are read"
            )
        self._special_tokens = dict(special_tokens or {})
        self._sandbox = _Sandbox()
        self._lock = threading.Lock()
        try:
            self._template = self._sandbox.from_string(source)
        except (jinja2.TemplateError, RecursionError, SyntaxError, ValueError) as problem:
            raise BundleError(f"the chat template cannot be used: {problem}") from None

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
                        raise _TooMuch(f"more than {MAX_RENDERED_CHARACTERS} characters")
        except jinja2.exceptions.SecurityError as problem:
            raise InputError(f"the chat template tried to leave its sandbox: {problem}") from None
        except _TooMuch as problem:
            raise InputError(f"the chat template does more than it may: {problem}") from None
        except (jinja2.TemplateError, RecursionError) as problem:
            raise InputError(f"the chat template refuses this conversation: {problem}") from None
        except _TEMPLATE_FAULTS as problem:
            reason = re.sub(r"\s+", " ", str(problem))[:200]
            raise InputError(f"the chat template fails on this conversation: {reason}") from None
        return "".join(pieces)
