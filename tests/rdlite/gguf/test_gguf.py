"""GGUF carries a model both ways without loss, other programs can open it, and rdlite runs it."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
from click.testing import CliRunner
from rdlite.export import export_checkpoint
from rdlite.export.from_gguf import import_gguf
from rdlite.export.read import read_model
from rdlite.export.to_gguf import export_gguf
from rdlite.quant import Options, find_scheme, quantize_bundle

import rdlite
from rdlite import Cache, Depth, GGUFError, InputError, OutputError, RoundingWarning
from rdlite.cli.main import main
from rdlite.gguf.block_layout import from_gguf, to_gguf, turn, turn_back
from rdlite.gguf.open import open_gguf
from rdlite.gguf.reader import read_gguf
from rdlite.gguf.tokenizer import WHOLE
from rdlite.graphs.packing import dequantize
from rdlite.loader import open_bundle

DATA = Path(__file__).parents[2] / "data"
FAMILIES = ("huginn-tiny", "huginn-tiny-bf16", "ouro-tiny", "raven-llama-tiny", "raven-olmo-tiny")


def run(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def ids_of(name):
    with np.load(DATA / name / "expected.npz") as arrays:
        return arrays["input_ids"][0].tolist()


@pytest.fixture(scope="module")
def nano_gguf(tmp_path_factory):
    out = tmp_path_factory.mktemp("gguf") / "nano.gguf"
    return export_gguf(read_model("nano", as_stored=True), out)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("family")
    return request.param, export_checkpoint(DATA / request.param, folder / "bundle")


@pytest.mark.parametrize("bits", [4, 8])
def test_blocks_are_those_of_ggml(bits):
    """The gguf package reads the same numbers from them, and they come back as they were."""
    rng = np.random.default_rng(bits)
    top = 2 ** (bits - 1)
    codes = rng.integers(-top, top, (6, 5, 32), np.int8)
    scales = rng.standard_normal((6, 5)).astype(np.float16)
    rows = to_gguf(codes, scales, bits)
    kind = gguf.GGMLQuantizationType.Q4_0 if bits == 4 else gguf.GGMLQuantizationType.Q8_0
    assert (gguf.quants.dequantize(rows, kind) == dequantize(codes, scales, 160)).all()
    again, same = from_gguf(rows, bits)
    assert (again == codes).all()
    assert (same == scales).all()


def test_turned_heads_are_llama_cpps():
    """Row i of the first half of a head comes before row i of its second half."""
    rows = np.arange(2 * 8)[:, None]
    assert turn(rows, 2).ravel().tolist() == [0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15]
    assert (turn_back(turn(rows, 2), 2) == rows).all()


def test_float32_gives_the_same_logits(family, tmp_path):
    name, bundle = family
    out = export_gguf(read_model(bundle), tmp_path / "model.gguf", "f32")
    with rdlite.load(bundle) as ours, rdlite.load(out) as theirs:
        assert ours.config == theirs.config
        for steps in (1, 4):
            assert (ours.logits(ids_of(name), steps) == theirs.logits(ids_of(name), steps)).all()


def test_a_bundle_survives(family, tmp_path):
    """Bundle -> GGUF -> bundle: the same files, byte for byte, and the same manifest."""
    _, bundle = family
    for scheme in (None, "int4", "int8"):
        stored = bundle
        if scheme:
            wanted = find_scheme(scheme, Options(block_size=32))
            stored = quantize_bundle(bundle, tmp_path / scheme, wanted)
        out = export_gguf(read_model(stored, as_stored=True), tmp_path / f"{scheme}.gguf")
        back = import_gguf(out, tmp_path / f"{scheme}-back")
        old, new = open_bundle(stored).manifest, open_bundle(back).manifest
        assert new == old


def test_nano_survives_with_all_that_was_tuned(nano_gguf, tmp_path):
    old = open_bundle("nano").manifest
    new = open_bundle(import_gguf(nano_gguf, tmp_path / "back")).manifest
    assert new.files == old.files
    assert new.exit == old.exit
    assert new.cache_scales == old.cache_scales
    # It was written before some keys were there, so its own hash is another.
    assert dataclasses.replace(new, sha256="") == dataclasses.replace(old, sha256="")


def test_nano_chats_with_the_same_tokens(nano, nano_gguf):
    with rdlite.load(nano_gguf) as model:
        assert model.default_depth == nano.default_depth
        for question in ("What is 48 + 76?", "Sort 52714."):
            ours, theirs = (each.chat().send(question) for each in (nano, model))
            assert [(t.id, t.steps, t.logprob) for t in ours] == [
                (t.id, t.steps, t.logprob) for t in theirs
            ]
    with rdlite.load(nano_gguf, cache=Cache(bits=8)) as model:
        assert model.chat().send("What is 48 + 76?").text == "124"


def test_schemes_make_q4_0_and_q8_0(tmp_path):
    checkpoint = DATA / "raven-llama-tiny"
    for scheme, kind in (("int4", "q4_0"), ("int4-hqq", "q4_0"), ("int8", "q8_0")):
        out, bundle = tmp_path / f"{scheme}.gguf", tmp_path / scheme
        arguments = ["--type", kind, "--scheme", scheme, "--license", "mit"]
        result = run("gguf", "export", checkpoint, "-o", out, *arguments)
        assert result.exit_code == 0, result.stderr
        assert "llama.cpp does not know the architecture 'recurrentllama'" in result.stdout
        wanted = find_scheme(scheme, Options(block_size=32))
        export_checkpoint(checkpoint, bundle, quant=wanted)
        with rdlite.load(out) as ours, rdlite.load(bundle) as theirs:
            ids = ids_of("raven-llama-tiny")
            assert (ours.logits(ids) == theirs.logits(ids)).all()
            assert ours.bundle.manifest.quantization == theirs.bundle.manifest.quantization


@pytest.mark.parametrize(("kind", "error"), [("f16", 0.2), ("bf16", 0.2), ("q4_1", 2)])
def test_other_types_are_rounded_again_and_not_widened(kind, error, tmp_path):
    name = "raven-llama-tiny"
    out = export_gguf(read_model(DATA / name), tmp_path / "model.gguf", kind)
    tensors = {tensor.name: tensor.type for tensor in read_gguf(out).tensors.values()}
    assert tensors["blk.0.ffn_up.weight"] == kind.upper()
    assert tensors["blk.0.ffn_norm.weight"] == "F32"
    with np.load(DATA / name / "expected.npz") as arrays:
        exact = arrays["logits_zero_r1"][0]
    with pytest.warns(RoundingWarning, match=f"{kind.upper()} to int"):
        model = rdlite.load(out)
    with model:
        assert set(model.bundle.manifest.quantization.bits.values()) == {4 if kind == "q4_1" else 8}
        ours = model.logits(ids_of(name), 1)
        assert 0 < np.abs(ours - exact).max() < error * np.abs(exact).max()
        with pytest.warns(RoundingWarning), pytest.raises(rdlite.RdliteError):
            rdlite.load(out, cache=Cache(bits=8))


def test_every_reader_reads_them(nano_gguf, tmp_path):
    """The gguf package's own reader and its gguf-dump, and llama.cpp's layout for Ouro."""
    reader = gguf.GGUFReader(nano_gguf)
    ours = read_gguf(nano_gguf)
    assert {tensor.name for tensor in reader.tensors} == set(ours.tensors)
    assert reader.fields["general.architecture"].contents() == "huginn"
    assert reader.fields["general.file_type"].contents() == gguf.LlamaFileType.MOSTLY_Q8_0
    assert reader.fields["tokenizer.ggml.tokens"].contents() == ours.strings(
        "tokenizer.ggml.tokens"
    )
    for name, tensor in ((tensor.name, tensor) for tensor in reader.tensors):
        mine = ours.tensors[name]
        assert (tensor.data_offset, tensor.n_bytes) == (mine.offset, mine.size)
        assert tensor.tensor_type.name == mine.type
    dump = Path(sys.executable).with_name("gguf-dump")
    out = subprocess.run([dump, "--json", nano_gguf], capture_output=True, text=True, check=True)
    assert json.loads(out.stdout)["metadata"]["huginn.mean_recurrence"]["value"] == 16


def test_ouro_has_what_llama_cpp_asks_for(tmp_path):
    """Its keys and tensors, no others, heads turned for rotating neighbours; the gate is a key."""
    out = export_gguf(read_model(DATA / "ouro-tiny"), tmp_path / "ouro.gguf", "f32")
    file = read_gguf(out)
    block = ["attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "post_attention_norm"]
    block += ["ffn_norm", "ffn_gate", "ffn_up", "ffn_down", "post_ffw_norm"]
    names = {f"blk.{i}.{name}.weight" for i in range(3) for name in block}
    assert set(file.tensors) == names | {
        "token_embd.weight",
        "output.weight",
        "output_norm.weight",
    }
    assert file.metadata["ouro.num_loops"] == 4
    assert file.metadata["ouro.block_count"] == 3
    from safetensors.numpy import load_file

    weights = load_file(DATA / "ouro-tiny" / "model.safetensors")
    q = weights["model.layers.1.self_attn.q_proj.weight"]
    stored = file.bytes_of(file.tensors["blk.1.attn_q.weight"]).view("<f4").reshape(q.shape)
    heads = q.reshape(4, 2, 8, 64)  # as llama.cpp's converter permutes them
    assert (stored == heads.swapaxes(1, 2).reshape(q.shape)).all()
    gate = file.numbers("ouro.exit_gate.weight")
    assert (gate == weights["model.early_exit_gate.weight"][0]).all()


def test_a_file_of_another_program_is_read_with_the_familys_defaults(tmp_path):
    """As llama.cpp's converter writes Ouro: without our keys and without the gate."""
    ours = read_gguf(export_gguf(read_model(DATA / "ouro-tiny"), tmp_path / "a.gguf", "f32"))
    path = tmp_path / "b.gguf"
    writer = gguf.GGUFWriter(path, "ouro")
    for key in ("block_count", "context_length", "embedding_length", "feed_forward_length"):
        writer.add_uint32(f"ouro.{key}", ours.metadata[f"ouro.{key}"])
    for key in ("attention.head_count", "attention.head_count_kv", "num_loops"):
        writer.add_uint32(f"ouro.{key}", ours.metadata[f"ouro.{key}"])
    for key in ("attention.layer_norm_rms_epsilon", "rope.freq_base"):
        writer.add_float32(f"ouro.{key}", ours.metadata[f"ouro.{key}"])
    for tensor in ours.tensors.values():
        data = ours.bytes_of(tensor).view("<f4").reshape(tensor.shape)
        writer.add_tensor(tensor.name, np.array(data))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with np.load(DATA / "ouro-tiny" / "expected.npz") as arrays:
        exact = arrays["logits_steps4"][0]
    with rdlite.load(path) as model:
        assert model.config.recurrence.max_steps == 4
        assert np.abs(model.logits(ids_of("ouro-tiny")) - exact).max() < 1e-4 * np.abs(exact).max()
        with pytest.raises(InputError, match="needs a model with an exit gate"):
            model.generate([1], 1, Depth(exit="gate"))


