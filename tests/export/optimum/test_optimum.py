"""Portable bundles traced with PyTorch: they agree with the fused ones, whatever they come from."""

import dataclasses
import functools
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from rdlite.export import export_checkpoint

import rdlite
from rdlite import CheckpointError, FamilyError, OutputError
from rdlite.architectures import huginn
from rdlite.measure.compare_bundles import compare

torch = pytest.importorskip("torch", reason="needs the extra [optimum]: torch")
pytest.importorskip("optimum.exporters.onnx", reason="needs the extra [optimum]: optimum-onnx")

ROOT = Path(__file__).parents[3]
DATA = ROOT / "tests" / "data"
NANO = ROOT / "examples" / "nano" / "checkpoint"
CHECKPOINTS = {
    "huginn-tiny": DATA / "huginn-tiny",
    "huginn-tiny-bf16": DATA / "huginn-tiny-bf16",
    "nano": NANO,
}
TOLERANCE = 1e-4
IDS = [(7 * i * i + 3) % 250 for i in range(40)]


def read_config(checkpoint):
    return huginn.read_config(json.loads((checkpoint / "config.json").read_text()))


@pytest.fixture(scope="module", params=CHECKPOINTS)
def pair(request, tmp_path_factory):
    """A checkpoint, and its portable and its fused model."""
    from rdlite.export.optimum import export_portable

    checkpoint = CHECKPOINTS[request.param]
    folder = tmp_path_factory.mktemp("pair")
    portable = export_portable(checkpoint, folder / "portable")
    fused = export_checkpoint(checkpoint, folder / "fused")
    with rdlite.load(portable) as ours, rdlite.load(fused) as theirs:
        yield checkpoint, ours, theirs


def test_portable_and_fused_bundles_agree(pair):
    _, portable, fused = pair
    assert portable.bundle.manifest.flavour == "portable"
    for found in compare(portable, fused, depths=(1, 2, 8, 16)):
        assert found.within(TOLERANCE), found
        assert found.same_top in (None, 1)


def test_their_greedy_text_is_equal(pair):
    _, portable, fused = pair
    for steps in (2, 8):
        texts = [
            m.generate(IDS[:8], max_tokens=40, depth=rdlite.Depth(steps)).ids
            for m in (portable, fused)
        ]
        assert texts[0] == texts[1]
        assert len(texts[0]) > 0


def test_the_published_implementation_agrees_too(pair):
    checkpoint, portable, _ = pair
    if not (checkpoint / "expected.npz").exists():
        return  # of nano there are no published answers
    with np.load(checkpoint / "expected.npz") as expected:
        ids = expected["input_ids"][0].tolist()
        for steps in (1, 8):
            wanted = expected[f"logits_zero_r{steps}"][0]
            found = portable.logits(ids, steps)
            assert np.abs(found - wanted).max() <= TOLERANCE * np.abs(wanted).max()


@pytest.fixture
def live_model(monkeypatch):
    """The project's own PyTorch model with nano's weights."""
    monkeypatch.syspath_prepend(str(ROOT / "examples" / "nano"))
    from huginn import Huginn, HuginnConfig
    from safetensors.torch import load_file

    config = read_config(NANO)
    layers = (config.layers.prelude, config.layers.core, config.layers.coda)
    model = Huginn(
        HuginnConfig(
            config.hidden_size,
            config.num_attention_heads,
            config.intermediate_size,
            config.vocab_size,
            config.context_length,
            layers,
        )
    )
    model.load_state_dict(load_file(NANO / "model.safetensors"))
    yield model
    sys.modules.pop("huginn", None)


def test_a_live_model_is_traced_as_it_is(live_model, tmp_path):
    """It is the live weights that count, not the checkpoint's; and the model stays as it was."""
    from rdlite.export.optimum import export_portable

    with torch.no_grad():
        live_model.transformer["core_block"][0].mlp.proj.weight.mul_(1.5)
    before = {name: value.clone() for name, value in live_model.state_dict().items()}
    folder = export_portable(NANO, tmp_path / "live", model=live_model)
    with torch.no_grad():
        ids = torch.tensor([IDS])
        state = torch.zeros(1, len(IDS), live_model.config.width)
        wanted = live_model.head(live_model(ids, 6, state))[0].numpy()
    with rdlite.load(folder) as model:
        found = model.logits(IDS, 6, initial_state="zeros")
    assert np.abs(found - wanted).max() <= TOLERANCE
    assert all(torch.equal(before[name], value) for name, value in live_model.state_dict().items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda model: model.register_parameter("extra", torch.nn.Parameter(torch.ones(3))),
            "Huginn has 1 parameters that Huginn has not, the first extra; leaving them out",
        ),
        (
            lambda model: model.transformer["coda"].append(
                model.transformer["adapter"].__class__(4, 4)
            ),
            "parameters that Huginn has not, the first transformer.coda.1",
        ),
        (
            lambda model: model.transformer.__delitem__("adapter"),
            "has nothing where Huginn has the parameter transformer.adapter.weight of shape",
        ),
        (
            lambda model: model.transformer.__setitem__("adapter", torch.nn.Linear(3, 3, False)),
            r"has the shape \(3, 3\) where Huginn has the parameter transformer.adapter.weight",
        ),
    ],
)
def test_a_model_with_unknown_parts_is_refused(live_model, tmp_path, change, message):
    from rdlite.export.optimum import export_portable

    change(live_model)
    with pytest.raises(FamilyError, match=message):
        export_portable(NANO, tmp_path / "out", model=live_model)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["raven-llama-tiny", "raven-olmo-tiny", "ouro-tiny"])
