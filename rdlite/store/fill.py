"""Brings a model of the hub into the store, converted shard by shard as it arrives."""

import dataclasses
import errno
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from rdlite.errors import CheckpointError, HubError, OutputError
from rdlite.hub.download import PARTS, PAUSE, RETRIES, Fetcher, part_name
from rdlite.hub.pull import TEXTS, WEIGHTS, wanted_files, weight_names
from rdlite.hub.sources import Hub, HubFile, Interrupted, Source, check_repo
from rdlite.store.entries import Entry, Record, find, locked, note
from rdlite.store.names import Name, check_scheme
from rdlite.utils.files import write_whole
from rdlite.utils.memory import free_bytes, in_gb
from rdlite.utils.progress import Progress, meter
from rdlite.version import __version__

#: What a scheme is called among GGUF files, the best first.
GGUF_TYPES = {"int4": ("q4_0", "q4_k_m", "q4_k_s"), "int8": ("q8_0",), "float32": ("f32",)}
#: Checkpoints up to this are small enough, and quick enough, as int8.
SMALL_CHECKPOINT = 2 * 10**9
MAX_HEADER_BYTES = 16 * 2**20


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """What is about to be done: bytes to download, and bytes and scheme of what stays."""

    download: int
    stored: int
    scheme: str


def fill(
    name: Name,
    *,
    approve: Callable[[Plan], None],
    waiting: Callable[[], None] = lambda: None,
    keep_checkpoint: bool = False,
    progress: Progress | None = None,
) -> Entry:
    """Return a model of the store, downloaded if it is not there.

    Where `name` has no scheme, one that suits size and free memory is chosen.

    What a killed process has downloaded or converted is gone on with.

    Args:
        name: of the model.
        approve: called before large downloads; may raise.
        waiting: called if another process is at the same model.
        keep_checkpoint: leave the checkpoint in the store too.
        progress: called with (done, in all), in bytes of weights.

    Raises:
        HubError: the hub refuses or cannot be reached, or has no such model.
        CheckpointError: the checkpoint cannot be converted.
        OutputError: the store cannot be written, or there is too little room.
    """
    check_repo(name.repo)
    with locked(name, waiting):
        if (entry := find(name)) is not None:  # made while this process waited
            return entry
        source = Hub(name.repo, name.revision)
        file = _gguf_file(name, source)
        label = file.name if file else (name.scheme or _fitting_scheme(name, source))
        work = _work_folder(name, label)
        try:
            _begin(work, source.commit, label)
            if file:
                return _fill_gguf(name, source, file, work, approve, progress)
            return _fill_bundle(name, label, source, work, approve, keep_checkpoint, progress)
        except OSError as problem:
            if problem.errno == errno.ENOSPC:
                shutil.rmtree(work, ignore_errors=True)
                raise OutputError(
                    f"the disk of {name.folder} is full; what had arrived of {name.repo} was "
                    "deleted: make room, or set RDLITE_HOME to a folder on another disk"
                ) from None
            raise OutputError(f"cannot write {work}: {problem.strerror or problem}") from None


def _work_folder(name: Name, label: str) -> Path:
    return name.folder / f".{label}.work"


def _begin(work: Path, commit: str, label: str) -> None:
    """Make the work folder, anew if it was for something else."""
    mark = work / "for.json"
    wanted = json.dumps([commit, label, __version__]).encode()
    if not (mark.exists() and mark.read_bytes() == wanted):
        shutil.rmtree(work, ignore_errors=True)
        (work / "shards" / PARTS).mkdir(parents=True)
        write_whole(mark, wanted)


def _fitting_scheme(name: Name, source: Source) -> str:
    """Choose how weights are stored: int8, which loses next to nothing, where it is small.

    What was begun is gone on with, whatever is free by now.
    """
    for scheme in ("int8", "int4"):
        if _work_folder(name, scheme).is_dir():
            return scheme
    checkpoint = sum(file.size for key, file in source.files.items() if key.endswith(WEIGHTS))
    free = free_bytes()
    roomy = free is None or checkpoint <= free  # as int8, half of it or less
    return "int8" if checkpoint <= SMALL_CHECKPOINT and roomy else "int4"


def _gguf_file(name: Name, source: Source) -> HubFile | None:
    """Return the GGUF file that is meant; None: a checkpoint is."""
    found = {key: file for key, file in source.files.items() if key.lower().endswith(".gguf")}
    found = {key: file for key, file in found.items() if "/" not in key and "\\" not in key}
    if name.file is not None:
        if name.file not in found:
            raise HubError(f"{name.repo} has no {name.file}; it has {_list(found)}")
        return found[name.file]
    if not found or any(key.endswith(WEIGHTS) for key in source.files):
        return None
    wanted = (name.scheme or "int4").lower()
    for kind in (wanted, *GGUF_TYPES.get(wanted, ())):
        for key in sorted(found):
            if kind in key.lower():
                return found[key]
    if len(found) == 1 and name.scheme is None:
        return next(iter(found.values()))
    raise HubError(f"{name.repo} has no GGUF file of {wanted}; name one of {_list(found)}")


