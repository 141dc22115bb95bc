"""Chat templates from strangers: Jinja2 in its immutable sandbox, with bounds on work and size.

On top of the sandbox, only the constructs, filters and methods that chat templates use exist (no
macros, no blocks), work in loops and characters handled have a budget, and containers and numbers
have bounds.
"""

import functools
import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jinja2
import jinja2.exceptions
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.runtime
import jinja2.sandbox

from rdlite.errors import BundleError, InputError

MAX_TEMPLATE_CHARACTERS = 64 * 1024
MAX_RENDERED_CHARACTERS = 16 * 2**20
#: What one rendering may do: nodes evaluated in loops, and characters made or looked at.
MAX_WORK, MAX_CHARACTERS = 4 * 2**20, 64 * 2**20
MAX_CONTAINER_ITEMS, MAX_CONTAINER_DEPTH, MAX_INTEGER = 10_000, 50, 2**63

_FILTERS = """capitalize d default dictsort first float int items join last length list lower map
    reject rejectattr replace reverse safe select selectattr sort string title tojson trim unique
    upper""".split()
_METHODS = frozenset(
    """capitalize count endswith find get index items keys lower lstrip replace rstrip split
    splitlines startswith strip title upper values""".split()
)
_LOOP = frozenset(
    """changed cycle depth depth0 first index index0 last length nextitem previtem revindex
    revindex0""".split()
)
#: What chat templates are written with. Without macros, blocks and recursive loops, work can only
#: be repeated by loops, and those are counted.
_NODES = tuple(
    getattr(jinja2.nodes, name)
    for name in """Template Output TemplateData Scope If For Assign NSRef Name Const List Dict Pair
    Tuple Getattr Getitem Slice Filter Test Call Keyword Compare Operand And Or Not Neg Pos Add Sub
    Mul Div FloorDiv Mod Concat CondExpr Break Continue""".split()
)


class _TooMuch(Exception):
    """A template asked for more work or memory than chat templates need."""


class _Sandbox(jinja2.sandbox.ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(["*", "**", "%", "+", "-", "/", "//"])

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            autoescape=False,
            optimized=False,  # constants are folded outside any budget
            extensions=[_Generation, jinja2.ext.loopcontrols],
        )
        own = {"replace": _replace, "join": _join, "tojson": _to_json, "int": _to_int}
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
        self._work = 0
        self._characters = 0

    def _parse(self, source: str, name: str | None, filename: str | None) -> jinja2.nodes.Template:
        tree = super()._parse(source, name, filename)
        for node in tree.find_all(jinja2.nodes.Node):
            if type(node) not in _NODES:
                kind = type(node).__name__
                raise jinja2.TemplateSyntaxError(f"{kind} is not read", node.lineno or 0)
        for loop in list(tree.find_all(jinja2.nodes.For)):
            if loop.recursive:
                raise jinja2.TemplateSyntaxError("recursive loops are not read", loop.lineno)
            weight = sum(1 for _ in loop.find_all(jinja2.nodes.Node))
            loop.iter = _filter(loop.iter, "_counted", jinja2.nodes.Const(weight))
        for concat in list(tree.find_all(jinja2.nodes.Concat)):
            concat.nodes = [_filter(node, "_bounded") for node in concat.nodes]
        for compare in list(tree.find_all(jinja2.nodes.Compare)):
            compare.expr = _filter(compare.expr, "_bounded")
            for operand in compare.ops:
                operand.expr = _filter(operand.expr, "_bounded")
        _bound_containers(tree)
        return tree

    def _spend(self, work: int) -> None:
        self._work += work
        if self._work > MAX_WORK:
            raise _TooMuch("its loops go on for too long")

    def _counted(self, values: Iterable[Any], weight: int) -> Iterator[Any]:
        for value in values:
            self._spend(weight)
            yield value

    def _range(self, *arguments: int) -> range:
        values = range(*arguments)
        self._spend(len(values))
        return values

    def _bounded(self, value: Any) -> Any:
        if isinstance(value, str):
            self._characters += len(value)
            if self._characters > MAX_CHARACTERS:
                raise _TooMuch(f"it handles more than {MAX_CHARACTERS} characters")
        elif isinstance(value, list | tuple | dict):
            _measure(value)
        elif isinstance(value, int) and abs(value) > MAX_INTEGER:
            raise _TooMuch("an integer is too large")
        return value

    def _metered(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def metered(*args: Any, **kwargs: Any) -> Any:
            for value in args:
                self._bounded(value)
            return self._bounded(function(*args, **kwargs))

        return metered

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        self._bounded(left)
        self._bounded(right)
        numbers = isinstance(left, int | float) and isinstance(right, int | float)
        if operator == "**" or not (numbers or operator == "+"):
            raise _TooMuch(f"the operator {operator} on {type(left).__name__} is not read")
        return self._bounded(super().call_binop(context, operator, left, right))

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, jinja2.runtime.LoopContext):
            return attr in _LOOP
        if isinstance(obj, jinja2.utils.Namespace):
            return not attr.startswith("_")
        return isinstance(obj, str | list | tuple | dict) and attr in _METHODS

    def unsafe_undefined(self, obj: Any, attribute: str) -> Any:
        raise jinja2.exceptions.SecurityError(f"{attribute!r:.60} of a {type(obj).__name__}")

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        owner = getattr(__obj, "__self__", None)
        for value in (owner, *args):
            __self._bounded(value)
        if isinstance(owner, str) and getattr(__obj, "__name__", "") == "replace":
            return __self._bounded(_replace(owner, *args))
        return __self._bounded(super().call(__context, __obj, *args, **kwargs))


def _filter(node: Any, name: str, *arguments: jinja2.nodes.Expr) -> jinja2.nodes.Filter:
    return jinja2.nodes.Filter(node, name, list(arguments), [], None, None)


def _bound_containers(node: Any) -> Any:
    """Put a filter around every list, tuple and dictionary that the template makes."""
    for field, value in list(node.iter_fields()):
        if isinstance(value, jinja2.nodes.Node):
            setattr(node, field, _bound_containers(value))
        elif isinstance(value, list):
            value[:] = [
                _bound_containers(item) if isinstance(item, jinja2.nodes.Node) else item
                for item in value
            ]
    made = isinstance(node, jinja2.nodes.List | jinja2.nodes.Dict) or (
        isinstance(node, jinja2.nodes.Tuple) and node.ctx == "load"
    )
    return _filter(node, "_bounded") if made else node


def _measure(value: Any) -> None:
    """Raise _TooMuch for a container of too many items, counted as often as they appear in it."""
    items, left = 0, [(value, 0)]
    while left:
        container, depth = left.pop()
        children = container.values() if isinstance(container, dict) else container
        items += len(container)
        if items > MAX_CONTAINER_ITEMS or depth > MAX_CONTAINER_DEPTH:
            raise _TooMuch(f"a list of more than {MAX_CONTAINER_ITEMS} items, or nested too deep")
        left += [(c, depth + 1) for c in children if isinstance(c, list | tuple | dict)]


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


def _to_int(value: Any, default: int = 0, base: int = 10) -> int:
    if isinstance(value, str) and len(value) > 20:
        return default
    try:
        return int(value, base) if isinstance(value, str) else int(value)
    except (TypeError, ValueError, OverflowError):
        return default


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
                        raise _TooMuch(f"more than {MAX_RENDERED_CHARACTERS} characters")
        except jinja2.exceptions.SecurityError as problem:
            raise InputError(f"the chat template tried to leave its sandbox: {problem}") from None
        except _TooMuch as problem:
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
