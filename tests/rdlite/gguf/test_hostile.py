"""GGUF files from strangers: whatever breaks a rule of the format, a line says what and where."""

import os
import struct

import numpy as np
import pytest
from gguf_file import (
    ARRAY,
    BOOL,
    F64,
    I32,
    STRING,
    U8,
    U32,
    U64,
    File,
    array,
    at,
    counts,
    put,
    refuse,
    string,
)

import rdlite
from rdlite.errors import GGUFError
from rdlite.loader import open_bundle

pytestmark = pytest.mark.filterwarnings("ignore::rdlite.errors.RoundingWarning")


def test_whole_files_load_and_the_helper_changes_nothing(small, path):
    for data in small.values():
        assert File(data).join() == data
        path.write_bytes(data)
        assert np.isfinite(rdlite.load(path).logits([1, 2], 1)).all()


def head(data, offset=0):
    def change(file):
        file.head = file.head[:offset] + data + file.head[offset + len(data) :]

    return change


OUTLINES = {
    "magic": (head(b"GGML"), r"begins with b'GGML' at offset 0"),
    "magic turned": (head(b"FUGG"), r"begins with b'FUGG' at offset 0"),
    "zip": (head(b"PK\3\4"), r"begins with b'PK.*at offset 0"),
    "version 0": (head(struct.pack("<I", 0), 4), "the version at offset 4 is 0"),
    "version 1": (head(struct.pack("<I", 1), 4), "the version at offset 4 is 1"),
    "version 2^32-1": (head(b"\xff" * 4, 4), "the version at offset 4 is 4294967295"),
    "big-endian": (head(struct.pack(">I", 3), 4), "its bytes are in big-endian order"),
    "tensors 2^64-1": (
        counts(lambda t, k: (2**64 - 1, k)),
        "tensor count at offset 8 is 18446744073709551615",
    ),
    "tensors 2^63": (
        counts(lambda t, k: (2**63, k)),
        "tensor count at offset 8 is 9223372036854775808",
    ),
    "tensors 4097": (
        counts(lambda t, k: (4097, k)),
        "tensor count at offset 8 is 4097, at most 4096",
    ),
    "keys 2^64-1": (
        counts(lambda t, k: (t, 2**64 - 1)),
        "key count at offset 16 is 18446744073709551615",
    ),
    "keys 16385": (
        counts(lambda t, k: (t, 16385)),
        "key count at offset 16 is 16385, at most 16384",
    ),
    "a tensor too many": (counts(lambda t, k: (t + 1, k)), r"tensor's name at offset \d+"),
    "a tensor too few": (counts(lambda t, k: (t - 1, k)), "the tensor '.*' is missing"),
    "a key too many": (counts(lambda t, k: (t, k + 1)), r"at offset \d+ has a text of"),
    "a key too few": (
        counts(lambda t, k: (t, k - 1)),
        r"'rdlite.special_tokens' at offset \d+ has 8 dimensions",
    ),
    "no tensors": (
        lambda file: setattr(file, "tensors", []),
        r"the tensor 'token_embd\.weight' is missing",
    ),
    "no keys": (lambda file: setattr(file, "keys", []), "'general.architecture' is missing"),
    "key twice": (
        lambda file: file.keys.append(file.keys[3]),
        r"the key 'general\.description' at offset \d+ is there twice",
    ),
    "key empty": (put("", U8, 1), r"the key at offset \d+ is not printable: ''"),
    "key not UTF-8": (
        lambda file: file.keys.append((b"\xff\xfe", struct.pack("<IB", U8, 1))),
        r"a key: the text at offset \d+ is not UTF-8",
    ),
    "key a surrogate": (
        lambda file: file.keys.append((b"\xed\xa0\x80", struct.pack("<IB", U8, 1))),
        r"a key: the text at offset \d+ is not UTF-8",
    ),
    "key with escapes": (put("\x1b[31mred", U8, 1), r"the key at offset \d+ is not printable"),
    "key of two lines": (put("a\nb", U8, 1), r"the key at offset \d+ is not printable"),
    "key turned around": (put("a\u202eb", U8, 1), r"the key at offset \d+ is not printable"),
    "key of 257 bytes": (put("k" * 257, U8, 1), "has a text of 257 bytes, at most 256"),
    "type 13": (put("x", 13, b""), r"the value of 'x' at offset \d+ has the unknown type 13"),
    "type 2^32-1": (put("x", 2**32 - 1, b""), "has the unknown type 4294967295"),
    "bool 2": (put("x", BOOL, 2), r"the value of 'x' at offset \d+ is 2, expected 0 or 1"),
    "text of 2^64-1": (put("x", STRING, b"\xff" * 8), "'x' at offset .* 18446744073709551615 byt"),
    "text beyond the file": (
        put("x", STRING, struct.pack("<Q", 2**24)),
        r"the value of 'x' at offset \d+ needs 16777216 bytes, the file ends \d+ later",
    ),
    "text not UTF-8": (
        put("general.name", STRING, string(b"\xc3(")),
        r"'general\.name': the text at offset \d+ is not UTF-8",
    ),
    "array of 2^64-1": (put("x", ARRAY, array(U64, [], 2**64 - 1)), "'x' at offset .* needs 1475"),
    "array beyond the file": (put("x", ARRAY, array(U8, [], 2**30)), "needs 1073741824 bytes"),
    "array of arrays": (put("x", ARRAY, array(ARRAY, [], 2)), "an array of the unknown type 9"),
    "array of type 99": (put("x", ARRAY, array(99, [], 2)), "an array of the unknown type 99"),
    "texts 2^20+1": (put("x", ARRAY, array(STRING, [], 2**20 + 1)), "to 1048865 texts in arrays"),
    "texts 2^64-1": (put("x", ARRAY, array(STRING, [], 2**64 - 1)), "at most 1048576 are read"),
    "texts beyond the file": (
        put("x", ARRAY, struct.pack("<IQQ", STRING, 2, 2**62)),
        r"the value of 'x' at offset \d+ needs 4611686018427387912 bytes",
    ),
    "alignment 0": (put("general.alignment", U32, 0), "'general.alignment' is 0, expected a power"),
    "alignment 1": (put("general.alignment", U32, 1), "'general.alignment' is 1, expected a power"),
    "alignment 7": (put("general.alignment", U32, 7), "'general.alignment' is 7, expected a power"),
    "alignment 48": (put("general.alignment", U32, 48), "'general.alignment' is 48, expected"),
    "alignment 2^31": (put("general.alignment", U32, 2**31), "'general.alignment' is 2147483648"),
    "alignment 2^64-1": (put("general.alignment", U64, 2**64 - 1), "'general.alignment' is 1844"),
    "alignment -32": (put("general.alignment", I32, -32), "'general.alignment' is -32"),
    "alignment a text": (put("general.alignment", STRING, "32"), "must be a whole number, it is"),
    "alignment an array": (put("general.alignment", ARRAY, array(U32, [32])), "is an array"),
    "alignment 4096": (put("general.alignment", U32, 4096), "not aligned to 4096|ends past"),
    "offset misaligned": (at(1, offset=33), "at 33 of the data is not aligned to 32 bytes"),
    "offset 2^64-32": (at(1, offset=2**64 - 32), "and ends past the file, whose data from offset"),
    "offset of another": (at(1, offset=0), "lies over"),
    "overlap by a block": (at(1, offset=32), "lies over '.*', which ends at"),
    "tensor twice": (
        lambda file: file.tensors.append(file.tensors[0]),
        r"the tensor '.*' at offset \d+ is there twice",
    ),
    "tensor without a name": (at(0, name=b""), r"tensor's name at offset \d+ is not printable"),
    "tensor not UTF-8": (at(0, name=b"\xff"), r"tensor's name: the text at offset \d+ is not UTF"),
    "tensor with escapes": (at(0, name=b"\x1b]0;x\7"), r"tensor's name at offset \d+ is not pri"),
    "tensor of 257 bytes": (at(0, name=b"t" * 257), "has a text of 257 bytes, at most 256"),
    "tensor type 4": (at(0, type=4), r"the tensor '.*' at offset \d+ has the unknown type 4"),
    "tensor type 2^32-1": (at(0, type=2**32 - 1), "has the unknown type 4294967295"),
    "no dimensions": (at(0, shape=[]), r"at offset \d+ has 0 dimensions, 1 to 4 are read"),
    "five dimensions": (at(0, shape=[1] * 5), r"at offset \d+ has 5 dimensions, 1 to 4 are read"),
    "dimension 0": (at(0, shape=[32, 0]), r"at offset \d+ has the shape \(0, 32\)"),
    "product 2^64": (at(0, shape=[2**32, 2**32]), "has 73786976294838206464 bytes and ends past"),
    "product past 2^64": (at(0, shape=[2**63, 2**63, 2, 2]), "bytes and ends past the file"),
    "product wraps to 0": (at(0, shape=[2**62, 2**62]), "bytes and ends past the file"),
    "dimensions 2^64-1": (at(0, shape=[2**64 - 1] * 4), "bytes and ends past the file"),
    "half a block": (at(0, type=8, shape=[33, 2]), "rows of Q8_0 are whole blocks of 32"),
}


