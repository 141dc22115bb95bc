"""IN before it is answered: its files, a hash of them, ids that repeat, and where its rows are.

What is found is kept in a file of SQLite, so that memory does not grow with the input.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator
from itertools import accumulate, chain
from pathlib import Path

from rdlite.batch.request import Id, id_of
from rdlite.batch.rows import JSONL, PARQUET, Piece, Row, read_file, read_piece
from rdlite.errors import InputError
from rdlite.utils.files import hash_file
from rdlite.utils.progress import Progress, meter

#: Rows between two places that are noted: pieces begin at such a row, or with a file.
MARK = 32
#: The most rows of a piece that is answered somewhere else.
MAX_PIECE = 256


def find_files(given: Path) -> list[Path]:
    """Return the files of IN, by name; raises InputError if there is none."""
    if not given.exists():
        raise InputError(f"there is no file or folder {str(given)!r:.200}")
    if not given.is_dir():
        return [given]
    kinds = (JSONL, PARQUET)
    found = [
        path
        for path in sorted(given.iterdir())
        if path.suffix.lower() in kinds and path.is_file() and not path.name.startswith(".")
    ]
    if not found:
        raise InputError(f"the folder {given} has no file that ends in {' or '.join(kinds)}")
    return found


class Scan:
    """What was found in IN. Use from one thread; close it."""

    def __init__(
        self, files: list[Path], column: str, notes: Path, progress: Progress | None = None
    ) -> None:
        """Read all files.

        Args:
            files: in order.
            column: the key or column that holds the prompt.
            notes: where what is found is kept; what is there is replaced.
            progress: called with (bytes read, bytes in all).

        Raises:
            InputError: a file cannot be read.
        """
        self.files, self.column = files, column
        #: Rows of each file.
        self.counts: list[int] = []
        #: Whether all ids are whole numbers.
        self.whole_ids = True
        notes.unlink(missing_ok=True)
        self._notes = sqlite3.connect(notes, isolation_level=None)
        self._notes.executescript(
            """
            PRAGMA journal_mode = OFF;
            PRAGMA synchronous = OFF;
            PRAGMA cache_size = -16384;
            CREATE TABLE ids (id TEXT PRIMARY KEY, row INTEGER) WITHOUT ROWID;
            CREATE TABLE repeats (row INTEGER PRIMARY KEY, first INTEGER);
            CREATE TABLE marks (row INTEGER PRIMARY KEY, file INTEGER, place INTEGER);
            BEGIN;
            """
        )
        try:
            self._stamps = self._stamp()
            self.hash = self._hash(progress)
            for index in range(len(files)):
                self._read(index)
            self._notes.execute("DROP TABLE ids")
            self._notes.execute("COMMIT")
        except BaseException:
            self.close()
            raise
        #: Rows in all.
        self.rows = sum(self.counts)

    def close(self) -> None:
        """Close the notes; their file stays."""
        self._notes.close()

    def check_unchanged(self) -> None:
        """Raise InputError if a file was written to since."""
        now = self._stamp()
        for path, before, after in zip(self.files, self._stamps, now, strict=True):
            if before != after:
                raise InputError(f"{path} was changed while it was worked on; nothing was written")

    def pieces(self, start: int, size: int | None = None) -> Iterator[Piece]:
        """Yield the rows from `start` on, of one file each and `size` at most.

        Args:
            start: number of a row.
            size: a multiple of MARK; None: whole files.
        """
        ends = list(accumulate(self.counts))
        begin, file, place = 0, 0, 0
        for row, of, where in self._notes.execute(
            "SELECT row, file, place FROM marks WHERE row >= "
            "(SELECT max(row) FROM marks WHERE row <= ?) ORDER BY row",
            (start,),
        ):
            first = ends[of] - self.counts[of]
            if row > start and row != first and (size is None or (row - first) % size):
                continue
            yield from self._piece(start, begin, row, file, place)
            begin, file, place = row, of, where
        yield from self._piece(start, begin, self.rows, file, place)

    def read(self, start: int) -> Iterator[Row]:
        """Yield the rows from `start` on."""
        return chain.from_iterable(read_piece(p, self.column) for p in self.pieces(start))

    def _piece(self, start: int, begin: int, end: int, file: int, place: int) -> Iterator[Piece]:
        first = max(start, begin)
        if first < end:
            repeats = self._notes.execute(
                "SELECT row, first FROM repeats WHERE row >= ? AND row < ?", (first, end)
            )
            yield Piece(self.files[file], place, first - begin, first, end - first, dict(repeats))

    def _read(self, index: int) -> None:
        path, number = self.files[index], sum(self.counts)
        count = 0
        for count, (place, value, _) in enumerate(read_file(path, self.column), 1):
            row = number + count - 1
            if (count - 1) % MARK == 0:
                self._notes.execute("INSERT INTO marks VALUES (?, ?, ?)", (row, index, place))
            self._note_id(value, row)
        self.counts.append(count)

    def _note_id(self, value: object, row: int) -> None:
        given: Id | None
        try:
            given = id_of(value)
        except InputError:
            given = None
        given = row if given is None else given
        self.whole_ids = self.whole_ids and isinstance(given, int)
        key = json.dumps(given)
        added = self._notes.execute("INSERT OR IGNORE INTO ids VALUES (?, ?)", (key, row))
        if not added.rowcount:
            self._notes.execute(
                "INSERT INTO repeats SELECT ?, row FROM ids WHERE id = ?", (row, key)
            )

    def _stamp(self) -> list[tuple[int, int]]:
        found = []
        for path in self.files:
            try:
                status = path.stat()
            except OSError as problem:
                raise InputError(f"cannot read {path}: {problem.strerror}") from None
            found.append((status.st_size, status.st_mtime_ns))
        return found

    def _hash(self, progress: Progress | None) -> str:
        advance = meter(sum(size for size, _ in self._stamps), progress)
        try:
            hashes = [hash_file(path, advance) for path in self.files]
        except OSError as problem:
            raise InputError(f"cannot read {problem.filename}: {problem.strerror}") from None
        if len(hashes) == 1:
            return hashes[0]
        named = [[path.name, each] for path, each in zip(self.files, hashes, strict=True)]
        return hashlib.sha256(json.dumps(named).encode()).hexdigest()
