"""The settings of the user: config.toml in the folder of the store, and how it is changed."""

import dataclasses
import tomllib
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from rdlite.errors import InputError
from rdlite.store.home import home
from rdlite.utils.files import write_whole
from rdlite.utils.schema import Bounds, Choices, decode

FILE = "config.toml"


@dataclass(frozen=True, slots=True)
class Settings:
    """What commands take where their options say nothing.

    Attributes:
        model: the MODEL of commands that run or show one.
        steps: core steps a token at most; None: the model's.
        color: whether output has colours: "auto" where it goes to a terminal, "always" or "never".
    """

    model: str = "nano"
    steps: Annotated[int | None, Bounds(1, 1024)] = None
    color: Annotated[str, Choices(("auto", "always", "never"))] = "auto"


KEYS = tuple(field.name for field in dataclasses.fields(Settings))


def settings_file() -> Path:
    """Return where the settings are; the file need not exist."""
    return home() / FILE


def read_settings() -> Settings:
    """Read the settings; without a file, the defaults. Raises InputError for what cannot be one."""
    data = _parsed(_text())
    try:
        return decode(Settings, data, FILE, InputError)
    except InputError as problem:
        raise InputError(
            f"{problem}; change {settings_file()}, or remove the key: rdlite config --unset KEY"
        ) from None


def change_setting(key: str, value: str | None) -> None:
    """Set a key, or remove it (None); comments and order of the file stay.

    Raises:
        InputError: there is no such key, or it cannot have this value; the file stays as it is.
        OutputError: the file cannot be written.
    """
    import tomlkit

    if key not in KEYS and value is not None:
        raise InputError(f"there is no setting {key!r:.60}; there are {', '.join(KEYS)}")
    _parsed(text := _text())
    document = tomlkit.parse(text)
    document.pop(key, None)
    if value is not None:
        number = typing.get_type_hints(Settings)[key] is not str and value.isdecimal()
        typed: int | str = int(value) if number else value
        decode(Settings, {key: typed}, FILE, InputError)
        document[key] = typed
    path = settings_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, tomlkit.dumps(document).encode())


def _text() -> str:
    path = settings_file()
    try:
        return path.read_text("utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as problem:
        raise InputError(f"cannot read {path}: {problem}") from None


def _parsed(text: str) -> dict[str, object]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as problem:
        raise InputError(
            f"{settings_file()} is not valid TOML: {problem}; mend or delete it"
        ) from None
