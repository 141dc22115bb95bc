"""Whole files, to be spoilt."""

import os

import pytest
from rdlite.export.random_checkpoint import hub_config, write_random_checkpoint
from rdlite.export.read import read_model
from rdlite.export.to_gguf import export_gguf
from rdlite.quant import Options, find_scheme


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Whole files of each type: a huginn with a tokenizer, and an ouro with a gate."""
    folder = tmp_path_factory.mktemp("gguf")
    config = hub_config(
        width=32, heads=2, inner=32, vocabulary=288, context=64, mean_steps=2, layers=(1, 1, 1)
    )
    huginn = read_model(write_random_checkpoint(folder / "checkpoint", config))
    files = {}
    for kind in ("f32", "f16", "bf16", "q4_1", "q4_0", "q8_0"):
        scheme = {"q4_0": "int4", "q8_0": "int8"}.get(kind)
        storage = find_scheme(scheme, Options(block_size=32)).prepare(huginn) if scheme else None
        path = export_gguf(huginn, folder / f"{kind}.gguf", kind, storage)
        files[kind] = path.read_bytes()
    ouro = read_model(os.path.join(os.path.dirname(__file__), "../../data/ouro-tiny"))
    files["ouro"] = export_gguf(ouro, folder / "ouro.gguf", "f16").read_bytes()
    return files


@pytest.fixture
def path(tmp_path):
    return tmp_path / "hostile.gguf"
