"""Where chat templates from strangers run: Jinja2's immutable sandbox, with bounds on work.

On top of the sandbox, only the constructs, filters and methods that chat templates use exist (no
macros, no blocks), work in loops and characters handled have a budget, and containers and numbers
have bounds.
"""

import functools
import json
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any

import jinja2
import jinja2.exceptions
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.runtime
import jinja2.sandbox

MAX_RENDERED_CHARACTERS = 4 * 2**20
#: What one rendering may do: nodes evaluated in loops, and characters made or looked at.
MAX_WORK, MAX_CHARACTERS = 4 * 2**20, 32 * 2**20
ITERATOR_WORK = 8  # for each item of a lazy filter
MAX_CONTAINER_ITEMS, MAX_CONTAINER_DEPTH, MAX_INTEGER = 10_000, 50, 2**63

_FILTERS = """capitalize d default dictsort first float int items join last length list lower map
    reject rejectattr replace reverse safe select selectattr sort string title tojson trim unique
    upper""".split()
_TESTS = """== != < <= > >= boolean defined divisibleby eq equalto even false float ge gt in integer
    iterable le lt mapping ne none number odd sameas sequence string true undefined""".split()
#: Those whose work does not grow with what they are given.
_CONSTANT_FILTERS = frozenset("d default first last length safe".split())
_CONSTANT_TESTS = frozenset(
    """boolean defined false float integer iterable mapping none number sequence string true
    undefined""".split()
)
#: Filters that go through their input item by item; a text has too many.
_ITERATING = frozenset("join list map reject rejectattr select selectattr sort unique".split())
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


class TooMuch(Exception):
    """A template asked for more work or memory than chat templates need."""


class Sandbox(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """An environment for one template; `start` gives each rendering its budget."""

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
        self.filters = {
            name: self._metered(name, own.get(name, self.filters[name]), _CONSTANT_FILTERS)
            for name in _FILTERS
        }
        tests: dict[str, Any] = self.tests
        self.tests = {name: self._metered(name, tests[name], _CONSTANT_TESTS) for name in _TESTS}
        self.filters["_counted"] = self._counted
        self.filters["_bounded"] = self._bounded
        self.globals = {
            "raise_exception": _raise_exception,
            "range": self._range,
            "namespace": _Namespace,
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
        for item in list(tree.find_all(jinja2.nodes.Getitem)):
            if isinstance(item.arg, jinja2.nodes.Slice):
                item.node = _filter(item.node, "_bounded")
        for compare in list(tree.find_all(jinja2.nodes.Compare)):
            compare.expr = _filter(compare.expr, "_bounded")
            for operand in compare.ops:
                operand.expr = _filter(operand.expr, "_bounded")
        _bound_containers(tree)
        return tree

    def _spend(self, work: int) -> None:
        self._work += work
        if self._work > MAX_WORK:
            raise TooMuch("its loops go on for too long")

    def _counted(self, values: Iterable[Any], weight: int) -> Iterator[Any]:
        for value in values:
            self._spend(weight)
            yield value

    def _range(self, *arguments: int) -> range:
        values = range(*arguments)
        if len(values) > MAX_CONTAINER_ITEMS:
            raise TooMuch(f"a range of more than {MAX_CONTAINER_ITEMS}")
        return values

    def _bounded(self, value: Any) -> Any:
        if isinstance(value, str | list | tuple | dict | range):
            items, characters = _measure(value)
            self._spend(items)
            self._characters += characters
            if self._characters > MAX_CHARACTERS:
                raise TooMuch(f"it handles more than {MAX_CHARACTERS} characters")
        elif isinstance(value, int) and abs(value) > MAX_INTEGER:
            raise TooMuch("an integer is too large")
        return value

    def _metered(
        self, name: str, function: Callable[..., Any], constant: frozenset[str]
    ) -> Callable[..., Any]:
        if name in constant:
            return function
        # Some take the environment or a context first.
        first = 1 if hasattr(function, "jinja_pass_arg") else 0

        @functools.wraps(function)
        def metered(*args: Any, **kwargs: Any) -> Any:
            for value in (*args[first:], *kwargs.values()):
                self._bounded(value)
            if name in _ITERATING:
                if isinstance(args[first], str):
                    raise TooMuch(f"{name} goes through a text")
                if isinstance(args[first], Sized):
                    self._spend(ITERATOR_WORK * len(args[first]))
            result = function(*args, **kwargs)
            if isinstance(result, Iterator):  # lazy ones work when they are asked to
                return self._counted(result, ITERATOR_WORK)
            return self._bounded(result)

        return metered

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Calculate with bounded numbers, and add texts and lists."""
        self._bounded(left)
        self._bounded(right)
        numbers = isinstance(left, int | float) and isinstance(right, int | float)
        if operator == "**" or not (numbers or operator == "+"):
            raise TooMuch(f"the operator {operator} on {type(left).__name__} is not read")
        return self._bounded(super().call_binop(context, operator, left, right))

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Let only listed methods of plain values through."""
        if isinstance(obj, jinja2.runtime.LoopContext):
            return attr in _LOOP
        if isinstance(obj, _Namespace):
            return not attr.startswith("_")
        return isinstance(obj, str | list | tuple | dict) and attr in _METHODS

    def unsafe_undefined(self, obj: Any, attribute: str) -> Any:
        """Refuse at once, where Jinja2 would print nothing."""
        raise jinja2.exceptions.SecurityError(f"{attribute!r:.60} of a {type(obj).__name__}")

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Call a function or method with bounded arguments."""
        owner = getattr(__obj, "__self__", None)
        for value in (owner, *args, *kwargs.values()):
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


class _Namespace(jinja2.utils.Namespace):
    """A namespace that does not print what it holds: namespaces can hold one another."""

    def __repr__(self) -> str:
        return "<namespace>"


def _measure(value: Any) -> tuple[int, int]:
    """Items and characters of a value, counted as often as they appear; raises TooMuch."""
    items, characters, left = 0, 0, [(value, 0)]
    while left:
        item, depth = left.pop()
        if isinstance(item, str):
            characters += len(item)
            continue
        items += len(item)
        if items > MAX_CONTAINER_ITEMS or depth > MAX_CONTAINER_DEPTH:
            raise TooMuch(f"a list of more than {MAX_CONTAINER_ITEMS} items, or nested too deep")
        if not isinstance(item, range):
            children = (*item, *item.values()) if isinstance(item, dict) else item
            left += [(c, depth + 1) for c in children if isinstance(c, str | list | tuple | dict)]
    if characters > MAX_RENDERED_CHARACTERS:
        raise TooMuch(f"a value of more than {MAX_RENDERED_CHARACTERS} characters")
    return items, characters


class _Generation(jinja2.ext.Extension):
    """`{% generation %}…{% endgeneration %}`, which marks turns for training: no effect."""

    tags = {"generation"}  # noqa: RUF012  (the base class wants a set)

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _replace(text: str, old: str, new: str, count: int = -1) -> str:
    text, old, new = str(text), str(old), str(new)
    if text.count(old) * len(new) + len(text) > MAX_RENDERED_CHARACTERS:
        raise TooMuch("a replacement of too many characters")
    return text.replace(old, new, count)


def _join(values: Iterable[Any], separator: str = "", attribute: str | None = None) -> str:
    if attribute is not None:
        values = [value[attribute] for value in values]
    texts = [str(value) for value in values]
    size = sum(map(len, texts)) + len(separator) * len(texts)
    if size > MAX_RENDERED_CHARACTERS:
        raise TooMuch(f"a text of {size} characters")
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
