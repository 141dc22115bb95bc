"""What a rule for an operator is: the shapes it gives, the types it takes, its attributes.

A shape is a tuple of sizes and of the symbols B, S, P, C and T (`total_sequence_length`). Because
every value's shape is known and bounded before a graph is loaded, none can read outside its tensors
or ask for more memory than its declared sizes need. Rules are as strict as the graphs that rdlite
makes allow. `fused_operators` and `portable_operators` hold those of the two flavours.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt

from rdlite.config.model import ModelConfig

Shape = tuple[int | str, ...]
#: What T counts as in a value that has a number for every pair of positions.
PAIRED = 256
FLOATS = frozenset(["FLOAT", "FLOAT16", "BFLOAT16"])


class Mismatch(Exception):
    """A rule does not hold; the caller adds which node it was."""


@dataclass(frozen=True, slots=True)
class Value:
    """What is known of a value before anything runs: its name, shape, type, and constant data.

    `stored` values are tensors of the file; their size is not that of what is computed. `size` is
    there if the value is one integer that says how many positions there are: "S" or "T".
    """

    name: str
    shape: Shape
    dtype: str
    constant: npt.NDArray[Any] | None = None
    stored: bool = False
    size: str | None = None

    @property
    def elements(self) -> int:
        """Numbers in it; at one position, if it has them for each."""
        paired = PAIRED if "S" in self.shape and "T" in self.shape else 1
        return paired * math.prod(size for size in self.shape if isinstance(size, int))


@dataclass(frozen=True, slots=True)
class Call:
    """One node, with what its rule needs to know. An input that is left out is None."""

    inputs: Sequence[Value | None]
    outputs: Sequence[str]
    attributes: Mapping[str, Any]
    config: ModelConfig

    def value(self, i: int) -> Value:
        """An input that must be there."""
        value = self.inputs[i] if i < len(self.inputs) else None
        if value is None:
            raise Mismatch(f"input {i} is missing")
        return value

    def input(self, i: int) -> Shape:
        """The shape of an input that must be there, and hold floating-point numbers."""
        value = self.value(i)
        if value.dtype not in FLOATS:
            raise Mismatch(f"input {i} is {value.dtype}, expected floating-point numbers")
        return value.shape

    def typed(self, i: int, *dtypes: str) -> Shape:
        """The shape of an input that must be there and have one of these types."""
        value = self.value(i)
        if value.dtype not in dtypes:
            raise Mismatch(f"input {i} is {value.dtype}, expected {' or '.join(dtypes)}")
        return value.shape

    def arity(self, most_inputs: int, outputs: int = 1) -> None:
        """Refuse further inputs, and any other number of outputs."""
        if any(value is not None for value in self.inputs[most_inputs:]):
            raise Mismatch(f"it has more than {most_inputs} inputs")
        self.require("number of outputs", len(self.outputs), outputs)
        if "" in self.outputs and outputs > 1 and len(self.outputs) != 4:
            raise Mismatch("an output is missing")

    def require(self, what: str, value: object, expected: object) -> None:
        """Refuse a value that is not the expected one."""
        if value != expected:
            raise Mismatch(f"{what} is {value!r:.80}, expected {expected!r:.80}")

    def integer(self, name: str, default: int | None = None) -> int:
        """A whole-number attribute, which must be there if it has no default."""
        value = self.attributes.get(name, default)
        if not isinstance(value, int):
            raise Mismatch(f"the attribute {name} is missing")
        return value

    def require_last(self, shape: Shape, default: int) -> None:
        """Refuse an axis that is not the last one of `shape`."""
        axis = self.integer("axis", default)
        if axis not in (-1, len(shape) - 1):
            raise Mismatch(f"axis is {axis}, expected -1")


@dataclass(frozen=True, slots=True)
class Result:
    """What an operator gives where that is more than floating-point numbers of a shape."""

    shape: Shape
    dtype: str = "FLOAT"
    size: str | None = None


Rule = Callable[[Call], Sequence[Shape | Result]]


@dataclass(frozen=True, slots=True)
class Operator:
    """An allowed operator: its shape rule, and its attributes by their type."""

    rule: Rule
    integers: frozenset[str] = field(default_factory=frozenset)
    floats: frozenset[str] = field(default_factory=frozenset)
    lists: frozenset[str] = field(default_factory=frozenset)


def operator(rule: Rule, integers: str = "", floats: str = "", lists: str = "") -> Operator:
    """Make an Operator of its rule and of its attributes' names."""
    return Operator(rule, *(frozenset(names.split()) for names in (integers, floats, lists)))


def last(shape: Shape) -> int:
    """The last size of a shape; raises Mismatch where it is not known."""
    if not shape or not isinstance(shape[-1], int):
        raise Mismatch(f"the last dimension of {shape} must be a size")
    return shape[-1]


def unary(call: Call) -> list[Shape | Result]:
    """The rule of operators that take each number by itself."""
    call.arity(1)
    return [call.input(0)]


def concat(call: Call) -> list[Shape | Result]:
    """The rule of Concat, of two values along the last axis."""
    call.arity(2)
    a, b = call.input(0), call.input(1)
    call.require_last(a, 0)
    call.require("shape of input 1", b[:-1], a[:-1])
    return [(*a[:-1], last(a) + last(b))]


def reduce(call: Call) -> list[Shape | Result]:
    """The rule of operators that make one number of the last axis."""
    call.arity(2)
    call.require("shape of the axes", call.typed(1, "INT64"), (1,))
    axes = call.value(1).constant
    call.require("axes", None if axes is None else axes.tolist(), [-1])
    shape = call.input(0)
    last(shape)
    return [shape[:-1] if call.integer("keepdims", 1) == 0 else (*shape[:-1], 1)]
