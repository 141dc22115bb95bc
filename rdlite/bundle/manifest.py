"""The manifest of a bundle: what rdlite.json says, and its hash."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from rdlite.bundle.check.graph import FLAVOURS
from rdlite.config.exit_defaults import ExitDefaults
from rdlite.config.model import ModelConfig
from rdlite.config.quantization import Quantization
from rdlite.errors import BundleError
from rdlite.utils.files import read_file
from rdlite.utils.schema import Bounds, Choices, Line, decode, read_json

CONTRACT_VERSION = 1
MANIFEST = "rdlite.json"
PARTS = ("prelude", "core", "coda")
GROUPS = ("embedding", *PARTS, "head")

MAX_MANIFEST_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class FileEntry:
    """Size in bytes and hexadecimal SHA-256 of one file."""

    bytes: Annotated[int, Bounds(0, 2**53)]
    sha256: str


@dataclass(frozen=True, slots=True)
class CacheScalesEntry:
    """The file with the scales of int8 caches, and how many core steps they were calibrated for."""

    file: str
    steps: Annotated[int, Bounds(1, 1024)]


@dataclass(frozen=True, slots=True)
class Manifest:
    """What rdlite.json says.

    `weights` and `parameters` say of each group of weights how they are stored and how many they
    are; `quantization` is how matrices are quantized, if they are. `cache_scales` is there if the
    cache can be int8, `exit` if exit thresholds were measured. `flavour` says of which operators
    the graphs are made, `trained_length` how many tokens the model was trained on at once, where
    that is less than its context. `sha256` is the hash of everything else in the manifest, see
    `hash_manifest`.
    """

    contract_version: int
    producer: Annotated[str, Line()]
    name: Annotated[str, Line()]
    model: ModelConfig
    weights: Mapping[str, str]
    parameters: Mapping[str, int]
    files: Mapping[str, FileEntry]
    special_tokens: Mapping[str, str] = field(default_factory=dict)
    quantization: Quantization | None = None
    cache_scales: CacheScalesEntry | None = None
    exit: ExitDefaults | None = None
    flavour: Annotated[str, Choices(FLAVOURS)] = "fused"
    trained_length: Annotated[int | None, Bounds(1, 2**22)] = None
    sha256: str = ""


def hash_manifest(data: Mapping[str, Any]) -> str:
    """Return the hexadecimal SHA-256 of a parsed manifest: its JSON, sorted, without `sha256`."""
    rest = {key: value for key, value in data.items() if key != "sha256"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def read_manifest(folder: Path, file: Path | None = None) -> Manifest:
    """Return the manifest of a bundle, from another file if given; raises BundleError."""
    if not folder.is_dir():
        raise BundleError(f"{folder} is not a folder; MODEL is a bundle made by 'rdlite export'")
    path = file or folder / MANIFEST
    if not path.exists():
        hint = (
            f"; it looks like a checkpoint: run 'rdlite export {folder} -o BUNDLE' first"
            if (folder / "config.json").exists()
            else ""
        )
        raise BundleError(f"{folder} is not a bundle: it has no {MANIFEST}{hint}")
    data = read_json(read_file(path, None, MAX_MANIFEST_BYTES), str(path), BundleError)
    version = data.get("contract_version") if isinstance(data, dict) else None
    if version != CONTRACT_VERSION:
        raise BundleError(
            f"{path}: contract_version is {version!r:.40}, this rdlite reads {CONTRACT_VERSION}; "
            "export the checkpoint again, or use another version of rdlite"
        )
    manifest = decode(Manifest, data, str(path), BundleError)
    for group, count in manifest.parameters.items():
        if not 0 <= count < 2**53:
            raise BundleError(f"{path}: parameters.{group} must be a count, got {count!r:.40}")
    if manifest.sha256 != hash_manifest(data):
        raise BundleError(
            f"{path} is damaged or was changed: its own SHA-256 does not match; "
            "copy or export the bundle again"
        )
    return manifest


HASHED_NAME = re.compile(r"(.+)\.[0-9a-f]{16}(\.[a-z]+)")


def hashed_name(name: str, data: bytes) -> str:
    """Return the name with a hash of its contents in it: "a.bin" becomes "a.0123456789abcdef.bin".

    A file of such a name never has to change, so that one bundle's manifest or the other is right.
    """
    stem, _, suffix = name.rpartition(".")
    return f"{stem}.{hashlib.sha256(data).hexdigest()[:16]}.{suffix}"
