"""Calibrates int8 caches: how large a model's keys and values get, channel by channel."""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rdlite.api.load import load
from rdlite.api.model import Model
from rdlite.bundle.cache_scales import FILE, CacheScales, Floats, most_bytes, pack, shapes
from rdlite.bundle.manifest import CacheScalesEntry, hashed_name
from rdlite.bundle.reader import MAX_TEXT_FILE_BYTES, Bundle
from rdlite.bundle.update import update_bundle
from rdlite.config.cache import Cache
from rdlite.errors import InputError
from rdlite.measure.answers import encode_problem
from rdlite.measure.tasks import TASKS, draw
from rdlite.ort.initial_state import start_at
from rdlite.ort.kv_cache import Slot
from rdlite.utils.checks import check_integer
from rdlite.utils.progress import Progress, meter

STEPS = 32  # by then, states have all but settled
LARGEST = 127  # of an int8 entry
SILENT = 1e-6  # a channel that stays below this says nothing of its scale


def calibrate_cache_scales(
    model: Model,
    texts: Sequence[Sequence[int]],
    steps: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> CacheScales:
    """Find scales with which every key and value that these texts give fits into int8.

    Args:
        model: with a float32 cache; one loaded with Cache(share=1) gives the same and takes the
            least memory.
        texts: token ids, at least one in each; each is read from its start, all of it together.
        steps: core steps that get scales of their own, 1 to 1024; None: 32, or as many as the
            model allows. Deeper ones use the last one's.
        seed: selects random initial states.
        progress: called with (texts done, texts in all).

    Raises:
        InputError: the cache is int8 already or cannot be, there is no text, a number is out of
            bounds, the scales would make too large a file, or the model's numbers are not finite.
    """
    config = model.config
    if steps is None:
        steps = min(STEPS, config.recurrence.max_steps or STEPS)
    steps = config.steps_or_default(steps)
    if model.cache.bits is not None:
        raise InputError("scales are found with a float32 cache; load the model without bits")
    if model.bundle.manifest.flavour == "portable":
        raise InputError(
            "a portable bundle keeps its cache in float32, so there are no scales to find"
        )
    if not texts:
        raise InputError("there is no text to calibrate on; give at least one")
    size = most_bytes(config, steps)
    if size > MAX_TEXT_FILE_BYTES:
        raise InputError(
            f"scales of {steps} steps would take {size} bytes, at most {MAX_TEXT_FILE_BYTES} are "
            "read; calibrate fewer steps"
        )
    arrays = {name: np.zeros(shape, np.float32) for name, shape in shapes(config, steps).items()}
    peaks = CacheScales(**arrays)
    sequence, start = model.new_sequence(), start_at(config, "random", seed)
    advance = meter(len(texts), progress)
    for ids in texts:
        checked = model.check_ids(ids)
        runner = sequence.begin(checked, steps)
        _raise_peaks(peaks.prelude, sequence.outer_slot("prelude"), runner.size)
        start(runner, 0)
        for step in range(steps):
            runner.step(step)
            slots = sequence.steps_cache
            _raise_peaks(peaks.core[step], slots.slots[slots.index(step)], runner.size)
            runner.logits(step + 1)  # an answer may end at any depth, so the coda reads all
            _raise_peaks(peaks.coda, sequence.outer_slot("coda"), runner.size)
        advance(1)
    return CacheScales(**{name: _scales(array, name) for name, array in arrays.items()})


def _raise_peaks(peaks: Floats, slot: Slot, positions: int) -> None:
    """Let the peaks be no lower than the magnitudes of a slot's first positions."""
    entries = slot.read(0, positions)
    np.maximum(peaks, entries.max(axis=4, keepdims=True), out=peaks)
    np.maximum(peaks, -entries.min(axis=4, keepdims=True), out=peaks)


def _scales(peaks: Floats, name: str) -> Floats:
    if not np.isfinite(peaks).all():
        raise InputError(f"keys or values of the {name} are not finite; calibrate fewer steps")
    peaks[peaks < SILENT] = 1
    scales: Floats = peaks / np.float32(LARGEST)
    return scales


def practice_texts(model: Model, count: int = 2, seed: int = 0) -> list[list[int]]:
    """Return conversations about problems of every task and difficulty, none of them held out.

    Args:
        model: needs a tokenizer and a chat template.
        count: conversations for each task and difficulty, with two problems each.
        seed: the same seed gives the same texts.
    """
    check_integer("count", count, 1, 10_000)
    rng = random.Random(seed)
    texts = []
    for name, task in TASKS.items():
        for difficulty in [*range(1, task.highest + 1)] * count:
            first, second = (draw(rng, name, difficulty, held_out=False) for _ in range(2))
            messages = [
                {"role": "user", "content": first.question},
                {"role": "assistant", "content": first.answer},
                {"role": "user", "content": second.question},
            ]
            _, answer = encode_problem(model, second)
            texts.append([*model.encode_chat(messages), *answer])
    return texts


def cache_scales_update(
    bundle: Bundle, scales: CacheScales
) -> tuple[Mapping[str, Any], Mapping[str, bytes | None]]:
    """Return what `update_bundle` takes to give the bundle these scales: changes and files."""
    data = pack(scales)
    name = hashed_name(FILE, data)
    old = bundle.manifest.cache_scales
    files: dict[str, bytes | None] = {} if old is None else {old.file: None}
    return {"cache_scales": CacheScalesEntry(name, scales.steps)}, {**files, name: data}


def calibrate_bundle(
    path: str | Path,
    texts: Sequence[Sequence[int]] | None = None,
    steps: int | None = None,
    progress: Progress | None = None,
) -> Bundle:
    """Calibrate a bundle's int8 cache, anew if it has scales already, and store the scales in it.

    Args:
        path: its folder.
        texts: token ids; None: `practice_texts`.
        steps: as for `calibrate_cache_scales`.
        progress: called with (texts done, texts in all).

    Raises:
        InputError: a number is out of bounds, or there are no texts and the model cannot chat.
        BundleError: the bundle breaks a rule of its format.
        OutputError: its folder cannot be written.
    """
    with load(path, cache=Cache(share=1)) as model:
        texts = practice_texts(model) if texts is None else texts
        scales = calibrate_cache_scales(model, texts, steps, progress=progress)
        return update_bundle(model.bundle, *cache_scales_update(model.bundle, scales))
