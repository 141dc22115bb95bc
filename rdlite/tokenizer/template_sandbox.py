"""Where chat templates from strangers run: Jinja2's immutable sandbox, with bounds on work.

Templates may be written with what transformers' renderer offers them. On top of the sandbox, only
plain constructs, filters and methods exist (nothing that reads another template), work in loops and
macros and characters handled have a budget, and containers and numbers have bounds.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any

import jinja2
import jinja2.exceptions
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.runtime
import jinja2.sandbox

from rdlite.tokenizer import template_functions as functions
from rdlite.tokenizer.template_functions import MAX_CONTAINER_ITEMS, TooMuch

#: What one rendering may do: nodes evaluated in loops and macros, characters made or looked at.
MAX_WORK, MAX_CHARACTERS = 4 * 2**20, 64 * 2**20
ITERATOR_WORK = 8  # for each item of a lazy filter
CALL_WORK = 32  # for each call of a macro
MAX_INTEGER = 2**63

_FILTERS = """abs capitalize count d default dictsort e escape first float forceescape format indent
    int items join last length list lower map max min reject rejectattr replace reverse round
    safe select selectattr slice sort string sum title tojson trim truncate unique upper
    wordcount""".split()
_TESTS = """!= < <= == > >= boolean callable defined divisibleby eq equalto escaped even false float
    ge greaterthan gt in integer iterable le lessthan lower lt mapping ne none number odd sameas
    sequence string true undefined upper""".split()
#: Those whose work does not grow with what they are given.
_CONSTANT_FILTERS = frozenset("count d default first last length safe".split())
_CONSTANT_TESTS = frozenset(
    """boolean callable defined escaped false float integer iterable mapping none number sequence
    string true undefined""".split()
)
#: Filters that go through their input item by item; a text has too many.
_ITERATING = frozenset(
    """join list map max min reject rejectattr select selectattr slice sort sum unique""".split()
)
_METHODS = frozenset(
    """capitalize casefold center count endswith expandtabs find get index isalnum isalpha isascii
    isdecimal isdigit islower isnumeric isspace istitle isupper items join keys ljust lower lstrip
    partition removeprefix removesuffix replace rfind rindex rjust rpartition rsplit rstrip split
    splitlines startswith strip swapcase title upper values zfill""".split()
)
_LOOP = frozenset(
    """changed cycle depth depth0 first index index0 last length nextitem previtem revindex
    revindex0""".split()
)
#: What chat templates are written with. Work can be repeated by loops and by macros, and both are
#: counted.
_NODES = tuple(
    getattr(jinja2.nodes, name)
    for name in """Template Output TemplateData Scope If For Assign AssignBlock Macro CallBlock
    FilterBlock With NSRef Name Const List Dict Pair Tuple Getattr Getitem Slice Filter Test Call
    Keyword Compare Operand And Or Not Neg Pos Add Sub Mul Div FloorDiv Mod Concat CondExpr Break
    Continue""".split()
)
#: How some of the others are written.
_WRITTEN = {
    "Block": "{% block %}",
    "Extends": "{% extends %}",
    "FromImport": "{% from %}",
    "Import": "{% import %}",
    "Include": "{% include %}",
    "Pow": "the operator **",
    "ScopedEvalContextModifier": "{% autoescape %}",
}


class Sandbox(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """An environment for one template; `start` gives each rendering its budget."""

    intercepted_binops = frozenset(["*", "**", "%", "+", "-", "/", "//"])

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            autoescape=False,
            optimized=False,  # constants are folded outside any budget
            finalize=self._shown,
            extensions=[_Generation, jinja2.ext.loopcontrols],
        )
        own = {
            "replace": functions.replace,
            "join": functions.join,
            "tojson": functions.to_json,
            "int": functions.to_int,
            "indent": functions.indent,
            "format": self._percent,
        }
        self.filters = {
            name: self._metered(name, own.get(name, self.filters[name]), _CONSTANT_FILTERS)
            for name in _FILTERS
        }
        tests: dict[str, Any] = self.tests
        self.tests = {name: self._metered(name, tests[name], _CONSTANT_TESTS) for name in _TESTS}
        self.filters["_counted"] = self._counted
        self.filters["_bounded"] = self._bounded
        self.globals = {
            "raise_exception": functions.raise_exception,
            "strftime_now": functions.strftime_now,
            "range": self._range,
            "dict": functions.Dictionary(),
            "namespace": functions.Namespace,
        }
        self._macros: dict[str, int] = {}
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
                what = _WRITTEN.get(kind, kind)
                raise jinja2.TemplateSyntaxError(f"{what} is not read", node.lineno or 0)
        for macro in tree.find_all((jinja2.nodes.Macro, jinja2.nodes.CallBlock)):
            called = macro.name if isinstance(macro, jinja2.nodes.Macro) else "caller"
            weight = CALL_WORK + sum(1 for _ in macro.find_all(jinja2.nodes.Node))
            self._macros[called] = max(weight, self._macros.get(called, 0))
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
            raise TooMuch("its loops or macros go on for too long")

    def _handle(self, characters: int) -> None:
        self._characters += characters
        if self._characters > MAX_CHARACTERS:
            raise TooMuch(f"it handles more than {MAX_CHARACTERS} characters")

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
            items, characters = functions.measure(value)
            self._spend(items)
            self._handle(characters)
        elif isinstance(value, int) and abs(value) > MAX_INTEGER:
            raise TooMuch("an integer is too large")
        return value

    @jinja2.pass_context  # or constants would be folded when the template is compiled
    def _shown(self, context: jinja2.runtime.Context, value: Any) -> Any:
        """Take a value that becomes text of the prompt, of a macro or of a set block."""
        if type(value) is str:
            self._handle(len(value))
            return value
        return self._bounded(value)

    def concat(self, pieces: Iterable[str]) -> str:
        """Join the text of a macro or of a set block."""
        pieces = list(pieces)
        size = sum(map(len, pieces))
        functions.check_size(size)
        self._handle(size)
        return "".join(pieces)

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
            if name in _ITERATING and isinstance(args[first], Sized):
                self._spend(ITERATOR_WORK * len(args[first]))
            result = function(*args, **kwargs)
            if isinstance(result, Iterator):  # lazy ones work when they are asked to
                return self._counted(result, ITERATOR_WORK)
            return self._bounded(result)

        return metered

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Calculate with bounded numbers; add, repeat and format texts and lists."""
        self._bounded(left)
        self._bounded(right)
        numbers = isinstance(left, int | float) and isinstance(right, int | float)
        if not numbers and operator == "*":
            functions.check_repeated(left, right)
        elif not numbers and operator == "%" and isinstance(left, str):
            return self._percent(left, right)
        elif operator == "**" or not (numbers or operator == "+"):
            raise TooMuch(f"the operator {operator} on {type(left).__name__} is not read")
        return self._bounded(super().call_binop(context, operator, left, right))

    def _percent(self, text: str, *values: Any) -> str:
        text = str(text)
        right = values[0] if len(values) == 1 else values
        functions.check_percent(text, functions.characters_of(right))
        return str(self._bounded(text % right))

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Let only listed methods of plain values through."""
        if isinstance(obj, jinja2.runtime.LoopContext):
            return attr in _LOOP
        if isinstance(obj, functions.Namespace):
            return not attr.startswith("_")
        return isinstance(obj, str | list | tuple | dict) and attr in _METHODS

    def unsafe_undefined(self, obj: Any, attribute: str) -> Any:
        """Refuse at once, where Jinja2 would print nothing."""
        raise jinja2.exceptions.SecurityError(f"{attribute!r:.60} of a {type(obj).__name__}")

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Call a function, macro or method with bounded arguments."""
        # The sandbox has `format` in a wrapper.
        method = getattr(__obj, "__wrapped__", __obj)
        owner, name = getattr(method, "__self__", None), getattr(method, "__name__", "")
        for value in (owner, *args, *kwargs.values()):
            __self._bounded(value)
        if isinstance(__obj, jinja2.runtime.Macro):
            __self._spend(__self._macros.get(__obj.name, CALL_WORK))
        elif isinstance(owner, str):
            if name == "replace":
                return __self._bounded(functions.replace(owner, *args, **kwargs))
            if name == "join":
                return __self._bounded(functions.join(args[0], owner))
            if name in ("format", "format_map"):
                functions.check_format(
                    owner, max(map(functions.characters_of, (*args, *kwargs.values())))
                )
            if name in functions.PADDING:
                functions.check_width(args[0] if args and type(args[0]) is int else 8)
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


class _Generation(jinja2.ext.Extension):
    """`{% generation %}…{% endgeneration %}`, which marks turns for training: no effect."""

    tags = {"generation"}  # noqa: RUF012  (the base class wants a set)

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body, lineno=line)  # what is set inside stays inside
