"""Our answers are those of the published implementation, to 1e-4 of the largest logit."""

import numpy as np
import pytest

import rdlite
from rdlite.generate import read
from rdlite.start import start_at

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
    lane = sequence.begin(oracle.ids, 1)
    assert agree(lane.embeds, oracle.expected["prelude"])
    lane.states[0][0] = oracle.states
    lane.steps[0]()
    assert agree(lane.states[1], oracle.expected["core_step"])


def test_change_is_the_published_latent_difference(oracle):
    sequence = oracle.model.new_sequence()
    lane = sequence.begin(oracle.ids, 1)
    lane.states[0][0] = oracle.states
    lane.steps[0]()
    before, after = oracle.states, oracle.expected["core_step"][0]
    change = np.linalg.norm(after - before, axis=-1) / np.linalg.norm(after, axis=-1)
    assert np.allclose(lane.change[0], change, rtol=1e-4)


@pytest.mark.parametrize("steps", [1, 8])
def test_the_normed_state_is_the_published_latent(oracle, steps):
    sequence = oracle.model.new_sequence()
    lane = sequence.begin(oracle.ids, steps)
    lane.states[0][0] = oracle.states
    for step in lane.steps[:steps]:
        step()
    state = lane.states[steps % 2]
    from rdlite.export.checkpoint import open_checkpoint

    weight = open_checkpoint(oracle.checkpoint).read("transformer.ln_f.weight")
    normed = state / np.sqrt(np.square(state).mean(-1, keepdims=True) + 1e-6) * weight
    assert agree(normed, oracle.expected[f"latents_ln_f_r{steps}"])


@pytest.mark.parametrize(("share", "name"), [(None, "full"), (1, "s4"), (2, "s8"), (4, "s16")])
def test_cached_reading_in_chunks(oracle, share, name):
    with rdlite.load(oracle.bundle, cache=rdlite.Cache(share)) as model:
        sequence = model.new_sequence()
        start = start_at(model.config, "zeros")
        rows, position = [], 0
        for size in (10, 6, 1, 1, 6):
            ids = oracle.ids[position : position + size]
            for lane in read(sequence, ids, 6, start, 64):
                rows.append(lane.logits(6, size).copy())
            position += size
    assert agree(np.concatenate(rows), oracle.expected[f"cached_{name}_r6_chunks_10_6_1_1_6"][0])


def test_greedy_ids_are_equal(oracle):
    expected = oracle.expected["greedy_r8_ids"][0].tolist()
    generation = oracle.model.generate(
        expected[:8], max_tokens=16, depth=rdlite.Depth(8), initial_state="zeros"
    )
    assert generation.ids == expected[8:]
