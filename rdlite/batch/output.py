"""OUT: the records in the shape that its name asks for, put in its place by one rename."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from rdlite.batch.rows import JSONL, is_parquet, load_pyarrow
from rdlite.errors import InputError, OutputError
from rdlite.utils.files import sync_folder

#: Rows of a row group of Parquet.
GROUP = 4096


@dataclass(frozen=True, slots=True)
class Shape:
    """How records become OUT.

    Attributes:
        out: its path.
        files: those of IN, by name, if OUT is a folder with one file for each; else None.
        counts: rows of each file of IN.
        whole_ids: all ids are whole numbers.
        logprob: whether records tell it.
    """

    out: Path
    files: list[str] | None
    counts: list[int]
    whole_ids: bool
    logprob: bool


def check_out(out: Path, folder: bool) -> bool:
    """Return whether OUT becomes a folder; `folder` says whether IN is one.

    Raises:
        InputError: its name does not say what it is to be.
        RuntimeFailure: it is to be Parquet, and pyarrow is missing.
    """
    if is_parquet(out):
        load_pyarrow()
        return False
    if out.suffix.lower() == JSONL:
        return False
    if not folder or out.suffix:
        raise InputError(
            f"the name of {out} must end in .jsonl or .parquet, for one file"
            + ("; without such an end it becomes a folder" if folder else "")
        )
    return True


def part_of(out: Path) -> Path:
    """Return the folder in which OUT is made."""
    return out.with_name(out.name + ".part")


def make(records: Path, shape: Shape) -> Path:
    """Return what OUT will be, made of the file of records beside it."""
    if shape.files is not None:
        made = records.with_name("made")
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir()
        with records.open("rb") as lines:
            for name, count in zip(shape.files, shape.counts, strict=True):
                _write(islice(lines, count), made / name, shape)
        sync_folder(made)
        return made
    if not is_parquet(shape.out):
        return records
    made = records.with_name("made" + shape.out.suffix)
    with records.open("rb") as lines:
        _write(lines, made, shape)
    return made


def put_in_place(made: Path, out: Path) -> None:
    """Rename what was made to OUT."""
    try:
        made.rename(out)
    except OSError as problem:
        raise OutputError(f"cannot write {out}: {problem.strerror or problem}") from None
    sync_folder(out.parent)


def _write(lines: Iterator[bytes], path: Path, shape: Shape) -> None:
    with path.open("wb") as file:
        if is_parquet(path):
            _write_parquet(lines, file, shape)
        else:
            file.writelines(lines)
        file.flush()
        os.fsync(file.fileno())


def _write_parquet(lines: Iterator[bytes], file: Any, shape: Shape) -> None:
    pyarrow = load_pyarrow()
    schema = schema_of(shape.whole_ids, shape.logprob)
    with pyarrow.parquet.ParquetWriter(file, schema) as writer:
        while group := [json.loads(line) for line in islice(lines, GROUP)]:
            if not shape.whole_ids:
                group = [row | {"id": str(row["id"])} for row in group]
            writer.write_table(pyarrow.Table.from_pylist(group, schema))


def schema_of(whole_ids: bool, logprob: bool) -> Any:
    """Return the columns of records in Parquet."""
    pyarrow = load_pyarrow()
    columns = {
        "id": pyarrow.int64() if whole_ids else pyarrow.string(),
        "text": pyarrow.string(),
        "finish": pyarrow.string(),
        "steps": pyarrow.int64(),
        "tokens": pyarrow.int64(),
        **({"logprob": pyarrow.float64()} if logprob else {}),
        "error": pyarrow.string(),
    }
    return pyarrow.schema(list(columns.items()))
