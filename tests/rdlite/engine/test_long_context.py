"""Positions past the tables of a bundle, and memory that is said before it is taken."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from rdlite.export import export_checkpoint

import rdlite
from rdlite import Cache, Depth, InputError, RuntimeFailure
from rdlite.cli.main import main
from rdlite.config import model as config_module
from rdlite.graphs.rotary import rotary_table
from rdlite.utils import memory

DATA = Path(__file__).parents[2] / "data"


def export(folder, context):
    """A bundle of a tiny Nanbeige with such a context."""
    checkpoint = shutil.copytree(DATA / "nanbeige-tiny", folder / "checkpoint")
    config = json.loads((checkpoint / "config.json").read_text())
    config["max_position_embeddings"] = context
    (checkpoint / "config.json").write_text(json.dumps(config))
    return export_checkpoint(checkpoint, folder / "bundle")


@pytest.fixture
def short_tables(monkeypatch):
    """Bundles hold 64 positions of 32 numbers."""
    monkeypatch.setattr(config_module, "MAX_ROTARY_SIZE", 64 * 32)


def test_tables_are_bounded_and_longer_ones_are_made(tmp_path, short_tables, monkeypatch):
    bundle = export(tmp_path / "short", 4096)
    ids = np.random.default_rng(0).integers(0, 288, 200).tolist()
    with rdlite.load(bundle) as model:
        assert model.context == 64
        with pytest.raises(
            rdlite.ContextError, match="200 tokens, the context is 64; shorten it o"
        ):
            model.logits(ids)
        few = model.logits(ids[:64])
    with rdlite.load(bundle, context=200) as model:
        ours = model.logits(ids)
        assert (model.logits(ids[:64]) == few).all()
        said = model.generate(ids[:150], 20).ids
    monkeypatch.undo()
    with rdlite.load(export(tmp_path / "long", 4096)) as model:
        assert model.context == 4096
        assert (model.logits(ids) == ours).all()
        assert model.generate(ids[:150], 20).ids == said


def test_a_longer_table_begins_like_a_shorter_one():
    with rdlite.load("nano") as model:
        for name in ("rotary.cos", "rotary.sin"):
            short, long = (rotary_table(model.config, name, n) for n in (64, 70_000))
            assert (long[:64] == short).all()


def test_a_position_past_32k_is_read(tmp_path):
    """The caches are filled with what one position left, as if the text were that long."""
    bundle, at = export(tmp_path, 2**17), 70_000
    with rdlite.load(bundle, context=at + 100) as model:
        sequence = model.new_sequence()
        lane = sequence.begin([1] * 64, 2)
        for step in range(2):
            lane.states[0][:] = lane.states[0]
            lane.step(step)
        sequence.commit(64)
        entries = {
            name: np.repeat(array[..., :1, :], at, axis=4)
            for name, array in sequence.entries().items()
        }
        sequence.restore(entries, at, False)
        lane = sequence.begin([5], 2)
        lane.step(0)
        lane.step(1)
        assert np.isfinite(lane.logits(2)).all()


def test_a_context_that_does_not_fit_names_both_numbers(tmp_path, monkeypatch):
    bundle = export(tmp_path, 2**17)
    monkeypatch.setattr(memory, "free_bytes", lambda: 10**8)
    per_token = Cache().bytes_per_token(rdlite.load(bundle, context=64).config, 2)
    assert per_token == 2 * 3 * 2 * 2 * 32 * 4
    words = (
        rf"context of 131072 tokens needs 0\.403 GB of cache at 2 steps, 0\.1 GB of memory are "
        rf"free: ask for at most --context {10**8 // per_token}"
    )
    with pytest.raises(InputError, match=words):
        rdlite.load(bundle, context=2**17)
    result = CliRunner().invoke(main, ["generate", str(bundle), "x", "--context", "131072"])
    assert result.exit_code == 2
    assert "error: a context of 131072 tokens needs 0.403 GB" in result.stderr
    rdlite.load(bundle, context=10**8 // per_token).close()


def test_a_cache_that_cannot_grow_says_so_before_it_does(tmp_path, monkeypatch):
    bundle = export(tmp_path, 2**17)
    monkeypatch.setattr(memory, "SMALL_BYTES", 0)
    with rdlite.load(bundle) as model:
        monkeypatch.setattr(memory, "free_bytes", lambda: 500_000)
        ids = [1] * 300
        assert len(model.generate(ids[:20], 2, Depth(1)).ids) == 2
        words = r"needs another 0\.\d+ GB for 512 tokens, 0\.0005 GB of memory are free"
        with pytest.raises(RuntimeFailure, match=words):
            model.generate(ids, 2).text  # noqa: B018
        monkeypatch.setattr(memory, "free_bytes", lambda: 10**9)
        assert len(model.generate(ids, 2).ids) == 2


def test_free_memory_is_that_of_the_machine_or_of_its_container(tmp_path, monkeypatch):
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:    5000 kB\n")
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "GROUP", tmp_path)
    assert memory.free_bytes() == 5000 * 1024
    for limit, found in (("max", 5000 * 1024), ("1000000", 400_000), ("100", 0)):
        (tmp_path / "memory.max").write_text(limit + "\n")
        (tmp_path / "memory.current").write_text("600000\n")
        assert memory.free_bytes() == found
    (tmp_path / "meminfo").unlink()
    assert memory.free_bytes() is None


def test_inspect_prices_the_caches_of_a_full_context(tmp_path):
    bundle = export(tmp_path, 2**17)
    result = CliRunner().invoke(main, ["inspect", str(bundle), "--json"])
    prices = json.loads(result.stdout)["cache_bytes_of_131072_tokens"]
    assert prices["one slot a step"] == 2**17 * 2 * 3 * 2 * 2 * 32 * 4
    assert prices["share 1, int8"] == prices["one slot a step"] // 8
