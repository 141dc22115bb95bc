"""Answering on this machine: in this process, or in several with a model each."""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import signal
from collections import deque
from collections.abc import Generator, Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from rdlite.api.load import load
from rdlite.api.model import Model
from rdlite.batch.answers import Answerer, Record
from rdlite.batch.options import Load, Options, is_small
from rdlite.batch.rows import Piece, Row, read_piece
from rdlite.batch.scan import MARK, MAX_PIECE, Scan
from rdlite.bundle.reader import Bundle
from rdlite.errors import RdliteError, RuntimeFailure
from rdlite.utils.cpu import usable_cores

#: Pieces that may be answered before the first one that is not, for each process.
AHEAD = 8


def processes_for(bundle: Bundle, given: Load, wanted: int | None) -> tuple[Load, int]:
    """Return how many processes answer rows, and how each opens the model.

    Args:
        bundle: of the model.
        given: how the user would open it.
        wanted: processes; None: one for each core if the model is small, as its calls are too short
            to share among cores; else one, so that its weights are in memory once.
    """
    cores = usable_cores()
    if wanted is None:
        threads = given.threads or 1
        wanted = max(1, cores // threads) if is_small(bundle) and given.device == "cpu" else 1
    threads = given.threads or max(1, cores // wanted)
    return dataclasses.replace(given, threads=threads), wanted


def open_model(given: Load) -> Model:
    """Load a model for many texts at once."""
    return load(
        given.path,
        given.device,
        given.threads,
        given.context,
        given.cache,
        given.force_steps,
        together=True,
    )


def in_this_process(
    scan: Scan, start: int, given: Load, options: Options
) -> Generator[Record, None, None]:
    """Yield the records of the rows from `start` on."""
    with open_model(given) as model:
        answerer = Answerer(model, options, given.at_once)
        yield from answerer.answer(scan.read(start))


def in_processes(
    scan: Scan, start: int, given: Load, options: Options, processes: int
) -> Generator[Record, None, None]:
    """Yield the records of the rows from `start` on; each process answers pieces of them.

    Raises:
        RdliteError: what a process could not do.
        RuntimeFailure: a process has ended.
    """
    size = piece_size(scan.rows - start, processes)
    ahead = AHEAD * processes * size
    pieces = scan.pieces(start, size)
    done: dict[int, Record] = {}
    number = sent = start
    with contextlib.ExitStack() as stack:
        workers = [
            stack.enter_context(contextlib.closing(_Worker(given, options, scan.column)))
            for _ in range(processes)
        ]
        while number < scan.rows:
            for worker in sorted(workers, key=lambda worker: worker.rows):
                while worker.rows < size and sent < min(scan.rows, number + ahead):
                    piece = next(pieces)
                    worker.give(piece)
                    sent += piece.count
            ready = wait([worker.connection for worker in workers if worker.rows])
            for worker in workers:
                if worker.connection in ready:
                    at, record = worker.take()
                    done[at] = record
            while number in done:
                yield done.pop(number)
                number += 1


def piece_size(rows: int, places: int) -> int:
    """Return how many rows a piece has: fewer where there are few, so that all have some."""
    share = rows // (4 * places)
    return min(MAX_PIECE, max(MARK, share // MARK * MARK))


class _Worker:
    """A process that answers pieces. Close it."""

    def __init__(self, given: Load, options: Options, column: str) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self._process: BaseProcess = context.Process(
            target=_work, args=(theirs, given, options, column), daemon=True
        )
        self._process.start()
        theirs.close()
        #: Rows that it was given and has not answered.
        self.rows = 0

    def give(self, piece: Piece) -> None:
        try:
            self.connection.send(piece)
        except OSError:
            raise self._ended() from None
        self.rows += piece.count

    def take(self) -> tuple[int, Record]:
        try:
            answer = self.connection.recv()
        except (EOFError, OSError):
            raise self._ended() from None
        if isinstance(answer, RdliteError):
            raise answer
        self.rows -= 1
        number, record = answer
        return number, record

    def _ended(self) -> RuntimeFailure:
        self._process.join()
        return RuntimeFailure(
            f"a process that answers rows has ended (exit code {self._process.exitcode}); if it "
            "needed more memory than there is, give fewer --processes. The same command goes on"
        )

    def close(self) -> None:
        self._process.terminate()
        self._process.join()
        self.connection.close()


def _work(connection: Connection, given: Load, options: Options, column: str) -> None:
    """Answer pieces until the other side is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the other side ends this process
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        try:
            with open_model(given) as model:
                answerer = Answerer(model, options, given.at_once)
                while True:
                    numbers: deque[int] = deque()
                    rows = _rows(connection, connection.recv(), column, numbers)
                    for record in answerer.answer(rows):
                        connection.send((numbers.popleft(), record))
        except RdliteError as problem:
            connection.send(problem)


def _rows(connection: Connection, piece: Piece, column: str, numbers: deque[int]) -> Iterator[Row]:
    """Yield the rows of a piece, and of those that follow without a wait."""
    while True:
        for row in read_piece(piece, column):
            numbers.append(row.number)
            yield row
        if not connection.poll():
            return
        piece = connection.recv()
