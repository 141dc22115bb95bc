"""Measures agree with what the model's plain interface gives, depth by depth."""

import json

import numpy as np
import pytest
from rdlite.export import export_checkpoint

import rdlite
from rdlite.measure.answers import Answers, answer, encode_problem, held_out_problems
from rdlite.measure.divergence import divergence, perplexity
from rdlite.measure.texts import read_tokens, text_name, windows

DEPTHS = (1, 2, 5)
TEXT = list(b"Thinking takes a while, and so it should.")


def test_logits_by_depth_are_those_of_separate_runs(model):
    for depth, logits in model.logits_by_depth(TEXT, DEPTHS, seed=3):
        apart = model.logits(TEXT, depth, initial_state="random", seed=3)
        assert np.allclose(logits, apart, atol=1e-5)
    for _, logits in model.logits_by_depth(TEXT, DEPTHS, last=2, initial_state="zeros"):
        assert logits.shape == (2, model.config.vocab_size)


def test_of_a_text_no_more_is_read_than_is_wanted(model, tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes(bytes(TEXT))
    assert read_tokens(model, path, 100) == model.tokenizer.encode(bytes(TEXT).decode())
    with path.open("r+b") as file:
        file.truncate(2**40)
    assert read_tokens(model, path, 5) == model.tokenizer.encode(bytes(TEXT).decode())[:5]
    with pytest.raises(rdlite.InputError, match="cannot be read: No such file"):
        read_tokens(model, tmp_path / "none.txt", 5)


def test_a_text_is_called_by_one_printable_line():
    assert text_name("there/novel.txt") == "novel.txt"
    assert text_name("a\nb\udcff\x1b.txt") == "a?b??.txt"
    assert len(text_name("x" * 200)) == 80


def test_problems_that_a_model_cannot_take_call_for_a_text(text_bundle, oracle):
    problem = max(held_out_problems(1), key=lambda each: len(each.question))
    with rdlite.load(text_bundle) as model:
        prompt, _ = encode_problem(model, problem)
    with (
        rdlite.load(text_bundle, context=len(prompt)) as model,  # no room for the answer
        pytest.raises(rdlite.InputError, match="text file instead: the prompt has"),
    ):
        encode_problem(model, problem)
    with pytest.raises(rdlite.InputError, match="text file instead: this bundle has no chat"):
        encode_problem(oracle.model, problem)


@pytest.mark.parametrize("depths", [(), (2, 1), (1, 1), (0, 1), (1, 9999), 4])
def test_depths_must_ascend_within_bounds(model, depths):
    with pytest.raises(rdlite.InputError):
        model.logits_by_depth(TEXT, depths)


def test_perplexity_is_exp_of_the_mean_negative_log_likelihood(model):
    expected = []
    for depth in DEPTHS:
        scores = []
        for ids in (TEXT[:20], TEXT[20:40]):
            logits = model.logits(ids, depth, initial_state="random", seed=1).astype(np.float64)
            logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
            scores += [-logs[i, ids[i + 1]] for i in range(len(ids) - 1)]
        expected.append(np.exp(np.mean(scores)))
    parts = list(windows(TEXT[:41], 20, model.context))
    assert [len(part) for part in parts] == [20, 20]  # a single token has nothing to predict
    assert np.allclose(perplexity(model, parts, DEPTHS, seed=1), expected, rtol=1e-4)


def test_texts_too_short_and_windows_too_long_are_refused(model):
    with pytest.raises(rdlite.InputError, match="has 1 tokens; at least 2"):
        list(windows([5], 20, 640))
    with pytest.raises(rdlite.InputError, match="window must be"):
        list(windows(TEXT, 641, 640))
    for texts in ([], [[1, 2], [3]]):
        with pytest.raises(rdlite.InputError, match="at least 2 tokens"):
            perplexity(model, texts, (1,))
        with pytest.raises(rdlite.InputError, match="at least 2 tokens"):
            divergence(model, model, texts, (1,))


def test_divergence_from_itself_is_nothing(model):
    for found in divergence(model, model, [TEXT, TEXT[:7]], DEPTHS):
        assert found.maximum < 1e-6
        assert found.same_top == 1


def test_divergence_is_kl_of_the_reference_from_the_model(model):
    class Shifted:
        """The same model, one token made likelier."""

        config, tokenizer = model.config, model.tokenizer

        def logits_by_depth(self, *arguments):
            for depth, logits in model.logits_by_depth(*arguments):
                shifted = logits.copy()
                shifted[:, 7] += 2
                yield depth, shifted

    (found,) = divergence(Shifted(), model, [TEXT], (3,), seed=2)
    logits = model.logits(TEXT, 3, initial_state="random", seed=2).astype(np.float64)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    # Raising one logit by 2 scales the others' sum: KL has a closed form.
    expected = np.log(1 + p[:, 7] * (np.exp(2) - 1)) - 2 * p[:, 7]
    assert np.isclose(found.mean, expected.mean(), rtol=1e-3)
    assert np.isclose(found.median, np.median(expected), rtol=1e-3)
    assert np.isclose(found.percentile_99, np.percentile(expected, 99), rtol=1e-3)
    assert np.isclose(found.maximum, expected.max(), rtol=1e-3)
    shifted_top = np.where(logits[:, 7] + 2 > logits.max(axis=1), 7, logits.argmax(axis=1))
    assert np.isclose(found.same_top, (shifted_top == logits.argmax(axis=1)).mean())


def test_only_models_of_one_vocabulary_compare(model, nano, checkpoint_copy, tmp_path):
    with pytest.raises(rdlite.InputError, match="288 and 512 tokens"):
        divergence(model, nano, [TEXT], (1,))
    path = checkpoint_copy / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    path.write_text(json.dumps(tokenizer))
    other = rdlite.load(export_checkpoint(checkpoint_copy, tmp_path / "other"))
    with other, pytest.raises(rdlite.InputError, match="the models' tokens differ"):
        divergence(model, other, [TEXT], (1,))


def test_an_answer_is_right_exactly_if_the_chat_says_it(nano):
    problems = held_out_problems(1, seed=5, tasks=("addition", "chain", "sorting"))
    answers = answer(nano, problems, (1, 16), seed=4)
    for j, depth in enumerate((1, 16)):
        for problem, right in zip(problems, answers.right[:, j], strict=True):
            chat = nano.chat(depth=rdlite.Depth(depth), sampling=rdlite.Sampling(), seed=4)
            said = chat.send(problem.question, max_tokens=20)
            assert (said.text == problem.answer and said.stats.finish == "stop") == right
    assert answers.right.any()
    assert not answers.right.all()


def test_accuracy_is_a_mean_over_difficulties_and_tasks():
    problems = held_out_problems(200, tasks=("addition", "sorting"))
    right = np.random.default_rng(0).random((len(problems), 2)) < 0.5
    answers = Answers((1, 8), tuple(problems), right)
    means = {}
    for task in ("addition", "sorting"):
        rows = []
        for difficulty in answers.difficulties(task):
            chosen = [p.task == task and p.difficulty == difficulty for p in problems]
            rows.append(right[chosen].mean(axis=0))
            assert answers.accuracy(task, difficulty) == list(rows[-1])
            assert answers.count(task, difficulty) == sum(chosen)
        means[task] = np.mean(rows, axis=0)
        assert np.allclose(answers.accuracy(task), means[task])
    assert np.allclose(answers.accuracy(), (means["addition"] + means["sorting"]) / 2)
    assert answers.count("addition", 1) < 10 < answers.count("addition", 3) == 200


def test_problems_to_ask_are_held_out_and_distinct():
    problems = held_out_problems(30, seed=2)
    assert all(problem.held_out for problem in problems)
    assert len({(p.task, p.key) for p in problems}) == len(problems)
    assert problems == held_out_problems(30, seed=2) != held_out_problems(30, seed=3)
    with pytest.raises(rdlite.InputError, match="'cooking' is no task"):
        held_out_problems(1, tasks=("cooking",))


def test_a_problem_is_a_chat_and_its_answer(nano):
    (problem,) = held_out_problems(1, tasks=("parity",))[:1]
    prompt, expected = encode_problem(nano, problem)
    assert problem.question in nano.tokenizer.decode(prompt)
    assert nano.tokenizer.decode(expected) == problem.answer
