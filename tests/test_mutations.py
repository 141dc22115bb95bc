"""JSON files with values that make no sense: each gives an RdliteError or works, never a traceback.

python -m pytest tests/test_mutations.py     a few hundred, the same every time
"""

import copy
import json
import random

import pytest
from rdlite.export import export_checkpoint

import rdlite

CASES = 60  # for each file
ODD_VALUES = (
    *(None, True, False, 0, -1, 1, 0.5, 1e308, -1e308, 1e-320, 10**400, 2**31, 2**53, 2**63, 2**64),
    *(
        "",
        "x",
        "a" * 300,
        "\x1b[31m",
        "../x",
        "\u202e",
        [],
        {},
        [1],
        ["a"],
        {"a": 1},
        [[[]]],
        "nan",
    ),
)


def mutate(rng, value):
    """Change one thing somewhere inside a JSON value."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key, chance = rng.choice(list(value)), rng.random()
        if chance < 0.15:
            value.pop(key)
        elif chance < 0.25:
            value[rng.choice(["zzz", key + "x", ""])] = copy.deepcopy(rng.choice(ODD_VALUES))
        else:
            value[key] = mutate(rng, value[key])
        return value
    if isinstance(value, list) and value and rng.random() < 0.7:
        index = rng.randrange(len(value))
        value[index] = mutate(rng, value[index])
        return value
    if type(value) is int and rng.random() < 0.4:
        return value + rng.choice([-1, 1, 2**20, -value, value])
    return copy.deepcopy(rng.choice(ODD_VALUES))


def spoil(path, original, rng):
    value = json.loads(original)
    for _ in range(rng.randrange(1, 4)):
        value = mutate(rng, value)
    path.write_text(json.dumps(value))


def outcome(action):
    message = ""
    try:
        action()
    except rdlite.RdliteError as problem:
        message = str(problem)
    assert "\n" not in message
    assert len(message) < 700
    return "refused" if message else "worked"


@pytest.mark.parametrize("name", ["rdlite.json", "generation_config.json", "tokenizer.json"])
def test_bundles(bundle_copy, sign, name):
    rng, path = random.Random(name), bundle_copy / name
    manifest, original = (bundle_copy / "rdlite.json").read_text(), path.read_text()

    def use():
        with rdlite.load(bundle_copy) as model:
            assert model.generate("hi \N{EURO SIGN} 12", 3, depth=rdlite.Depth(2)).ids
            assert model.chat(depth=rdlite.Depth(1)).send("yo", 2).ids

    seen = set()
    for _ in range(CASES):
        (bundle_copy / "rdlite.json").write_text(manifest)
        spoil(path, original, rng)
        if name != "rdlite.json":
            sign(bundle_copy)
        else:
            try:
                sign(bundle_copy)
            except (AttributeError, KeyError, OSError, TypeError):
                continue  # nothing that could be signed
        seen.add(outcome(use))
    assert "refused" in seen


@pytest.mark.parametrize(
    "name", ["config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json"]
)
def test_checkpoints(checkpoint_copy, tmp_path, name):
    rng, path = random.Random(name), checkpoint_copy / name
    original = path.read_text()

    def use():
        out = export_checkpoint(checkpoint_copy, tmp_path / "out", force=True)
        rdlite.load(out).close()

    seen = set()
    for _ in range(CASES):
        spoil(path, original, rng)
        seen.add(outcome(use))
    assert seen == {"refused", "worked"}
