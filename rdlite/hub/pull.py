"""Pulls checkpoints from the hub: which files are fetched, and the folder that they go to.

Safetensors and a few text files from the top of a repository; never code, never pickles.
"""

import dataclasses
import json
import shutil
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from rdlite.errors import CheckpointError, HubError, OutputError
from rdlite.hub.download import PARTS, Fetcher, part_name
from rdlite.hub.sources import Hub, HubCache, HubFile, Source, check_repo
from rdlite.utils.files import write_whole
from rdlite.utils.progress import Progress, meter
from rdlite.utils.schema import decode, read_json

INDEX = "model.safetensors.index.json"
TEXTS = (
    "config.json",
    INDEX,
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
    "README.md",
)
WEIGHTS = ".safetensors"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
MAX_TEXT_BYTES = 64 * 2**20
RECORD = "files.json"


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """What a folder is being filled with, or was: kept in it as .pull/files.json.

    A file that is there under its own name is whole and has the digest that stands here.
    """

    repo: str
    revision: str
    commit: str
    files: dict[str, str]


def pull(
    repo: str,
    folder: str | Path | None = None,
    *,
    revision: str = "main",
    offline: bool = False,
    accept: Callable[[Mapping[str, Any]], object] | None = None,
    progress: Progress | None = None,
) -> Path:
    """Download a checkpoint, or what is still missing of it.

    Every file is held against the digest that the hub gives. What arrived before an interruption
    is kept and not fetched again.

    Args:
        repo: like "tomg-group-umd/huginn-0125".
        folder: where to; None: a folder of the repository's name in the current one. One that
            exists must be empty or from an earlier pull of the same repository, which is brought
            up to date.
        revision: a branch, tag or commit.
        offline: leave the network alone: take what the folder or huggingface_hub's cache has.
        accept: called with the parsed config.json before any weights are fetched; may raise.
        progress: called with (done, in all), in bytes of weights.

    Returns:
        The folder.

    Raises:
        RuntimeFailure: huggingface_hub is missing or too old.
        InputError: `repo` is no name of a repository.
        HubError: the hub refuses or cannot be reached; the repository has no safetensors.
        CheckpointError: config.json or the index is damaged.
        OutputError: the folder belongs to something else, or cannot be written.
    """
    check_repo(repo)
    folder = Path(repo.rpartition("/")[2] if folder is None else folder)
    try:
        old = _read_record(folder, repo)
        if offline and old and revision in (old.revision, old.commit) and _is_whole(folder, old):
            return folder
        source = HubCache(repo, revision) if offline else Hub(repo, revision)
        files = wanted_files(source)
        new = Record(
            source.repo, revision, source.commit, {name: f.digest for name, f in files.items()}
        )
        _prepare(folder, old, new)
        fetch = Fetcher(source, folder)
        for name in TEXTS:
            if name in files:
                fetch(files[name])
        config = _read_object(folder / "config.json")
        if accept:
            accept(config)
        weights = [files[name] for name in weight_names(folder, files)]
        _check_room(folder, weights)
        fetch.advance = meter(sum(file.size for file in weights), progress)
        for file in weights:
            fetch(file)
    except OSError as problem:
        raise OutputError(
            f"cannot write to {folder}: {problem.strerror or problem}; what has arrived is kept"
        ) from None
    return folder


def wanted_files(source: Source) -> dict[str, HubFile]:
    """Return the files that may be fetched; raises HubError where there is no checkpoint."""
    files = {
        name: file
        for name, file in source.files.items()
        if name in TEXTS or (name.endswith(WEIGHTS) and _is_bare(name))
    }
    if not any(name.endswith(WEIGHTS) for name in files):
        pickles = sorted(name for name in source.files if name.endswith(PICKLES))
        if pickles:
            raise HubError(
                f"{source.repo} holds only pickled weights ({pickles[0]:.100}); loading a pickle "
                "can run code, so rdlite never does: look for a repository or a --revision with "
                "safetensors"
            )
        raise HubError(f"{source.repo} has no safetensors at {source.commit}; is it a model?")
    if "config.json" not in files:
        raise HubError(f"{source.repo} has no config.json, so rdlite cannot use it as a checkpoint")
    for name in TEXTS:
        if name in files and files[name].size > MAX_TEXT_BYTES:
            raise HubError(
                f"{name} of {source.repo} has {files[name].size} bytes, more than the "
                f"{MAX_TEXT_BYTES} that are read"
            )
    return files


