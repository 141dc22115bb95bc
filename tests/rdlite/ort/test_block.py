"""Several core steps in one call leave the bits that single steps leave."""

from pathlib import Path

import numpy as np
import pytest
from rdlite.export import export_checkpoint

import rdlite
from rdlite import Cache, Depth
from rdlite.decode.loop import generate_tokens
from rdlite.graphs.derived.unrolled import STEPS
from rdlite.ort.runner import Runner

DATA = Path(__file__).parents[2] / "data"
FAMILIES = ("huginn-tiny", "ouro-tiny", "raven-llama-tiny", "raven-olmo-tiny")  # of 4 steps or more


@pytest.fixture(scope="module", params=["nano", "nano float32", "int8 cache", *FAMILIES])
def bundle(request, tmp_path_factory):
    if request.param == "nano":
        return "nano"
    if request.param == "nano float32":
        return request.getfixturevalue("full_nano")
    if request.param == "int8 cache":
        return request.getfixturevalue("scaled_bundle")
    return export_checkpoint(DATA / request.param, tmp_path_factory.mktemp("kind") / "b")


def depths(model):
    """A depth that no number of blocks gives, and every rule that decodes nothing."""
    most = min(model.config.recurrence.max_steps or 3 * STEPS - 2, 3 * STEPS - 2)
    found = [Depth(most), Depth(most, min_steps=3, exit="latent-diff", check_every=3)]
    rules = {"latent-diff": 0.3, "cosine": 0.05, "acceleration": 0.3}
    if model.config.recurrence.exit_threshold is not None:
        rules["gate"] = 0.6
    found += [Depth(most, exit=rule, threshold=limit) for rule, limit in rules.items()]
    return found, Depth(most)


def read(model, sequence, ids, depth):
    """Write a few tokens; what was said of each."""
    plan = model.plan(max_tokens=6, depth=depth, sampling=None, seed=5, stop=(), min_tokens=6)
    tokens = generate_tokens(sequence, ids, plan)
    return [(t.id, t.logprob, t.steps, t.exit_value) for t in tokens]


@pytest.mark.parametrize("share", [None, 3, "last"])
def test_blocks_are_steps(bundle, share, monkeypatch):
    cache = Cache(share, bits=8 if "scaled" in str(bundle) else None)
    ids = [3, 1, 4, 1, 5, 9, 2, 6]
    with rdlite.load(bundle, threads=1, cache=cache) as model:
        rules, deep = depths(model)
        blocks, block = [], Runner._block
        monkeypatch.setattr(Runner, "_block", lambda *given: blocks.append(given) or block(*given))
        for depth in rules:
            many, single = model.new_sequence(), model.new_sequence()
            said = read(model, many, ids, depth)
            taken = len(blocks)
            with monkeypatch.context() as patch:
                patch.setattr(Runner, "takes_block", lambda *_: False)
                assert said == read(model, single, ids, depth)
                assert len(blocks) == taken
                kept = single.entries()
            for name, entries in many.entries().items():
                length = min(entries.shape[4], kept[name].shape[4])
                assert np.array_equal(entries[..., :length, :], kept[name][..., :length, :])
            # And what a deeper text then reads of them, where steps too many were taken.
            longer = [*ids, *(token for token, *_ in said)]
            said = read(model, many, longer, deep)
            with monkeypatch.context() as patch:
                patch.setattr(Runner, "takes_block", lambda *_: False)
                assert said == read(model, single, longer, deep)
        assert blocks


def test_large_cores_take_their_steps_one_by_one(monkeypatch):
    monkeypatch.setattr("rdlite.engine.engine.SMALL", 0)
    with rdlite.load("nano", threads=1) as model:
        monkeypatch.setattr(Runner, "_block", None)
        assert len(model.generate("What is 48 + 76?", 5, depth=Depth(8)).ids) > 0
