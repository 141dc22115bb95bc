"""Texts of all kinds come and go beside each other in lanes; none changes what another says."""

import itertools
import random
from pathlib import Path

import pytest
from host_device import QUESTIONS, host_device
from rdlite.export import export_checkpoint

from rdlite import Cache, Constraint, Depth, InputError, Parallel
from rdlite.api.model import Model
from rdlite.api.together import Together
from rdlite.config.exit_rules import RULES
from rdlite.decode.loop import generate_tokens
from rdlite.loader import open_bundle

DATA = Path(__file__).parents[2] / "data"
pytestmark = pytest.mark.host_memory  # how far last bits go was tried there
CONTEXT = 96  # that some texts fill
#: Nats between the likeliest tokens that last bits may turn around.
CLOSE = 0.05
RULE_NAMES = [name for name in RULES if name != "gate"]  # nano has no gate


def model_of(bundle, graphs, cache):
    device = host_device(graphs)
    return Model(open_bundle(bundle), None, CONTEXT, cache, device)


def options(model, rng):
    """What may be asked of a text."""
    rule = rng.choice([None, *RULE_NAMES])
    each = rule is not None and not RULES[rule].decodes and rng.random() < 0.5
    depth = Depth(
        rng.choice([1, 2, 5, 8, 12]),
        exit=rule,
        prompt="each" if each else "mean",
        check_every=rng.choice([1, 1, 2, 3]),
    )
    asked = {
        "max_tokens": rng.choice([1, 4, 9, 9, 90]),
        "depth": depth,
        "seed": rng.randrange(9),
        "chunk": rng.choice([1, 5, 16, 64]),
        "initial_state": rng.choice(["random", "random", "zeros", "embeds"]),
        "min_tokens": rng.choice([0, 12]),
        "stop": (),
        "top_logprobs": 2,
        "sampling": None,
    }
    kind = rng.random()
    if kind < 0.25:
        asked["speculate"] = rng.choice([(4, 1), (3, 2), (16, 3), "auto"])
    elif kind < 0.35:
        asked |= {"sampler": Parallel(inner_recurrence=2), "depth": Depth(8), "min_tokens": 0}
    elif kind < 0.45:
        asked["constraint"] = Constraint(regex="[a-z]{3}[0-9]{4}")
    elif kind < 0.55:
        asked["changes"] = True
    try:
        model.plan(**asked)
    except InputError:  # this cache has no such way
        return options(model, rng)
    return asked


def prompt(model, rng):
    texts = [rng.choice(QUESTIONS) for _ in range(rng.choice([1, 1, 2]))]
    ids = model.encode_chat([{"role": "user", "content": " ".join(texts)}])
    return (ids * 3)[: CONTEXT - rng.choice([0, 1, 3])] if rng.random() < 0.1 else ids[:CONTEXT]


def same_until_a_close_call(tokens, alone):
    """Return how many tokens are the same, up to where last bits may have decided otherwise."""
    for count, (ours, theirs) in enumerate(zip(tokens, alone, strict=False)):
        (_, first), (_, second) = theirs.alternatives
        if (ours.id, ours.steps) != (theirs.id, theirs.steps):
            assert first - second < CLOSE or 0 < abs(ours.steps - theirs.steps) <= 3
            return count
        assert abs(ours.logprob - theirs.logprob) < CLOSE * max(1, -theirs.logprob)
    return min(len(tokens), len(alone))


def mix(model, rng, count):
    """Let texts come and go; returns tokens that were compared, and tokens that there were."""
    asked = [(prompt(model, rng), options(model, rng)) for _ in range(count)]
    arrives = [0 if rng.random() < 0.5 else rng.randrange(60) for _ in asked]
    leaves = [rng.randrange(5, 120) if rng.random() < 0.2 else None for _ in asked]
    together = Together(model.pool.check_open(), prompts_first=rng.random() < 0.5)
    got, plans, ended = [[] for _ in asked], {}, {}
    for turn in itertools.count():
        for index, (ids, how) in enumerate(asked):
            if arrives[index] == turn:
                plans[index], sequence = model.plan(**how), model.new_sequence()
                together.add(index, sequence, generate_tokens(sequence, ids, plans[index]))
            if index in plans and leaves[index] == turn:
                plans[index].cancellation.ask()
        for index, event in together.turn():
            if event is None or isinstance(event, Exception):
                ended[index] = event
            else:
                got[index].append(event)
        if turn > 120 and not len(together):
            break
    assert ended == dict.fromkeys(range(count))
    compared = 0
    for index, (ids, how) in enumerate(asked):
        alone = model.generate(ids, **how)
        same = same_until_a_close_call(got[index], [*alone])
        compared += same
        if same == len(got[index]) and plans[index].stats.finish != "cancelled":
            assert plans[index].stats.finish == alone.stats.finish
            assert same == alone.stats.new_tokens
    return compared, sum(map(len, got))


@pytest.mark.parametrize(("cache", "graphs"), [(Cache(), True), (Cache(2), False)], ids=str)
def test_company_changes_nothing(full_nano, cache, graphs):
    rng = random.Random(5)
    with model_of(full_nano, graphs, cache) as model:
        lanes = model.pool.check_open().rows
        for count in (3, 6, 11):
            compared, there = mix(model, rng, count)
            assert compared > 0.9 * there
            assert sorted(lanes._free) == [*range(lanes.width)]


def test_gates_are_each_text_s_own(tmp_path):
    bundle = export_checkpoint(DATA / "ouro-tiny", tmp_path / "bundle")
    how = {"max_tokens": 6, "top_logprobs": 2}
    with model_of(bundle, True, Cache()) as model:
        rng, values, ids = random.Random(1), set(), range(model.config.vocab_size)
        asked = [
            {
                "prompt": rng.choices(ids, k=rng.randrange(2, 9)),
                "depth": Depth(4, exit="gate", threshold=rng.choice([0.3, 0.5, 0.9])),
            }
            for _ in range(5)
        ]
        got = [[] for _ in asked]
        for index, token in model.generate_many(asked, **how):
            got[index].append(token)
        for tokens, text in zip(got, asked, strict=True):
            alone = [*model.generate(text["prompt"], depth=text["depth"], **how)]
            same = same_until_a_close_call(tokens, alone)
            assert same
            for ours, theirs in zip(tokens[:same], alone, strict=False):
                assert ours.exit_value == pytest.approx(theirs.exit_value, abs=0.01)
                values.add(round(theirs.exit_value, 2))
        assert len(values) > 5
