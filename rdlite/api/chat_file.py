"""A conversation on disk: messages, settings, tokens and caches, tied to the model it was had with.

The file is safetensors: the tokens, what every slot of the caches holds of them, and the rest as
JSON in its metadata. It is read like a file from a stranger.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from rdlite.bundle.reader import Bundle
from rdlite.config.cache import Cache
from rdlite.config.depth import Depth
from rdlite.config.model import ModelConfig
from rdlite.config.sampling import Sampling
from rdlite.errors import InputError, OutputError, RdliteError
from rdlite.utils.files import hash_file
from rdlite.utils.schema import Bounds, Line, decode, read_json

Entries = Mapping[str, npt.NDArray[Any]]
KEY = "rdlite_chat"
VERSION = 1
MAX_SLOTS = 1024
#: Files of a bundle that change nothing of what was read.
HARMLESS = ("generation_config.json", "README.md")


@dataclass(frozen=True, slots=True)
class Message:
    """What somebody said."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class SavedChat:
    """The settings and the words of a conversation.

    Attributes:
        version: of this format.
        name: of the model, for people.
        model: its hash, see `model_hash`.
        messages: all of them, the system prompt first if there is one.
        depth: how deep answers are thought.
        sampling: how tokens are chosen, without its bias.
        bias: token id -> number added to its logit.
        seed: selects initial states and draws.
        share: of the cache.
        bits: of the cache.
        template_variables: of the chat template's own, as JSON.
        read_depth: how deep the tokens in the caches were read; None if there are none.
        read_seed: their seed.
        gathered: whether one slot of the cache serves all steps.
    """

    version: int
    name: Annotated[str, Line()]
    model: Annotated[str, Line()]
    messages: tuple[Message, ...]
    depth: Depth
    sampling: Sampling
    bias: Mapping[str, float]
    seed: Annotated[int, Bounds(0, 2**64 - 1)]
    share: Annotated[str, Line()]
    bits: int | None
    template_variables: str = "{}"
    read_depth: Depth | None = None
    read_seed: Annotated[int, Bounds(0, 2**64 - 1)] = 0
    gathered: bool = False


def model_hash(bundle: Bundle) -> str:
    """Return a hash of all files of a model that what was read depends on."""
    if bundle.write_weights is not None:
        return hash_file(bundle.folder)
    files = {
        name: entry.sha256
        for name, entry in bundle.manifest.files.items()
        if name not in HARMLESS and not name.endswith(".safetensors")
    }
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def write_chat(path: Path, saved: SavedChat, tokens: list[int], entries: Entries) -> None:
    """Write a conversation, whole or not at all; raises OutputError.

    Args:
        path: the file; one that is there is replaced if it is such a file.
        saved: everything but the arrays.
        tokens: those that the caches hold.
        entries: of `rdlite.engine.Sequence`.
    """
    from safetensors.numpy import save_file

    if path.exists() and not is_chat(path):
        raise OutputError(f"{path} exists and is no saved conversation; give another name")
    arrays = {name: np.ascontiguousarray(kept) for name, kept in entries.items()}
    arrays["tokens"] = np.array(tokens, np.int64)
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        partial.touch()  # says what is wrong with the folder; save_file names a file of its own
        save_file(arrays, partial, {KEY: json.dumps(dataclasses.asdict(saved))})
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as problem:
        raise OutputError(f"cannot write {path}: {problem.strerror or problem}") from None
    except SafetensorError as problem:
        why = str(problem).partition(" at path ")[0]
        raise OutputError(f"cannot write {path}: {why}") from None
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def is_chat(path: Path) -> bool:
    """Whether a file is a saved conversation, or looks like one."""
    try:
        with safe_open(path, "np") as file:
            return KEY in (file.metadata() or {})
    except (OSError, SafetensorError):
        return False


def read_chat(path: Path) -> tuple[SavedChat, Mapping[str, npt.NDArray[Any]]]:
    """Read a conversation and its arrays; raises InputError if the file is none."""
    try:
        with safe_open(path, "np") as file:
            text = (file.metadata() or {}).get(KEY)
            if text is None:
                raise InputError(f"{path} is no saved conversation of rdlite")
            saved = decode(
                SavedChat, read_json(text.encode(), str(path), InputError), str(path), InputError
            )
            names = list(file.keys())
            if len(names) > MAX_SLOTS + 3:
                raise InputError(
                    f"{path} holds {len(names)} arrays, at most {MAX_SLOTS + 3} are allowed"
                )
            arrays = {name: file.get_tensor(name) for name in names}
    except OSError as problem:
        raise InputError(f"{path} cannot be read: {problem.strerror or problem}") from None
    except (SafetensorError, ValueError, TypeError) as problem:
        if isinstance(problem, RdliteError):
            raise
        line = " ".join(str(problem).split())[:200]
        raise InputError(f"{path} is no whole saved conversation ({line})") from None
    odd = [key for key in saved.bias if not (key.isascii() and key.isdecimal() and len(key) < 9)]
    if odd:
        raise InputError(f"{path}: bias has the key {odd[0]!r:.40}, which is not a token id")
    if saved.version != VERSION:
        raise InputError(f"{path} is of version {saved.version}, this rdlite reads {VERSION}")
    return saved, arrays


def check_arrays(
    path: Path,
    arrays: Mapping[str, npt.NDArray[Any]],
    config: ModelConfig,
    cache: Cache,
    context: int,
) -> list[int]:
    """Hold the arrays of a file against the model; returns the tokens, raises InputError."""
    tokens = arrays.get("tokens")
    if tokens is None or tokens.dtype != np.int64 or tokens.ndim != 1 or len(tokens) > context:
        raise InputError(f"{path}: its tokens are none, or more than the context of {context}")
    ids: list[int] = tokens.tolist()
    if ids and not 0 <= min(ids) <= max(ids) < config.vocab_size:
        raise InputError(f"{path} holds tokens that the model does not have")
    slots = [name for name in arrays if name.startswith("core.")]
    if sorted(slots) != sorted(f"core.{index}" for index in range(len(slots))):
        raise InputError(f"{path}: its cache has the slots {', '.join(slots)[:80]}")
    # Caches of a GPU are float16; either kind goes on where the other was saved.
    dtypes = (np.float32, np.float16) if cache.bits is None else (np.int8,)
    for name, kept in arrays.items():
        if name == "tokens":
            continue
        part = name.partition(".")[0]
        if part not in ("prelude", "core", "coda"):
            raise InputError(f"{path} holds an array {name!r:.60}")
        layers = getattr(config.layers, part)
        heads, size = config.num_key_value_heads, config.head_dim
        length = kept.shape[4] if part == "core" and kept.ndim == 6 else len(ids)
        if (
            kept.dtype not in dtypes
            or kept.shape != (layers, 2, 1, heads, length, size)
            or length > len(ids)
        ):
            raise InputError(
                f"{path}: {name} is {kept.dtype} {list(kept.shape)}, which is no cache of "
                f"{len(ids)} tokens of this model"
            )
    return ids