def _list(names: dict[str, HubFile]) -> str:
    return ", ".join(sorted(names)[:8]) or "no GGUF file"


def _fill_gguf(
    name: Name,
    source: Source,
    file: HubFile,
    work: Path,
    approve: Callable[[Plan], None],
    progress: Progress | None,
) -> Entry:
    part = work / "shards" / PARTS / part_name(file.name, file.digest)
    left = file.size - (part.stat().st_size if part.exists() else 0)
    approve(Plan(left, file.size, "gguf"))
    _check_room(work, left)
    fetch = Fetcher(source, work / "shards")
    fetch.advance = meter(file.size, progress)
    fetch(file)
    target = name.folder / file.name
    os.replace(work / "shards" / file.name, target)
    shutil.rmtree(work)
    return note(target, Record(name.repo, name.revision, source.commit, name.scheme or "gguf"))


def _fill_bundle(
    name: Name,
    scheme: str,
    source: Source,
    work: Path,
    approve: Callable[[Plan], None],
    keep_checkpoint: bool,
    progress: Progress | None,
) -> Entry:
    from rdlite.architectures.registry import find_family
    from rdlite.export.by_shard import ByShard, can_stream
    from rdlite.export.from_checkpoint import read_checkpoint
    from rdlite.loader import verify_bundle
    from rdlite.quant import find_scheme

    check_scheme(scheme)
    files = wanted_files(source)
    shells = work / name.repo.rpartition("/")[2]  # the folder's name becomes the model's
    (shells / PARTS).mkdir(parents=True, exist_ok=True)
    fetch_text = Fetcher(source, shells)
    for text in TEXTS:
        if text in files:
            fetch_text(files[text])
    config = json.loads((shells / "config.json").read_bytes())
    if isinstance(config, dict):
        find_family(config, ())
    shards = [files[key] for key in weight_names(shells, files)]
    for shard in shards:
        _fetch_header(source, shard, shells / shard.name)
    if not can_stream(shells):
        raise CheckpointError(
            f"{name.repo} was quantized by another tool, which is converted only when all of it is "
            f"there: 'rdlite pull {name.repo}', then 'rdlite export'"
        )
    original = read_checkpoint(shells)
    storage = None if scheme == "float32" else find_scheme(scheme).prepare(original)
    making = ByShard(original, storage, work)
    left = [shard for shard in shards if making.missing(shard.name) or keep_checkpoint]
    approve(Plan(sum(shard.size for shard in left), making.bundle_bytes, scheme))
    needed = making.bundle_bytes - _taken(work)
    sizes = [shard.size for shard in left]
    _check_room(work, needed + (sum(sizes) if keep_checkpoint else max(sizes, default=0)))
    fetch = Fetcher(source, work / "shards")
    fetch.advance = meter(sum(shard.size for shard in shards), progress)
    for shard in shards:
        if shard not in left:
            fetch.advance(shard.size)
            continue
        fetch(shard)
        making.take(work / "shards" / shard.name)
        if not keep_checkpoint:
            (work / "shards" / shard.name).unlink()
    bundle, target = making.finish(), name.folder / scheme
    for _ in verify_bundle(bundle):
        pass
    if keep_checkpoint:
        kept = name.folder / "checkpoint"
        for shard in shards:
            os.replace(work / "shards" / shard.name, shells / shard.name)
        if not kept.exists():
            shells.rename(kept)
    if target.exists():
        raise OutputError(f"{target} is in the way, and not from rdlite; move it")
    bundle.rename(target)
    shutil.rmtree(work)
    return note(target, Record(name.repo, name.revision, source.commit, scheme))


def _taken(work: Path) -> int:
    """Bytes that the bundle's files take already; they are as long as they will be, with holes."""
    files = (work / "bundle").iterdir()
    return sum(512 * getattr(file.stat(), "st_blocks", 0) for file in files)


def _check_room(work: Path, needed: int) -> None:
    free = shutil.disk_usage(work).free
    if needed > free:
        raise OutputError(
            f"{in_gb(needed)} of disk are needed and {work.parent} has {in_gb(free)} free; make "
            "room, or set RDLITE_HOME to a folder on another disk"
        )


def _fetch_header(source: Source, file: HubFile, shell: Path) -> None:
    """Write a safetensors file of the right length that holds only its header: the rest is a hole.

    Everything that looks at a checkpoint's headers alone can take it for the file.
    """
    if shell.exists():
        return
    data = b""
    for attempt in range(RETRIES + 1):
        try:
            for piece in source.read(file, len(data)):
                data += piece
                length = int.from_bytes(data[:8], "little")
                if len(data) >= min(8 + length, file.size, MAX_HEADER_BYTES) and len(data) >= 8:
                    break
            break
        except Interrupted:
            if attempt == RETRIES:
                raise
            time.sleep(PAUSE * 2**attempt)
    end = 8 + int.from_bytes(data[:8], "little")
    part = shell.with_suffix(".header")
    with part.open("wb") as out:
        out.write(data[:end])
        out.truncate(file.size)
    part.replace(shell)
