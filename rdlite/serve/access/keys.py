"""The file of API keys: its format, and what is wrong with one, by line.

# name   key, or its hash          limits
alice    sk-long-enough            requests=4 tokens-per-minute=20000
bot      sha256:9f86d081884c7d...
"""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from rdlite.errors import InputError

MAX_FILE_BYTES = 2**20
MAX_KEYS = 1024
#: Shortest and longest key, in characters.
KEY_CHARACTERS = (8, 512)
#: The limits that a line may set, and the most that each can be.
LIMITS = {"requests": 4096, "tokens-per-minute": 10**9}
NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
HASH = re.compile(r"sha256:([0-9a-f]{64})", re.IGNORECASE)
#: What the key of the command's option is called.
OWN_NAME = "default"


@dataclass(frozen=True, slots=True)
class Key:
    """A key, of which only the hash is kept.

    Attributes:
        name: by which logs and metrics call whoever has it.
        digest: its SHA-256.
        requests: that may be answered at once; None: any number.
        tokens_per_minute: that may be read and written; None: any number.
    """

    name: str
    digest: bytes
    requests: int | None = None
    tokens_per_minute: int | None = None


def check_key(key: str) -> None:
    """Raise InputError for a key that no client could send, or that is easily guessed."""
    shortest, longest = KEY_CHARACTERS
    if not (shortest <= len(key) <= longest and key.isascii() and key.isprintable()):
        raise InputError(f"the API key must be {shortest} to {longest} printable ASCII characters")


def own_key(key: str) -> Key:
    """Return the key that the command was given; raises InputError like `check_key`."""
    check_key(key)
    return Key(OWN_NAME, _digest(key))


def read_keys(path: Path) -> tuple[Key, ...]:
    """Read a file of keys.

    Raises InputError, which names the line but shows nothing that may be a key, for what is not in
    the format, for a name or a key that is there twice, and for a file without keys.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as problem:
        raise InputError(f"cannot read {path}: {problem.strerror or problem}") from None
    if len(data) > MAX_FILE_BYTES:
        raise InputError(f"{path} is larger than {MAX_FILE_BYTES // 2**20} MiB, which is the most")
    try:
        lines = data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise InputError(f"{path} is not text in UTF-8") from None
    keys: dict[str, Key] = {}
    digests: set[bytes] = set()
    for number, line in enumerate(lines, 1):
        fields = line.split()
        if not fields or fields[0].startswith("#"):
            continue
        try:
            key = _key(fields)
            if key.name in keys:
                raise InputError("an earlier line has the same name")
            if key.digest in digests:
                raise InputError("an earlier line has the same key")
        except InputError as problem:
            raise InputError(f"{path}, line {number}: {problem}") from None
        keys[key.name] = key
        digests.add(key.digest)
        if len(keys) > MAX_KEYS:
            raise InputError(f"{path} has more than {MAX_KEYS} keys, which is the most")
    if not keys:
        raise InputError(f"{path} has no keys; a line is: NAME KEY [LIMIT=NUMBER...]")
    return tuple(keys.values())


def _key(fields: list[str]) -> Key:
    name, *rest = fields
    if not NAME.fullmatch(name):
        raise InputError("the name must be 1 to 64 letters, digits, '.', '_' or '-'")
    if not rest:
        raise InputError("there is only one word; a line is: NAME KEY [LIMIT=NUMBER...]")
    secret, *settings = rest
    found = HASH.fullmatch(secret)
    if found is None:
        if secret.lower().startswith("sha256:"):
            raise InputError("a hash must be sha256: and 64 hexadecimal digits")
        check_key(secret)
    limits: dict[str, int] = {}
    for setting in settings:
        what, _, value = setting.partition("=")
        if what not in LIMITS:
            raise InputError("after the key comes requests=NUMBER or tokens-per-minute=NUMBER")
        if what in limits:
            raise InputError(f"{what} is there twice")
        digits = value if value.isascii() and value.isdecimal() and len(value) < 12 else "0"
        limits[what] = int(digits)
        if not 1 <= limits[what] <= LIMITS[what]:
            raise InputError(
                f"{what} must be a whole number from 1 to {LIMITS[what]}, got {value!r:.40}"
            )
    digest = bytes.fromhex(found[1]) if found else _digest(secret)
    return Key(name, digest, limits.get("requests"), limits.get("tokens-per-minute"))


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
