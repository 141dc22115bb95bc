"""Checkpoints: every format that is read gives the same model, and what is broken is named."""

import json
import os
import signal
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
from rdlite.export import export_checkpoint
from rdlite.export.from_checkpoint import read_checkpoint
from rdlite.export.random_checkpoint import hub_config, write_random_checkpoint
from rdlite.export.safetensors import open_checkpoint
from safetensors.numpy import load_file, save_file

import rdlite
from rdlite import CheckpointError, FamilyError, OutputError
from rdlite.loader import open_bundle


def edit_json(path, **changes):
    value = json.loads(path.read_text())
    for key, item in changes.items():
        if item is None:
            value.pop(key)
        else:
            value[key] = item
    path.write_text(json.dumps(value))


def weights_of(folder):
    return load_file(folder / "model.safetensors")


def shard(folder, count=3):
    """Split the one safetensors file into shards with an index, as the hub does."""
    tensors = weights_of(folder)
    (folder / "model.safetensors").unlink()
    names, weight_map = sorted(tensors), {}
    for i in range(count):
        file = f"model-{i + 1:05}-of-{count:05}.safetensors"
        part = {name: tensors[name] for name in names[i::count]}
        save_file(part, folder / file)
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_shards_give_the_same_bundle(checkpoint_copy, text_bundle, tmp_path):
    shard(checkpoint_copy)
    out = export_checkpoint(checkpoint_copy, tmp_path / "out")
    ours, theirs = open_bundle(out).manifest, open_bundle(text_bundle).manifest
    assert ours.files == theirs.files
    assert ours.model == theirs.model


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_halves_are_widened_exactly(dtype, tmp_path):
    config = hub_config(64, 4, 96, 288, 128, 4, layers=(1, 1, 1))
    half = write_random_checkpoint(tmp_path / "half", config, dtype)
    kinds = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
    single = write_random_checkpoint(tmp_path / "single", config)
    tensors = {
        name: tensor.astype(kinds[dtype]).astype(np.float32)
        for name, tensor in weights_of(single).items()
    }
    save_file(tensors, single / "model.safetensors")
    a, b = (export_checkpoint(folder, tmp_path / f"{folder.name}.out") for folder in (half, single))
    assert open_bundle(a).manifest.files == open_bundle(b).manifest.files


def test_tensors_are_read_in_pieces(checkpoint_copy, monkeypatch):
    monkeypatch.setattr("rdlite.export.safetensors.PIECE_BYTES", 1000)
    checkpoint = open_checkpoint(checkpoint_copy)
    pieces = list(checkpoint.pieces("transformer.wte.weight"))
    assert max(piece.nbytes for piece in pieces) == 1000
    whole = weights_of(checkpoint_copy)["transformer.wte.weight"]
    assert np.array_equal(np.concatenate(pieces), whole.ravel())


def test_a_tied_embedding_is_stored_once(text_bundle):
    manifest = open_bundle(text_bundle).manifest
    data = sum(entry.bytes for name, entry in manifest.files.items() if name.endswith(".data"))
    tables = 2 * 640 * 8  # rotary
    assert data <= 4 * (sum(manifest.parameters.values()) + tables) + 4096
    assert manifest.parameters["head"] == 64  # the final norm alone


def test_an_untied_head_is_exported(checkpoint_copy, tmp_path):
    tensors = weights_of(checkpoint_copy)
    tensors["lm_head.weight"] = tensors["transformer.wte.weight"][::-1].copy()
    save_file(tensors, checkpoint_copy / "model.safetensors")
    tied = rdlite.load(export_checkpoint(checkpoint_copy, tmp_path / "tied"))
    edit_json(checkpoint_copy / "config.json", tie_embeddings=False)
    untied = rdlite.load(export_checkpoint(checkpoint_copy, tmp_path / "untied"))
    a, b = (model.logits([1, 2, 3], 2) for model in (tied, untied))
    assert np.allclose(a, b[:, ::-1], atol=1e-5)


def test_a_pipe_or_device_in_place_of_a_file_is_refused(checkpoint_copy):
    (checkpoint_copy / "config.json").unlink()
    os.mkfifo(checkpoint_copy / "config.json")
    with pytest.raises(CheckpointError, match=r"config\.json is not a regular file"):
        open_checkpoint(checkpoint_copy)


def test_a_header_may_not_be_huge(checkpoint_copy):
    file = checkpoint_copy / "model.safetensors"
    file.write_bytes((2**24 + 1).to_bytes(8, "little") + file.read_bytes()[8:])
    with pytest.raises(CheckpointError, match="has a header of 16777217 bytes"):
        open_checkpoint(checkpoint_copy)


