"""`rdlite.load`: opens a model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rdlite.api.model import Model
from rdlite.config.cache import Cache
from rdlite.engine.devices import find_device
from rdlite.errors import InputError
from rdlite.loader import open_bundle
from rdlite.utils.checks import check_integer
from rdlite.utils.memory import check_context, fitting_context

if TYPE_CHECKING:
    from rdlite.config.cuda import Cuda

MAX_THREADS = 256


def load(
    path: str | Path = "nano",
    device: str | Cuda = "cpu",
    threads: int | None = None,
    context: int | Literal["auto"] | None = None,
    cache: Cache | None = None,
    force_steps: bool = False,
    together: bool = False,
) -> Model:
    """Open a model.

    Args:
        path: a bundle folder made by `rdlite export`, or "nano": the model that comes with rdlite.
        device: "cpu"; "cuda", or `rdlite.Cuda(...)`, for an NVIDIA GPU; "auto": a GPU if one can be
            used. There, activations and caches are float16.
        threads: threads for one operator, 1 to 256; None: one for each physical core, or a single
            one if the core has fewer than 4 million weights, which is faster.
        context: the longest text in tokens, at most the model's own; None: the model's own, or for
            very long ones as much as the bundle holds rotary tables for. "auto": that, or as much
            as fits in the memory that is free. Caches grow with the text, up to this.
        cache: what to keep of past positions; None: one slot per step, in float32.
        force_steps: let models that were made for some depth go past it, which ruins their answers;
            warns with DepthWarning if this is such a model.
        together: work on many texts at once, and verify drafts at once, also with weights in blocks
            whose last bits depend on whether a position is alone (int4 in blocks over 32). Then
            positions are read in pairs, and one text alone takes up to a third longer. Without it,
            such models take texts in turn. Others need none of this.

    Raises:
        BundleError: the bundle breaks a rule of its format.
        InputError: a number or the device is out of bounds, or the cache is to be int8 and the
            bundle has no scales for that, or the device is a GPU; or the caches of a full `context`
            do not fit in the memory that is free; with "auto": the weights do not.
        RuntimeFailure: onnxruntime is missing or refuses a graph, or the GPU cannot be used; what
            was asked for is never run on the CPU instead.
    """
    if not isinstance(path, str | os.PathLike):
        raise InputError(f"path must be the path of a bundle, got {path!r:.60}")
    if threads is not None:
        check_integer("threads", threads, 1, MAX_THREADS)
    found = find_device(device)
    bundle = open_bundle(path)
    config, cache = bundle.config, cache or Cache()
    steps = config.recurrence.mean_steps
    per_token = cache.bytes_per_token(config, steps)
    if context == "auto" and found is None:
        context = fitting_context(config.rotary_positions, bundle.weight_bytes, per_token)
    elif context is None or context == "auto":
        context = config.rotary_positions
    else:
        check_integer("context", context, 1, config.context_length)
        check_context(context, steps, context * per_token)
    return Model(bundle, threads, context, cache, found, force_steps, together)