def test_a_tokenizer_is_put_together_from_llama_cpps_keys(nano, nano_gguf, tmp_path):
    """Where a file has no tokenizer.json, as those of other programs."""
    source, path = gguf.GGUFReader(nano_gguf), tmp_path / "pieces.gguf"
    writer = gguf.GGUFWriter(path, "huginn")
    for key, field in source.fields.items():
        if key.startswith("GGUF.") or key in (WHOLE, "general.architecture"):
            continue
        inner = field.types[-1] if len(field.types) > 1 else None
        writer.add_key_value(key, field.contents(), field.types[0], inner)
    for tensor in source.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with rdlite.load(path) as model:
        for text in ("What is 48 + 76?", "x b b x\n\n  naïve 日本", "a = 7, b = a + 5"):
            assert model.tokenizer.encode(text) == nano.tokenizer.encode(text)
        assert model.chat().send("What is 48 + 76?").text == "124"


def test_commands_take_a_file_as_model(nano_gguf, tmp_path):
    result = run("generate", nano_gguf, "x", "--max-tokens", "2", "--steps", "2")
    assert result.exit_code == 0, result.stderr
    for command in (("inspect",), ("verify",), ("eval", "--count", "1", "--steps", "4")):
        result = run(command[0], nano_gguf, *command[1:])
        assert result.exit_code == 0, result.stderr
    result = run("chat", nano_gguf)
    assert result.exit_code == 0, result.stderr
    result = run("tune", nano_gguf, "--count", "1")
    assert result.exit_code == 2
    assert "is a GGUF file, which is not changed" in result.stderr
    result = run("quantize", nano_gguf, "-o", tmp_path / "out")
    assert "is quantized already (int8)" in result.stderr
    full = run("gguf", "export", DATA / "huginn-tiny", "-o", tmp_path / "f.gguf", "--type", "f32")
    assert full.exit_code == 0, full.stderr
    result = run("quantize", tmp_path / "f.gguf", "-o", tmp_path / "q", "--scheme", "int8")
    assert result.exit_code == 0, result.stderr
    direct = quantize_bundle(DATA / "huginn-tiny", tmp_path / "direct", "int8")
    assert open_bundle(tmp_path / "q").manifest == open_bundle(direct).manifest