def test_tables_have_a_bound_of_their_own(checkpoint_copy, tmp_path):
    edit_json(checkpoint_copy / "config.json", block_size=2**22 + 1)
    with pytest.raises(FamilyError, match="context_length must lie between"):
        export_checkpoint(checkpoint_copy, tmp_path / "out")
    edit_json(checkpoint_copy / "config.json", block_size=2**22)
    # 2^20 positions of 16 numbers are the most that a table holds
    config = read_checkpoint(checkpoint_copy).config
    assert (config.context_length, config.rotary_positions) == (2**22, 2**20)


def test_what_a_checkpoint_must_have(tmp_path, checkpoint_copy):
    with pytest.raises(CheckpointError, match="is not a folder"):
        open_checkpoint(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        open_checkpoint(tmp_path)
    (checkpoint_copy / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"has no \.safetensors file"):
        open_checkpoint(checkpoint_copy)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "model.ckpt"])
def test_pickles_are_refused_unopened(checkpoint_copy, name):
    (checkpoint_copy / "model.safetensors").unlink()
    pickle = checkpoint_copy / name
    pickle.write_bytes(b"\x80\x04cos\nsystem\n(S'touch pwned'\ntR.")
    with pytest.raises(CheckpointError, match="can run code, so rdlite never does"):
        open_checkpoint(checkpoint_copy)


@pytest.mark.parametrize("keep", [0, 4, 8, 100, 2000, -1])
def test_truncated_safetensors_are_refused(checkpoint_copy, keep):
    file = checkpoint_copy / "model.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[:keep] if keep >= 0 else data[:-1])
    with pytest.raises(CheckpointError, match="is not a whole safetensors file"):
        open_checkpoint(checkpoint_copy)


def test_shards_must_all_be_there(checkpoint_copy):
    shard(checkpoint_copy)
    (checkpoint_copy / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(CheckpointError, match="lacks 1 of 3 shards that its index names: model-0"):
        open_checkpoint(checkpoint_copy)


def test_the_index_must_be_right(checkpoint_copy):
    shard(checkpoint_copy)
    index = checkpoint_copy / "model.safetensors.index.json"
    good = json.loads(index.read_text())

    def expect(message, **weight_map):
        index.write_text(json.dumps({"weight_map": good["weight_map"] | weight_map}))
        with pytest.raises(CheckpointError, match=message):
            open_checkpoint(checkpoint_copy)

    expect(
        r"'ghost' is in model-00001-of-00003\.safetensors; it is not",
        ghost="model-00001-of-00003.safetensors",
    )
    expect("must map tensor names to files of the same folder", evil="../other.safetensors")
    index.unlink()
    assert open_checkpoint(checkpoint_copy).tensors  # all of one model, by their names
    (checkpoint_copy / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(CheckpointError, match="holds 2 safetensors files and no"):
        open_checkpoint(checkpoint_copy)


def spoil_weights(folder, change):
    tensors = weights_of(folder)
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("transformer.adapter.weight"), "lacks the tensor 'transformer.adapter"),
        (
            lambda t: t.update({"transformer.adapter.weight": np.zeros((64, 64), np.float32)}),
            r"adapter.weight has the shape \[64, 64\], the config calls for \[64, 128\]",
        ),
        (
            lambda t: t.update({"transformer.core_block.7.bias": np.zeros(4, np.float32)}),
            "1 tensors that its family and config do not account for",
        ),
        (
            lambda t: t.update({"transformer.ln_f.weight": np.full(64, np.inf, np.float32)}),
            "tensor 'transformer.ln_f.weight' holds NaN or infinite values",
        ),
        (
            lambda t: t.update({"transformer.ln_f.weight": np.zeros(64, np.int32)}),
            "tensor 'transformer.ln_f.weight' has dtype I32; read are F32, F16, BF16",
        ),
    ],
)
def test_tensors_must_be_the_ones_the_config_calls_for(checkpoint_copy, tmp_path, change, message):
    spoil_weights(checkpoint_copy, change)
    with pytest.raises(CheckpointError, match=message):
        export_checkpoint(checkpoint_copy, tmp_path / "out")
    assert list(tmp_path.glob("*out*")) == []
    assert list(tmp_path.glob(".*")) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "huggin_raven"}, "did you mean 'huginn_raven'"),
        ({"model_type": "llama"}, r"model_type 'llama' is no family that rdlite knows"),
        ({"model_type": None}, "model_type None is no family"),
        ({"injection_type": "add"}, "injection_type is 'add', but the huginn family is only"),
        ({"nonlin_name": "GELU"}, "nonlin_name is 'GELU'"),
        ({"bias": True}, "bias is True"),
        ({"test_time_noise": 0.1}, "test_time_noise is 0.1"),
        ({"state_init": "zero"}, "state_init is 'zero'"),
        ({"block_class_name": "PreNormBlock"}, "block_class_name is 'PreNormBlock'"),
        ({"logit_softcap": 30.0}, r"logit_softcap \(30.0\) is not understood"),
        ({"rope_scaling": {"type": "yarn"}}, "rope_scaling.rope_type is 'yarn'"),
        ({"init_values": {"embed_scale": 1.0}}, "init_values.embed_scale is 1.0"),
        ({"head_dim": 32}, "head_dim is 32"),
        ({"n_embd": "64"}, "n_embd must be a whole number from 1 to 2.31, got '64'"),
        ({"n_embd": 66}, r"n_embd \(66\) must be a multiple of the heads \(4\)"),
        ({"n_embd": None}, "config lacks 'n_embd'"),
        ({"num_attention_heads": 0}, "must be a whole number from 1"),
        ({"n_embd": 0}, "n_embd must be a whole number from 1"),
        ({"n_embd": 2**70}, "n_embd must be a whole number from 1"),
        ({"norm_eps": 10**400}, "norm_eps must be a number up to 1e30"),
        ({"rope_base": 10**400}, r"rope_base .* must be a number up to 1e30"),
        ({"init_values": {"embed_scale": 10**400}}, "init_values.embed_scale is 1000"),
        ({"mean_recurrence": 0}, "mean_recurrence must be a whole number from 1"),
        ({"qk_bias": 1}, "qk_bias must be true or false, got 1"),
    ],
)
def test_config_semantics_that_are_not_understood_are_named(
    checkpoint_copy, tmp_path, changes, message
):
    edit_json(checkpoint_copy / "config.json", **changes)
    with pytest.raises(FamilyError, match=message):
        export_checkpoint(checkpoint_copy, tmp_path / "out")


