"""Answering on a Ray cluster: Ray Data hands pieces of IN to actors, each with a model.

Actors read IN where they are, so it and the model lie at the same paths on all nodes. Records come
back in order, and whoever asks for them writes them: OUT is the same as on one machine. Placing,
back-pressure, and doing again what a lost actor or node had are Ray's.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import pickle
import socket
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from rdlite.api.chat_file import model_hash
from rdlite.batch.answers import Answerer, Record
from rdlite.batch.local import open_model, piece_size
from rdlite.batch.options import Load, Options
from rdlite.batch.rows import Piece, read_piece
from rdlite.batch.scan import MARK, Scan
from rdlite.errors import InputError, RdliteError, RuntimeFailure
from rdlite.loader import open_bundle, verify_bundle
from rdlite.utils.cpu import usable_cores
from rdlite.utils.install import install_hint
from rdlite.utils.printable import one_line, shorten
from rdlite.version import __version__

LOCAL = "local"
#: Seconds in which a cluster must take a connection.
PATIENCE = 10
#: Pieces of a job at most: Ray keeps account of each.
MAX_PIECES = 4096


@dataclass(frozen=True, slots=True)
class Place:
    """What an actor needs to know. Picklable.

    Attributes:
        load: how to open the model.
        options: of all rows.
        column: that holds the prompts.
        model: hash of the model.
        versions: of what decides the bits of an answer, by name.
    """

    load: Load
    options: Options
    column: str
    model: str
    versions: dict[str, str]

    def check(self) -> None:
        """Raise RuntimeFailure unless this process answers as the one that asks would."""
        own = versions()
        for name, version in self.versions.items():
            if own[name] != version:
                raise RuntimeFailure(
                    f"{_node()} has {name} {own[name]}, the job was started with {version}: "
                    "install the same on all nodes"
                )
        if model_hash(open_bundle(self.load.path)) != self.model:
            raise RuntimeFailure(f"{_node()} has another model at {self.load.path}")


def versions() -> dict[str, str]:
    """Return the versions of what decides the bits of an answer."""
    from rdlite.ort.session import load_onnxruntime

    return {"rdlite": __version__, "onnxruntime": load_onnxruntime().__version__}


def on_ray(
    scan: Scan, start: int, load: Load, options: Options, address: str, cores: int | None
) -> Generator[Record, None, None]:
    """Yield the records of the rows from `start` on.

    Args:
        scan: of IN.
        start: number of a row.
        load: how each actor opens the model.
        options: of all rows.
        address: of the cluster, as `ray.init` takes it; "local": Ray on this machine, for this job.
        cores: of an actor; None: as many as the node has that has the fewest.

    Raises:
        RuntimeFailure: Ray is missing or out of reach, or a node is not as it must be.
        RdliteError: what an actor could not do.
    """
    ray = load_ray()
    with _connected(ray, address), _plain_errors(ray):
        nodes = {
            node["NodeID"]: int(node["Resources"].get("CPU", 0))
            for node in ray.nodes()
            if node["Alive"]
        }
        usable = {node: have for node, have in nodes.items() if have >= (cores or 1)}
        if not usable:
            raise RuntimeFailure(f"no node of the cluster has {cores or 1} cores")
        each = cores or min(usable.values())
        if load.threads is None:
            load = dataclasses.replace(load, threads=each)
        place = Place(load, options, scan.column, model_hash(open_bundle(load.path)), versions())
        _check_nodes(ray, list(usable), place, [str(path) for path in scan.files])
        actors = sum(have // each for have in usable.values())
        number = start
        for record in _records(ray, scan, start, place, actors, each):
            yield record
            number += 1
        if number != scan.rows:
            raise RuntimeFailure(f"Ray gave {number} of {scan.rows} records")


def load_ray() -> Any:
    """Return Ray, its telemetry off unless the user has said otherwise; raises RuntimeFailure."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # it warns of what is as it should be
    try:
        import ray
        import ray.data
    except ImportError:
        raise RuntimeFailure(f"--ray needs Ray Data: {install_hint('ray')}") from None
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    return ray


@contextlib.contextmanager
def _connected(ray: Any, address: str) -> Iterator[None]:
    if ray.is_initialized():  # the cluster of whoever calls
        yield
        return
    _check_reachable(address)
    own = {"num_cpus": usable_cores(), "include_dashboard": False} if address == LOCAL else {}
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **own)
    except (ConnectionError, ValueError, RuntimeError) as problem:
        raise RuntimeFailure(f"there is no Ray at {address!r:.80}: {_short(problem)}") from None
    try:
        yield
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Raise RuntimeFailure where nobody listens: Ray itself waits there, deaf to Ctrl-C."""
    host, colon, port = address.rpartition(":")
    if not colon or "/" in address or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), PATIENCE).close()
    except (OSError, OverflowError) as problem:
        raise RuntimeFailure(f"there is no Ray at {address!r:.80}: {_short(problem)}") from None


@contextlib.contextmanager
def _plain_errors(ray: Any) -> Iterator[None]:
    """Raise what was raised in an actor, not what Ray makes of it."""
    try:
        yield
    except ray.exceptions.RayError as problem:
        cause: BaseException | None = problem
        while cause is not None:
            inner = getattr(cause, "cause", None)
            if isinstance(inner, RdliteError):
                raise inner from None
            cause = inner if isinstance(inner, BaseException) else cause.__cause__
        raise RuntimeFailure(f"Ray has failed: {_short(problem)}") from problem


def _check_nodes(ray: Any, nodes: list[str], place: Place, files: list[str]) -> None:
    """Hash the model on each node, once, and see that IN is there."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    sizes = {path: os.stat(path).st_size for path in files}
    check = ray.remote(num_cpus=0)(_check_node)
    ray.get(
        [
            check.options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)
            ).remote(place, sizes)
            for node in nodes
        ]
    )


def _check_node(place: Place, sizes: dict[str, int]) -> None:
    try:
        for _ in verify_bundle(place.load.path):
            pass
    except RdliteError as problem:
        raise RuntimeFailure(f"{_node()} cannot open the model: {problem}") from None
    place.check()
    for path, size in sizes.items():
        if not os.path.exists(path) or os.stat(path).st_size != size:
            raise InputError(f"{_node()} does not see {path} as it is here: use shared storage")


def _records(
    ray: Any, scan: Scan, start: int, place: Place, actors: int, cores: int
) -> Iterator[Record]:
    left = scan.rows - start
    fewest = -(-left // (MAX_PIECES * MARK)) * MARK
    size = max(piece_size(left, actors), fewest)
    items = [{"piece": pickle.dumps(piece)} for piece in scan.pieces(start, size)]
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    answers = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        _Actor,
        fn_constructor_args=(place,),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=actors, initial_size=actors),
        num_cpus=cores,
    )
    for batch in answers.iter_batches(batch_size=None):
        for record in batch["record"]:
            yield pickle.loads(record)


class _Actor:
    """Answers pieces; Ray makes one in each of its processes."""

    def __init__(self, place: Place) -> None:
        place.check()
        self._column = place.column
        model = open_model(place.load)
        self._answerer = Answerer(model, place.options, place.load.at_once)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return the records of some pieces, in order."""
        pieces: list[Piece] = [pickle.loads(piece) for piece in batch["piece"]]
        rows = (row for piece in pieces for row in read_piece(piece, self._column))
        records = [pickle.dumps(record) for record in self._answerer.answer(rows)]
        return {"record": np.array(records, object)}


def _node() -> str:
    import ray

    return f"the node {ray.util.get_node_ip_address()}"


def _short(problem: BaseException) -> str:
    return shorten(one_line(str(problem)), 400)
