"""llama.cpp reads what we write, tokenizer included, and we read what its quantizer writes."""

import json
import warnings
from pathlib import Path

import gguf
import numpy as np
import pytest
import words
from rdlite.export.from_gguf import import_gguf
from rdlite.export.random_checkpoint import tensor_shapes_of, write_random_checkpoint
from rdlite.export.read import read_model
from rdlite.export.to_gguf import export_gguf

import rdlite
from rdlite import RoundingWarning
from rdlite.architectures import nanbeige
from rdlite.gguf.reader import read_gguf
from rdlite.gguf.tokenizer import WHOLE
from rdlite.tokenizer.tokenizer import Tokenizer
from rdlite.utils.numerics import log_softmax

DATA = Path(__file__).parents[2] / "data"
TEMPLATE = (
    "{%- for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
    "{%- endfor %}{{ '<|im_start|>assistant\n' }}"
    "{{ '<think>\n\n</think>\n\n' if enable_thinking is defined and not enable_thinking"
    " else '<think>\n' }}"
)


def checkpoint(folder, tokenizer):
    """A Nanbeige of sizes that K-quants take, with a tokenizer."""
    raw = json.loads((DATA / "nanbeige-tiny" / "config.json").read_text())
    raw |= {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 8}
    raw |= {"num_key_value_heads": 4, "vocab_size": 1024, "num_hidden_layers": 4}
    shapes = tensor_shapes_of(nanbeige.weights(nanbeige.read_config(raw)))
    write_random_checkpoint(folder, raw, shapes=shapes)
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(named))
    return folder


def without_the_whole_tokenizer(source, out):
    """The file as another program would have written it."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(out, "nanbeige")
    for key, field in reader.fields.items():
        if key.startswith(("GGUF.", "rdlite.")) or key in (WHOLE, "general.architecture"):
            continue
        inner = field.types[-1] if len(field.types) > 1 else None
        writer.add_key_value(key, field.contents(), field.types[0], inner)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out


@pytest.fixture(scope="module", params=["bytes", "pieces", "pieces without a space before"])
def spoken(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("spoken")
    kind = request.param
    tokenizer = words.by_bytes() if kind == "bytes" else words.by_pieces(kind == "pieces")
    source = read_model(checkpoint(folder / "checkpoint", tokenizer))
    return source, export_gguf(source, folder / "model.gguf", "f16")


def test_llama_cpp_cuts_texts_as_we_do(spoken):
    from llama import Llama

    original, path = spoken
    peer = Llama(path, vocab_only=True)
    ours = Tokenizer(original.text_files["tokenizer.json"], peer.vocab_size)
    texts = words.texts(200)
    assert [t for t in texts if ours.encode(t, False) != peer.encode(t)] == []


def test_a_tokenizer_of_pieces_is_put_together_again(spoken, tmp_path):
    original, path = spoken
    other = without_the_whole_tokenizer(path, tmp_path / "other.gguf")
    ours = Tokenizer(original.text_files["tokenizer.json"], 1024)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RoundingWarning)
        model = rdlite.load(other)
    for text in words.texts(200, seed=1):
        ids = ours.encode(text, False)
        assert model.tokenizer.encode(text, False) == ids
        assert model.tokenizer.decode(ids) == ours.decode(ids)


def divergence(wanted, found):
    p, q = log_softmax(wanted), log_softmax(found)
    return float((np.exp(p) * (p - q)).sum(axis=1).mean())


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    folder = tmp_path_factory.mktemp("full")
    source = read_model(checkpoint(folder / "checkpoint", words.by_pieces()))
    return export_gguf(source, folder / "f16.gguf", "f16")


@pytest.mark.parametrize(
    ("kind", "types", "times"),
    [
        ("Q4_K_M", {"Q4_K", "Q6_K"}, 5),
        ("Q5_K_M", {"Q5_K", "Q6_K"}, 1.5),
        ("Q6_K", {"Q6_K"}, 2),
        ("Q8_0", {"Q8_0"}, 1.5),
        ("BF16", {"BF16"}, 50),
    ],
)
def test_what_llama_cpp_quantized_is_read(full, kind, types, times, tmp_path):
    """How far it is from its source, by us and by llama.cpp."""
    from llama import Llama, quantize

    path = quantize(full, tmp_path / "model.gguf", f"MOSTLY_{kind}")
    stored = {t.type for t in read_gguf(path).tensors.values() if len(t.shape) == 2}
    assert stored == types
    ids = np.random.default_rng(0).integers(5, 400, 48).tolist()
    exact, theirs = Llama(full).logits(ids), Llama(path).logits(ids)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        model = rdlite.load(path)
    assert bool(said) == (kind != "Q8_0")
    for warning in said:
        assert warning.category is RoundingWarning
        assert "rounded again" in str(warning.message)
        assert "% error" in str(warning.message) or "off by" in str(warning.message)
    assert set(model.bundle.manifest.quantization.bits.values()) <= {4, 8}
    ours, peers = divergence(exact, model.logits(ids)), divergence(exact, theirs)
    print(f"\n{kind}: KL divergence {ours:.1e}, in llama.cpp {peers:.1e}")  # for docs/gguf.md
    assert 0 < ours < times * peers
    if kind == "Q4_K_M":
        assert len(model.chat().send("one two", max_tokens=4).ids) == 4
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RoundingWarning)
            bundle = import_gguf(path, tmp_path / "bundle")
        assert (rdlite.load(bundle).logits(ids) == model.logits(ids)).all()
