"""Graphs from strangers: nothing that breaks the contract reaches onnxruntime."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import rdlite
from rdlite import GraphError


@pytest.fixture
def spoil(text_bundle, bundle_copy, sign):
    """Change one graph of a bundle, make the manifest agree, and expect a GraphError."""

    def spoil_graph(change, message, part="core"):
        model = onnx.load(text_bundle / f"{part}.onnx", load_external_data=False)
        result = change(model.graph) if change.__code__.co_varnames[0] == "graph" else change(model)
        path = bundle_copy / f"{part}.onnx"
        path.write_bytes(result if isinstance(result, bytes) else model.SerializeToString())
        sign(bundle_copy)
        with pytest.raises(GraphError, match=message):
            rdlite.load(bundle_copy)

    return spoil_graph


def node_of(graph, kind):
    return next(node for node in graph.node if node.op_type == kind)


def tensor_of(graph, name):
    return next(tensor for tensor in graph.initializer if tensor.name == name)


def place(tensor, **values):
    for entry in tensor.external_data:
        if entry.key in values:
            entry.value = str(values[entry.key])


def attribute_of(node, name):
    return next(attribute for attribute in node.attribute if attribute.name == name)


def test_garbage_is_no_graph(spoil):
    spoil(lambda model: b"\xff" * 100, "core.onnx is not an ONNX model")


@pytest.mark.parametrize(
    "location",
    [
        "../secret.data",
        "/etc/passwd",
        "sub/x.data",
        "missing.data",
        "tokenizer.json",
        "",
        "core.onnx",
    ],
)
def test_external_data_lies_in_data_files_of_the_bundle(spoil, location):
    def change(graph):
        place(tensor_of(graph, "core.adapter.weight"), location=location)

    spoil(change, "which is no data file of the bundle")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"offset": -1}, "has the offset '-1'; it must be a count"),
        ({"offset": "0x10"}, "it must be a count"),
        ({"offset": 10**17}, r"ends at byte \d+ of core.onnx.data, which has"),
        ({"offset": 10**30}, "it must be a count"),
        ({"length": -4}, "has the length '-4'"),
        ({"length": 4}, "has 4 bytes, its shape and type need 32768"),
    ],
)
def test_offsets_and_lengths_stay_inside_their_file(spoil, values, message):
    spoil(lambda graph: place(tensor_of(graph, "core.adapter.weight"), **values), message)


def test_a_link_in_place_of_a_data_file_is_refused(bundle_copy, tmp_path):
    data = bundle_copy / "core.onnx.data"
    data.rename(tmp_path / "out.data")
    data.symlink_to(tmp_path / "out.data")
    with pytest.raises(rdlite.BundleError, match="is a symbolic link"):
        rdlite.load(bundle_copy)


@pytest.mark.parametrize("kind", ["If", "Loop", "Scan", "Reshape", "Expand", "NonZero", "Nope"])
def test_operators_are_on_a_list(spoil, kind):
    def change(graph):
        graph.node.append(helper.make_node(kind, ["state"], ["x"]))

    spoil(change, f"uses the operator {kind}, which is not allowed")


def test_operators_of_other_domains_are_refused(spoil):
    def change(graph):
        graph.node.append(helper.make_node("PyOp", ["state"], ["x"], domain="ai.onnx.contrib"))

    spoil(change, r"uses the operator ai.onnx.contrib.PyOp")
    spoil(
        lambda model: model.opset_import.append(helper.make_opsetid("evil", 1)),
        "imports operators of 'evil'",
    )


def test_functions_and_sparse_tensors_are_refused(spoil):
    def change(model):
        model.functions.append(
            helper.make_function("local", "Add", [], [], [], [helper.make_opsetid("", 21)])
        )

    spoil(change, "functions, training or sparse parts")


def test_subgraphs_hidden_in_attributes_are_refused(spoil):
    inner = helper.make_graph([], "inner", [], [])

    def change(graph):
        node_of(graph, "Concat").attribute.append(helper.make_attribute("body", inner))

    spoil(change, "has the attribute 'body', which is not allowed")


def test_attributes_are_on_a_list(spoil):
    def change(graph):
        node_of(graph, "GroupQueryAttention").attribute.append(
            helper.make_attribute("local_window_size", 4)
        )

    spoil(change, "has the attribute 'local_window_size', which is not allowed")


def test_too_many_nodes_are_refused(spoil):
    def change(graph):
        for i in range(10_001):
            graph.node.append(helper.make_node("Sigmoid", ["state"], [f"x{i}"]))

    spoil(change, "at most 10000 are allowed")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("num_heads", 8, "num_heads is 8, expected 4"),
        ("kv_num_heads", 1, "kv_num_heads is 1, expected 4"),
    ],
)
def test_attention_must_have_the_heads_of_the_config(spoil, name, value, message):
    def change(graph):
        attribute_of(node_of(graph, "GroupQueryAttention"), name).i = value

    spoil(change, message)


def test_shapes_must_follow_from_one_another(spoil):
    def shrink(graph):
        tensor = tensor_of(graph, "core.0.mlp.down.weight")
        tensor.dims[:] = [64, 48]
        place(tensor, length=64 * 48 * 4)

    spoil(shrink, "inner size of the weight is 48, expected 96")

    def grow(graph):
        graph.node.append(helper.make_node("Concat", ["state"] * 2, ["big"], axis=1))

    spoil(grow, "axis is 1, expected -1")


def test_values_may_not_grow_without_end(spoil):
    def change(graph):
        for i in range(40):
            source = "state" if i == 0 else f"x{i - 1}"
            graph.node.append(helper.make_node("Concat", [source, source], [f"x{i}"], axis=-1))

    spoil(change, "makes a value as large as")


def test_inputs_and_outputs_are_the_contracts(spoil):
    spoil(
        lambda graph: graph.input.append(
            helper.make_tensor_value_info("more", TensorProto.FLOAT, [1])
        ),
        r"inputs differ from the contract: missing \[\], extra \['more'\]",
    )


def test_outputs_must_be_written(spoil):
    def change(graph):
        node_of(graph, "Div").output[0] = "elsewhere"

    spoil(change, "change comes out as None")


def test_input_types_and_sizes_are_checked(spoil):
    def type_of_state(graph):
        return next(value for value in graph.input if value.name == "state").type.tensor_type

    def retype(graph):
        type_of_state(graph).elem_type = TensorProto.FLOAT16

    spoil(retype, "state must be FLOAT")

    def resize(graph):
        type_of_state(graph).shape.dim[2].dim_value = 65

    spoil(resize, "state has the size 65 where the contract says 64")


def test_values_are_written_once_and_before_they_are_read(spoil):
    spoil(
        lambda graph: graph.node.insert(0, helper.make_node("Sigmoid", ["next_state"], ["x"])),
        "reads 'next_state' before anything writes it",
    )


def test_a_value_may_not_be_written_twice(spoil):
    spoil(
        lambda graph: graph.node.append(helper.make_node("Sigmoid", ["state"], ["embeds"])),
        "writes 'embeds', which is already there",
    )


@pytest.mark.parametrize("dims", [[0, 128], [-64, 128], [2**40, 2**40], [1, 1, 1, 1, 8192]])
def test_tensors_have_possible_shapes(spoil, dims):
    def change(graph):
        tensor_of(graph, "core.adapter.weight").dims[:] = dims

    spoil(change, "has the impossible shape|has 5 dimensions")


def test_tensors_have_types_that_are_read(spoil):
    def change(graph):
        tensor_of(graph, "core.adapter.weight").data_type = TensorProto.STRING

    spoil(change, "has the data type 8")


def test_constants_hold_what_their_shape_says(spoil):
    def change(graph):
        tensor_of(graph, "last_axis").dims[:] = [4]

    spoil(change, r"must hold 32 bytes of raw data for \(4,\) of INT64, it has 8")


def quantized_product(graph, **changes):
    """Put a MatMulNBits in the graph whose weights are the adapter's bytes, read as int4."""
    sizes = {"K": 64, "N": 256, "bits": 4, "block_size": 32} | changes
    packed = tensor_of(graph, "core.adapter.weight")
    packed.data_type = TensorProto.UINT8
    packed.dims[:] = [256, 2, 16]
    place(packed, length=256 * 2 * 16)
    scales = tensor_of(graph, "core.0.mlp.down.weight")
    scales.dims[:] = [256, 2]
    place(scales, length=256 * 2 * 4)
    node = helper.make_node(
        "MatMulNBits",
        ["state", packed.name, scales.name],
        ["product"],
        domain="com.microsoft",
        accuracy_level=4,
        **sizes,
    )
    graph.node.insert(0, node)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"N": 512}, r"shape of the packed weight is \(256, 2, 16\), expected \(512, 2, 16\)"),
        ({"K": 128}, "K is 128, expected 64"),
        ({"bits": 8}, r"shape of the packed weight is \(256, 2, 16\), expected \(256, 2, 32\)"),
        ({"bits": 3}, "bits 3 with block_size 32 is not supported"),
        ({"block_size": 16}, "shape of the packed weight"),
        ({"block_size": 0}, "block_size 0 is not supported"),
        ({"N": -256}, "shape of the packed weight"),
        ({"N": 2**40}, "shape of the packed weight"),
    ],
)
def test_matmulnbits_may_not_overstate_its_tensors(spoil, changes, message):
    spoil(lambda graph: quantized_product(graph, **changes), message)


