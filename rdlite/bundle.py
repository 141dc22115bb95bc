"""The bundle: a folder with a manifest, three graphs, their weights and the text files.

This is the trust boundary. Nothing of a bundle reaches onnxruntime, the tokenizer or the template
engine before everything here has held: bare file names, no links, sizes, hashes, graph contract.
"""

import contextlib
import hashlib
import json
import re
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from rdlite.config import ModelConfig
from rdlite.errors import BundleError, RuntimeFailure
from rdlite.exit_defaults import ExitDefaults
from rdlite.graph_check import FLAVOURS, check_graph
from rdlite.progress import Progress, meter
from rdlite.quantization import Quantization
from rdlite.schema import Bounds, Choices, Line, decode, read_json

NANO = "nano"
SHIPPED = Path(__file__).parent / "models"
CONTRACT_VERSION = 1
MANIFEST = "rdlite.json"
PARTS = ("prelude", "core", "coda")
GROUPS = ("embedding", *PARTS, "head")

MAX_MANIFEST_BYTES = 2**20
MAX_TEXT_FILE_BYTES = 64 * 2**20
MAX_GRAPH_BYTES = 4 * 2**20
#: Loading hashes files up to this size; `verify` hashes all of them.
HASHED_ON_LOAD_BYTES = 64 * 2**20

BARE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


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
    the graphs are made. `sha256` is the hash of everything else in the manifest, see
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
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class Bundle:
    """An opened and checked bundle, or a GGUF file that is used as one.

    Attributes:
        folder: where it lies; of a GGUF file, the file.
        manifest: what it says of itself.
        graphs: the serialized ONNX models by part.
        unhashed: files whose SHA-256 was not compared, because they are large.
        texts: text files by name, where they are no files.
        write_weights: of a GGUF file, makes the data file of a part in a folder, and returns where
            the part's data lies.
    """

    folder: Path
    manifest: Manifest
    graphs: Mapping[str, bytes]
    unhashed: tuple[str, ...]
    texts: Mapping[str, bytes] = field(default_factory=dict)
    write_weights: Callable[[str, Path], Path] | None = None

    @property
    def config(self) -> ModelConfig:
        """Sizes and constants of the model."""
        return self.manifest.model

    @contextlib.contextmanager
    def data_folder(self, part: str) -> Iterator[Path]:
        """Give the folder with the external data of a part, there until its session is made.

        What onnxruntime has mapped stays readable after its name is gone. Raises RuntimeFailure if
        there is no room for it.
        """
        if self.write_weights is None:
            yield self.folder
            return
        with tempfile.TemporaryDirectory(prefix="rdlite-", ignore_cleanup_errors=True) as name:
            try:
                folder = self.write_weights(part, Path(name))
            except OSError as problem:
                raise RuntimeFailure(
                    f"the weights of {self.folder} cannot be laid out in {name}: "
                    f"{problem.strerror}; set TMPDIR to a folder with more room, or make a bundle "
                    "of it with 'rdlite gguf import'"
                ) from None
            yield folder

    def read_text(self, name: str) -> bytes | None:
        """Return a small file listed in the manifest, or None if the bundle has none."""
        if name in self.texts:
            return self.texts[name]
        if name not in self.manifest.files:
            return None
        return _read(self.folder / name, self.manifest.files[name].bytes, MAX_TEXT_FILE_BYTES)


def find_model(name: str | Path) -> Path:
    """Return the folder of a MODEL: its path, or "nano" for the one that comes with rdlite.

    A folder of one's own called nano is "./nano".
    """
    if name != NANO:
        return Path(name)
    if not (SHIPPED / NANO).is_dir():
        raise BundleError(f"nano is missing from {SHIPPED}; install rdlite again")
    return SHIPPED / NANO


