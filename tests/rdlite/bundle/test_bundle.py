"""Bundles from strangers: whatever is wrong with the folder, one clear BundleError says it."""

import json
import os
import shutil

import pytest

import rdlite
from rdlite import BundleError
from rdlite.bundle.manifest import hash_manifest
from rdlite.loader import open_bundle, verify_bundle


def edit(folder, change):
    path = folder / "rdlite.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def resign(folder):
    """Only the manifest's own hash; the `sign` fixture renews the files' entries too."""
    edit(folder, lambda m: m.update(sha256=hash_manifest(m)))


def test_a_whole_bundle_holds(text_bundle):
    lines = list(verify_bundle(text_bundle))
    assert len(lines) == len(open_bundle(text_bundle).manifest.files)
    assert open_bundle(text_bundle).unhashed == ()


def test_loading_leaves_large_hashes_to_verify_and_says_so(text_bundle, monkeypatch):
    monkeypatch.setattr("rdlite.bundle.reader.HASHED_ON_LOAD_BYTES", 60_000)
    assert "core.onnx.data" in open_bundle(text_bundle).unhashed
    progress = []
    list(verify_bundle(text_bundle, lambda done, total: progress.append((done, total))))
    assert progress[-1][0] == progress[-1][1] > 0


def test_a_changed_byte_in_any_file_is_found(text_bundle, tmp_path, monkeypatch):
    names = json.loads((text_bundle / "rdlite.json").read_text())["files"]
    for name in names:
        copy = tmp_path / name
        shutil.copytree(text_bundle, copy)
        data = bytearray((copy / name).read_bytes())
        data[len(data) // 2] ^= 1
        (copy / name).write_bytes(data)
        with pytest.raises(BundleError, match=rf"{name} is damaged or was changed"):
            rdlite.load(copy)
        with monkeypatch.context() as patch:
            patch.setattr("rdlite.bundle.reader.HASHED_ON_LOAD_BYTES", 0)
            with pytest.raises(
                BundleError, match=rf"{name} is damaged|{name} is not an ONNX|{name}: |{name} "
            ):
                list(verify_bundle(copy))


def test_a_changed_byte_in_the_manifest_is_found(bundle_copy):
    edit(bundle_copy, lambda m: m["model"].update(norm_eps=1e-5))
    with pytest.raises(BundleError, match=r"rdlite\.json is damaged or was changed"):
        open_bundle(bundle_copy)
    edit(bundle_copy, lambda m: m["model"].update(norm_eps=1e-6))
    open_bundle(bundle_copy)
    edit(bundle_copy, lambda m: m.pop("sha256"))
    with pytest.raises(BundleError, match="its own SHA-256 does not match"):
        open_bundle(bundle_copy)


def test_a_truncated_or_missing_file_is_found(bundle_copy):
    file = bundle_copy / "core.onnx.data"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(BundleError, match=r"core.onnx.data has \d+ bytes, the manifest says"):
        open_bundle(bundle_copy)
    file.unlink()
    with pytest.raises(BundleError, match=r"core.onnx.data cannot be read: No such file"):
        open_bundle(bundle_copy)


@pytest.mark.parametrize(
    "name",
    ["../secret", "/etc/passwd", "a/b", "..", ".", "", ".hidden", "C:\\x", "a\nb", "a" * 200],
)
def test_only_bare_names_are_files(bundle_copy, name):
    (bundle_copy.parent / "secret").write_text("x")

    def add(manifest):
        manifest["files"][name] = {"bytes": 1, "sha256": "0" * 64}

    edit(bundle_copy, add)
    resign(bundle_copy)
    with pytest.raises(BundleError, match="files of a bundle have bare names"):
        open_bundle(bundle_copy)


def test_links_and_special_files_are_refused(bundle_copy, tmp_path):
    tokenizer = bundle_copy / "tokenizer.json"
    moved = tmp_path / "elsewhere.json"
    tokenizer.rename(moved)
    tokenizer.symlink_to(moved)
    with pytest.raises(BundleError, match=r"tokenizer.json is a symbolic link"):
        open_bundle(bundle_copy)
    tokenizer.unlink()
    os.mkfifo(tokenizer)
    with pytest.raises(BundleError, match=r"tokenizer.json is not a regular file"):
        open_bundle(bundle_copy)
    manifest = bundle_copy / "rdlite.json"
    manifest.rename(tmp_path / "manifest")
    manifest.symlink_to(tmp_path / "manifest")
    with pytest.raises(BundleError, match=r"rdlite.json is a symbolic link"):
        open_bundle(bundle_copy)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "is not valid JSON"),
        (b"{", "is not valid JSON"),
        (b"\xff", "is not valid JSON"),
        (b"[" * 100_000, "is not valid JSON"),
        (b"[]", "contract_version is None, this rdlite reads 1"),
        (b'{"contract_version": 2}', "contract_version is 2, this rdlite reads 1"),
        (b'{"contract_version": 1}', "lacks the key 'producer'"),
        (b'{"contract_version": 1, "contract_version": 1}', "names a key twice"),
        (b'{"contract_version": NaN}', "contains NaN"),
        (b" " * (2**20 + 1), "at most 1048576 are read"),
    ],
)
def test_a_broken_manifest_is_refused(bundle_copy, text, message):
    (bundle_copy / "rdlite.json").write_bytes(text)
    with pytest.raises(BundleError, match=message):
        open_bundle(bundle_copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(name="\x1b[31mred"), "name must be a printable line"),
        (lambda m: m.update(producer="x" * 201), "producer must be a printable line"),
        (lambda m: m.update(extra=1), "has an unknown key 'extra'"),
        (lambda m: m["model"].update(vocab_size=0), "vocab_size must lie between 1 and"),
        (lambda m: m["model"].update(vocab_size=2**40), "vocab_size must lie between"),
        (lambda m: m["model"].update(vocab_size=10**400), "vocab_size must lie between"),
        (lambda m: m["files"]["core.onnx"].update(bytes=10**400), "bytes must lie between"),
        (lambda m: m["parameters"].update(core=-1), "parameters.core must be a count"),
        (lambda m: m["parameters"].update(core=10**400), "parameters.core must be a count"),
        (
            lambda m: m["model"].update(num_key_value_heads=4096, head_dim=1024),
            "num_key_value_heads|num_attention_heads",
        ),
        (
            lambda m: (
                m["model"]["layers"].update(core=1024),
                m["model"]["recurrence"].update(mean_steps=1024),
            ),
            "layers.core x mean_steps must be at most 16384",
        ),
        (lambda m: m["model"].update(vocab_size=1.5), "vocab_size must be int, got float"),
        (lambda m: m["model"].update(vocab_size=True), "vocab_size must be int, got bool"),
        (lambda m: m["model"].update(norm_eps="0"), "norm_eps must be float, got str"),
        (lambda m: m["model"].update(norm_eps=-1), "norm_eps must lie between"),
        (lambda m: m["model"].pop("head_dim"), "lacks the key 'head_dim'"),
        (lambda m: m["model"].update(head_dim=24), "head_dim must be a multiple of 16"),
        (lambda m: m["model"].update(num_key_value_heads=3), "must be a multiple of"),
        (lambda m: m["model"]["layers"].update(core=0), "core must lie between 1 and 1024"),
        (lambda m: m["model"].update(layers=[1, 2]), "layers must be an object, got list"),
        (lambda m: m["model"]["recurrence"].update(initial_state="ones"), "must be one of random"),
        (lambda m: m["model"]["recurrence"].update(mean_steps=10**9), "mean_steps must lie"),
        (lambda m: m["model"]["rotary"].update(base=10**400), "base must lie between"),
        (lambda m: m["files"]["core.onnx"].update(bytes=-1), "bytes must lie between"),
        (lambda m: m["files"]["core.onnx"].update(sha256="x"), "no valid sha256"),
        (lambda m: m["files"].pop("core.onnx"), "does not list core.onnx"),
        (lambda m: m["files"].pop("core.onnx.data"), "which is no data file of the bundle"),
        (lambda m: m.update(cache_scales={"file": "core.onnx"}), "lacks the key 'steps'"),
        (
            lambda m: m.update(cache_scales={"file": "core.onnx", "steps": 1}),
            "cache_scales.file 'core.onnx' is no safetensors file of the bundle",
        ),
        (
            lambda m: m.update(cache_scales={"file": "../x.safetensors", "steps": 1}),
            "is no safetensors file of the bundle",
        ),
        (
            lambda m: m.update(cache_scales={"file": "core.onnx", "steps": 1025}),
            "cache_scales.steps must lie between 1 and 1024",
        ),
    ],
)
def test_manifest_fields_are_checked_by_name(bundle_copy, change, message):
    edit(bundle_copy, change)
    resign(bundle_copy)
    with pytest.raises(BundleError, match=message):
        open_bundle(bundle_copy)


