"""A graph by rows has the plain graph's inputs once for each row."""

import onnx
import pytest

from rdlite.graphs.derived.rows import own_name, with_rows
from rdlite.loader import open_bundle


@pytest.mark.parametrize("picked", [False, True])
def test_each_row_has_lengths_and_caches_of_its_own(text_bundle, picked):
    graph = open_bundle(text_bundle).graphs["core"]
    plain = onnx.ModelProto.FromString(graph).graph
    rows = onnx.ModelProto.FromString(with_rows(graph, 3, picked)).graph
    own = [v.name for v in plain.input if v.name not in ("state", "embeds")]
    names = {v.name for v in rows.input}
    assert {own_name(row, name) for row in range(3) for name in own} <= names
    assert not set(own) & names
    attention = [n for n in rows.node if n.op_type == "GroupQueryAttention"]
    assert len(attention) == 3 * 2  # layers
    # A layer's nodes stand in the order of their rows: rows of one text rely on it.
    assert [n.input[3] for n in attention[:3]] == [
        own_name(row, "past_key_values.0.key") for row in range(3)
    ]