@pytest.mark.parametrize(
    "changes",
    [
        {"vocab_size": 10**9, "padded_vocab_size": 10**9},
        {"mean_recurrence": 4000},
        {"norm_eps": -1.0},
    ],
)
def test_config_numbers_have_two_bounds(checkpoint_copy, tmp_path, changes):
    edit_json(checkpoint_copy / "config.json", **changes)
    with pytest.raises(CheckpointError, match=r"config: .* must lie between"):
        export_checkpoint(checkpoint_copy, tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("config.json", b"{", "is not valid JSON"),
        ("config.json", b"[]", "must hold an object"),
        ("config.json", b'{"a": 1, "a": 2}', "names a key twice"),
        ("config.json", b" " * (16 * 2**20 + 1), "which is all that is read"),
        ("generation_config.json", b'{"stop_strings": ["\\ud800"]}', "is not valid JSON"),
        ("tokenizer.json", b"{}", "tokenizer.json cannot be used"),
        ("tokenizer_config.json", b"[]", "must hold an object"),
        ("tokenizer_config.json", b'{"chat_template": "{% if %}"}', "chat template cannot be used"),
        (
            "generation_config.json",
            b'{"eos_token_id": "x"}',
            "eos_token_id must be of type int, got 'x'",
        ),
        ("generation_config.json", b'{"do_sample": true, "temperature": -2}', "temperature"),
    ],
)
def test_text_files_that_cannot_be_used_are_named(checkpoint_copy, tmp_path, name, data, message):
    (checkpoint_copy / name).write_bytes(data)
    with pytest.raises(CheckpointError, match=message):
        export_checkpoint(checkpoint_copy, tmp_path / "out")


def test_templates_and_stops_come_from_where_the_hub_keeps_them(checkpoint_copy, tmp_path):
    named = [{"name": "tools", "template": "x"}, {"name": "default", "template": "{{ 'd' }}"}]
    edit_json(
        checkpoint_copy / "tokenizer_config.json",
        chat_template=named,
        bos_token={"content": "<|begin_text|>", "special": True},
    )
    (checkpoint_copy / "generation_config.json").write_text(
        json.dumps({"eos_token_id": 257, "stop_strings": ["<|pad|>", "User:"], "temperature": 3})
    )
    model = rdlite.load(export_checkpoint(checkpoint_copy, tmp_path / "a"))
    assert model.chat_template.render([]) == "d"
    assert model.bundle.manifest.special_tokens["bos_token"] == "<|begin_text|>"
    # the family's own stops, the file's, and the special token among its stop strings
    assert model.generation_config.stop_ids == (256, 257, 260, 261)
    assert model.generation_config.stop_strings == ("User:",)
    assert model.generation_config.temperature == 0  # do_sample is not set
    (checkpoint_copy / "chat_template.jinja").write_text("{{ 'own file' }}")
    model = rdlite.load(export_checkpoint(checkpoint_copy, tmp_path / "b"))
    assert model.chat_template.render([]) == "own file"


