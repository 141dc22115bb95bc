"""Calibration: scales in which everything fits that the texts gave, stored in the bundle."""

import numpy as np
import pytest

import rdlite
from rdlite import Cache, InputError
from rdlite.bundle.cache_scales import read_cache_scales
from rdlite.loader import open_bundle
from rdlite.measure.calibrate_kv import (
    SILENT,
    calibrate_bundle,
    calibrate_cache_scales,
    practice_texts,
)
from rdlite.measure.tasks import TASKS
from rdlite.ort.initial_state import start_at

TEXTS = [list(range(1, 50)), [7] * 20, [200, 3]]
STEPS = 4


@pytest.fixture(scope="module")
def scales(model):
    return calibrate_cache_scales(model, TEXTS, STEPS, seed=3)


def test_the_largest_entry_of_each_channel_is_127(model, scales):
    """Of every step, layer, key or value, and head; of the coda at any depth."""
    peaks = dict.fromkeys(("prelude", "coda", *range(STEPS)), 0.0)
    sequence, start = model.new_sequence(), start_at(model.config, "random", 3)

    def note(name, slot, scale):
        entries = np.abs(slot.data[..., : runner.size, :] / scale).max(axis=4)
        peaks[name] = np.maximum(peaks[name], entries)

    for ids in TEXTS:
        runner = sequence.begin(ids, STEPS)
        start(runner, 0)
        note("prelude", sequence.outer_slot("prelude"), scales.prelude)
        for step in range(STEPS):
            runner.step(step)
            note(step, sequence.steps_cache.slots[step], scales.of_slot(step))
            runner.logits(step + 1)
            note("coda", sequence.outer_slot("coda"), scales.coda)
    for name, found in peaks.items():
        assert np.allclose(found, 127, rtol=1e-4), name


def test_the_cache_policy_and_the_order_of_texts_do_not_matter(text_bundle, scales):
    with rdlite.load(text_bundle, cache=Cache(share=1)) as model:
        again = calibrate_cache_scales(model, TEXTS[::-1], STEPS, seed=3)
    for name in ("prelude", "core", "coda"):
        assert np.array_equal(getattr(again, name), getattr(scales, name))


def test_a_silent_channel_gets_a_scale_all_the_same(model, monkeypatch):
    monkeypatch.setattr("rdlite.measure.calibrate_kv.SILENT", 1e9)
    assert SILENT < 1
    scales = calibrate_cache_scales(model, TEXTS[2:], 1)
    assert (scales.coda == np.float32(1) / np.float32(127)).all()


def test_progress_counts_texts(model):
    seen = []
    calibrate_cache_scales(model, TEXTS, 1, progress=lambda *counts: seen.append(counts))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_a_bundle_gets_scales_and_gets_new_ones(bundle_copy):
    first = calibrate_bundle(bundle_copy, TEXTS, 2)
    assert open_bundle(bundle_copy) == first
    with rdlite.load(bundle_copy, cache=Cache(bits=8)) as model:
        assert len(model.generate("hello", 3).ids) == 3
    assert calibrate_bundle(bundle_copy, TEXTS, 2) == first
    second = calibrate_bundle(bundle_copy, TEXTS, 3)
    assert read_cache_scales(second).steps == second.manifest.cache_scales.steps == 3
    assert [path.name for path in bundle_copy.glob("cache_scales.*")] == [
        second.manifest.cache_scales.file
    ]


def test_practice_is_never_held_out(nano):
    texts = practice_texts(nano, 1, seed=5)
    assert len(texts) == sum(task.highest for task in TASKS.values())
    assert texts == practice_texts(nano, 1, seed=5) != practice_texts(nano, 1, seed=6)
    answers = [nano.tokenizer.decode(ids) for ids in texts]
    assert all(answer.count("user") == 2 for answer in answers)


@pytest.mark.parametrize(
    ("texts", "steps", "message"),
    [
        ([], 4, "there is no text to calibrate on"),
        ([[]], 4, "the prompt is empty"),
        ([[1, 999]], 4, "a token id must be a whole number from 0 to 287, got 999"),
        (TEXTS, 0, "steps must be a whole number from 1 to 1024, got 0"),
    ],
)
def test_what_is_out_of_bounds_is_refused(model, texts, steps, message):
    with pytest.raises(InputError, match=message):
        calibrate_cache_scales(model, texts, steps)


def test_scales_are_found_with_a_float_cache(scaled_bundle):
    with (
        rdlite.load(scaled_bundle, cache=Cache(bits=8)) as model,
        pytest.raises(InputError, match="load the model without bits"),
    ):
        calibrate_cache_scales(model, TEXTS, 2)


def test_a_file_of_scales_has_a_bound(model, monkeypatch):
    monkeypatch.setattr("rdlite.measure.calibrate_kv.MAX_TEXT_FILE_BYTES", 2**16)
    with pytest.raises(
        InputError, match="scales of 100 steps would take 107520 bytes, at most 65536"
    ):
        calibrate_cache_scales(model, TEXTS, 100)


def test_states_that_overflow_are_refused(model, monkeypatch):
    monkeypatch.setattr(
        "rdlite.measure.calibrate_kv.start_at",
        lambda *_: lambda runner, position: runner.states[0].fill(np.nan),
    )
    with pytest.raises(InputError, match="keys or values of the core are not finite"):
        calibrate_cache_scales(model, TEXTS, 1)
