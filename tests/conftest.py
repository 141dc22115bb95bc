"""Models that the tests share: the two oracle checkpoints, and a random one that has text files.

They run on one thread: they are so small that a second one waits more than it works, and takes a
core for it.
"""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import tool_templates
from rdlite.export import export_checkpoint
from rdlite.export.exporter import write_bundle
from rdlite.export.from_checkpoint import read_checkpoint
from rdlite.export.random_checkpoint import hub_config, write_random_checkpoint

import rdlite
from rdlite.bundle.manifest import hash_manifest
from rdlite.graphs.serialize import Graphs
from rdlite.measure.calibrate_kv import calibrate_bundle
from rdlite.utils.files import hash_file

DATA = Path(__file__).parent / "data"
ORACLES = ("huginn-tiny", "huginn-tiny-bf16")


class Oracle:
    """A checkpoint, what the published implementation answers on it, and our model of it."""

    def __init__(self, name, folder):
        self.checkpoint = DATA / name
        with np.load(self.checkpoint / "expected.npz") as arrays:
            self.expected = {key: arrays[key] for key in arrays.files}
        self.ids = self.expected["input_ids"][0].tolist()
        self.states = self.expected["input_states"][0]
        self.bundle = export_checkpoint(self.checkpoint, folder / name)
        self.model = rdlite.load(self.bundle, threads=1)


@pytest.fixture(scope="session", autouse=True)
def _no_settings_of_the_developer(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RDLITE_HOME", str(tmp_path_factory.mktemp("home")))
        yield


def pytest_collection_modifyitems(items):
    if os.environ.get("RDLITE_TEST_DEVICE"):
        for item in items:
            if item.get_closest_marker("host_memory"):
                item.add_marker(pytest.mark.skip(reason="for the device in the host's memory"))


@pytest.fixture(scope="session", params=ORACLES)
def oracle(request, tmp_path_factory):
    return Oracle(request.param, tmp_path_factory.mktemp("oracle"))


@pytest.fixture(scope="session")
def text_checkpoint(tmp_path_factory):
    """A random checkpoint as on the hub, text files included."""
    config = hub_config(
        width=64, heads=4, inner=96, vocabulary=288, context=640, mean_steps=4, layers=(1, 2, 1)
    )
    return write_random_checkpoint(tmp_path_factory.mktemp("text") / "checkpoint", config)


@pytest.fixture(scope="session")
def text_bundle(text_checkpoint):
    return export_checkpoint(text_checkpoint, text_checkpoint.parent / "bundle")


@pytest.fixture(scope="session")
def portable_bundle(text_checkpoint):
    """The same model as a portable bundle; its graphs were traced, see tests/export/optimum."""
    models = {}
    for part in ("prelude", "core", "coda"):
        models[part] = ir.load(DATA / "portable" / f"{part}.onnx")
        for value in models[part].graph.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor):
                value.const_value = None  # the weights are the checkpoint's
    original = read_checkpoint(text_checkpoint)
    return write_bundle(original, text_checkpoint.parent / "portable", graphs=Graphs(**models))


@pytest.fixture(scope="session")
def scaled_bundle(text_bundle):
    """The same with scales for an int8 cache."""
    folder = shutil.copytree(text_bundle, text_bundle.parent / "scaled")
    texts = [[(i * j) % 256 for i in range(1, 60)] for j in (1, 3, 7)]
    calibrate_bundle(folder, texts, steps=3)
    return Path(folder)


@pytest.fixture(scope="session")
def model(text_bundle):
    """A model that speaks bytes; its weights are random."""
    return rdlite.load(text_bundle, threads=1)


@pytest.fixture(scope="session")
def nano():
    """The trained model that comes with rdlite."""
    return rdlite.load("nano", threads=1)


@pytest.fixture(scope="session")
def full_nano(tmp_path_factory):
    """The bundle of nano with float32 weights, as it was trained."""
    checkpoint = Path(__file__).parents[1] / "examples" / "nano" / "checkpoint"
    return export_checkpoint(checkpoint, tmp_path_factory.mktemp("nano") / "full")


@pytest.fixture(scope="session")
def short_nano(tmp_path_factory):
    """The same, as if it had been trained on 128 tokens at once."""
    checkpoint = Path(__file__).parents[1] / "examples" / "nano" / "checkpoint"
    return export_checkpoint(
        checkpoint, tmp_path_factory.mktemp("nano") / "short", trained_length=128
    )


@pytest.fixture(scope="session")
def exact_nano(full_nano):
    """Nano with float32 weights, where the order of a sum changes the last bits and no more.

    Int8 activations are rounded, and a last bit can decide to where.
    """
    return rdlite.load(full_nano, threads=1)


@pytest.fixture
def checkpoint_copy(text_checkpoint, tmp_path):
    """A checkpoint that a test may spoil."""
    return Path(shutil.copytree(text_checkpoint, tmp_path / "spoilt"))


@pytest.fixture
def bundle_copy(text_bundle, tmp_path):
    """A bundle that a test may spoil."""
    return Path(shutil.copytree(text_bundle, tmp_path / "bundle"))


def sign_bundle(folder):
    path = folder / "rdlite.json"
    manifest = json.loads(path.read_text())
    for name in manifest["files"]:
        file = folder / name
        manifest["files"][name] = {"bytes": file.stat().st_size, "sha256": hash_file(file)}
    manifest["sha256"] = hash_manifest(manifest)
    path.write_text(json.dumps(manifest))


@pytest.fixture
def sign():
    """Make a spoilt bundle's manifest agree with its files again, as an attacker would."""

    return sign_bundle


@pytest.fixture(scope="session")
def thinking_nano(tmp_path_factory):
    """Nano with other words for some digits: it answers "<think>hm</think>4", not "124"."""
    shipped = rdlite.load("nano").bundle.folder
    folder = shutil.copytree(shipped, tmp_path_factory.mktemp("thinking") / "nano")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    for digit, text in (("1", "<think>hm"), ("2", "</think>")):
        vocabulary[text] = vocabulary.pop(digit)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    template = folder / "chat_template.jinja"
    switch = "{%- if enable_thinking is defined and not enable_thinking %}No thinking.{% endif %}"
    template.write_text(template.read_text() + switch)
    sign_bundle(folder)
    return Path(folder)


@pytest.fixture(scope="session", params=tool_templates.TEMPLATES)
def tool_nano(request, tmp_path_factory):
    """Nano with a template that has tools, in each way to write calls; one has tokens for marks."""
    shipped = rdlite.load("nano").bundle.folder
    folder = shutil.copytree(shipped, tmp_path_factory.mktemp("tools") / "nano")
    (folder / "chat_template.jinja").write_text(tool_templates.TEMPLATES[request.param])
    if request.param == "json":
        tokenizer = json.loads((folder / "tokenizer.json").read_text())
        added = tokenizer["added_tokens"]
        for id, content in tool_templates.MARKS.items():
            added.append({**added[-1], "id": id, "content": content, "special": False})
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    sign_bundle(folder)
    return Path(folder)
