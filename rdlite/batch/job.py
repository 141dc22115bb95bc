"""A job from IN to OUT: scan IN, answer the rows that have no record yet, put OUT in its place."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rdlite.api.chat_file import model_hash
from rdlite.batch.answers import Record
from rdlite.batch.journal import SCAN, Journal, Totals, begin, finished, remove
from rdlite.batch.options import Options
from rdlite.batch.output import Shape, check_out, make, part_of, put_in_place
from rdlite.batch.scan import Scan, find_files
from rdlite.bundle.reader import Bundle
from rdlite.errors import InputError, OutputError
from rdlite.utils.progress import Progress
from rdlite.version import __version__

#: Yields the records of the rows of a scan, from a number on, in order.
Answer = Callable[[Scan, int], Generator[Record, None, None]]


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be done.

    Attributes:
        given: IN.
        out: OUT.
        options: of all rows; depth and sampling are given.
        bundle: of the model.
        strict: stop at the first row that has no answer.
    """

    given: Path
    out: Path
    options: Options
    bundle: Bundle
    strict: bool = False

    def settings(self, scan: Scan) -> dict[str, Any]:
        """Return all that records depend on, by the name that a user knows."""
        return {
            "input": scan.hash,
            "model": model_hash(self.bundle),
            "version of rdlite": __version__,
            **self.options.as_dict(),
        }


def run(
    job: Job,
    answer: Answer,
    reading: Progress | None = None,
    working: Callable[[Totals, int], None] | None = None,
) -> Totals:
    """Do a job, or what is left of it; returns how far it is: everything has a record.

    Args:
        job: what to do.
        answer: does it.
        reading: called with (bytes read, bytes in all) before.
        working: called with the totals and the rows in all, at the start and for each record.

    Raises:
        InputError: IN cannot be read, or OUT has no name that fits; with `strict`, the first row
            that has no answer.
        OutputError: OUT cannot be written, is there already, or was begun in another way.
    """
    to_folder = check_out(job.out, job.given.is_dir())
    files = find_files(job.given)
    part = part_of(job.out)
    if job.out.exists():
        totals = finished(part)
        if totals is None:
            raise OutputError(f"{job.out} is there already: delete it, or give another name")
        remove(part)
        return totals
    with begin(part):
        with contextlib.closing(Scan(files, job.options.column, part / SCAN, reading)) as scan:
            with Journal(part, job.settings(scan), job.options.logprob) as journal:
                _answer(job, answer, scan, journal, working)
            scan.check_unchanged()
        names = [path.name for path in files] if to_folder else None
        shape = Shape(job.out, names, scan.counts, scan.whole_ids, job.options.logprob)
        made = make(journal.records, shape)
        journal.finish()
        put_in_place(made, job.out)
    remove(part)
    return journal.totals


def _answer(
    job: Job,
    answer: Answer,
    scan: Scan,
    journal: Journal,
    working: Callable[[Totals, int], None] | None,
) -> None:
    if working:
        working(journal.totals, scan.rows)
    if journal.totals.rows == scan.rows:
        return
    with contextlib.closing(answer(scan, journal.totals.rows)) as records:
        for record in records:
            if job.strict and record.error is not None:
                raise InputError(
                    f"row {journal.totals.rows} (id {record.id!r:.80}): {record.error}; without "
                    "--strict it becomes a record with this error"
                )
            journal.add(record)
            if working:
                working(journal.totals, scan.rows)
    if journal.totals.rows != scan.rows:
        raise InputError(f"{job.given} was changed while it was worked on; nothing was written")
