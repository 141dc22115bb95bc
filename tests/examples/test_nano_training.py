"""Training nano: the PyTorch model is Huginn, its checkpoints export, training goes on."""

import json
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from rdlite.export import export_checkpoint

import rdlite

torch = pytest.importorskip("torch", reason="needs the extra [train]")
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def nano_modules(monkeypatch):
    """The scripts of examples/nano import each other by their bare names."""
    monkeypatch.syspath_prepend(str(ROOT / "examples" / "nano"))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if str(ROOT / "examples") in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.mark.parametrize("name", ["huginn-tiny", "huginn-tiny-bf16"])
def test_the_pytorch_model_agrees_with_the_published_implementation(name):
    from huginn import Huginn, HuginnConfig
    from safetensors.torch import load_file

    folder = ROOT / "tests" / "data" / name
    config = json.loads((folder / "config.json").read_text())
    model = Huginn(
        HuginnConfig(
            config["n_embd"],
            config["num_attention_heads"],
            config["intermediate_size"],
            config["padded_vocab_size"],
            config["block_size"],
        )
    )
    tensors = load_file(folder / "model.safetensors")
    unused = ("freqs_cis", "lm_head.weight")
    model.load_state_dict({k: v.float() for k, v in tensors.items() if k not in unused})
    with np.load(folder / "expected.npz") as expected, torch.no_grad():
        ids = torch.tensor(expected["input_ids"])
        starts = {"state": torch.tensor(expected["input_states"])}
        starts["zero"] = torch.zeros_like(starts["state"])
        for kind, state in starts.items():
            for steps in (1, 2, 4, 8):
                logits = model.head(model(ids, steps, state)).numpy()
                wanted = expected[f"logits_{kind}_r{steps}"]
                assert np.abs(logits - wanted).max() <= 1e-4 * np.abs(wanted).max()


def small(**changes):
    return {
        "width": 64,
        "inner": 96,
        "prelude": 1,
        "core": 1,
        "coda": 1,
        "mean_steps": 4,
        "most_steps": 8,
        "grad_steps": 2,
        "batch": 6,
        "rate": 0.01,
        "seed": 1,
    } | changes


def test_training_saves_what_export_reads_and_goes_on_from_there(tmp_path):
    from train import Training

    training = Training(tmp_path, small())
    for _ in range(3):
        training.update(0.0)
    training.save()
    bundle = export_checkpoint(tmp_path / "checkpoint", tmp_path / "bundle")
    ids = [5, 300, 17, 256, 9]
    with rdlite.load(bundle) as model, torch.no_grad():
        state = torch.zeros(1, len(ids), 64)
        theirs = training.model.head(training.model(torch.tensor([ids]), 3, state))[0].numpy()
        assert np.abs(model.logits(ids, 3) - theirs).max() <= 1e-4 * np.abs(theirs).max()
        assert model.chat().send("hello", max_tokens=3).ids
        assert model.generation_config.sampling == rdlite.Sampling()

    again = Training(tmp_path, small())
    assert (again.updates, again.problems) == (3, 18)
    assert again.tokens == training.tokens
    for ours, theirs in zip(again.model.parameters(), training.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    again.update(0.0)
    again.save()
    assert Training(tmp_path, small()).updates == 4


def test_only_the_last_steps_have_a_gradient():
    from huginn import Huginn, HuginnConfig

    model = Huginn(HuginnConfig(32, 1, 32, 16, 8, (1, 1, 1), 4))
    ids, state = torch.tensor([[1, 2, 3]]), torch.randn(1, 3, 32, requires_grad=True)
    model(ids, 4, state, grad_steps=4).sum().backward()
    assert state.grad.abs().sum() > 0
    state.grad = None
    model(ids, 4, state, grad_steps=3).sum().backward()
    assert state.grad is None


def test_depths_are_log_normal_poisson():
    import random

    from train import sample_steps

    rng = random.Random(0)
    drawn = [sample_steps(rng, 8, 32) for _ in range(4000)]
    assert 8.5 < np.mean(drawn) < 9.5
    assert min(drawn) >= 1
    assert max(drawn) <= 32
    assert np.var(drawn) > np.mean(drawn) * 1.5  # wider than Poisson alone


def test_a_conversation_sees_itself_alone():
    import random

    from batches import Curriculum, make_batch
    from text import IGNORED, Encoder, make_tokenizer

    encoder = Encoder(make_tokenizer())
    batch = make_batch(random.Random(0), encoder, Curriculum(), 40, steps=6)
    assert batch.ids.shape == batch.targets.shape
    starts = batch.ids == encoder.begin
    assert starts.sum() > len(batch.ids)  # several in a row
    for row, mask in zip(starts, batch.mask[:, 0], strict=True):
        positions = row.nonzero()[:, 0].tolist()
        for first, second in pairwise(positions):
            assert not mask[second:, :second].any()
            assert mask[second - 1, first]
    assert not batch.mask[:, 0].triu(1).any()
    for _, row, start, end in batch.answers:
        assert (batch.targets[row, start:end] != IGNORED).all()
        assert batch.targets[row, end - 1] == encoder.end_turn


def test_nothing_is_asked_that_the_steps_cannot_know():
    import random

    from batches import Curriculum
    from text import marks_of, steps_needed

    from rdlite.tasks import TASKS, draw

    curriculum = Curriculum(levels={task: TASKS[task].highest for task in TASKS})
    rng = random.Random(0)
    for steps in (1, 2, 5, 9):
        for _ in range(200):
            chosen = curriculum.choose(rng, steps)
            assert chosen is None or steps_needed(*chosen) <= steps
    problem = draw(rng, "chain", 10, False)
    assert len(marks_of(problem, 3)) == 3
    assert len(marks_of(problem, 10)) == len(marks_of(problem, 32)) == 10
