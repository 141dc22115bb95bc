"""Rows of files: lines of JSONL, rows of Parquet, each with the place where it begins."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rdlite.batch.request import IDS, OPTIONS
from rdlite.errors import InputError, RuntimeFailure
from rdlite.utils.install import install_hint

if TYPE_CHECKING:
    import pyarrow.parquet as pq

#: The longest line of JSONL, in bytes.
MAX_LINE = 64 * 2**20
#: Rows of a Parquet file that are decoded at once.
PARQUET_ROWS = 64
PARQUET, JSONL = ".parquet", ".jsonl"


@dataclass(frozen=True, slots=True)
class Row:
    """A row as it was read.

    Attributes:
        number: in the job, from 0.
        value: what it says; None with a problem, if it says nothing at all.
        problem: why it cannot be answered.
    """

    number: int
    value: Any
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Piece:
    """Some rows of one file, to be read and answered anywhere. Picklable.

    Attributes:
        file: its path.
        place: where reading begins: a byte of a JSONL file, a row of a Parquet file.
        skip: rows to leave out there.
        number: of the first row then.
        count: rows.
        repeats: rows whose id an earlier row has, and the number of that.
    """

    file: Path
    place: int
    skip: int
    number: int
    count: int
    repeats: dict[int, int] = field(default_factory=dict)


#: Where a row begins, what it says, and why it says nothing.
Found = tuple[int, Any, str | None]


def is_parquet(path: Path) -> bool:
    """Whether a file is read or written as Parquet, by its name."""
    return path.suffix.lower() == PARQUET


def read_piece(piece: Piece, column: str) -> Iterator[Row]:
    """Yield the rows of a piece; raises InputError if its file can no longer be read."""
    found = read_file(piece.file, column, piece.place)
    for number in range(piece.number - piece.skip, piece.number + piece.count):
        item = next(found, None)
        if item is None:
            raise InputError(f"{piece.file} has fewer rows than when it was read first")
        _, value, problem = item
        if number in piece.repeats:
            problem = f"the id is that of row {piece.repeats[number]} too; give each its own"
        if number >= piece.number:
            yield Row(number, value, problem)


def read_file(path: Path, column: str, place: int = 0) -> Iterator[Found]:
    """Yield the rows of a file from a place on.

    Raises:
        InputError: it cannot be read, or is a Parquet file without that column.
        RuntimeFailure: it is a Parquet file, and pyarrow is missing.
    """
    try:
        yield from (_parquet(path, column, place) if is_parquet(path) else _lines(path, place))
    except OSError as problem:
        raise InputError(f"cannot read {path}: {problem.strerror or problem}") from None


def _lines(path: Path, place: int) -> Iterator[Found]:
    with path.open("rb") as file:
        file.seek(place)
        while line := file.readline(MAX_LINE + 1):
            start, place = place, place + len(line)
            if len(line) > MAX_LINE:
                while line and not line.endswith(b"\n"):
                    line = file.readline(2**20)
                    place += len(line)
                yield start, None, f"the row has more than {MAX_LINE} bytes"
                continue
            if start == 0:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if line.strip():
                yield start, *_parsed(line)


def _parsed(line: bytes) -> tuple[Any, str | None]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as problem:
        return None, f"the row is no JSON: {problem}"
    if not isinstance(value, dict):
        return None, f"a row must be an object, got {type(value).__name__}"
    return value, None


def load_pyarrow() -> Any:
    """Return pyarrow; raises RuntimeFailure if it is not installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise RuntimeFailure(f"Parquet files need pyarrow: {install_hint('parquet')}") from None
    return pyarrow


def _parquet(path: Path, column: str, place: int) -> Iterator[Found]:
    pyarrow = load_pyarrow()
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            columns = _columns(path, file, column)
            groups, first = _groups_from(file, place)
            number = first
            for batch in file.iter_batches(PARQUET_ROWS, groups, columns):
                for row in batch.to_pylist():
                    if number >= place:
                        yield number, row, None
                    number += 1
    except pyarrow.ArrowException as problem:
        raise InputError(f"{path} cannot be read as Parquet: {problem}") from None


def _columns(path: Path, file: pq.ParquetFile, column: str) -> list[str]:
    """Return the columns that say something; others are not read."""
    names = file.schema_arrow.names
    if column not in names and "messages" not in names:
        raise InputError(
            f"{path} has no column {column!r:.60} or 'messages', it has "
            f"{', '.join(names) or 'none'}: name the one with the prompts, as --column does"
        )
    if column in names:
        kind = file.schema_arrow.field(column).type
        if not any(word in str(kind) for word in ("string", "list", "null")):
            raise InputError(
                f"column {column!r:.60} of {path} holds {kind}, neither text nor token ids"
            )
    return [name for name in names if name in (column, "messages", *IDS, *OPTIONS)]


def _groups_from(file: pq.ParquetFile, place: int) -> tuple[list[int], int]:
    """Return the row groups from the one with a row on, and the number of their first row."""
    first = 0
    for group in range(file.num_row_groups):
        size = file.metadata.row_group(group).num_rows
        if place < first + size:
            return list(range(group, file.num_row_groups)), first
        first += size
    return [], first