def test_the_model_card_goes_along(checkpoint_copy, tmp_path):
    (checkpoint_copy / "README.md").write_text("# A model\n")
    bundle = export_checkpoint(checkpoint_copy, tmp_path / "out")
    assert (bundle / "README.md").read_text() == "# A model\n"
    assert "README.md" in open_bundle(bundle).manifest.files


def test_a_checkpoint_without_text_files_exports(checkpoint_copy, tmp_path):
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        (checkpoint_copy / name).unlink()
    model = rdlite.load(export_checkpoint(checkpoint_copy, tmp_path / "out"))
    assert model.generate([1, 2], 3).stats.new_tokens == 3


def test_an_existing_output_is_kept_unless_forced(checkpoint_copy, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "diary.txt").write_text("mine")
    for force in (False, True):
        with pytest.raises(OutputError, match="exists and is not a bundle; give another name"):
            export_checkpoint(checkpoint_copy, out, force=force)
    assert (out / "diary.txt").read_text() == "mine"
    (out / "diary.txt").unlink()
    export_checkpoint(checkpoint_copy, out)
    with pytest.raises(OutputError, match="give another name, or --force"):
        export_checkpoint(checkpoint_copy, out)
    (out / "extra").write_text("from before")
    export_checkpoint(checkpoint_copy, out, force=True)
    assert not (out / "extra").exists()
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(OutputError, match="is not a bundle; give another name"):
        export_checkpoint(checkpoint_copy, file, force=True)


def test_a_failed_replacement_keeps_the_old_bundle(checkpoint_copy, tmp_path):
    out = export_checkpoint(checkpoint_copy, tmp_path / "out")
    before = open_bundle(out).manifest
    spoil_weights(
        checkpoint_copy,
        lambda t: t.update({"transformer.ln_f.weight": np.full(64, np.nan, np.float32)}),
    )
    with pytest.raises(CheckpointError, match="NaN"):
        export_checkpoint(checkpoint_copy, out, force=True)
    assert open_bundle(out).manifest == before
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_replacement_killed_between_its_renames_gives_the_old_bundle_back(
    checkpoint_copy, tmp_path
):
    out = export_checkpoint(checkpoint_copy, tmp_path / "out")
    manifest = open_bundle(out).manifest
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    out.rename(tmp_path / f".out.old-{process.pid}")
    with pytest.raises(OutputError, match="exists"):
        export_checkpoint(checkpoint_copy, out)
    assert open_bundle(out).manifest == manifest


def test_a_checkpoint_that_vanishes_is_not_blamed_on_the_output(checkpoint_copy):
    checkpoint = open_checkpoint(checkpoint_copy)
    (checkpoint_copy / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"safetensors cannot be read: No such file"):
        list(checkpoint.pieces("transformer.ln_f.weight"))


def test_a_full_disk_is_one_clear_error(checkpoint_copy, tmp_path, monkeypatch):
    from rdlite.bundle.writer import HashingFile

    def full(self, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(HashingFile, "write", full)
    with pytest.raises(OutputError, match=r"cannot write .*out: No space left on device"):
        export_checkpoint(checkpoint_copy, tmp_path / "out")
    assert not (tmp_path / "out").exists()


KILLED_EXPORT = """
import sys, time
import rdlite.export.safetensors as checkpoint
from rdlite.export import export_checkpoint
pieces = checkpoint.Checkpoint.pieces
count = 0
def stuck(self, name):
    global count
    for piece in pieces(self, name):
        count += 1
        if count == 5:
            print("stuck", flush=True)
            time.sleep(600)
        yield piece
checkpoint.Checkpoint.pieces = stuck
export_checkpoint(sys.argv[1], sys.argv[2], force=True)
"""


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
@pytest.mark.parametrize("before", [False, True])
def test_a_killed_export_leaves_nothing_that_looks_whole(checkpoint_copy, tmp_path, before):
    out = tmp_path / "out"
    if before:
        export_checkpoint(checkpoint_copy, out)
        manifest = open_bundle(out).manifest
    command = [sys.executable, "-c", KILLED_EXPORT, str(checkpoint_copy), str(out)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "stuck\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    if before:
        assert open_bundle(out).manifest == manifest
    else:
        assert not out.exists()
    for left in tmp_path.glob(".out.partial-*"):
        with pytest.raises(rdlite.BundleError, match=r"it has no rdlite\.json"):
            open_bundle(left)
    export_checkpoint(checkpoint_copy, out, force=True)
    assert rdlite.load(out).generate("a", 1).ids
    assert list(tmp_path.glob(".out.partial-*")) == []  # swept up by the export that followed