def _is_bare(name: str) -> bool:
    """Whether it is a file's name and no path, on any system."""
    return name[0] != "." and not set(name) & set('/\\:*?"<>|') and name.isprintable()


def weight_names(folder: Path, names: Collection[str]) -> list[str]:
    """Return which of the files are the model's weights, as exporting will choose them."""
    found = sorted(name for name in names if name.endswith(WEIGHTS))
    if INDEX in names:
        weight_map = _read_object(folder / INDEX).get("weight_map")
        if not isinstance(weight_map, dict) or not all(
            isinstance(name, str) for name in weight_map.values()
        ):
            raise CheckpointError(f"{folder / INDEX}: weight_map must map tensor names to files")
        shards = sorted(set(weight_map.values()))
        missing = [name for name in shards if name not in found]
        if missing:
            raise HubError(
                f"{len(missing)} of the {len(shards)} files that the index names are not there, "
                f"like {missing[0]!r:.100}; try another --revision"
            )
        return shards
    if "model.safetensors" in found:
        return ["model.safetensors"]
    if len(found) > 1:
        raise HubError(
            f"there are {len(found)} safetensors files and no {INDEX} to say which belong "
            "together; try another --revision"
        )
    return found


def _read_object(path: Path) -> dict[str, Any]:
    value = read_json(path.read_bytes(), str(path), CheckpointError)
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} must hold an object")
    return value


def _read_record(folder: Path, repo: str) -> Record | None:
    """Return what a folder was filled with; None where it is empty or does not exist."""
    if not folder.exists():
        return None
    path = folder / PARTS / RECORD
    try:
        record = decode(Record, read_json(path.read_bytes(), str(path), HubError), "", HubError)
    except FileNotFoundError:
        record = None
    except HubError as problem:
        raise OutputError(f"{path} is damaged ({problem}); delete {folder}") from None
    if record is None:
        if any(folder.iterdir()):
            raise OutputError(
                f"{folder} exists and is not from 'rdlite pull'; give another folder with -o"
            )
        return None
    if record.repo.casefold() != repo.casefold():
        raise OutputError(f"{folder} holds {record.repo}; give another folder with -o")
    if not all(name in TEXTS or _is_bare(name) for name in record.files):
        raise OutputError(f"{path} names files that are elsewhere; delete {folder}")
    return record


def _is_whole(folder: Path, record: Record) -> bool:
    texts = [name for name in TEXTS if name in record.files]
    if not all((folder / name).is_file() for name in texts):
        return False
    return all((folder / name).is_file() for name in weight_names(folder, record.files))


def _prepare(folder: Path, old: Record | None, new: Record) -> None:
    """Make the folder what the new record says, less the files that are missing."""
    parts = folder / PARTS
    parts.mkdir(parents=True, exist_ok=True)
    if old:
        for name, digest in old.files.items():
            if new.files.get(name) != digest:
                (folder / name).unlink(missing_ok=True)
    kept = {RECORD, *(part_name(name, digest) for name, digest in new.files.items())}
    for path in parts.iterdir():
        if path.name not in kept:
            path.unlink()
    data = json.dumps(dataclasses.asdict(new), indent=1) + "\n"
    write_whole(parts / RECORD, data.encode())


def _check_room(folder: Path, files: list[HubFile]) -> None:
    needed = 0
    for file in files:
        if not (folder / file.name).exists():
            part = folder / PARTS / part_name(file.name, file.digest)
            needed += file.size - (part.stat().st_size if part.exists() else 0)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OutputError(
            f"{needed / 2**30:.2f} GiB are still to come and {folder} has {free / 2**30:.2f} GiB "
            "free; make room, or give another folder with -o"
        )