def test_the_licence_is_the_cards_unless_it_is_given(tmp_path):
    checkpoint = shutil.copytree(DATA / "huginn-tiny", tmp_path / "checkpoint")
    (checkpoint / "README.md").write_text("---\ntags: [x]\nlicense: apache-2.0\n---\n# Model\n")
    original = read_model(checkpoint)
    for given, found in ((None, "apache-2.0"), ("mit", "mit")):
        out = export_gguf(original, tmp_path / "m.gguf", "f16", licence=given, force=True)
        assert read_gguf(out).metadata["general.license"] == found
    (checkpoint / "README.md").write_text("# Model\nlicense: gpl\n")
    out = export_gguf(read_model(checkpoint), tmp_path / "m.gguf", "f16", force=True)
    assert "general.license" not in read_gguf(out).metadata


def test_inspect_shows_keys_tensors_and_what_is_odd(nano_gguf, tmp_path):
    result = run("gguf", "inspect", nano_gguf)
    assert result.exit_code == 0
    assert "huginn.mean_recurrence = 16" in result.stdout
    assert "tokenizer.ggml.tokens = [512 x string]" in result.stdout
    assert "odd" not in result.stdout
    longer = tmp_path / "longer.gguf"
    longer.write_bytes(nano_gguf.read_bytes() + bytes(1000))
    found = json.loads(run("gguf", "inspect", longer, "--json").stdout)
    assert found["odd"] == ["1,000 bytes follow the last tensor"]
    assert found["tensors"][0] == {
        "name": "token_embd.weight",
        "shape": [512, 128],
        "type": "Q8_0",
        "offset": found["data_offset"],
        "bytes": 69632,
    }
    writer = gguf.GGUFWriter(tmp_path / "llama.gguf", "llama")
    writer.add_tensor("x", np.zeros(32, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    text = run("gguf", "inspect", tmp_path / "llama.gguf").stdout
    assert "odd: rdlite cannot run it" in text
    assert "llama.cpp runs others" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--type", "q4_k"], "type must be one of q4_0, q4_1, q8_0, f16, bf16, f32, got 'q4_k'"),
        (["--type", "q4_0", "--scheme", "int8"], "q4_0 holds what the int4 schemes make"),
        (["--type", "q4_0", "--block-size", "64"], "in blocks of 32, not int4 in blocks of 64"),
        (["--type", "f16", "--scheme", "int4"], "--scheme is for --type q4_0 and q8_0"),
        (["--type", "q4_0", "--scheme", "int5"], "scheme must be one of"),
    ],
)
def test_what_does_not_go_together_is_refused(arguments, words, tmp_path):
    out = tmp_path / "out.gguf"
    result = run("gguf", "export", DATA / "huginn-tiny", "-o", out, *arguments)
    assert result.exit_code == 2
    assert words in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_rounded_twice(tmp_path):
    original = read_model("nano", as_stored=True)
    for kind in ("q4_0", "f16", "f32"):
        with pytest.raises(InputError, match="are q8_0 already"):
            export_gguf(original, tmp_path / "out.gguf", kind)
    export_gguf(original, tmp_path / "out.gguf", "q8_0")
    wide = quantize_bundle(
        DATA / "huginn-tiny", tmp_path / "wide", find_scheme("int8", Options(block_size=64))
    )
    with pytest.raises(InputError, match="in blocks of 64, GGUF's in blocks of 32"):
        export_gguf(read_model(wide, as_stored=True), tmp_path / "wide.gguf")