def test_other_families_are_sent_to_the_fused_path(tmp_path, name):
    from rdlite.export.optimum import export_portable

    with pytest.raises(FamilyError, match=r"traced from Huginn's blocks.*--flavour fused"):
        export_portable(DATA / name, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_weights_that_are_not_finite_leave_nothing_behind(live_model, tmp_path):
    from rdlite.export.optimum import export_portable

    with torch.no_grad():
        live_model.transformer["ln_f"].weight[0] = float("nan")
    with pytest.raises(CheckpointError, match=r"'norm\.weight' of the model holds NaN"):
        export_portable(NANO, tmp_path / "out", model=live_model)
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_is_replaced_only_if_told(tmp_path):
    from rdlite.export.optimum import export_portable

    folder = export_portable(DATA / "huginn-tiny", tmp_path / "out")
    with pytest.raises(OutputError, match="--force"):
        export_portable(DATA / "huginn-tiny", folder)
    assert export_portable(DATA / "huginn-tiny", folder, force=True) == folder


@pytest.mark.parametrize(
    "changes",
    [
        {"tie_embeddings": False, "qk_bias": False},
        {"n_layers_in_prelude": 0, "n_layers_in_coda": 0},
    ],
)
def test_what_a_config_may_say_besides(text_checkpoint, tmp_path, changes):
    from rdlite.export.optimum import export_portable
    from rdlite.export.random_checkpoint import tensor_shapes_of, write_random_checkpoint

    from rdlite.architectures.registry import FAMILIES

    raw = json.loads((text_checkpoint / "config.json").read_text())
    raw |= changes
    weights = FAMILIES["huginn"].weights(huginn.read_config(raw))
    shapes = tensor_shapes_of(weights)
    checkpoint = write_random_checkpoint(tmp_path / "checkpoint", raw, shapes=shapes)
    portable = rdlite.load(export_portable(checkpoint, tmp_path / "portable"))
    fused = rdlite.load(export_checkpoint(checkpoint, tmp_path / "fused"))
    assert all(found.within(TOLERANCE) for found in compare(portable, fused))


def test_the_shipped_graphs_are_what_tracing_gives(text_checkpoint, portable_bundle, tmp_path):
    """tests/data/portable serves tests without PyTorch; it holds what is made here."""
    from rdlite.export.optimum import export_portable

    made = export_portable(text_checkpoint, tmp_path / "made")
    for part in ("prelude", "core", "coda"):
        ours, theirs = (
            onnx.load(folder / f"{part}.onnx", load_external_data=False).graph.node
            for folder in (made, portable_bundle)
        )
        assert [node.op_type for node in ours] == [node.op_type for node in theirs]
    with rdlite.load(made) as ours, rdlite.load(portable_bundle) as theirs:
        assert all(found.within(TOLERANCE) for found in compare(ours, theirs))


def test_graphs_that_lack_something_are_refused(tmp_path):
    from rdlite.export.optimum import write_traced

    with pytest.raises(CheckpointError, match=r"lacks prelude\.onnx; trace prelude, core and coda"):
        write_traced(tmp_path, NANO, tmp_path / "out")
    graph = onnx.helper.make_graph([], "empty", [], [])
    for part in ("prelude", "core", "coda"):
        onnx.save(onnx.helper.make_model(graph), tmp_path / f"{part}.onnx")
    with pytest.raises(CheckpointError, match=r"hold no weight .*without constant folding"):
        write_traced(tmp_path, NANO, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_optimum_knows_the_parts():
    import rdlite.export.optimum
    from optimum.exporters.tasks import TasksManager

    config = read_config(NANO)
    assert set(rdlite.export.optimum.onnx_configs(config)) == {"prelude", "core", "coda"}
    make = TasksManager.get_exporter_config_constructor(
        "onnx",
        task="feature-extraction",
        model_type="huginn_raven-core",
        library_name="transformers",
    )
    from transformers import PretrainedConfig

    raw = json.loads((NANO / "config.json").read_text())
    part = make(PretrainedConfig(**raw))
    assert part.inputs["state"] == {0: "B", 1: "S"}
    assert part.outputs["change"] == {0: "B", 1: "S"}
    assert part.outputs["present.0.key"] == {0: "B", 2: "C"}


REMOTE_CODE = """
from transformers import PretrainedConfig, PreTrainedModel
from .huginn import Huginn, HuginnConfig


class RavenConfig(PretrainedConfig):
    model_type = "huginn_raven"


class RavenModel(PreTrainedModel):
    config_class = RavenConfig

    def __init__(self, config):
        super().__init__(config)
        layers = "prelude", "recurrent_block", "coda"
        model = Huginn(HuginnConfig(
            config.n_embd, config.num_attention_heads, config.intermediate_size,
            config.padded_vocab_size, config.block_size,
            tuple(getattr(config, f"n_layers_in_{part}") for part in layers),
        ))
        self.transformer = model.transformer
        self.post_init()
"""


@pytest.mark.filterwarnings(
    "ignore"
)  # of optimum, transformers and torch; export_portable is silent
def test_main_export_splits_a_model_with_these_configs(tmp_path, monkeypatch):
    """Optimum's own way: it loads a model, with the code that comes along, and calls us back."""
    from optimum.exporters.onnx import main_export
    from rdlite.export.optimum import onnx_configs, submodels, write_traced

    folder = shutil.copytree(NANO, tmp_path / "checkpoint")
    shutil.copy(ROOT / "examples" / "nano" / "huginn.py", folder)
    (folder / "modeling_raven.py").write_text(REMOTE_CODE)
    raw = json.loads((folder / "config.json").read_text())
    code = {"AutoConfig": "modeling_raven.RavenConfig", "AutoModel": "modeling_raven.RavenModel"}
    (folder / "config.json").write_text(json.dumps(raw | {"auto_map": code}))
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "hf"))
    config = read_config(NANO)
    main_export(
        str(folder),
        tmp_path / "traced",
        task="feature-extraction",
        library_name="transformers",
        framework="pt",
        trust_remote_code=True,
        local_files_only=True,
        opset=18,
        do_constant_folding=False,
        custom_onnx_configs=onnx_configs(config),
        fn_get_submodels=functools.partial(submodels, config),
    )
    bundle = write_traced(tmp_path / "traced", NANO, tmp_path / "bundle")
    fused = export_checkpoint(NANO, tmp_path / "fused")
    with rdlite.load(bundle) as ours, rdlite.load(fused) as theirs:
        assert all(found.within(TOLERANCE) for found in compare(ours, theirs))