def test_an_honest_matmulnbits_passes_its_rule(spoil):
    # What is left to complain of is the adapter, whose weight the test took away.
    spoil(
        lambda graph: quantized_product(graph),
        r"FusedMatMul\): input 1 is UINT8, expected floating",
    )


def insert(graph, kind, inputs, outputs, **attributes):
    domain = (
        ""
        if kind in ("Div", "Split", "Gather", "Add", "Cast", "Sigmoid", "Sub")
        else ("com.microsoft")
    )
    graph.node.insert(0, helper.make_node(kind, inputs, outputs, domain=domain, **attributes))


def constant(graph, array):
    name = f"constant_{len(graph.initializer)}"
    graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    return name


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        # each of these once crashed, hung or bloated the process
        (
            lambda graph: insert(
                graph,
                "Div",
                [constant(graph, np.int32([-(2**31)])), constant(graph, np.int32([-1]))],
                ["q"],
            ),
            "input 0 is INT32, expected floating-point numbers",
        ),
        (
            lambda graph: insert(graph, "Split", ["state"], ["", "q"], axis=-1, num_outputs=2),
            "number of outputs|output",
        ),
        (
            lambda graph: insert(graph, "Split", ["state"], [], axis=-1, num_outputs=0),
            "number of outputs is 0, expected 2",
        ),
        (
            lambda graph: insert(graph, "Split", ["state"], ["a", "b"], axis="x", num_outputs=2),
            "has the attribute 'axis', which is not allowed",
        ),
        (
            lambda graph: insert(
                graph,
                "Add",
                [
                    constant(graph, np.ones((4096, 1), np.float32)),
                    constant(graph, np.ones((1, 4096), np.float32)),
                ],
                ["q"],
            ),
            "do not go together",
        ),
        (
            lambda graph: insert(
                graph,
                "Gather",
                ["past_key_values.0.key", constant(graph, np.zeros(99999, np.int64))],
                ["q"],
                axis=3,
            ),
            "which no model needs",
        ),
        (
            lambda graph: insert(graph, "Cast", ["state"], ["q"], to=7),
            "must cast to a floating-point type",
        ),
        (
            lambda graph: insert(graph, "Sigmoid", ["past_key_values.0.key"], ["present.0.key"]),
            "reads the cache 'past_key_values.0.key', which is written in place",
        ),
        (
            lambda graph: insert(graph, "QuickGelu", ["state"], ["q"], alpha=float("nan")),
            "has the attribute 'alpha', which is not allowed",
        ),
        (
            lambda graph: node_of(graph, "GroupQueryAttention").input.__setitem__(5, "other"),
            "reads 'other' before anything writes it",
        ),
        (
            lambda graph: node_of(graph, "GroupQueryAttention").output.__setitem__(
                1, "present.1.key"
            ),
            r"output 1 is 'present.1.key', expected 'present.0.key'",
        ),
        (
            lambda graph: tensor_of(graph, "core.adapter.weight").dims.extend([2**62] * 200_000),
            "has 200002 dimensions",
        ),
        (
            lambda graph: graph.value_info.append(
                helper.make_tensor_value_info("state", TensorProto.FLOAT, [1])
            ),
            "carries notes on values",
        ),
        (
            lambda graph: setattr(node_of(graph, "Concat"), "op_type", "x" * 400),
            "has a name that is no text or too long",
        ),
        (
            lambda graph: setattr(
                next(v for v in graph.input if v.name == "state").type.tensor_type, "elem_type", 99
            ),
            "state must be FLOAT",
        ),
        (
            lambda graph: node_of(graph, "Concat").attribute.append(
                helper.make_attribute("axis", 2)
            ),
            "names an attribute twice",
        ),
    ],
)
def test_attacks_that_once_worked_are_refused(spoil, attack, message):
    def change(graph):
        attack(graph)

    spoil(change, message)


def test_a_graph_may_not_be_huge(bundle_copy, sign):
    (bundle_copy / "core.onnx").write_bytes(b"\0" * (4 * 2**20 + 1))
    sign(bundle_copy)
    with pytest.raises(rdlite.BundleError, match="at most 4194304 are read"):
        rdlite.load(bundle_copy)


def test_names_that_are_not_utf8_are_refused(spoil, text_bundle):
    data = (text_bundle / "core.onnx").read_bytes()
    spoil(lambda model: data.replace(b"Concat", b"Conc\xff\xfe"), "no text or too long|ONNX model")