def test_outputs_are_not_overwritten_unless_they_may_be(tmp_path):
    original = read_model("nano", as_stored=True)
    with pytest.raises(OutputError, match=r"must end in \.gguf"):
        export_gguf(original, tmp_path / "model.bin")
    out = export_gguf(original, tmp_path / "model.gguf")
    with pytest.raises(OutputError, match="--force"):
        export_gguf(original, out)
    export_gguf(original, out, force=True)
    other = tmp_path / "other.gguf"
    other.write_text("mine")
    with pytest.raises(OutputError, match="is not a GGUF file"):
        export_gguf(original, other, force=True)
    assert other.read_text() == "mine"
    with pytest.raises(OutputError, match="cannot write"):
        export_gguf(original, tmp_path / "no" / "model.gguf")


def test_a_killed_export_leaves_no_file(tmp_path):
    """Nor does the next one for the same name leave what the killed one left."""
    code = (
        "import sys, time, rdlite.export.to_gguf as w\n"
        "from rdlite.export.read import read_model\n"
        "plain = w._write\n"
        "def slow(*a):\n"
        "    plain(*a); print('wrote', flush=True); time.sleep(600)\n"
        "w._write = slow\n"
        "w.export_gguf(read_model('nano', as_stored=True), sys.argv[1])\n"
    )
    out = tmp_path / "model.gguf"
    process = subprocess.Popen([sys.executable, "-c", code, str(out)], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"wrote\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert not out.exists()
    assert list(tmp_path.iterdir())
    export_gguf(read_model("nano", as_stored=True), out)
    assert list(tmp_path.iterdir()) == [out]


def test_a_full_disk_is_one_line(tmp_path):
    resource = pytest.importorskip("resource")
    code = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "from rdlite.cli.main import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200000, 200000))\n"
        "main(['gguf', 'export', 'nano', '-o', sys.argv[1]])\n"
    )
    assert resource
    out = tmp_path / "model.gguf"
    done = subprocess.run([sys.executable, "-c", code, str(out)], capture_output=True, text=True)
    assert done.returncode == 2
    assert "cannot write" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_no_room_for_the_layout_is_one_line(nano_gguf, tmp_path):
    code = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "from rdlite.cli.main import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50000, 50000))\n"
        "main(['generate', sys.argv[1], 'x', '--max-tokens', '1'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(nano_gguf)],
        capture_output=True,
        text=True,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    )
    assert done.returncode == 2
    assert "cannot be laid out" in done.stderr
    assert "TMPDIR" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_loading_leaves_nothing_behind(nano_gguf, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with rdlite.load(nano_gguf) as model:
        assert list(tmp_path.iterdir()) == []
        assert len(model.generate([1, 2], 3).ids) == 3


def test_other_programs_weights_that_are_not_finite_are_named(tmp_path):
    out = export_gguf(read_model(DATA / "huginn-tiny"), tmp_path / "model.gguf", "f32")
    file = read_gguf(out)
    data = bytearray(out.read_bytes())
    at = file.tensors["blk.1.attn_v.weight"].offset
    data[at : at + 4] = np.float32(np.nan).tobytes()
    spoilt = tmp_path / "spoilt.gguf"
    spoilt.write_bytes(data)
    with pytest.raises(GGUFError, match=r"prelude.1.attn.qkv.weight' holds NaN"):
        import_gguf(spoilt, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_open_gguf_is_what_open_bundle_does(nano_gguf, tmp_path):
    assert open_gguf(nano_gguf).manifest == open_bundle(nano_gguf).manifest
    upper = shutil.copy(nano_gguf, tmp_path / "NANO.GGUF")
    assert open_bundle(upper).manifest.files.keys() == {"NANO.GGUF"}
    named = shutil.copytree(
        open_bundle("nano").folder, tmp_path / "odd.gguf"
    )  # a folder of that name
    assert open_bundle(named).write_weights is None


def test_llama_cpp_names_the_architecture_and_does_not_crash(nano_gguf):
    """With llama-cpp-python, of the [bench] extra."""
    pytest.importorskip("llama_cpp")
    code = (
        "import sys, llama_cpp\n"
        "try:\n"
        "    llama_cpp.Llama(sys.argv[1], verbose=True)\n"
        "except ValueError as problem:\n"
        "    print('refused:', problem)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(nano_gguf)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "refused" in done.stdout
    assert "unknown model architecture: 'huginn'" in done.stderr


def test_a_scheme_of_wider_blocks_is_refused_in_one_line(text_checkpoint, tmp_path):
    original = read_model(text_checkpoint)
    wide = find_scheme("int4").prepare(original)
    with pytest.raises(InputError, match="quantize the model again with --block-size 32"):
        export_gguf(original, tmp_path / "wide.gguf", "q4_0", wide)
    assert not list(tmp_path.iterdir())
