"""Training nano: the PyTorch model is Huginn, its checkpoints export, training goes on."""

import json
import random
import re
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from rdlite.export import export_checkpoint

import rdlite
from rdlite.measure.task_kinds import Mark, is_held_out
from rdlite.measure.tasks import TASKS, draw

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
        "start": None,
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
    for name in ("tokens", "seconds", "loss", "curriculum"):
        assert getattr(again, name) == getattr(training, name)
    assert again.encoder.tokenizer.to_str() == training.encoder.tokenizer.to_str()
    for ours, theirs in zip(again.model.parameters(), training.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    for ours, theirs in zip(again.optimizers, training.optimizers, strict=True):
        ours, theirs = ours.state_dict()["state"], theirs.state_dict()["state"]
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[k][n], theirs[k][n]) for k in ours for n in ours[k])
    again.update(0.0)
    again.save()
    assert Training(tmp_path, small()).updates == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("bundle", "checkpoint", "training.pt")
    ]


@pytest.mark.parametrize("change", [{"width": 96}, {"mean_steps": 7}])
def test_a_model_of_another_shape_is_not_mixed_in(tmp_path, change):
    import click
    from train import Training

    Training(tmp_path, small()).save()
    with pytest.raises(click.UsageError, match=r"was trained with --.* give another folder"):
        Training(tmp_path, small(**change))


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
    from train import sample_steps

    rng = random.Random(0)
    drawn = [sample_steps(rng, 8, 32) for _ in range(4000)]
    assert 8.5 < np.mean(drawn) < 9.5
    assert min(drawn) >= 1
    assert max(drawn) <= 32
    assert np.var(drawn) > np.mean(drawn) * 1.5  # wider than Poisson alone


def test_a_conversation_sees_itself_alone():
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


def test_what_stands_beside_it_in_a_row_changes_nothing():
    from batches import Curriculum, make_batch
    from huginn import Huginn, HuginnConfig
    from text import VOCABULARY, Encoder, make_tokenizer

    encoder = Encoder(make_tokenizer())
    batch = make_batch(random.Random(1), encoder, Curriculum(), 40, steps=6)
    model = Huginn(HuginnConfig(64, 2, 64, VOCABULARY, batch.ids.shape[1], (1, 1, 1), 4))
    starts = [(ids == encoder.begin).nonzero()[:, 0].tolist() for ids in batch.ids]
    row = next(number for number, found in enumerate(starts) if len(found) > 1)
    first, end = (*starts[row], None)[1:3]
    with torch.no_grad():
        together = model(batch.ids, 3, torch.zeros(*batch.ids.shape, 64), batch.mask)
        ids = batch.ids[row : row + 1, first:end]
        ids = ids[:, : int((ids != encoder.pad).sum())]
        alone = model(ids, 3, torch.zeros(*ids.shape, 64))
    assert torch.allclose(together[row, first : first + ids.shape[1]], alone[0], atol=1e-4)


def test_follow_ups_are_right_and_held_out_as_the_whole_problem_is():
    from follow_ups import TASKS as OPERATIONS
    from follow_ups import follow_up

    from rdlite.measure.task_kinds import is_held_out

    rng = random.Random(0)
    for _ in range(300):
        value, held_out = rng.randrange(10_000), rng.random() < 0.5
        asked = follow_up(rng, str(value), held_out)
        if asked is None:
            continue
        (n,) = map(int, re.findall(r"\d+", asked.question))
        small, large = sorted((value, n))
        found = {
            "addition": (value + n, f"{small}+{large}"),
            "subtraction": (value - n, f"{value}-{n}"),
            "multiplication": (value * n, f"{small}*{large}"),
        }
        answer, key = found[asked.task]
        assert asked.answer == str(answer)
        assert is_held_out(asked.task, asked.difficulty, key) == held_out
        assert asked.task in OPERATIONS.values()
    assert follow_up(rng, "even", held_out=False) is None


def test_what_nano_cannot_do_is_never_a_problem_that_it_can():
    from small_talk import beyond, talk

    rng = random.Random(0)
    questions = {draw(rng, task, 1, False).question.lower() for task in TASKS for _ in range(300)}
    for _ in range(2000):
        assert beyond(rng).lower() not in questions
        said, answer = talk(rng)
        assert said
        assert not re.search(r"\d", answer)


def test_training_sees_the_tokens_that_a_chat_sends():
    from rdlite.export.random_checkpoint import CHAT_TEMPLATE
    from text import Encoder, make_tokenizer

    from rdlite.tokenizer.chat_template import ChatTemplate

    tokenizer = make_tokenizer()
    encoder = Encoder(tokenizer)
    template = ChatTemplate(CHAT_TEMPLATE, {"bos_token": "<|begin_text|>"})
    rng = random.Random(0)
    for task in TASKS:
        messages, ids = [], [encoder.begin]
        for _ in range(2):
            problem = draw(rng, task, rng.randint(1, TASKS[task].highest), False)
            ids += encoder.turn(problem.question, problem.answer).ids
            messages += [
                {"role": "user", "content": problem.question},
                {"role": "assistant", "content": problem.answer},
            ]
        text = template.render(messages, add_generation_prompt=False)
        assert tokenizer.encode(text, add_special_tokens=False).ids == ids


def test_targets_are_what_comes_next_and_marks():
    from text import IGNORED, Encoder, make_tokenizer, marks_of

    tokenizer = make_tokenizer()
    encoder = Encoder(tokenizer)
    problem = draw(random.Random(3), "chain", 4, False)
    example = encoder.turn(problem.question, problem.answer, marks_of(problem, 32))
    said = [tokenizer.id_to_token(t) for t in example.targets if t != IGNORED]
    marks = [piece.text for piece in problem.pieces if isinstance(piece, Mark)]
    assert said == [*marks, problem.answer, "<|end_turn|>"]
    answer = example.targets[example.answer_start :]
    assert answer[0] == example.ids[example.answer_start + 1]
    assert answer[-2:] == [encoder.end_turn, IGNORED]
    problem = draw(random.Random(3), "addition", 3, False)
    example = encoder.turn(problem.question, problem.answer, (), problem.scratch)
    said = [tokenizer.id_to_token(t) for t in example.targets if t != IGNORED]
    assert said[:3] == list(problem.scratch[:3])


def test_nothing_is_asked_that_the_steps_cannot_know():
    from batches import Curriculum
    from text import marks_of, steps_needed

    curriculum = Curriculum(levels={task: TASKS[task].highest for task in TASKS})
    rng = random.Random(0)
    for steps in (2, 3, 5, 9, 16):
        chosen = [curriculum.choose(rng, steps) for _ in range(300)]
        assert all(steps_needed(*each) <= steps for each in chosen)
        assert {task for task, _ in chosen} == {t for t in TASKS if steps_needed(t, 1) <= steps}
    problem = draw(rng, "chain", 10, False)
    marks = [piece for piece in problem.pieces if isinstance(piece, Mark)]
    trained = [m for m in marks if not is_held_out("chain", m.difficulty, m.key)]
    assert len(marks_of(problem, 4)) == sum(mark.difficulty <= 3 for mark in trained)
    assert len(marks_of(problem, 10)) < len(marks_of(problem, 11)) == len(trained)
