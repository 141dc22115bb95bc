"""Two bundles of one model held against each other."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from rdlite.export import export_checkpoint
from rdlite.quant import quantize_bundle

import rdlite
from rdlite import InputError
from rdlite.cli.main import main
from rdlite.measure.compare_bundles import Difference, compare

DATA = Path(__file__).parents[2] / "data"


def test_a_model_agrees_with_itself_exactly(text_bundle):
    with rdlite.load(text_bundle) as one, rdlite.load(text_bundle) as other:
        found = compare(one, other)
    names = ["prelude", "core step", "change", "coda"]
    assert [each.what for each in found] == [*names, "logits at depth 1", "logits at depth 4"]
    assert [each.largest for each in found] == [0] * 6
    assert all(each.magnitude > 0.1 for each in found)
    assert found[-1].same_top == 1


@pytest.mark.parametrize(
    ("part", "weight", "first"),
    [
        ("prelude", "prelude.0.norm_4.weight", "prelude"),
        ("core", "core.1.norm_4.weight", "core step"),
        ("coda", "coda.0.norm_2.weight", "coda"),
    ],
)
def test_a_difference_shows_in_its_own_part_and_in_the_end(
    text_bundle, bundle_copy, sign, part, weight, first
):
    import onnx

    graph = onnx.load(bundle_copy / f"{part}.onnx", load_external_data=False).graph
    tensor = next(tensor for tensor in graph.initializer if tensor.name == weight)
    offset = next(int(e.value) for e in tensor.external_data if e.key == "offset")
    data = np.memmap(bundle_copy / f"{part}.onnx.data", "<f4", "r+", offset, (64,))
    data *= 1.5
    data.flush()
    sign(bundle_copy)
    with rdlite.load(bundle_copy) as changed, rdlite.load(text_bundle) as whole:
        found = {each.what: each.largest for each in compare(changed, whole)}
    parts = ("prelude", "core step", "coda")
    assert {name for name in parts if found[name] > 0} == {first}
    assert found["logits at depth 4"] > 1e-3


def test_a_gate_is_compared_too(tmp_path):
    bundle = export_checkpoint(DATA / "ouro-tiny", tmp_path / "ouro")
    with rdlite.load(bundle) as one, rdlite.load(bundle) as other:
        assert "exit probability" in [each.what for each in compare(one, other)]


def test_bundles_of_two_models_are_not_compared(model, nano):
    with pytest.raises(InputError, match="are not of one model: vocab_size is 288 and 512"):
        compare(model, nano)


def test_what_is_not_a_number_is_never_within_a_tolerance():
    assert Difference("coda", 0.5, 1).within(0.5)
    assert not Difference("coda", float("nan"), 1).within(1e9)


def test_the_command_says_where_bundles_differ_and_by_how_much(text_bundle, tmp_path):
    small = str(quantize_bundle(text_bundle, tmp_path / "int4", "int4"))
    full = str(text_bundle)

    def run(*arguments):
        return CliRunner().invoke(main, ["verify", *arguments])

    same = run(full, "--against", full)
    assert same.exit_code == 0
    assert "agree within 0.0001" in same.output
    far = run(small, "--against", full)
    assert far.exit_code == 1
    assert "core step" in far.output
    assert "too far" in far.output
    assert run(small, "--against", full, "--tolerance", "100").exit_code == 0
    result = run(small, "--against", full, "--json")
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert report["agree"] is False
    assert report["differences"][0]["what"] == "prelude"
    assert report["differences"][0]["largest"] > 1e-4
    assert "add --against OTHER" in run(full, "--tolerance", "1").output