@pytest.mark.parametrize(("change", "message"), OUTLINES.values(), ids=OUTLINES)
def test_an_outline_that_breaks_a_rule_is_refused(small, path, change, message):
    file = File(small["f32"])
    change(file)
    assert isinstance(refuse(path, message, file.join()), GGUFError)


@pytest.mark.parametrize(
    ("tensors", "keys", "rest", "message"),
    [
        (0, 1, struct.pack("<Q", 200) + b"k", "a key at offset 32 needs 200 bytes"),
        (
            0,
            1,
            struct.pack("<Q", 2**64 - 1),
            "a key at offset 32 has a text of 18446744073709551615",
        ),
        (0, 1, string("k"), "the type of 'k' at offset 33 needs 4 bytes"),
        (0, 1, string("k") + struct.pack("<I", F64), "the value of 'k' at offset 37 needs 8 bytes"),
        (
            0,
            1,
            string("k") + struct.pack("<II", ARRAY, U8),
            "the value of 'k' at offset 41 needs 8",
        ),
        (1, 0, struct.pack("<Q", 200) + b"t", "a tensor's name at offset 32 needs 200 bytes"),
        (1, 0, string("t"), "the tensor 't' at offset 33 needs 4 bytes"),
        (1, 0, string("t") + struct.pack("<IQ", 4, 1), "the tensor 't' at offset 45 needs 8 bytes"),
        (1, 0, string("t") + struct.pack("<IQI", 1, 8, 0), "the tensor 't' at offset 49 needs 8"),
    ],
)
def test_where_an_outline_ends_is_said(path, tensors, keys, rest, message):
    refuse(path, message, b"GGUF" + struct.pack("<IQQ", 3, tensors, keys) + rest)


