"""Quantized bundles: exact to their integers, loadable, whole or not there at all."""

import dataclasses
import json
import shutil

import numpy as np
import onnx
import pytest
from rdlite.export import export_checkpoint
from rdlite.export.exporter import write_bundle
from rdlite.export.from_bundle import read_bundle
from rdlite.export.read import read_model
from rdlite.quant import SCHEMES, Options, find_scheme, quantize_bundle

import rdlite
from rdlite import BundleError, InputError, OutputError
from rdlite.bundle.manifest import PARTS
from rdlite.graphs.packing import dequantize, pack
from rdlite.loader import open_bundle
from rdlite.weights.source import in_rows


class Dequantized:
    """The weights that a quantized bundle stands for, as float32."""

    def __init__(self, original, storage):
        self.original, self.storage = original, storage

    def pieces(self, name):
        bits = self.storage.quantization.bits.get(name)
        if bits is None:
            yield from self.original.source.pieces(name)
            return
        columns = self.original.weights[name].shape[1]
        for rows in in_rows(self.original.source.pieces(name), columns):
            size = self.storage.quantization.block_of(name)
            codes, scales = self.storage.quantizer.quantize(name, rows, bits, size)
            yield dequantize(codes, scales, columns).reshape(-1)


def quantized_pair(bundle, folder, scheme, **options):
    """A quantized model, and one with float32 weights that are equal to its."""
    original = read_bundle(open_bundle(bundle))
    storage = find_scheme(scheme, Options(**options)).prepare(original)
    same = dataclasses.replace(original, source=Dequantized(original, storage))
    return (
        rdlite.load(write_bundle(original, folder / "quantized", storage)),
        rdlite.load(write_bundle(same, folder / "same")),
    )


def off(a, b):
    return np.abs(a - b).max() / np.abs(b).max()


@pytest.mark.parametrize("block_size", [16, 32, 128])  # the widths are 64 and 96
@pytest.mark.parametrize("scheme", ["int4", "int8"])
def test_logits_are_those_of_the_dequantized_weights(oracle, scheme, block_size, tmp_path):
    ours, same = quantized_pair(
        oracle.bundle, tmp_path, scheme, accuracy_level=1, block_size=block_size
    )
    for steps in (1, 4, 8):
        wanted = same.logits(oracle.ids, steps)
        assert off(ours.logits(oracle.ids, steps), wanted) < 1e-4
    assert off(wanted, oracle.model.logits(oracle.ids, 8)) > 1e-3  # so it was quantized


@pytest.mark.parametrize("scheme", ["int4", "int8"])
def test_rounded_activations_add_little(oracle, scheme, tmp_path):
    ours, same = quantized_pair(oracle.bundle, tmp_path, scheme)
    a, b = ours.logits(oracle.ids, 1), same.logits(oracle.ids, 1)
    assert 1e-4 < np.linalg.norm(a - b) / np.linalg.norm(b) < 0.1


def test_stored_bytes_are_the_integers_of_the_scheme(text_bundle, tmp_path):
    out = quantize_bundle(text_bundle, tmp_path / "out")
    original = read_bundle(open_bundle(text_bundle))
    storage = find_scheme("int4").prepare(original)
    graph = onnx.load(out / "core.onnx").graph
    names = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    name = "core.1.mlp.down.weight"
    weight = np.concatenate(list(original.source.pieces(name))).reshape(64, 96)
    size = storage.quantization.block_of(name)
    codes, scales = storage.quantizer.quantize(name, weight, 4, size)
    assert (names[f"{name}.packed"] == pack(codes, 4)).all()
    assert (names[f"{name}.scales"] == scales).all()


def test_a_tied_embedding_is_stored_once(text_bundle, tmp_path):
    out = quantize_bundle(text_bundle, tmp_path / "out")
    places = []
    for part in ("prelude", "coda"):
        graph = onnx.load(out / f"{part}.onnx", load_external_data=False).graph
        tensor = next(t for t in graph.initializer if t.name == "embedding.weight.packed")
        places.append({entry.key: entry.value for entry in tensor.external_data})
    assert places[0] == places[1]
    assert places[0]["location"] == "shared.onnx.data"


@pytest.mark.parametrize(("scheme", "bits"), [("int4", 4.16), ("int8", 8.5)])
def test_bits_on_disk(full_nano, scheme, bits, tmp_path):
    out = quantize_bundle(full_nano, tmp_path / "out", scheme)
    manifest = open_bundle(out).manifest
    stored = sum(entry.bytes for name, entry in manifest.files.items() if name.endswith(".data"))
    tables = 2 * 4 * 1024 * 16  # rotary
    matrices = sum(manifest.parameters.values())
    assert (stored - tables) * 8 / matrices == pytest.approx(bits, rel=0.04)  # norms are float32
    assert set(manifest.weights.values()) == {scheme}


def test_export_quantizes_in_one_pass(text_checkpoint, text_bundle, tmp_path):
    one = export_checkpoint(text_checkpoint, tmp_path / "one", quant=find_scheme("int8"))
    two = quantize_bundle(text_bundle, tmp_path / "two", "int8")
    for name in open_bundle(two).manifest.files:
        assert (one / name).read_bytes() == (two / name).read_bytes(), name


@pytest.mark.parametrize("scheme", ["int4", "int8"])
def test_nano_still_knows_its_tasks(full_nano, scheme, tmp_path):
    model = rdlite.load(quantize_bundle(full_nano, tmp_path / "out", scheme))
    with model:
        assert model.chat().send("What is 48 + 76?").text == "124"


