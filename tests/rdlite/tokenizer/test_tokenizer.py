"""Streams of text: whole characters only, nothing lost, stop strings found across tokens."""

import json

import numpy as np
import pytest

from rdlite import BundleError, InputError
from rdlite.tokenizer.stream import StopScanner, TextStream
from rdlite.tokenizer.tokenizer import Tokenizer


def pieces_of(tokenizer, ids):
    stream = TextStream(tokenizer)
    return [stream.push(token) for token in ids]


def streamed(tokenizer, ids):
    stream = TextStream(tokenizer)
    return "".join([stream.push(token) for token in ids] + [stream.flush()])


@pytest.fixture(scope="session")
def byte_fallback():
    """A tokenizer as Llama 2's, which writes what is not in its vocabulary as byte tokens."""
    import tokenizers
    from tokenizers import decoders, models

    tokens = [
        "<unk>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "a",
        "b",
        "\N{GREEK SMALL LETTER MU}",
    ]
    bpe = tokenizers.Tokenizer(
        models.BPE({token: i for i, token in enumerate(tokens)}, [], byte_fallback=True)
    )
    bpe.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return Tokenizer(bpe.to_str().encode(), len(tokens))


@pytest.mark.parametrize("text", ["a\N{EURO SIGN}b", "a\N{GRINNING FACE}b", "世界" * 30, "ab" * 40])
def test_byte_fallback_tokens_join_to_whole_characters(byte_fallback, text):
    ids = byte_fallback.encode(text)
    pieces = pieces_of(byte_fallback, ids)
    assert "".join(pieces) == text
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)


def test_a_long_text_is_not_decoded_again_and_again(model, monkeypatch):
    stream, sizes = TextStream(model.tokenizer), []
    decode = type(model.tokenizer).decode
    monkeypatch.setattr(
        type(model.tokenizer),
        "decode",
        lambda self, ids: sizes.append(len(ids)) or decode(self, ids),
    )
    for token in model.tokenizer.encode("hello " * 100):
        stream.push(token)
    assert max(sizes) <= TextStream.WINDOW


def test_a_character_of_many_bytes_comes_when_its_last_byte_does(model):
    ids = model.tokenizer.encode("a\N{EURO SIGN}b\N{GRINNING FACE}c")
    assert len(ids) == 10  # one a byte
    pieces = pieces_of(model.tokenizer, ids)
    assert pieces == ["a", "", "", "\N{EURO SIGN}", "b", "", "", "", "\N{GRINNING FACE}", "c"]


def test_the_stream_joins_to_the_whole_text(model):
    text = "Grüße, 世界! \N{FAMILY}\N{ZERO WIDTH JOINER}\N{WOMAN} naïve café " * 9
    assert "".join(pieces_of(model.tokenizer, model.tokenizer.encode(text))) == text


def test_bytes_that_are_no_text_come_out_as_a_whole_decode_shows_them(model):
    rng = np.random.default_rng(0)
    for _ in range(200):
        ids = rng.integers(0, 256, 40).tolist()
        assert streamed(model.tokenizer, ids) == model.tokenizer.decode(ids)


def test_special_tokens_have_no_text(model):
    (end,) = model.tokenizer.encode("<|end_turn|>")
    assert pieces_of(model.tokenizer, [end]) == [""]
    assert model.tokenizer.special_token_id("<|end_turn|>") == end
    assert model.tokenizer.special_token_id("a") is None
    assert model.tokenizer.special_token_id("nothing") is None


@pytest.mark.parametrize("cut", [1, 2, 3, 5, 100])
def test_stop_strings_are_found_however_the_text_is_cut(cut):
    text = "one two STOP three"
    scanner, shown = StopScanner(["STOP", "STAY"]), ""
    for start in range(0, len(text), cut):
        shown += scanner.push(text[start : start + cut])
        if scanner.stopped:
            break
    assert shown == "one two "
    assert scanner.stopped


def test_what_could_have_been_a_stop_is_not_lost():
    scanner = StopScanner(["STOP"])
    assert scanner.push("a ST") == "a "
    assert scanner.push("A") == "STA"
    assert scanner.push("STO") == ""
    assert scanner.flush() == "STO"
    assert scanner.flush() == ""


def test_the_first_stop_in_the_text_counts():
    scanner = StopScanner(["late", "early"])
    assert scanner.push("x early late") == "x "