def optimum_cli(*arguments):
    command = [Path(sys.executable).parent / "optimum-cli", "export", "rdlite", *arguments]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True)


def test_the_sub_command_makes_both_flavours(tmp_path):
    portable, fused = tmp_path / "portable", tmp_path / "fused"
    made = optimum_cli("--model", NANO, portable, "--flavour", "portable")
    assert made.returncode == 0, made.stderr
    assert f"Next: rdlite chat {portable}" in made.stdout
    assert optimum_cli("--model", NANO, fused, "--quant", "int4").returncode == 0
    with rdlite.load(portable) as ours, rdlite.load(fused) as theirs:
        assert ours.bundle.manifest.flavour == "portable"
        assert theirs.bundle.manifest.flavour == "fused"
        assert theirs.bundle.manifest.quantization.scheme == "int4"
        assert dataclasses.asdict(ours.config) == dataclasses.asdict(theirs.config)


def test_the_sub_command_says_in_one_line_what_is_wrong(tmp_path):
    def says(*arguments):
        result = optimum_cli(*arguments)
        assert result.returncode == 1
        (line,) = [line for line in result.stderr.splitlines() if line]
        return line

    portable = ("--flavour", "portable")
    quantized = says("--model", NANO, tmp_path / "out", *portable, "--quant", "int4")
    assert "--quant int4 needs operators that are not standard; take --flavour fused" in quantized
    missing = says("--model", tmp_path / "none", tmp_path / "out", *portable)
    assert "none is not a folder" in missing
    assert "Huginn's blocks" in says("--model", DATA / "ouro-tiny", tmp_path / "out", *portable)
    assert list(tmp_path.iterdir()) == []
