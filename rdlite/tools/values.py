"""Arguments that are written as they are, not as JSON: the grammar of each, and its value."""

import json
import re
from collections.abc import Mapping
from typing import Any

from rdlite.errors import InputError

Schema = dict[str, Any]
OTHERS = ("null", "boolean", "integer", "number", "object", "array")
#: Keywords that may bar a text and are not kept; those of texts, and those that bar nothing.
_COMBINING = {"not", "if", "allOf", "anyOf", "oneOf", "$ref", "$dynamicRef"}
_OF_TEXT = {"enum", "const", "minLength", "maxLength", "pattern", "format"}
_ABOUT = {"title", "description", "default", "examples", "deprecated", "$comment", "x-order"}
#: Up to how many characters of a text are counted that has a pattern.
MAX_COUNTED = 200
#: How JSON of a kind begins. A text that begins so is not taken where that kind may stand too.
_BEGINS = {
    "null": "null",
    "boolean": "true|false",
    "integer": "-?[0-9]",
    "number": "-?[0-9]",
    "object": "[{]",
    "array": r"\[",
}
_DATE = "[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])"
_CLOCK = "([01][0-9]|2[0-3])(:[0-5][0-9]){2}"
_ZONE = r"(\.[0-9]{1,9})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
_LABEL = "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_BYTE = r"(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_FORMATS = {
    "date": _DATE,
    "time": _CLOCK + _ZONE,
    "date-time": f"{_DATE}T{_CLOCK}{_ZONE}",
    "uuid": "[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}",
    "ipv4": rf"({_BYTE}\.){{3}}{_BYTE}",
    "hostname": rf"{_LABEL}(\.{_LABEL}){{0,8}}",
    "email": rf"[A-Za-z0-9_+-]+(\.[A-Za-z0-9_+-]+){{0,8}}@{_LABEL}(\.{_LABEL}){{1,8}}",
    "uri": r"[a-z][a-z0-9+.-]*:[A-Za-z0-9._~:/?#@!$&'()*+,;=%-]+",
}


class Value:
    """How one argument is written.

    Attributes:
        text: whether it is always a text.
    """

    def __init__(self, schema: Schema, root: Schema, where: str) -> None:
        """Read its schema.

        Args:
            schema: of the argument.
            root: the one that it stands in, whose definitions it may refer to.
            where: what it is called in errors.

        Raises:
            InputError: it says of texts what cannot be kept.
        """
        self._root, self._where = root, where
        self._texts: list[Schema] = []
        self._others: list[Schema] = []
        self._sort(schema, 0)
        self.text = not self._others

    def rules(self, name: str, end: str, literal: str) -> list[str]:
        """Return the rules of its grammar, of which `name` is the first.

        Args:
            name: in small letters; others begin with it.
            end: what follows, which belongs to it; no text may contain it.
            literal: that, as the grammar writes it.
        """
        choices, rules = [], []
        if self._texts:
            # One terminal, with its end: what matches is read as far as it goes, and never again.
            texts = [f"{name}_TEXT{number}".upper() for number in range(len(self._texts))]
            choices.append(f"{name}_text")
            ending = json.dumps(end, ensure_ascii=False)
            whole = f"{name}_TEXT".upper()
            rules.append(f"{name}_text[lazy]: {whole}")
            rules.append(f"{whole}: ({' | '.join(texts)}) {ending}")
            for text, schema in zip(texts, self._texts, strict=True):
                rules.append(f"{text}: {self._pattern(schema, end.rstrip())}")
        if self._others:
            choices.append(f"{name}_json {literal}")
            shapes = {"anyOf": self._others} if len(self._others) > 1 else self._others[0]
            rules.append(f"{name}_json: %json {json.dumps(in_place(shapes, self._root))}")
        return [f"{name}: {' | '.join(choices)}", *rules]

    def as_json(self, text: str) -> str:
        """Return what was written as JSON."""
        if self._others and (not self._texts or re.match(self._beginning(), text)):
            return text
        return json.dumps(text, ensure_ascii=False)

    def _beginning(self) -> str:
        """Return the expression of how values begin that are no texts."""
        kinds: set[str] = set()
        for schema in self._others:
            if "enum" in schema:
                kinds |= {_kind(value) for value in schema["enum"]}
            else:
                kind = schema.get("type", OTHERS)
                kinds |= {kind} if isinstance(kind, str) else set(kind)
        return "|".join(sorted({_BEGINS[kind] for kind in kinds if kind in _BEGINS}))

    def _sort(self, schema: Any, depth: int) -> None:
        """Tell the texts that a schema allows from other values."""
        if schema is True or (isinstance(schema, Mapping) and not schema.keys() - _ABOUT):
            schema = {"type": ["string", *OTHERS]}
        if not isinstance(schema, Mapping) or depth > 16:
            raise InputError(f"{self._where} must be a JSON schema, got {schema!r:.60}")
        schema = {key: value for key, value in schema.items() if key not in _ABOUT}
        for choice in ("anyOf", "oneOf"):
            if choice in schema and len(schema) == 1 and isinstance(schema[choice], list):
                for one in schema[choice]:
                    self._sort(one, depth + 1)
                return
        if "$ref" in schema and len(schema) == 1:
            self._sort(self._find(schema["$ref"]), depth + 1)
            return
        values = schema.get("enum", [schema["const"]] if "const" in schema else None)
        kinds = schema.get("type")
        kinds = [kinds] if isinstance(kinds, str) else kinds
        if isinstance(values, list):
            texts = [value for value in values if isinstance(value, str)]
            others = [value for value in values if not isinstance(value, str)]
            if texts and (kinds is None or "string" in kinds):
                self._texts.append({**schema, "enum": texts})
            if others:
                self._others.append({"enum": others})
        elif isinstance(kinds, list) and "string" in kinds:
            self._texts.append(schema)
            if rest := [kind for kind in kinds if kind != "string"]:
                kept = {key: value for key, value in schema.items() if key not in _OF_TEXT}
                self._others.append({**kept, "type": rest})
        elif kinds is None:
            raise InputError(
                f"{self._where} uses what is not supported here: {', '.join(schema):.100}; give it "
                "a type"
            )
        else:
            self._others.append(schema)

    def _find(self, pointer: object) -> Any:
        found: Any = self._root
        if not isinstance(pointer, str) or not pointer.startswith("#/"):
            raise InputError(f"{self._where} refers to {pointer!r:.60}, which is not in its schema")
        for key in pointer[2:].split("/"):
            key = key.replace("~1", "/").replace("~0", "~")
            if not isinstance(found, Mapping) or key not in found:
                raise InputError(f"{self._where} refers to {pointer:.60}, which is not there")
            found = found[key]
        return found

    def _pattern(self, schema: Schema, end: str) -> str:
        """Return what a text must match: regular expressions of which all hold."""
        unknown = sorted(_COMBINING & schema.keys())
        if unknown:
            raise InputError(
                f"{self._where} uses what is not supported of a text: {', '.join(unknown)}; leave "
                "it out"
            )
        least, most = schema.get("minLength", 0), schema.get("maxLength")
        if not all(type(size) is int and size >= 0 for size in (least, most or 0)):
            raise InputError(f"{self._where}: minLength and maxLength must be whole numbers")
        length = regex_terminal(f"(?s:.{{{least},{'' if most is None else most}}})")
        parts = []
        if "enum" in schema:
            values = [value for value in schema["enum"] if end not in value]
            parts += [regex_terminal("|".join(map(_escape, values))), length]
        elif (name := schema.get("format")) is not None:
            if name not in _FORMATS:
                raise InputError(
                    f"{self._where} has the format {name!r:.40}, which is not supported here; the "
                    f"formats are {', '.join(_FORMATS)}"
                )
            parts += [regex_terminal(_FORMATS[name]), length]
        elif "pattern" not in schema:
            # Nothing looks for the end but the lazy rule. It does not find one before the text is
            # long enough, because no line begins there.
            rest = "" if most is None else max(0, most - least)
            parts.append(regex_terminal(rf"(?s:[^\n]{{{least}}}.{{0,{rest}}})"))
        elif (most or 0) > MAX_COUNTED:
            raise InputError(
                f"{self._where} has a pattern and a maxLength over {MAX_COUNTED}, which is not "
                "supported here; leave one of them out"
            )
        else:
            parts += [length, "~" + regex_terminal(f"(?s:.*){_escape(end)}(?s:.*)")]
        if (pattern := schema.get("pattern")) is not None:
            parts.append(regex_terminal(_whole(str(pattern))))
        if self._others:
            parts.append("~" + regex_terminal(f"({self._beginning()})(?s:.*)"))
        return " & ".join(parts)


def _kind(value: object) -> str:
    """Return the kind of a value that is no text."""
    kinds = {bool: "boolean", dict: "object", list: "array"}
    return "null" if value is None else kinds.get(type(value), "number")


def in_place(schema: Schema, root: Schema) -> Schema:
    """Return a schema that stands alone, with the definitions of the one it stood in."""
    definitions: Schema = {key: root[key] for key in ("$defs", "definitions") if key in root}
    style = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
    return {**schema, **definitions, "x-guidance": style}


def _whole(pattern: str) -> str:
    """Return an expression for the whole text from one that is looked for in it."""
    begins, ends = pattern.startswith("^"), re.search(r"(?<!\\)(\\\\)*\$$", pattern)
    inner = pattern.removeprefix("^")[: -1 if ends else None]
    return f"{'' if begins else '(?s:.*)'}({inner}){'' if ends else '(?s:.*)'}"


def _escape(text: str) -> str:
    """Return the regular expression of a text."""
    return re.escape(text).replace("\\\n", r"\n")


def regex_terminal(expression: str) -> str:
    """Return a regular expression as the grammar writes it."""
    escaped = re.sub(r"(\\.)|/", lambda found: found[1] or r"\/", expression)
    return "/" + escaped.replace("\n", r"\n") + "/"