def test_a_stop_that_may_not_end_the_text_yet_is_shown_but_not_its_beginning():
    scanner = StopScanner(["STOP"])
    assert scanner.push("a STOP ST", may_stop=False) == "a STOP "
    assert not scanner.stopped
    assert scanner.push("OP b") == ""
    assert scanner.stopped


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"{", "tokenizer.json is not valid JSON"),
        (b"\xff\xfe", "tokenizer.json is not valid JSON"),
        (b'{"model": 3}', "only byte-pair encodings"),
        (b'{"model": {"type": "WordLevel", "vocab": {}}}', "only byte-pair encodings"),
        (b'{"model": {"type": "BPE"}}', "it has no vocabulary"),
        (b'{"model": {"type": "BPE", "vocab": {}, "merges": [["a", "b"]]}}', "cannot be used"),
    ],
)
def test_a_broken_tokenizer_is_refused(data, message):
    with pytest.raises(BundleError, match=message):
        Tokenizer(data, 288)


def test_a_tokenizer_of_another_model_is_refused(text_bundle):
    with pytest.raises(BundleError, match="has 262 tokens, the model only 200"):
        Tokenizer((text_bundle / "tokenizer.json").read_bytes(), 200)


def test_a_prompt_is_never_cut_to_fit(text_bundle):
    data = json.loads((text_bundle / "tokenizer.json").read_text())
    data["truncation"] = {
        "direction": "Right",
        "max_length": 4,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    assert len(Tokenizer(json.dumps(data).encode(), 288).encode("123456789")) == 9


@pytest.mark.parametrize("text", [b"bytes", None, "lone \ud800 surrogate"])
def test_what_is_not_text_is_refused(model, text):
    with pytest.raises(InputError):
        model.tokenizer.encode(text)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        # each of these once aborted the process, made the library panic, hang or eat memory
        ({"model.continuing_subword_prefix": "#"}, "it has a continuing_subword_prefix"),
        ({"added_tokens": [{"id": 256, "content": "x" * 257}]}, "an added token is too long"),
        ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "/w=="}}, "Precompiled"),
        ({"pre_tokenizer": {"type": "FixedLength", "length": 0}}, "FixedLength"),
        ({"normalizer": {"type": "Prepend", "prepend": "a" * 65}}, "inserts a text that is too"),
        (
            {"normalizer": {"type": "Replace", "pattern": {"String": "a"}, "content": "aaaaa"}},
            "its replacements make texts too long",
        ),
        (
            {
                "normalizer": {
                    "type": "Sequence",
                    "normalizers": [
                        {"type": "Replace", "pattern": {"Regex": "(?=.)"}, "content": "aa"}
                    ]
                    * 3,
                }
            },
            "its replacements make texts too long",
        ),
        (
            {"normalizer": {"type": "Replace", "pattern": {"String": ""}, "content": "a"}},
            "a pattern that is empty",
        ),
        (
            {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "a" * 5000}}},
            "empty or too long",
        ),
        (
            {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "((a{1000}){1000}){1000}"}}},
            "repeats or nests too much",
        ),
        (
            {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(" * 99 + "a" + ")" * 99}}},
            "repeats or nests too much",
        ),
        ({"decoder": {"type": "Strip", "content": " ", "start": 2**63, "stop": 0}}, "strips too"),
        (
            {
                "post_processor": {
                    "type": "TemplateProcessing",
                    "single": [{"Sequence": {"id": "A", "type_id": 0}}] * 3,
                }
            },
            "adds more than 32 tokens or repeats the text",
        ),
        ({"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}] * 40}}, "43 comp"),
        ({"normalizer": 7}, "component of the kind None"),
        ({"normalizer": {"type": []}}, r"component of the kind \[\]"),
        ({"decoder": {"type": "Sequence", "decoders": [None, 3]}}, "component of the kind None"),
    ],
)
def test_what_the_library_cannot_be_trusted_with_is_refused(text_bundle, changes, message):
    data = json.loads((text_bundle / "tokenizer.json").read_text())
    for path, value in changes.items():
        place, *names = data, *path.split(".")
        for name in names[:-1]:
            place = place[name]
        place[names[-1]] = value
    with pytest.raises(BundleError, match=message):
        Tokenizer(json.dumps(data).encode(), 288)


def test_a_pattern_that_runs_away_is_an_error_not_a_panic(text_bundle):
    data = json.loads((text_bundle / "tokenizer.json").read_text())
    data["pre_tokenizer"] = {
        "type": "Split",
        "pattern": {"Regex": "(a+)+$"},
        "behavior": "Isolated",
        "invert": False,
    }
    with pytest.raises(InputError, match="the text cannot be encoded"):
        Tokenizer(json.dumps(data).encode(), 288).encode("a" * 60 + "b")