def open_bundle(path: str | Path, manifest_file: Path | None = None) -> Bundle:
    """Open a bundle and check all of it but the hashes of large files.

    Args:
        path: its folder, or "nano"; or a GGUF file, which is opened as a bundle.
        manifest_file: its manifest, where that is not in the folder yet.

    Raises:
        BundleError: the folder is no bundle, or anything in it breaks a rule of its format.
        GraphError: a graph breaks the graph contract.
    """
    folder = find_model(path)
    if folder.suffix.lower() == ".gguf" and not folder.is_dir():
        from rdlite.export.gguf import open_gguf  # the runtime's one use of the exporter

        return open_gguf(folder)
    manifest = read_manifest(folder, manifest_file)
    _check_files(folder, manifest)
    small = {n for n, e in manifest.files.items() if e.bytes <= HASHED_ON_LOAD_BYTES}
    for name in sorted(small):
        _check_hash(folder, name, manifest.files[name])
    sizes = {name: entry.bytes for name, entry in manifest.files.items()}
    graphs = {}
    for part in PARTS:
        name = f"{part}.onnx"
        if name not in manifest.files:
            raise BundleError(f"{folder / MANIFEST} does not list {name}; a bundle needs it")
        graphs[part] = _read(folder / name, sizes[name], MAX_GRAPH_BYTES)
        check_graph(graphs[part], part, manifest.model, sizes, manifest.flavour)
    unhashed = tuple(name for name in manifest.files if name not in small)
    return Bundle(folder, manifest, graphs, unhashed)


def verify_bundle(path: str | Path, progress: Progress | None = None) -> Iterator[str]:
    """Check everything, hashes of large files included, and yield a line for each file that holds.

    Args:
        path: its folder, or "nano".
        progress: called with (bytes hashed, bytes in all) as it goes.

    Raises:
        BundleError: at the first thing that does not hold.
    """
    bundle = open_bundle(path)
    total = sum(bundle.manifest.files[name].bytes for name in bundle.unhashed)
    advance = meter(total, progress)
    for name, entry in bundle.manifest.files.items():
        if bundle.write_weights is not None:
            yield f"{name}: {entry.bytes} bytes, every tensor is in it; GGUF files have no hashes"
            return
        if name in bundle.unhashed:
            _check_hash(bundle.folder, name, entry, advance)
        yield f"{name}: {entry.bytes} bytes, SHA-256 matches"


def hash_file(path: Path, advance: Callable[[int], None] | None = None) -> str:
    """Return the hexadecimal SHA-256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(2**22):
            digest.update(piece)
            if advance:
                advance(len(piece))
    return digest.hexdigest()


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
    data = read_json(_read(path, None, MAX_MANIFEST_BYTES), str(path), BundleError)
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


def _check_files(folder: Path, manifest: Manifest) -> None:
    for name, entry in manifest.files.items():
        if not BARE_NAME.fullmatch(name):
            raise BundleError(
                f"{folder / MANIFEST} lists {name!r:.140}; files of a bundle have bare names"
            )
        if not _SHA256.fullmatch(entry.sha256):
            raise BundleError(f"{folder / MANIFEST}: {name} has no valid sha256")
        size = _regular_size(folder / name)
        if size != entry.bytes:
            raise BundleError(
                f"{folder / name} has {size} bytes, the manifest says {entry.bytes}; "
                "copy or export the bundle again"
            )
    scales = manifest.cache_scales
    if scales is not None and not (
        scales.file in manifest.files and scales.file.endswith(".safetensors")
    ):
        raise BundleError(
            f"{folder / MANIFEST}: cache_scales.file {scales.file!r:.140} is no safetensors file "
            "of the bundle"
        )


def _regular_size(path: Path) -> int:
    try:
        status = path.lstat()
    except OSError as problem:
        raise BundleError(f"{path} cannot be read: {problem.strerror}") from None
    if stat.S_ISLNK(status.st_mode):
        raise BundleError(f"{path} is a symbolic link; a bundle holds its files itself")
    if not stat.S_ISREG(status.st_mode):
        raise BundleError(f"{path} is not a regular file")
    return status.st_size


def _read(path: Path, expected: int | None, limit: int) -> bytes:
    size = _regular_size(path)
    if size > limit:
        raise BundleError(f"{path} has {size} bytes; at most {limit} are read")
    try:
        data = path.read_bytes()
    except OSError as problem:
        raise BundleError(f"{path} cannot be read: {problem.strerror}") from None
    if expected is not None and len(data) != expected:
        raise BundleError(f"{path} changed while it was read")
    return data


def _check_hash(
    folder: Path, name: str, entry: FileEntry, advance: Callable[[int], None] | None = None
) -> None:
    try:
        digest = hash_file(folder / name, advance)
    except OSError as problem:
        raise BundleError(f"{folder / name} cannot be read: {problem.strerror}") from None
    if digest != entry.sha256:
        raise BundleError(
            f"{folder / name} is damaged or was changed: its SHA-256 is {digest[:16]}…, "
            f"the manifest says {entry.sha256[:16]}…; copy or export the bundle again"
        )
