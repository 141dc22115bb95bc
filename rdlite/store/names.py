"""What a user calls a model of the hub: ORG/NAME, with @revision, :scheme or a file after it."""

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from rdlite.errors import InputError
from rdlite.loader import NANO
from rdlite.store.home import home
from rdlite.store.known import KNOWN

#: The scheme of copies of what comes with rdlite, which `rdlite tune` makes: "nano:tuned".
TUNED = "tuned"
SCHEMES = ("int8", "int4", "int4-hqq", "int4-plain", "float32")
_PART = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_NAME = re.compile(
    rf"(?P<repo>{_PART}/{_PART})(?:/(?P<file>{_PART}\.gguf))?"
    r"(?:@(?P<revision>[A-Za-z0-9][A-Za-z0-9._/-]{0,99}))?(?::(?P<scheme>[A-Za-z0-9._-]{1,40}))?"
)
_URL = re.compile(
    rf"https?://[^/\s]+/({_PART}/{_PART})(?:/(?:blob|resolve|tree)/([^/\s]+)(?:/({_PART}))?)?/?"
)


@dataclass(frozen=True, slots=True)
class Name:
    """A model of the hub: its repository, and what of it; None where that is left open."""

    repo: str
    revision: str = "main"
    file: str | None = None
    scheme: str | None = None

    @property
    def folder(self) -> Path:
        """Where the store keeps what comes from this revision."""
        return home() / "models" / self.repo.replace("/", "--") / quote(self.revision, safe="")


def read_name(word: str) -> Name | None:
    """Return the name that a word is; None where it is a path, or anything else.

    A path that exists wins, and so does one whose first folder exists. Raises InputError for a
    scheme that there is not.
    """
    if word.removesuffix(f":{TUNED}") == NANO != word:
        return Name(NANO, scheme=TUNED)
    if url := _URL.fullmatch(word):
        repo, revision, file = url.groups()
        return Name(repo, revision or "main", file if (file or "").endswith(".gguf") else None)
    short, colon, scheme = word.partition(":")
    if short in KNOWN and not Path(word).exists():
        word = KNOWN[short].repo + colon + scheme
    found = _NAME.fullmatch(word)
    if found is None or Path(word).exists() or Path(found["repo"]).parent.exists():
        return None
    if found["repo"].endswith((".gguf", ".json")) or ".." in word:
        return None
    return Name(found["repo"], found["revision"] or "main", found["file"], found["scheme"])


def check_scheme(scheme: str) -> None:
    """Raise InputError unless a checkpoint can be stored this way as it arrives."""
    if scheme not in SCHEMES:
        raise InputError(
            f"a download can be stored as {', '.join(SCHEMES)}, not as {scheme!r:.40}; for schemes "
            "that run the model: 'rdlite quantize NAME -o BUNDLE --scheme SCHEME'"
        )
