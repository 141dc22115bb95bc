"""The bundle: a folder with a manifest, three graphs, their weights and the text files.

This is the trust boundary. Nothing of a bundle reaches onnxruntime, the tokenizer or the template
engine before everything here has held: bare file names, no links, sizes, hashes, graph contract.
"""

import contextlib
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rdlite.bundle.check.graph import check_graph
from rdlite.bundle.manifest import MANIFEST, PARTS, FileEntry, Manifest, read_manifest
from rdlite.config.model import ModelConfig
from rdlite.errors import BundleError, RuntimeFailure
from rdlite.utils.files import hash_file, read_file, regular_size

MAX_TEXT_FILE_BYTES = 64 * 2**20
MAX_GRAPH_BYTES = 4 * 2**20
#: Loading hashes files up to this size; `verify` hashes all of them.
HASHED_ON_LOAD_BYTES = 64 * 2**20

BARE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


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

    @property
    def weight_bytes(self) -> int:
        """What the weights take on the disk, and about what they take in memory."""
        return sum(entry.bytes for entry in self.manifest.files.values())

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
        return read_file(self.folder / name, self.manifest.files[name].bytes, MAX_TEXT_FILE_BYTES)


def open_folder(folder: Path, manifest_file: Path | None = None) -> Bundle:
    """Open a bundle and check all of it but the hashes of large files.

    Args:
        folder: where it lies.
        manifest_file: its manifest, where that is not in the folder yet.

    Raises:
        BundleError: the folder is no bundle, or anything in it breaks a rule of its format.
        GraphError: a graph breaks the graph contract.
    """
    manifest = read_manifest(folder, manifest_file)
    _check_files(folder, manifest)
    small = {n for n, e in manifest.files.items() if e.bytes <= HASHED_ON_LOAD_BYTES}
    for name in sorted(small):
        check_hash(folder, name, manifest.files[name])
    sizes = {name: entry.bytes for name, entry in manifest.files.items()}
    graphs = {}
    for part in PARTS:
        name = f"{part}.onnx"
        if name not in manifest.files:
            raise BundleError(f"{folder / MANIFEST} does not list {name}; a bundle needs it")
        graphs[part] = read_file(folder / name, sizes[name], MAX_GRAPH_BYTES)
        check_graph(graphs[part], part, manifest.model, sizes, manifest.flavour)
    unhashed = tuple(name for name in manifest.files if name not in small)
    return Bundle(folder, manifest, graphs, unhashed)


def _check_files(folder: Path, manifest: Manifest) -> None:
    for name, entry in manifest.files.items():
        if not BARE_NAME.fullmatch(name):
            raise BundleError(
                f"{folder / MANIFEST} lists {name!r:.140}; files of a bundle have bare names"
            )
        if not _SHA256.fullmatch(entry.sha256):
            raise BundleError(f"{folder / MANIFEST}: {name} has no valid sha256")
        size = regular_size(folder / name)
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


def check_hash(
    folder: Path, name: str, entry: FileEntry, advance: Callable[[int], None] | None = None
) -> None:
    """Raise BundleError unless a file has the SHA-256 that the manifest says."""
    try:
        digest = hash_file(folder / name, advance)
    except OSError as problem:
        raise BundleError(f"{folder / name} cannot be read: {problem.strerror}") from None
    if digest != entry.sha256:
        raise BundleError(
            f"{folder / name} is damaged or was changed: its SHA-256 is {digest[:16]}…, "
            f"the manifest says {entry.sha256[:16]}…; copy or export the bundle again"
        )
