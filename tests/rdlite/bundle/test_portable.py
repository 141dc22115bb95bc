"""Portable bundles: they run like any other, and their graphs are held to rules of their own.

No PyTorch is needed here; tests/export/optimum traces models anew.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

import rdlite
from rdlite import BundleError, GraphError, InputError
from rdlite.bundle.check.op_rules import PAIRED, Value
from rdlite.bundle.manifest import hash_manifest
from rdlite.measure.calibrate_kv import calibrate_cache_scales

IDS = [(7 * i * i + 3) % 250 for i in range(40)]


@pytest.fixture(scope="module")
def portable(portable_bundle):
    return rdlite.load(portable_bundle)


def edit_manifest(folder, **changes):
    path = folder / "rdlite.json"
    manifest = json.loads(path.read_text()) | changes
    manifest["sha256"] = hash_manifest(manifest)
    path.write_text(json.dumps(manifest))


def test_it_answers_as_the_fused_bundle_does(portable, model):
    for steps in (1, 4, 9):
        assert np.abs(portable.logits(IDS, steps) - model.logits(IDS, steps)).max() < 1e-4
    texts = [
        m.generate(IDS[:9], max_tokens=20, depth=rdlite.Depth(5)).ids for m in (portable, model)
    ]
    assert texts[0] == texts[1]


@pytest.mark.parametrize("cache", [None, 1, "last"])
def test_everything_that_loops_runs_on_it(portable_bundle, text_bundle, cache):
    answers = []
    for folder in (portable_bundle, text_bundle):
        with rdlite.load(folder, cache=rdlite.Cache(cache)) as model:
            depth = rdlite.Depth(6, exit="latent-diff", threshold=0.02, prompt="each")
            generation = model.generate(IDS[:9], max_tokens=12, depth=depth)
            answers.append([(token.id, token.steps) for token in generation])
    assert answers[0] == answers[1]


def test_speculation_changes_nothing(portable):
    plain, drafted = (
        portable.generate(IDS[:9], max_tokens=20, depth=rdlite.Depth(5), speculate=speculate).ids
        for speculate in (None, (3, 2))
    )
    assert plain == drafted


@pytest.mark.parametrize(("position", "size"), [(0, 8), (5, 1), (5, 4), (0, 1)])
def test_a_cache_written_in_place_is_the_cache_written_elsewhere(portable_bundle, position, size):
    """Onnxruntime may not read what it has overwritten, nor leave anything out."""
    session = onnxruntime.InferenceSession(portable_bundle / "core.onnx")
    rng = np.random.default_rng(position + size)
    shapes = {"B": 1, "S": size, "C": 16}
    feeds = {}
    for value in session.get_inputs():
        shape = [shapes.get(axis, axis) for axis in value.shape]
        feeds[value.name] = rng.standard_normal(shape).astype(np.float32)
    total = position + size
    feeds["seqlens_k"] = np.array([total - 1], np.int32)
    feeds["total_sequence_length"] = np.array(total, np.int32)
    names = [value.name for value in session.get_outputs()]
    apart = dict(zip(names, session.run(None, feeds), strict=True))

    binding = session.io_binding()
    kept = {name: array.copy() for name, array in feeds.items()}
    for name, array in kept.items():
        binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(array))
    for name in names:
        past = name.replace("present", "past_key_values")
        kept[name] = kept[past] if past != name else np.zeros_like(apart[name])
        binding.bind_ortvalue_output(name, onnxruntime.OrtValue.ortvalue_from_numpy(kept[name]))
    session.run_with_iobinding(binding)
    for name in names:
        assert np.array_equal(kept[name], apart[name]), name
        if name.startswith("present"):
            before = feeds[name.replace("present", "past_key_values")]
            changed = (kept[name] != before).any(axis=(0, 1, 3))
            assert changed.nonzero()[0].tolist() == list(range(position, total))


def test_what_lies_past_the_length_is_not_read(portable):
    sequence = portable.new_sequence()
    answers = []
    for rubbish in (0.0, np.nan):
        sequence.truncate(0)
        runner = sequence.begin(IDS[:5], 1)
        sequence.outer_slot("prelude").data[..., 5:, :] = rubbish
        runner.prelude()
        answers.append(runner.embeds.copy())
    assert np.array_equal(*answers)


def test_batches_of_texts_of_several_lengths(portable_bundle):
    """The runtime reads one text at a time; the contract says B of them."""
    session = onnxruntime.InferenceSession(portable_bundle / "prelude.onnx")
    rng = np.random.default_rng(1)
    cache = rng.standard_normal((2, 4, 16, 16)).astype(np.float32)
    ids = np.array([IDS[:2], IDS[2:4]])

    def run(rows, lengths):
        feeds = {"input_ids": ids[rows], "seqlens_k": np.array(lengths, np.int32) - 1}
        feeds["total_sequence_length"] = np.array(max(lengths), np.int32)
        feeds |= {f"past_key_values.0.{kind}": cache[rows] for kind in ("key", "value")}
        return session.run(["embeds"], feeds)[0]

    both = run([0, 1], [9, 4])
    assert np.allclose(both[:1], run([0], [9]), atol=1e-6)
    assert np.allclose(both[1:], run([1], [4]), atol=1e-6)


def test_its_graphs_hold_standard_operators_and_each_weight_once(portable_bundle):
    names = []
    for part in ("prelude", "core", "coda"):
        graph = onnx.load(portable_bundle / f"{part}.onnx", load_external_data=False)
        assert {(entry.domain, entry.version) for entry in graph.opset_import} == {("", 18)}
        assert {node.domain for node in graph.graph.node} == {""}
        names += [tensor.name for tensor in graph.graph.initializer if tensor.external_data]
    assert names.count("embedding.weight") == 2  # in the prelude and the coda ...
    manifest = json.loads((portable_bundle / "rdlite.json").read_text())
    stored = sum(e["bytes"] for n, e in manifest["files"].items() if n.endswith(".data"))
    assert stored < 4 * sum(manifest["parameters"].values()) + 2**17  # ... and stored once


def test_it_can_be_quantized_like_the_checkpoint(portable_bundle, text_checkpoint, tmp_path):
    from rdlite.export import export_checkpoint
    from rdlite.quant import find_scheme, quantize_bundle

    ours = quantize_bundle(portable_bundle, tmp_path / "ours", "int4")
    theirs = export_checkpoint(text_checkpoint, tmp_path / "theirs", quant=find_scheme("int4"))
    assert (ours / "core.onnx").read_bytes() == (theirs / "core.onnx").read_bytes()
    assert (ours / "core.onnx.data").read_bytes() == (theirs / "core.onnx.data").read_bytes()


def test_an_int8_cache_is_refused(portable_bundle, portable):
    with pytest.raises(InputError, match="is portable, and no standard operator keeps an int8"):
        rdlite.load(portable_bundle, cache=rdlite.Cache(bits=8))
    with pytest.raises(InputError, match="keeps its cache in float32"):
        calibrate_cache_scales(portable, [IDS])


def test_a_bundle_without_the_key_is_fused(text_bundle):
    assert "flavour" not in json.loads((text_bundle / "rdlite.json").read_text())
    assert rdlite.load(text_bundle).bundle.manifest.flavour == "fused"


def test_the_flavour_must_be_known_and_true(bundle_copy, portable_bundle, tmp_path):
    edit_manifest(bundle_copy, flavour="salty")
    with pytest.raises(BundleError, match="flavour must be one of fused, portable; got 'salty'"):
        rdlite.load(bundle_copy)
    edit_manifest(bundle_copy, flavour="portable")
    with pytest.raises(GraphError, match="SimplifiedLayerNormalization, which is not allowed"):
        rdlite.load(bundle_copy)
    copy = shutil.copytree(portable_bundle, tmp_path / "copy")
    edit_manifest(copy, flavour="fused")
    with pytest.raises(GraphError, match="which is not allowed"):
        rdlite.load(copy)


@pytest.fixture
def spoil(portable_bundle, tmp_path, sign):
    """Change one graph of a portable bundle and expect a GraphError."""

    def spoil_graph(change, message, part="core"):
        folder = Path(shutil.copytree(portable_bundle, tmp_path / "spoilt"))
        model = onnx.load(folder / f"{part}.onnx", load_external_data=False)
        change(model.graph)
        (folder / f"{part}.onnx").write_bytes(model.SerializeToString())
        sign(folder)
        with pytest.raises(GraphError, match=message):
            rdlite.load(folder)

    return spoil_graph


def nodes_of(graph, kind):
    return [node for node in graph.node if node.op_type == kind]


def constant(graph, value):
    name = f"constant{len(graph.initializer)}"
    graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return name


def replace_input(graph, kind, index, value):
    nodes_of(graph, kind)[0].input[index] = constant(graph, value)


def add(graph, kind, *inputs, **attributes):
    graph.node.append(helper.make_node(kind, inputs, ["more"], **attributes))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda g: replace_input(g, "Range", 1, np.int64(2**40)), "its limit must be the number"),
        (lambda g: replace_input(g, "Range", 0, np.int64(-5)), r"input 0 is -5, expected 0"),
        (lambda g: replace_input(g, "Range", 2, np.int64(0)), r"input 2 is 0, expected 1"),
        (lambda g: replace_input(g, "Slice", 1, np.array([3])), r"start is \[3\], expected \[0\]"),
        (lambda g: replace_input(g, "Slice", 2, np.array([99])), "end is None, expected 'T'"),
        (lambda g: replace_input(g, "Slice", 3, np.array([1])), r"axes is \[1\], expected \[2\]"),
        (lambda g: replace_input(g, "Expand", 1, np.array([1, 4, 9, 16])), "do not go together"),
        (lambda g: replace_input(g, "Expand", 1, np.array([1, 2**40, 1, 16])), "as large as"),
        (lambda g: replace_input(g, "Reshape", 1, np.array([0, 0, 5, -1])), "cannot become"),
        (lambda g: replace_input(g, "Reshape", 1, np.array([0, 0, -1, -1])), "cannot become"),
        (lambda g: replace_input(g, "Reshape", 1, np.array([0, 0, 2**40])), "cannot become"),
        (lambda g: replace_input(g, "Reshape", 1, np.array([1, 0, -1])), "axes that are kept"),
        (lambda g: replace_input(g, "Split", 1, np.array([64, 64, 65])), "cannot be split into"),
        (lambda g: replace_input(g, "Split", 1, np.array([256, -32, -32])), "cannot be split into"),
        (lambda g: replace_input(g, "Unsqueeze", 1, np.array([99])), "axes .* do not fit"),
        (lambda g: replace_input(g, "ReduceMean", 1, np.array([0])), r"axes is \[0\]"),
        (
            lambda g: nodes_of(g, "ScatterElements")[0].attribute[0].__setattr__("i", 1),
            "axis is 1, expected 2",
        ),
        (
            lambda g: nodes_of(g, "ScatterElements")[0].output.__setitem__(0, "present.1.value"),
            "output is 'present.1.value', expected 'present.0.key'",
        ),
        (
            lambda g: nodes_of(g, "ScatterElements")[0].input.__setitem__(0, "present.0.value"),
            "present.0.value",
        ),
        (
            lambda g: nodes_of(g, "ScatterElements")[0].input.__setitem__(2, "state"),
            "shape of the entries",
        ),
        (
            lambda g: nodes_of(g, "Transpose")[0].attribute[0].ints.__setitem__(0, 0),
            "cannot take the order",
        ),
        (lambda g: add(g, "MatMul", "state", "embeds"), "do not go together"),
        (lambda g: add(g, "Sqrt", "past_key_values.0.key"), "which is written in place"),
        (lambda g: add(g, "Cast", "state", to=7), "which no model needs"),
        (lambda g: add(g, "Cast", "state", to=10), "which no model needs"),
        (lambda g: add(g, "Shape", "state", start=0, end=3), "start is 0, expected 1"),
        (lambda g: add(g, "Shape", "seqlens_k", start=1, end=2), "size that is asked for"),
        (lambda g: add(g, "Squeeze", "seqlens_k", constant(g, np.array([0]))), "INT32"),
        (lambda g: add(g, "Add", "state", "seqlens_k"), "INT32"),
        (lambda g: add(g, "Mul", "state", constant(g, np.int64(2))), "INT64, expected FLOAT"),
        (lambda g: add(g, "Where", "state", "state", "state"), "FLOAT, expected BOOL"),
        (lambda g: add(g, "Gather", "core.adapter.weight", "seqlens_k"), "INT32, expected INT64"),
        (lambda g: add(g, "Softmax", "state", axis=1), "axis is 1, expected -1"),
        (lambda g: add(g, "Concat", "state", "embeds", axis=1), "axis is 1, expected -1"),
        (lambda g: add(g, "NonZero", "state"), "the operator NonZero, which is not allowed"),
        (
            lambda g: add(g, "QuickGelu", "state", domain="com.microsoft"),
            "the operator com.microsoft.QuickGelu, which is not allowed",
        ),
    ],
)
def test_hostile_portable_graphs_are_refused(spoil, change, message):
    spoil(change, message)


def test_values_for_pairs_of_positions_count_for_more():
    """Their memory grows with the square of what is read."""
    assert Value("keys", ("B", 4, "T", 16), "FLOAT").elements == 64
    assert Value("scores", ("B", 4, "S", "T"), "FLOAT").elements == 4 * PAIRED


def test_no_axis_comes_twice(spoil):
    def pair(graph):
        (new,) = (n.output[0] for n in nodes_of(graph, "Range")[:1])
        add(graph, "Unsqueeze", new, constant(graph, np.array([1])))
        graph.node.append(helper.make_node("Add", ["more", new], ["pairs"]))

    spoil(pair, r"makes a value with an axis twice, \('[ST]', '[ST]'\)")