def test_a_file_cut_off_anywhere_is_refused(small, path):
    file = File(small["ouro"])
    whole, cuts = small["ouro"], sorted(file.cuts)
    outline = cuts[-1]
    some = {*cuts[:40], *cuts[40:-300:37], *cuts[-300:]}
    places = {place + by for place in some for by in (-1, 0, 1)}
    places |= {*range(outline, outline + 64, 7), len(whole) // 2, len(whole) - 1}
    for place in sorted(place for place in places if 0 <= place < len(whole)):
        refuse(path, "offset|ends past", whole[:place])


def test_a_file_that_is_none(tmp_path, path, small):
    refuse(path, r"it has 0 bytes; the header of a GGUF file ends at offset 24", b"")
    path.unlink()
    refuse(path, "cannot be read: No such file")
    refuse(tmp_path / "a\0b.gguf", "cannot be read|is not a folder")
    path.symlink_to(path)
    refuse(path, "cannot be read: ")
    path.unlink()
    path.symlink_to(tmp_path / "nowhere")
    refuse(path, "cannot be read: No such file")
    path.unlink()
    path.mkdir()
    refuse(path, r"is not a bundle: it has no rdlite\.json")
    path.rmdir()
    os.mkfifo(path)
    refuse(path, "is not a regular file")
    link = tmp_path / "link.gguf"
    link.symlink_to(path)
    refuse(link, "is not a regular file")
    path.unlink()
    path.write_bytes(small["f32"])
    open_bundle(link)  # model hubs keep their files like that
