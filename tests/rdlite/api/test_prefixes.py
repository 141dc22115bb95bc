"""What prompts of `generate_many` have in common is read once, and changes no bit."""

import numpy as np
import pytest

import rdlite
from rdlite import Cache, Depth
from rdlite.errors import RuntimeFailure

CHUNK = 16
HEAD = np.random.default_rng(0).integers(0, 256, 3 * CHUNK + 5).tolist()
PROMPTS = [[*HEAD, number] for number in range(6)]
PROMPTS += [HEAD[: 2 * CHUNK], HEAD[: 2 * CHUNK + 1], HEAD[:20] + [7] * 20, [5]]


def said(tokens):
    return [(token.id, token.logprob, token.steps, token.exit_value) for token in tokens]


@pytest.mark.parametrize(
    "cache", [None, Cache(share=2), Cache(share="last"), Cache(bits=8)], ids=repr
)
@pytest.mark.parametrize(
    "depth",
    [Depth(6), Depth(8, exit="latent-diff", prompt="each"), Depth(8, exit="kl")],
    ids=lambda depth: str(depth.exit),
)
def test_common_beginnings_change_nothing(cache, depth):
    how = {"max_tokens": 4, "depth": depth, "chunk": CHUNK}
    with rdlite.load(cache=cache, threads=1) as model:
        alone = [said(model.generate(prompt, **how)) for prompt in PROMPTS]
        for at_once in (1, 4, 16):
            many = [[] for _ in PROMPTS]
            for index, token in model.generate_many(PROMPTS, at_once, **how):
                many[index].append(token)
            assert [*map(said, many)] == alone


def read(model, prompts, at_once, **options):
    """How many positions of prompts are read, and what the texts end with."""
    ended = {}
    for _ in model.generate_many(
        prompts, at_once, finished=ended.__setitem__, chunk=CHUNK, max_tokens=2, **options
    ):
        pass
    return [ended[index] for index in range(len(prompts))]


@pytest.mark.parametrize("at_once", [1, 4, 16])
def test_whole_chunks_are_read_once(nano, at_once):
    reused = [stats.reused_tokens for stats in read(nano, PROMPTS, at_once)]
    assert reused == [0, *[3 * CHUNK] * 5, CHUNK, 2 * CHUNK, CHUNK, 0]


def test_texts_of_other_seeds_depths_and_chunks_share_nothing(nano):
    prompts = [
        {"prompt": HEAD, **own}
        for own in (
            {},
            {"seed": 1},
            {"depth": Depth(3)},
            {"chunk": 8},
            {"initial_state": "zeros"},
            {"constraint": rdlite.Constraint(regex="[0-9]+")},
        )
    ]
    assert [stats.reused_tokens for stats in read(nano, prompts, 2)] == [0] * len(prompts)


def test_no_memory_for_a_copy_ends_one_text(nano, monkeypatch):
    from rdlite.engine.sequence import Sequence

    restore, refused = Sequence.restore, []

    def refuse(self, entries, length, gathered):
        if not refused:
            refused.append(length)
            raise RuntimeFailure("no memory")
        restore(self, entries, length, gathered)

    monkeypatch.setattr(Sequence, "restore", refuse)
    ended = read(nano, PROMPTS[:4], 4)
    assert refused == [3 * CHUNK]
    assert sorted(type(result).__name__ for result in ended) == ["RuntimeFailure", *["Stats"] * 3]
