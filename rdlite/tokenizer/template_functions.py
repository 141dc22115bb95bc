"""What chat templates call: filters, functions and methods that Jinja2 and Python leave unbounded.

Each refuses before it makes something too large.
"""

import datetime
import json
import re
import string
from collections.abc import Iterable, Sequence
from typing import Any

import jinja2

MAX_RENDERED_CHARACTERS = 4 * 2**20
MAX_CONTAINER_ITEMS = 10_000
#: Of a value, with all that it holds: conversations are such values.
MAX_ITEMS, MAX_CONTAINER_DEPTH = 2**17, 50
MAX_WIDTH = 1000  # of what is padded, and of an indent
#: What `strftime_now` may be asked for: letters, and glibc's flags without a width.
_DATE = re.compile(r"(?:[^%]|%[-_0^#EO]{0,2}[A-Za-z%])*")
_PERCENT = re.compile(r"%(?:\((?P<key>[^()]*)\))?(?P<flags>[-#0 +]*)(?P<width>[\d.*]*)(?P<kind>.?)")
PADDING = frozenset("center expandtabs ljust rjust zfill".split())


class TooMuch(Exception):
    """A template asked for more work or memory than chat templates need."""


def raise_exception(message: str) -> None:
    """Refuse the conversation, in the template's own words."""
    raise jinja2.TemplateError(message)


def strftime_now(format: str) -> str:
    """Return the local date or time."""
    if len(format) > 200 or not _DATE.fullmatch(format):
        raise TooMuch(f"the date format {format!r:.60} is not read")
    return datetime.datetime.now().strftime(format)


def to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: Sequence[str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Return JSON as transformers' filter does: without Jinja2's own escapes for HTML."""
    if indent is not None and (len(indent) if isinstance(indent, str) else indent) > 8:
        raise TooMuch("an indent of more than 8")
    pair = None
    if separators is not None:
        item, key = separators
        if len(item) + len(key) > 16:
            raise TooMuch("separators of more than 16 characters")
        pair = (item, key)
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=pair, sort_keys=sort_keys
    )


def replace(text: str, old: str, new: str, count: int | None = None) -> str:
    """Replace as Python does."""
    text, old, new = str(text), str(old), str(new)
    if text.count(old) * len(new) + len(text) > MAX_RENDERED_CHARACTERS:
        raise TooMuch("a replacement of too many characters")
    return text.replace(old, new, -1 if count is None else count)


def join(values: Iterable[Any], separator: str = "", attribute: str | None = None) -> str:
    """Join as Jinja2 does."""
    if attribute is not None:
        values = [value[attribute] for value in values]
    texts = [str(value) for value in values]
    size = sum(map(len, texts)) + len(separator) * len(texts)
    if size > MAX_RENDERED_CHARACTERS:
        raise TooMuch(f"a text of {size} characters")
    return str(separator).join(texts)


def to_int(value: Any, default: int = 0, base: int = 10) -> int:
    """Read a number as Jinja2 does, unless it has many digits."""
    if isinstance(value, str) and len(value) > 20:
        return default
    try:
        return int(value, base) if isinstance(value, str) else int(value)
    except (TypeError, ValueError, OverflowError):
        return default


def indent(text: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    """Indent as Jinja2 does."""
    mark = width if isinstance(width, str) else " " * check_width(width)
    lines = str(text).splitlines()
    check_size(len(mark) * (len(lines) + 1) + len(text))
    if str(text).endswith("\n"):
        lines.append("")
    head, rest = lines[:1], lines[1:]
    rest = [mark + line if line or blank else line for line in rest]
    head = [mark + line if first else line for line in head]
    return "\n".join(head + rest)


def check_width(width: int) -> int:
    """Return a width of padding; raises TooMuch."""
    if not -MAX_WIDTH <= width <= MAX_WIDTH:
        raise TooMuch(f"a width of {width}, at most {MAX_WIDTH} is read")
    return width


def check_size(size: int) -> None:
    """Raise TooMuch for a text of so many characters."""
    if size > MAX_RENDERED_CHARACTERS:
        raise TooMuch(f"a text of {size} characters")


def check_repeated(left: Any, right: Any) -> None:
    """Raise TooMuch unless `left * right` of a text or list and a number is small."""
    value, count = (right, left) if isinstance(left, int) else (left, right)
    if not isinstance(value, str | list | tuple) or type(count) is not int:
        raise TooMuch("the operator * is only for numbers, and for a text or list and a number")
    most = MAX_RENDERED_CHARACTERS if isinstance(value, str) else MAX_CONTAINER_ITEMS
    if len(value) * max(count, 0) > most:
        raise TooMuch(f"a repetition of {len(value)} times {count}")


def check_format(text: str, largest: int) -> None:
    """Raise TooMuch unless a text for `str.format` makes no more than it may.

    Args:
        text: the format.
        largest: characters of the largest argument.
    """
    try:
        fields = [field for field in string.Formatter().parse(text) if field[1] is not None]
    except ValueError as problem:
        raise jinja2.TemplateRuntimeError(f"the format {text!r:.40}: {problem}") from None
    for _, _, spec, _ in fields:
        if "{" in (spec or "") or re.search(r"\d{4}", spec or ""):
            raise TooMuch(f"the format {text!r:.60} is not read")
    check_size(len(text) + len(fields) * (MAX_WIDTH + largest))


def check_percent(text: str, largest: int) -> None:
    """Raise TooMuch unless a text for `%` makes no more than it may; arguments likewise."""
    found = list(_PERCENT.finditer(text))
    if any("*" in f["width"] or re.search(r"\d{4}", f["width"]) for f in found):
        raise TooMuch(f"the format {text!r:.60} is not read")
    check_size(len(text) + len(found) * (MAX_WIDTH + largest))


def characters_of(value: Any) -> int:
    """How many characters a value may have when it is printed, roughly and at most."""
    if isinstance(value, str | list | tuple | dict | range):
        items, characters = measure(value)
        return 2 * characters + 32 * items
    return 400


def measure(value: Any) -> tuple[int, int]:
    """Items and characters of a value, counted as often as they appear; raises TooMuch."""
    items, characters, left = 0, 0, [(value, 0)]
    while left:
        item, depth = left.pop()
        if isinstance(item, str):
            characters += len(item)
            continue
        items += len(item)
        if items > MAX_ITEMS or depth > MAX_CONTAINER_DEPTH:
            raise TooMuch(f"a value of more than {MAX_ITEMS} items, or nested too deep")
        if not isinstance(item, range):
            children = (*item, *item.values()) if isinstance(item, dict) else item
            left += [(c, depth + 1) for c in children if isinstance(c, str | list | tuple | dict)]
    if characters > MAX_RENDERED_CHARACTERS:
        raise TooMuch(f"a value of more than {MAX_RENDERED_CHARACTERS} characters")
    return items, characters


class Dictionary:
    """`dict(...)` of templates: a plain one, nothing of the type."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        """Make a dictionary."""
        return dict(*args, **kwargs)


class Namespace(jinja2.utils.Namespace):
    """A namespace that does not print what it holds: namespaces can hold one another."""

    def __repr__(self) -> str:
        return "<namespace>"
