"""Nanbeige4.2 answers as llama.cpp and a float64 forward do; what it cannot do is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from rdlite.export import export_checkpoint
from rdlite.export.from_gguf import import_gguf
from rdlite.export.read import read_model
from rdlite.export.to_gguf import export_gguf

import rdlite
from rdlite import Depth, FamilyError, GGUFError
from rdlite.loader import open_bundle

DATA = Path(__file__).parents[2] / "data"
NAMES = ("nanbeige-tiny", "nanbeige-tiny-skip")
ONE_BY_ONE = [1] * 24


def error(ours, theirs):
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


class Tiny:
    def __init__(self, name, folder):
        self.checkpoint = DATA / name
        with np.load(self.checkpoint / "expected.npz") as arrays:
            self.expected = {key: arrays[key][0] for key in arrays.files}
        self.ids = self.expected["input_ids"].tolist()
        self.bundle = export_checkpoint(self.checkpoint, folder / name)
        self.gguf = export_gguf(read_model(self.checkpoint), folder / f"{name}.gguf")
        self.model = rdlite.load(self.bundle)


@pytest.fixture(scope="module", params=NAMES)
def tiny(request, tmp_path_factory):
    return Tiny(request.param, tmp_path_factory.mktemp("nanbeige"))


def test_logits_are_llama_cpps_and_float64s(tiny):
    both = tiny.model.logits(tiny.ids)
    for name in ("logits_llamacpp", "logits_llamacpp_one_by_one", "logits_numpy"):
        assert error(both, tiny.expected[name]) < 1e-5
        assert error(tiny.model.logits(tiny.ids, chunk=1), tiny.expected[name]) < 1e-5
    assert error(tiny.model.logits(tiny.ids, 1), tiny.expected["logits_loops1"]) < 1e-5
    assert (both.argmax(axis=1) == tiny.expected["greedy"]).all()


def test_llama_cpp_runs_the_file_that_we_write(tiny):
    from llama import Llama

    peer, expected = Llama(tiny.gguf), tiny.model.logits(tiny.ids)
    assert error(peer.logits(tiny.ids), expected) < 1e-5
    assert error(peer.logits(tiny.ids, ONE_BY_ONE), expected) < 1e-5
    prompt = tiny.ids[:8]
    assert peer.greedy(prompt, 16) == tiny.model.generate(prompt, 16).ids


def test_a_gguf_file_is_the_bundle_again(tiny, tmp_path):
    back = import_gguf(tiny.gguf, tmp_path / "back")
    assert open_bundle(back).manifest == open_bundle(tiny.bundle).manifest
    with rdlite.load(tiny.gguf) as model:
        assert (model.logits(tiny.ids) == tiny.model.logits(tiny.ids)).all()


@pytest.mark.parametrize("speculate", [(3, 1), "auto"])
def test_drafts_of_one_loop_change_nothing(tiny, speculate):
    plain = tiny.model.generate(tiny.ids[:5], 40)
    drafted = tiny.model.generate(tiny.ids[:5], 40, speculate=speculate)
    assert [(t.id, t.steps) for t in drafted] == [(t.id, t.steps) for t in plain]
    if speculate != "auto":
        assert drafted.stats.drafted > 0


def test_two_loops_are_the_most(tiny):
    with pytest.raises(rdlite.InputError, match="made for 2 at most"):
        tiny.model.generate(tiny.ids[:5], 1, Depth(3))


def changed(folder, changes, drop=()):
    checkpoint = shutil.copytree(DATA / "nanbeige-tiny", folder / "ck")
    config = json.loads((checkpoint / "config.json").read_text()) | changes
    for key in drop:
        del config[key]
    (checkpoint / "config.json").write_text(json.dumps(config))
    return checkpoint


@pytest.mark.parametrize(
    ("switch", "value"),
    [
        ("qk_layernorm", True),
        ("attention_bias", True),
        ("mlp_bias", True),
        ("loop_share_kv", True),
        ("enable_double_loop_split", True),
        ("loop_middle_layers", 1),
        ("loop_loss_weights", [0.5]),
        ("enable_hyper_connection", True),
        ("enable_mhc", True),
        ("enable_depth_attention", True),
        ("ngram_insert_all_layers", True),
        ("insert_ngram_layer_idx", [0]),
        ("emb_neighbor_num", 4),
        ("pretraining_tp", 2),
        ("kv_channels", 64),
        ("hidden_act", "gelu"),
        ("unheard_of", 1),
    ],
)
def test_switches_that_change_the_mathematics_are_refused_by_name(switch, value, tmp_path):
    with pytest.raises(FamilyError, match=switch):
        export_checkpoint(changed(tmp_path, {switch: value}), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_keys_of_the_release_are_understood(tmp_path):
    release = {
        "attention_dropout": 0.0,
        "auto_map": {"AutoConfig": "configuration_nanbeige.NanbeigeConfig"},
        "enable_hyper_connection": False,
        "kv_channels": 32,
        "loop_loss_weights": [],
        "pad_token_id": 0,
        "pretraining_tp": 1,
        "rope_scaling": None,
    }
    out = export_checkpoint(changed(tmp_path, release), tmp_path / "out")
    plain = export_checkpoint(DATA / "nanbeige-tiny", tmp_path / "plain")
    assert open_bundle(out).manifest.model == open_bundle(plain).manifest.model


def test_an_older_dense_one_is_refused_by_name(tmp_path):
    checkpoint = changed(tmp_path, {}, drop=("num_loops", "skip_loop_final_norm"))
    with pytest.raises(FamilyError, match="without num_loops is one of the older, dense models"):
        export_checkpoint(checkpoint, tmp_path / "out")


def test_only_nanbeige_may_leave_out_the_norm_between_loops(tmp_path):
    from rdlite.gguf.open import open_gguf

    out = export_gguf(read_model(DATA / "ouro-tiny"), tmp_path / "ouro.gguf")
    key = b"ouro.skip_loop_final_norm" + (7).to_bytes(4, "little")
    data = out.read_bytes()
    out.write_bytes(data.replace(key + b"\0", key + b"\1"))
    with pytest.raises(GGUFError, match="skip_loop_final_norm' is true, which is not run"):
        open_gguf(out)
