"""A saved conversation goes on token for token, and with nothing that it was not had with."""

import json

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

import rdlite
from rdlite import Cache, Depth, InputError, OutputError, Sampling
from rdlite.api.chat_file import KEY

QUESTIONS = ("What is 48 + 76?", "Sort 52714.", "a = 7, b = a + 5; what is b mod 10?")
CACHES = [Cache(), Cache(1), Cache("last"), Cache(bits=8), Cache("last", 8), Cache(2, 8)]


def said(generation):
    return [(token.id, token.steps, token.logprob) for token in generation]


@pytest.mark.parametrize("cache", CACHES, ids=str)
def test_it_goes_on_as_if_never_stopped(cache, tmp_path):
    path = tmp_path / "talk.chat"
    options = {"system": "Be brief.", "sampling": Sampling(0.8, logit_bias={5: 1.5}), "seed": 3}
    with rdlite.load("nano", cache=cache) as model:
        talk = model.chat(**options)
        for question in QUESTIONS[:2]:
            said(talk.send(question))
        talk.save(path)
        expected = said(talk.send(QUESTIONS[2]))
        reused = talk.send("Again?").stats.reused_tokens
    with rdlite.load("nano", cache=cache) as model:
        talk = model.chat()
        talk.send("Something else.").text  # noqa: B018
        talk.load(path)
        assert [m["content"] for m in talk.messages[:2]] == ["Be brief.", QUESTIONS[0]]
        assert talk.sampling == options["sampling"]
        generation = talk.send(QUESTIONS[2])
        assert said(generation) == expected
        assert generation.stats.reused_tokens > 0
        assert talk.send("Again?").stats.reused_tokens == reused


def test_a_conversation_that_has_not_begun_can_be_saved(nano, tmp_path):
    path = tmp_path / "new.chat"
    nano.chat("Be kind.").save(path)
    talk = nano.chat()
    talk.load(path)
    assert talk.messages == [{"role": "system", "content": "Be kind."}]
    assert talk.send(QUESTIONS[0]).text


def test_what_it_was_not_had_with_is_refused(nano, model, tmp_path):
    path = tmp_path / "talk.chat"
    talk = nano.chat()
    talk.send(QUESTIONS[0]).text  # noqa: B018
    talk.save(path)
    other = nano.chat(depth=Depth(8))
    before = list(other.messages)
    with pytest.raises(InputError, match=r"saved with 32 steps.*, not .* steps"):
        other.load(path)
    assert other.messages == before
    with pytest.raises(InputError, match="saved with the model nano, not this one"):
        model.chat().load(path)
    with (
        rdlite.load("nano", cache=Cache(1)) as shared,
        pytest.raises(
            InputError,
            match=r"a slot for each step in float32, not a shared cache \(1\)",
        ),
    ):
        shared.chat().load(path)


def test_other_files_are_not_overwritten(nano, tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("mine")
    with pytest.raises(OutputError, match="is no saved conversation"):
        nano.chat().save(path)
    assert path.read_text() == "mine"
    with pytest.raises(OutputError, match="cannot write"):
        nano.chat().save(tmp_path / "no" / "talk.chat")
    talk = tmp_path / "talk.chat"
    nano.chat().save(talk)
    nano.chat("Again.").save(talk)
    assert sorted(tmp_path.iterdir()) == [path, talk]


@pytest.fixture
def saved(nano, tmp_path):
    path = tmp_path / "talk.chat"
    talk = nano.chat(depth=Depth(3))
    talk.send(QUESTIONS[0]).text  # noqa: B018
    talk.save(path)
    with safe_open(path, "np") as file:
        meta = json.loads(file.metadata()[KEY])
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return path, meta, arrays


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda m, a: m.update(version=2), "version 2"),
        (lambda m, a: m.pop("seed"), "lacks the key 'seed'"),
        (lambda m, a: m.update(seed=-1), "seed must lie between"),
        (lambda m, a: m.update(extra=1), "unknown key 'extra'"),
        (lambda m, a: m.update(messages=[{"role": 1, "content": ""}]), "role must be str"),
        (lambda m, a: m["sampling"].update(temperature=-1), "temperature must be"),
        (lambda m, a: m.update(bias={"x": 1.0}), "bias"),
        (lambda m, a: m["depth"].update(max_steps=0), "max_steps must be"),
        (lambda m, a: a.pop("tokens"), "tokens are none"),
        (lambda m, a: a.update(tokens=a["tokens"].astype(np.int32)), "tokens are none"),
        (lambda m, a: a.update(tokens=np.zeros(2000, np.int64)), "more than the context"),
        (lambda m, a: a.update(tokens=a["tokens"] - 1000), "does not have"),
        (lambda m, a: a.pop("coda"), "holds no caches"),
        (lambda m, a: a.pop("core.1"), "has the slots"),
        (lambda m, a: a.update({"core.1": a["core.1"][..., :2]}), "is no cache of"),
        (lambda m, a: a.update(coda=a["coda"].astype(np.float64)), "is no cache of"),
        (lambda m, a: a.update(prelude=a["prelude"][:, :, :, :, :3]), "is no cache of"),
        (lambda m, a: a.update(more=a["coda"]), "holds an array 'more'"),
    ],
)
def test_files_from_strangers_are_held_against_the_model(saved, nano, spoil, words):
    path, meta, arrays = saved
    spoil(meta, arrays)
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    save_file(arrays, path, {KEY: json.dumps(meta)})
    talk = nano.chat("Mine.", depth=Depth(3))
    with pytest.raises(InputError, match=words):
        talk.load(path)
    assert talk.messages == [{"role": "system", "content": "Mine."}]
    assert talk.send(QUESTIONS[0]).text


@pytest.mark.parametrize("data", [b"", b"nothing", b"\xff" * 100, None])
def test_files_that_are_none_are_refused(data, nano, tmp_path):
    path = tmp_path / "x.chat"
    if data is None:
        save_file({"a": np.zeros(3, np.float32)}, path)
    else:
        path.write_bytes(data)
    with pytest.raises(InputError, match=r"no (whole )?saved conversation|cannot be read"):
        nano.chat().load(path)
    with pytest.raises(InputError, match="cannot be read"):
        nano.chat().load(tmp_path / "missing.chat")


def test_undo_takes_a_turn_back(nano):
    talk = nano.chat("Be brief.")
    assert talk.undo() is None
    first = talk.send(QUESTIONS[0]).text
    talk.send(QUESTIONS[1]).text  # noqa: B018
    assert talk.undo() == QUESTIONS[1]
    assert talk.undo() == QUESTIONS[0]
    assert talk.messages == [{"role": "system", "content": "Be brief."}]
    assert talk.send(QUESTIONS[0]).text == first