def test_schemes_are_what_the_help_says(tmp_path):
    from click.testing import CliRunner

    from rdlite.cli.main import main

    text = CliRunner().invoke(main, ["quantize", "--help"]).output
    for scheme in SCHEMES:
        assert f"\n      {scheme} " in text


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"block_size": 48}, "block_size must be one of 16, 32, 64, 128, 256, got 48"),
        ({"block_size": 512}, "got 512"),
        ({"accuracy_level": 2}, "accuracy_level must be one of 1, 4, got 2"),
    ],
)
def test_options_have_bounds(options, words):
    with pytest.raises(InputError, match=words):
        Options(**options)


def test_unknown_schemes_get_a_hint():
    with pytest.raises(InputError, match="did you mean int4"):
        find_scheme("itn4")


def test_what_is_quantized_already_is_refused(text_bundle, tmp_path):
    once = quantize_bundle(text_bundle, tmp_path / "once")
    with pytest.raises(BundleError, match=r"quantized already \(int4\)"):
        quantize_bundle(once, tmp_path / "twice")
    assert not (tmp_path / "twice").exists()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_broken_weights_are_named(bundle_copy, sign, value, tmp_path):
    file = bundle_copy / "core.onnx.data"
    data = np.fromfile(file, np.float32)
    data[5] = value
    data.tofile(file)
    sign(bundle_copy)
    with pytest.raises(BundleError, match=r"the weight 'core\.\S+' .* NaN or infinite"):
        quantize_bundle(bundle_copy, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("scheme", "value"), [("int8", 1e7), ("int4", 6e5), ("int4-hqq", 1e30),
                                               ("int8", 1e-4), ("int4", 1e-30)])  # fmt: skip
def test_weights_that_float16_scales_do_not_reach_are_named(
    bundle_copy, sign, scheme, value, tmp_path
):
    file = bundle_copy / "core.onnx.data"
    data = np.fromfile(file, np.float32)
    np.copyto(data, np.copysign(value, data), where=data != 0)
    data.tofile(file)
    sign(bundle_copy)
    with pytest.raises(InputError, match=r"the largest number of core\.\S+ is .* must lie between"):
        quantize_bundle(bundle_copy, tmp_path / "out", scheme)
    assert not (tmp_path / "out").exists()


def test_an_existing_output_stays(text_bundle, tmp_path):
    out = quantize_bundle(text_bundle, tmp_path / "out", "int8")
    before = (out / "rdlite.json").read_bytes()
    with pytest.raises(OutputError, match="--force"):
        quantize_bundle(text_bundle, out)
    assert (out / "rdlite.json").read_bytes() == before
    quantize_bundle(text_bundle, out, force=True)
    assert open_bundle(out).manifest.quantization.scheme == "int4"


@pytest.mark.parametrize("inner", ["", "inner"])
def test_what_is_read_is_not_replaced(text_bundle, bundle_copy, inner):
    source = shutil.copytree(text_bundle, bundle_copy / inner, dirs_exist_ok=True)
    with pytest.raises(OutputError, match="holds what is to be read"):
        quantize_bundle(source, bundle_copy, force=True)
    assert open_bundle(source).manifest.quantization is None


def test_a_folder_called_nano_is_not_taken_for_nano(text_checkpoint, tmp_path, monkeypatch):
    shutil.copytree(text_checkpoint, tmp_path / "nano")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BundleError, match="quantized already"):
        read_model("nano")
    assert read_model("./nano").config.vocab_size == 288


@pytest.mark.parametrize(
    "change",
    [
        {"bits": {"core.adapter.weight": 3}},
        {"bits": {"core.adapter.weight": "4"}},
        {"block_size": 48},
        {"accuracy_level": 2},
        {"scheme": "a\nb"},
        {"more": 1},
    ],
)
def test_a_manifest_says_nothing_impossible(text_bundle, sign, change, tmp_path):
    out = quantize_bundle(text_bundle, tmp_path / "out")
    path = out / "rdlite.json"
    manifest = json.loads(path.read_text())
    manifest["quantization"] |= change
    path.write_text(json.dumps(manifest))
    sign(out)
    with pytest.raises(BundleError, match="quantization"):
        open_bundle(out)


@pytest.mark.parametrize("part", PARTS)
def test_hostile_attributes_are_refused(text_bundle, sign, part, tmp_path):
    out = quantize_bundle(text_bundle, tmp_path / "out")
    original = (out / f"{part}.onnx").read_bytes()
    for name, value in (("K", 160), ("N", 2**20), ("bits", 2), ("block_size", 31),
                        ("accuracy_level", 9)):  # fmt: skip
        model = onnx.ModelProto.FromString(original)
        node = next(node for node in model.graph.node if node.op_type == "MatMulNBits")
        next(a for a in node.attribute if a.name == name).i = value
        (out / f"{part}.onnx").write_bytes(model.SerializeToString())
        sign(out)
        with pytest.raises(BundleError):
            open_bundle(out)


def test_the_shipped_nano_is_its_checkpoint_in_int8(full_nano, tmp_path):
    out = quantize_bundle(full_nano, tmp_path / "out", "int8")
    ours, shipped = open_bundle(out).manifest, open_bundle("nano").manifest
    assert ours.quantization == shipped.quantization
    for name, entry in ours.files.items():
        assert shipped.files[name] == entry, name
