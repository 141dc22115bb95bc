"""OUT.part: records as far as they are safely on the disk, and a journal that says how far.

    journal    a line of JSON with the settings, then one for each time that records were synced
    records    one line of JSON per row, in order
    scan       what was found in IN (see scan)
    lock       held by the process that works on it
    finished   the totals, written just before OUT is put in its place

Whatever kills the process, the last whole line of the journal holds: behind it, records are cut.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

from filelock import FileLock, Timeout

from rdlite.batch.answers import Record
from rdlite.errors import OutputError
from rdlite.utils.files import sync_folder, write_whole

#: Seconds of work that a killed process loses at most, beside what is in flight.
SYNC_EVERY = 1.0
JOURNAL, RECORDS, SCAN, LOCK, FINISHED = "journal", "records", "scan", "lock", "finished"


@dataclass(frozen=True, slots=True)
class Totals:
    """How far a job is.

    Attributes:
        rows: that have a record.
        bytes: of those records.
        errors: rows without an answer.
        tokens: new tokens.
        steps: core steps that chose them.
    """

    rows: int = 0
    bytes: int = 0
    errors: int = 0
    tokens: int = 0
    steps: int = 0

    @property
    def mean_steps(self) -> float:
        """Core steps per new token."""
        return self.steps / self.tokens if self.tokens else 0.0


class Journal:
    """The records of one job. Use from one thread, in a with block."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], logprob: bool) -> None:
        """Begin, or go on where it was.

        Args:
            folder: one that `begin` made.
            settings: as JSON; what records depend on.
            logprob: whether records tell it.

        Raises:
            OutputError: it was begun with other settings.
        """
        self._logprob = logprob
        #: The file of records.
        self.records = folder / RECORDS
        #: How far it is.
        self.totals: Totals
        self._records = self.records.open("ab")
        self._journal = (folder / JOURNAL).open("ab")
        wanted = json.loads(json.dumps(settings))
        before, self.totals, end = _read(folder / JOURNAL, self._records.tell())
        if before is not None and before != wanted:
            self._close()
            _refuse(before, wanted, folder)
        self._journal.truncate(end)
        self._records.truncate(self.totals.bytes)
        if before is None:
            self._journal.write(_as_line(wanted))
        self.sync()
        sync_folder(folder)

    def add(self, record: Record) -> None:
        """Take the record of the next row."""
        line, last = record.as_line(self._logprob), self.totals
        self._records.write(line)
        self.totals = Totals(  # at once: a signal may end this function anywhere
            last.rows + 1,
            last.bytes + len(line),
            last.errors + (record.error is not None),
            last.tokens + record.tokens,
            last.steps + record.steps,
        )
        if time.monotonic() - self._synced > SYNC_EVERY:
            self.sync()

    def sync(self) -> None:
        """Make sure of what was added."""
        _sync(self._records)
        self._journal.write(_as_line(dataclasses.asdict(self.totals)))
        _sync(self._journal)
        self._synced = time.monotonic()

    def finish(self) -> None:
        """Note that OUT is made, and will be put in its place now."""
        totals = json.dumps(dataclasses.asdict(self.totals)).encode()
        write_whole(self.records.with_name(FINISHED), totals)
        sync_folder(self.records.parent)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if not isinstance(error, OSError):  # the disk may be full
                self.sync()
        finally:
            self._close()

    def _close(self) -> None:
        self._journal.close()
        self._records.close()


@contextlib.contextmanager
def begin(folder: Path) -> Iterator[None]:
    """Make OUT.part, or take the one that is there, and keep others away in the block.

    Raises OutputError: it cannot be made, is not of such a job, or another process has it.
    """
    try:
        if folder.exists() and not (folder / LOCK).exists() and any(folder.iterdir()):
            raise OutputError(f"{folder} is in the way: it is no unfinished job; move it")
        folder.mkdir(exist_ok=True)
        lock = FileLock(folder / LOCK)
        lock.acquire(timeout=0)
    except Timeout:
        raise OutputError(f"another process works on {folder}; wait for it, or end it") from None
    except OSError as problem:
        raise OutputError(f"cannot write {folder}: {problem.strerror or problem}") from None
    try:
        yield
    finally:
        lock.release()


def finished(folder: Path) -> Totals | None:
    """Return the totals of a job that was killed when OUT was in its place, or None."""
    path = folder / FINISHED
    return Totals(**json.loads(path.read_bytes())) if path.exists() else None


def remove(folder: Path) -> None:
    """Remove OUT.part; what it is known by comes last."""
    for path in folder.iterdir():
        if path.name not in (LOCK, FINISHED):
            path.unlink()
    shutil.rmtree(folder)


def _read(path: Path, size: int) -> tuple[dict[str, Any] | None, Totals, int]:
    """Return the settings, the last totals that so many bytes of records bear, and their end."""
    settings, totals, end = None, Totals(), 0
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            item = json.loads(line)
            if settings is None:
                settings = item
            elif item["bytes"] > size:
                break
            else:
                totals = Totals(**item)
            end += len(line)
    return settings, totals, end


def _refuse(before: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> NoReturn:
    name = next(name for name in {**before, **now} if before.get(name) != now.get(name))
    raise OutputError(
        f"{folder} was begun with another {name} ({before.get(name)!r:.80}, now "
        f"{now.get(name)!r:.80}): go on as it was begun, or delete the folder to start over"
    )


def _as_line(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value).encode() + b"\n"


def _sync(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())
