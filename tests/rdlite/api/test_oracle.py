"""Our answers are those of the published implementation, to 1e-4 of the largest logit."""

import numpy as np
import pytest

import rdlite
from rdlite.decode.prefill import read
from rdlite.exit.controller import Controller
from rdlite.exit.registry import MAKERS
from rdlite.ort.initial_state import start_at

TOLERANCE = 1e-4


def agree(ours, theirs):
    return np.abs(ours - theirs).max() <= TOLERANCE * np.abs(theirs).max()


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_logits_from_zeros_and_from_given_states(oracle, steps):
    expected = oracle.expected
    assert agree(oracle.model.logits(oracle.ids, steps), expected[f"logits_zero_r{steps}"][0])
    ours = oracle.model.logits(oracle.ids, steps, initial_state=oracle.states)
    assert agree(ours, expected[f"logits_state_r{steps}"][0])


def test_prelude_and_one_core_step(oracle):
    sequence = oracle.model.new_sequence()
    runner = sequence.begin(oracle.ids, 1)
    assert agree(runner.embeds, oracle.expected["prelude"])
    runner.states[0][0] = oracle.states
    runner.step(0)
    assert agree(runner.states[1], oracle.expected["core_step"])


def test_change_is_the_published_latent_difference(oracle):
    sequence = oracle.model.new_sequence()
    runner = sequence.begin(oracle.ids, 1)
    runner.states[0][0] = oracle.states
    runner.step(0)
    before, after = oracle.states, oracle.expected["core_step"][0]
    change = np.linalg.norm(after - before, axis=-1) / np.linalg.norm(after, axis=-1)
    assert np.allclose(runner.change[0], change, rtol=1e-4)


@pytest.mark.parametrize("steps", [1, 8])
def test_the_normed_state_is_the_published_latent(oracle, steps):
    sequence = oracle.model.new_sequence()
    runner = sequence.begin(oracle.ids, steps)
    runner.states[0][0] = oracle.states
    for number in range(steps):
        runner.step(number)
    state = runner.states[steps % 2]
    from rdlite.export.safetensors import open_checkpoint

    weight = open_checkpoint(oracle.checkpoint).read("transformer.ln_f.weight")
    normed = state / np.sqrt(np.square(state).mean(-1, keepdims=True) + 1e-6) * weight
    assert agree(normed, oracle.expected[f"latents_ln_f_r{steps}"])


@pytest.mark.parametrize(("share", "name"), [(None, "full"), (1, "s4"), (2, "s8"), (4, "s16")])
def test_cached_reading_in_chunks(oracle, share, name):
    with rdlite.load(oracle.bundle, cache=rdlite.Cache(share)) as model:
        sequence = model.new_sequence()
        start = start_at(model.config, "zeros")
        controller = Controller(rdlite.Depth(6), 6, model.config.vocab_size)
        rows, position = [], 0
        for size in (10, 6, 1, 1, 6):
            ids = oracle.ids[position : position + size]
            for runner, steps, *_ in read(sequence, ids, controller, start):
                rows.append(runner.logits(steps, size).copy())
            position += size
    assert agree(np.concatenate(rows), oracle.expected[f"cached_{name}_r6_chunks_10_6_1_1_6"][0])


def test_greedy_ids_are_equal(oracle):
    expected = oracle.expected["greedy_r8_ids"][0].tolist()
    generation = oracle.model.generate(
        expected[:8], max_tokens=16, depth=rdlite.Depth(8), initial_state="zeros"
    )
    assert generation.ids == expected[8:]


ADAPTIVE = {
    "latent-diff": ("0.03", "0.2"),
    "cosine": ("0.001",),
    "kl": ("0.001", "0.0005", "0.05"),
    "minp-kl": ("1e-05",),
    "entropy-diff": ("0.001", "0.02"),
    "argmax-stability": ("3",),
}


@pytest.mark.parametrize(("rule", "threshold"), [(r, t) for r in ADAPTIVE for t in ADAPTIVE[r]])
def test_exit_rules_are_the_published_ones(oracle, rule, threshold, monkeypatch):
    seen = []
    maker = MAKERS[rule]

    def make(*arguments):
        made = maker(*arguments)
        start, measure = made.start, made.measure

        def spy_start(*arguments):
            seen.append([])
            start(*arguments)

        def spy_measure(*arguments):
            values = measure(*arguments)
            seen[-1].append(float(values.mean()))
            return values

        made.start, made.measure = spy_start, spy_measure
        return made

    monkeypatch.setitem(MAKERS, rule, make)
    name = f"adaptive_{rule}_{threshold}"
    ids, steps, values = (oracle.expected[f"{name}_{what}"] for what in ("ids", "steps", "values"))
    tokens = list(
        oracle.model.generate(
            ids[0, :8].tolist(),
            max_tokens=12,
            depth=rdlite.Depth(16, exit=rule, threshold=float(threshold)),
            initial_state="zeros",
        )
    )
    assert [token.id for token in tokens] == ids[0, 8:].tolist()
    assert [token.steps for token in tokens] == steps.tolist()
    for token, ours, theirs in zip(tokens, seen, values, strict=True):
        assert token.exit_value == ours[-1]
        theirs = theirs[: len(ours)]
        defined = np.isfinite(ours)  # the cosine with a state of zeros is not
        assert np.isnan(theirs[~defined]).all()
        # Differences of entropies and logarithms near 5 are no more exact than float32 is there.
        assert np.allclose(np.array(ours)[defined], theirs[defined], rtol=1e-3, atol=4e-6)
