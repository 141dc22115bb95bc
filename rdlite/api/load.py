"""`rdlite.load`: opens a model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from rdlite.api.model import Model
from rdlite.config.cache import Cache
from rdlite.engine.devices import find_device
from rdlite.errors import InputError
from rdlite.loader import open_bundle
from rdlite.utils.checks import check_integer

if TYPE_CHECKING:
    from rdlite.config.cuda import Cuda

MAX_THREADS = 256


def load(
    path: str | Path = "nano",
    device: str | Cuda = "cpu",
    threads: int | None = None,
    context: int | None = None,
    cache: Cache | None = None,
) -> Model:
    """Open a model.

    Args:
        path: a bundle folder made by `rdlite export`, or "nano": the model that comes with rdlite.
        device: "cpu"; "cuda", or `rdlite.Cuda(...)`, for an NVIDIA GPU; "auto": a GPU if one can be
            used. There, activations and caches are float16.
        threads: threads for one operator, 1 to 256; None: one for each physical core.
        context: the longest text in tokens, at most the model's own; None: the model's own.
        cache: what to keep of past positions; None: one slot per step, in float32.

    Raises:
        BundleError: the bundle breaks a rule of its format.
        InputError: a number or the device is out of bounds, or the cache is to be int8 and the
            bundle has no scales for that, or the device is a GPU.
        RuntimeFailure: onnxruntime is missing or refuses a graph, or the GPU cannot be used; what
            was asked for is never run on the CPU instead.
    """
    if not isinstance(path, str | os.PathLike):
        raise InputError(f"path must be the path of a bundle, got {path!r:.60}")
    if threads is not None:
        check_integer("threads", threads, 1, MAX_THREADS)
    found = find_device(device)
    bundle = open_bundle(path)
    limit = bundle.config.context_length
    context = limit if context is None else check_integer("context", context, 1, limit)
    return Model(bundle, threads, context, cache or Cache(), found)
