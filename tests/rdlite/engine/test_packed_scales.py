"""Scales are taken back from onnxruntime where it has copies, and no number changes."""

import platform
import re
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from rdlite.export import export_checkpoint
from rdlite.quant import find_scheme
from rdlite.quant.options import Options

import rdlite
from rdlite import Cache
from rdlite.engine import engine, packed_scales
from rdlite.graphs.derived.wide_scales import with_wide_scales
from rdlite.loader import open_bundle
from rdlite.ort.lent_memory import LentMemory

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is lent on Linux alone")


@pytest.fixture(scope="module", params=[("int4", 4), ("int8", 4), ("int8", 1)])
def packed_bundle(request, text_checkpoint, tmp_path_factory):
    name, level = request.param
    folder = tmp_path_factory.mktemp(name) / "bundle"
    scheme = find_scheme(name, Options(accuracy_level=level))
    return export_checkpoint(text_checkpoint, folder, quant=scheme)


def resident_bytes(array):
    """Bytes of the mapping that an array begins in."""
    at = array.__array_interface__["data"][0]
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if found := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(found[1], 16) <= at < int(found[2], 16)
        elif inside and line.startswith("Rss:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no such mapping")


def test_memory_that_is_taken_back_is_gone():
    memory = LentMemory({"a": (3, 5), "b": (2**20,)})
    for array in memory.arrays.values():
        array.fill(7)
    before = resident_bytes(memory.arrays["b"])
    memory.take_back()
    assert before - resident_bytes(memory.arrays["b"]) > 3 * 2**20
    assert not any(array.any() for array in memory.arrays.values())


def test_the_trial_sees_kernels_that_read_their_scales():
    # Accuracy level 0 multiplies widened numbers, on every processor.
    assert not packed_scales._try(("MatMulNBits", 4, 32, 0), 70, 288)


@pytest.mark.parametrize("together", [False, True])
def test_no_bit_changes(packed_bundle, together, monkeypatch):
    def numbers():
        with rdlite.load(packed_bundle, threads=1, together=together) as model:
            return [model.logits(ids, 2) for ids in ([5], [1, 2, 3], list(range(40)))]

    plain = numbers()
    monkeypatch.setattr(engine, "LARGE", 0)
    for one, other in zip(plain, numbers(), strict=True):
        assert np.array_equal(one, other)


def test_what_was_lent_is_taken_back(packed_bundle, monkeypatch):
    lent, lend = [], engine.lend
    monkeypatch.setattr(engine, "LARGE", 0)
    monkeypatch.setattr(engine, "SMALL", 0)
    monkeypatch.setattr(engine, "lend", lambda *given: lent.append(lend(*given)) or lent[-1])
    opened = engine.Engine(open_bundle(packed_bundle), Cache(1), 1)
    level = open_bundle(packed_bundle).manifest.quantization.accuracy_level
    if platform.machine() == "x86_64":
        assert [bool(memory.arrays) for memory in lent] == [level == 4] * 3  # parts
    assert not any(array.any() for memory in lent for array in memory.arrays.values())
    del opened


def test_scales_that_are_read_stay_in_the_graph(packed_bundle):
    for graph in open_bundle(packed_bundle).graphs.values():
        changed, places = with_wide_scales(graph, lambda node: False)
        assert not places
        nodes = onnx.ModelProto.FromString(changed).graph.node
        wide = {node.output[0] for node in nodes if node.op_type == "Cast"}
        products = [node for node in nodes if node.op_type == "MatMulNBits"]
        assert all(node.input[2] in wide for node in products)