def test_what_is_not_a_bundle_says_what_to_do(tmp_path, text_checkpoint):
    with pytest.raises(BundleError, match="is not a folder; MODEL is a bundle made by"):
        rdlite.load(tmp_path / "nowhere")
    with pytest.raises(BundleError, match=r"it has no rdlite\.json"):
        rdlite.load(tmp_path)
    with pytest.raises(BundleError, match="looks like a checkpoint: run 'rdlite export"):
        rdlite.load(text_checkpoint)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("tokenizer.json", b"{}", "tokenizer.json cannot be used"),
        ("generation_config.json", b'{"stop_ids": [999]}', "stop id 999 is outside 0 to 287"),
        ("generation_config.json", b'{"stop_ids": [-1]}', "stop id -1 is outside"),
        ("generation_config.json", b'{"temperature": -1}', "temperature must lie between"),
        ("generation_config.json", b'{"top_p": 0}', "top_p must be above 0"),
        ("generation_config.json", b'{"stop_strings": [""]}', "empty stop string"),
        ("generation_config.json", b'{"eos": 1}', "unknown key 'eos'"),
        ("chat_template.jinja", b"{% if %}", "the chat template cannot be used"),
    ],
)
def test_text_files_are_checked_too(bundle_copy, sign, name, data, message):
    (bundle_copy / name).write_bytes(data)
    sign(bundle_copy)
    with pytest.raises(BundleError, match=message):
        rdlite.load(bundle_copy)
