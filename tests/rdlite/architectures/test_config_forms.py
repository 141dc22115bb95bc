"""A config as transformers 5 writes it gives the bundle of its older form, for every family."""

import json
import shutil
from pathlib import Path

import pytest
from rdlite.export import export_checkpoint

from rdlite import FamilyError

DATA = Path(__file__).parents[2] / "data"
BASES = {
    "huginn-tiny": "rope_base",
    "raven-llama-tiny": "rope_theta",
    "raven-olmo-tiny": "rope_theta",
    "ouro-tiny": "rope_theta",
    "nanbeige-tiny": "rope_theta",
}


def old_form(name):
    return json.loads((DATA / name / "config.json").read_text())


def new_form(name):
    """What transformers 5 makes of it."""
    config = old_form(name)
    base = config.pop(BASES[name])
    config.pop("rope_base", None)
    scaling = config.pop("rope_scaling", None) or {"rope_type": "default"}
    config["rope_parameters"] = {"rope_theta": float(base), **scaling}
    config["dtype"] = config.pop("torch_dtype", "float32")
    return config


def export(config, name, folder):
    checkpoint = folder / "checkpoint"
    shutil.copytree(DATA / name, checkpoint)
    (checkpoint / "config.json").write_text(json.dumps(config))
    return export_checkpoint(checkpoint, folder / "bundle")


def files(bundle):
    return {path.name: path.read_bytes() for path in bundle.iterdir()}


@pytest.mark.parametrize("name", BASES)
def test_both_forms_give_one_bundle(name, tmp_path):
    old = files(export(old_form(name), name, tmp_path / "old"))
    assert files(export(new_form(name), name, tmp_path / "new")) == old
    both = old_form(name) | new_form(name)
    assert files(export(both, name, tmp_path / "both")) == old


@pytest.mark.parametrize("name", BASES)
def test_two_bases_are_refused(name, tmp_path):
    config = old_form(name) | new_form(name)
    config[BASES[name]] = 2 * config[BASES[name]]
    with pytest.raises(FamilyError, match=rf"{BASES[name]} is .* and rope_parameters.rope_theta"):
        export(config, name, tmp_path)


def test_two_ways_to_stretch_are_refused(tmp_path):
    name = "raven-llama-tiny"
    for change in ({"factor": 31.0}, {"rope_type": "default", "factor": None}):
        config = old_form(name) | new_form(name)
        config["rope_parameters"] = config["rope_parameters"] | change
        folder = tmp_path / str(change["factor"])
        with pytest.raises(FamilyError, match=r"rope_scaling says llama3 .* and rope_parameters"):
            export(config, name, folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rope_parameters": {"rope_theta": 7e7, "rope_type": "yarn"}}, "rope_type is 'yarn'"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_type is 'linear'"),
        ({"rope_scaling": {"type": "default", "rope_type": "llama3"}}, "'default' and 'llama3'"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor is 0.5"),
        ({"rope_parameters": {"rope_type": "default", "factor": 2.0}}, "factor is 2.0"),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 2.0}}, "low_freq_factor"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 7e7}}}, "full_attention"),
        ({"dtype": "bfloat16"}, "dtype is bfloat16 and torch_dtype float32"),
    ],
)
def test_what_is_not_computed_is_refused(change, words, tmp_path):
    with pytest.raises(FamilyError, match=words):
        export(old_form("nanbeige-tiny") | change, "nanbeige-tiny", tmp_path)


def test_harmless_words_of_transformers_5(tmp_path):
    name = "nanbeige-tiny"
    config = new_form(name)
    config["dtype"] = "torch.float32"
    config["torch_dtype"] = "float32"
    config["rope_scaling"] = {"type": "default"}
    more = {"partial_rotary_factor": 1.0, "original_max_position_embeddings": 512}
    config["rope_parameters"] = config["rope_parameters"] | more
    export(config, name, tmp_path)
