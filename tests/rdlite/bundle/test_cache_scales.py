"""Scales of int8 caches: which slot has which, and files of them from strangers."""

import dataclasses
import json

import numpy as np
import pytest
from safetensors.numpy import save

import rdlite
from rdlite import BundleError, Cache, InputError
from rdlite.bundle.cache_scales import CacheScales, pack, read_cache_scales, shapes, unpack
from rdlite.bundle.manifest import CacheScalesEntry, hashed_name
from rdlite.bundle.update import update_bundle
from rdlite.config.model import LayerCounts
from rdlite.loader import open_bundle

STEPS = 3


def made(config, change=lambda arrays: None):
    """Arrays of a good file, changed."""
    rng = np.random.default_rng(0)
    arrays = {
        name: rng.uniform(0.01, 1, shape).astype(np.float32)
        for name, shape in shapes(config, STEPS).items()
    }
    change(arrays)
    return arrays


def test_what_is_packed_comes_out_again(model):
    arrays = made(model.config)
    found = unpack(pack(CacheScales(**arrays)), model.config, STEPS, "file")
    for name, array in arrays.items():
        assert np.array_equal(getattr(found, name), array)
    assert found.steps == STEPS


def test_a_part_without_layers_has_no_scales(model):
    config = dataclasses.replace(model.config, layers=LayerCounts(0, 2, 0))
    scales = unpack(pack(CacheScales(**made(config))), config, STEPS, "file")
    assert scales.prelude.shape == (0, 2, 1, 4, 1, 16)


def numbered(values):
    """Scales that say which step they are of."""
    core = np.array(values, np.float32).reshape(-1, 1, 1, 1, 1, 1, 1)
    return CacheScales(core[0], core, core[0])


def slots(scales, share, steps):
    shared = scales.shared(share)
    count = Cache(share).slots(steps)
    return [float(shared.of_slot(index).item()) for index in range(count)]


def test_each_slot_has_its_steps_scales():
    scales = numbered([9, 5, 7, 2, 3])
    assert slots(scales, None, 8) == [9, 5, 7, 2, 3, 3, 3, 3]
    assert slots(scales, 1, 8) == [9]
    assert slots(scales, 2, 8) == [9, 5]
    assert slots(scales, 3, 8) == [9, 5, 7]
    assert slots(scales, 4, 8) == [9, 5, 7, 3]  # deeper steps have the last scales
    assert slots(scales, 7, 8) == [9, 5, 7, 3, 3, 3, 3]


def set_item(name, value):
    def change(arrays):
        arrays[name].flat[-1] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_item("core", 0), "scales of core must lie between 1e-12 and 1e"),
        (set_item("prelude", -1), "scales of prelude must lie between"),
        (set_item("coda", np.nan), "scales of coda must lie between"),
        (set_item("coda", np.inf), "scales of coda must lie between"),
        (set_item("coda", 1e-30), "scales of coda must lie between"),
        (lambda a: a.pop("coda"), "must hold prelude, core, coda, and nothing else"),
        (lambda a: a.update(more=a["coda"][:1, :1, :, :1]), "and nothing else"),
        (lambda a: a.update(core=a["core"][:2]), r"core must be F32 \[3, 2, 2, .* it is F32 \[2"),
        (lambda a: a.update(coda=a["coda"].reshape(-1)), r"coda must be F32 .* it is F32 \[128\]"),
        (lambda a: a.update(coda=a["coda"].astype(np.float16)), "coda must be F32 .* it is F16"),
        (lambda a: a.update(core=np.concatenate([a["core"]] * 9)), "scales of 3 steps need"),
    ],
)
def test_hostile_files_are_refused(bundle_copy, change, message):
    model = rdlite.load(bundle_copy)
    data = save(made(model.config, change))
    name = hashed_name("cache_scales.safetensors", data)
    update_bundle(model.bundle, {"cache_scales": CacheScalesEntry(name, STEPS)}, {name: data})
    with pytest.raises(BundleError, match=message):
        rdlite.load(bundle_copy, cache=Cache(bits=8))
    rdlite.load(bundle_copy).close()  # who does not ask for int8 does not need them


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x02" + b"\0" * 7 + b"[]",
        (2**60).to_bytes(8, "little") + b"{}",
        b"\xff" * 64,
        (64).to_bytes(8, "little") + json.dumps({"core": {"dtype": "F32"}}).encode().ljust(64),
    ],
)
def test_what_is_no_safetensors_file_is_refused(model, data):
    with pytest.raises(BundleError, match="is not a whole safetensors file"):
        unpack(data, model.config, STEPS, "file")


def test_every_cut_of_a_file_is_refused(model):
    data = pack(CacheScales(**made(model.config)))
    for size in range(0, len(data), 97):
        with pytest.raises(BundleError):
            unpack(data[:size], model.config, STEPS, "file")


def test_changed_bytes_are_refused_or_do_no_harm(model):
    rng, whole = np.random.default_rng(0), pack(CacheScales(**made(model.config)))
    header = 8 + int.from_bytes(whole[:8], "little")
    messages = []
    for _ in range(500):
        data = bytearray(whole)
        data[rng.integers(0, header)] = rng.integers(0, 256)
        try:
            assert unpack(bytes(data), model.config, STEPS, "file").steps == STEPS
        except BundleError as problem:
            messages.append(str(problem))
    assert len(messages) > 300
    assert max(map(len, messages)) < 400
    assert "\n" not in "".join(messages)


def test_a_bundle_without_scales_says_what_to_do(text_bundle, scaled_bundle):
    with pytest.raises(InputError, match=r"has no scales for an int8 cache: run 'rdlite tune .*"):
        rdlite.load(text_bundle, cache=Cache(bits=8))
    assert read_cache_scales(open_bundle(scaled_bundle)).steps == STEPS


@pytest.mark.parametrize("bits", [0, 4, 16, "8", 8.0, True])
def test_other_bits_are_refused(bits):
    with pytest.raises(InputError, match=r"bits must be None \(float32\) or 8 \(int8\), got"):
        Cache(bits=bits)
