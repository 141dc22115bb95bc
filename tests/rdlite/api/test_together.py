"""Texts in company get the tokens and log-probabilities, to the bit, that they get alone."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rdlite.export import export_checkpoint
from rdlite.quant import quantize_bundle
from rdlite.quant.options import Options
from rdlite.quant.schemes import find_scheme

import rdlite
from rdlite import Cache, Depth, Sampling
from rdlite.api.together import Together
from rdlite.config.exit_rules import RULES
from rdlite.decode.loop import generate_tokens
from rdlite.engine.row_check import rows_pair
from rdlite.errors import InputError, RuntimeFailure

DATA = Path(__file__).parents[2] / "data"
FAMILIES = ("huginn-tiny", "ouro-tiny", "nanbeige-tiny", "raven-llama-tiny", "raven-olmo-tiny")
KINDS = (
    "nano",
    "nano int4 128",
    "nano int4 32",
    "in turn int4 128",
    "nano float32",
    "int8 cache",
    *FAMILIES,
)
KINDS += ("large nano int4 128", "large nano float32", "large int8 cache")
MOST = 6  # core steps; models that were made for fewer have those


@pytest.fixture(scope="module", params=KINDS)
def company(request, tmp_path_factory, nano, exact_nano):
    """A model and its longest depth."""
    large, kind = request.param.startswith("large"), request.param.removeprefix("large ")
    with pytest.MonkeyPatch.context() as patch:
        if large:  # one session for everything, as for weights that must not be loaded twice
            patch.setattr("rdlite.engine.rows.LARGE", 0)
        yield from loaded(request, kind, tmp_path_factory.mktemp("kind"), nano, exact_nano, large)


def loaded(request, kind, folder, nano, exact_nano, large):
    """Give a model of a kind."""
    if kind == "nano":
        yield nano
    elif kind == "nano float32" and not large:
        yield exact_nano
    else:
        cache = None
        if kind == "nano float32":
            bundle = request.getfixturevalue("full_nano")
        elif "int4" in kind:
            options = Options(block_size=int(kind.split()[-1]))
            scheme = find_scheme("int4-plain", options)
            bundle = quantize_bundle(request.getfixturevalue("full_nano"), folder / "b", scheme)
        elif kind == "int8 cache":
            bundle, cache = request.getfixturevalue("scaled_bundle"), Cache(bits=8)
        else:
            bundle = export_checkpoint(DATA / kind, folder / "b")
        together = not kind.startswith("in turn")
        with rdlite.load(bundle, threads=1, cache=cache, together=together) as model:
            assert (model.pool.check_open().rows is not None) == together
            yield model


@st.composite
def texts(draw):
    """What may be asked of a text: by the seed of its prompt, that of its states, and options."""
    exits = (None, *RULES)
    exit = draw(st.sampled_from(exits))
    return {
        "prompt": draw(st.integers(0, 10**6)),
        "length": draw(st.integers(1, 20)),
        "seed": draw(st.integers(0, 99)),
        "max_tokens": draw(st.integers(1, 8)),
        "steps": draw(st.integers(1, MOST)),
        "exit": exit,
        "each": draw(st.booleans()),
        "chunk": draw(st.sampled_from((1, 3, 64))),
        "temperature": draw(st.sampled_from((0.0, 1.0))),
        "speculate": draw(st.sampled_from((None, None, (4, 1), (3, 2), (16, 1)))),
        "arrives": draw(st.integers(0, 30)),
        "leaves": draw(st.none() | st.integers(0, 60)),
    }


def options(model, text):
    """The prompt and the arguments of `generate`."""
    rng = np.random.default_rng(text["prompt"])
    ids = rng.integers(0, model.config.vocab_size, text["length"]).tolist()
    most = model.config.recurrence.max_steps or MOST
    exit = text["exit"]
    if exit == "gate" and model.config.recurrence.exit_threshold is None:
        exit = "latent-diff"
    each = text["each"] and exit is not None and not RULES[exit].decodes
    depth = Depth(min(text["steps"], most), exit=exit, prompt="each" if each else "mean")
    return ids, {
        "max_tokens": text["max_tokens"],
        "depth": depth,
        "seed": text["seed"],
        "chunk": text["chunk"],
        "sampling": Sampling(temperature=text["temperature"]),
        "stop": (),
        "speculate": text["speculate"],
    }


def said(token):
    return token.id, token.logprob, token.steps, token.exit_value


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(texts(), min_size=2, max_size=16))
def test_company_changes_nothing(company, asked):
    model = company
    alone = []
    for text in asked:
        ids, how = options(model, text)
        # Drafts change nothing either.
        alone.append([said(t) for t in model.generate(ids, **how | {"speculate": None})])
    together = Together(model.pool.check_open())
    got, plans, ended = [[] for _ in asked], {}, {}
    for turn in itertools.count():
        for index, text in enumerate(asked):
            if text["arrives"] == turn or (turn > 30 and index not in plans):
                ids, how = options(model, text)
                plans[index], sequence = model.plan(**how), model.new_sequence()
                together.add(index, sequence, generate_tokens(sequence, ids, plans[index]))
            if index in plans and text["leaves"] is not None and turn == text["leaves"]:
                plans[index].cancellation.ask()
        for index, event in together.turn():
            if event is None or isinstance(event, Exception):
                ended[index] = event
            else:
                got[index].append(said(event))
        if turn > 60 and not len(together):
            break
    assert ended == dict.fromkeys(range(len(asked)))
    for index, tokens in enumerate(got):
        whole = plans[index].stats.finish != "cancelled"
        assert tokens == (alone[index] if whole else alone[index][: len(tokens)])


def test_generate_many_is_generate(nano):
    prompts = ["What is 48 + 76?", {"prompt": "What is 3 + 4?", "seed": 3, "max_tokens": 5}, [1, 2]]
    many = [[] for _ in prompts]
    ended = {}
    for index, token in nano.generate_many(
        iter(prompts), at_once=2, max_tokens=9, finished=ended.__setitem__
    ):
        many[index].append(token)
    assert many[0] == list(nano.generate(prompts[0], max_tokens=9))
    assert many[1] == list(nano.generate("What is 3 + 4?", seed=3, max_tokens=5))
    assert many[2] == list(nano.generate([1, 2], max_tokens=9))
    assert {index: stats.new_tokens for index, stats in ended.items()} == {
        index: len(tokens) for index, tokens in enumerate(many)
    }


def test_prompts_are_read_as_places_become_free(nano):
    asked = []

    def prompts():
        for number in range(9):
            asked.append(number)
            yield "What is 1 + 1?"

    tokens = nano.generate_many(prompts(), at_once=2, max_tokens=3)
    next(tokens)
    assert len(asked) <= 3
    tokens.close()


def test_a_bad_prompt_is_told_of_after_the_others(nano):
    got = []
    tokens = nano.generate_many(["What is 1 + 1?", [], "What is 2 + 2?"], max_tokens=3)
    with pytest.raises(InputError, match="empty"):
        got.extend(index for index, _ in tokens)
    many = nano.generate_many(
        ["What is 1 + 1?", [], "What is 2 + 2?"],
        max_tokens=3,
        finished=lambda index, result: got.append((index, type(result))),
    )
    seen = {index for index, _ in many}
    assert seen == {0, 2}
    assert (1, InputError) in got


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("text",), "several"),
        ((["a"], 0), "at_once"),
    ],
)
def test_bad_arguments_are_refused(nano, arguments, words):
    with pytest.raises(InputError, match=words):
        nano.generate_many(*arguments)
    with pytest.raises(InputError, match="no option 'depht'"):
        list(nano.generate_many(["a"], depht=3))


def test_a_constraint_and_free_texts_share_calls(nano):
    prompts = [
        {"prompt": "What is 3 + 4?", "constraint": rdlite.Constraint(regex="[a-z]{4}[0-9]{3}")},
        {"prompt": "What is 48 + 76?", "depth": Depth(8, exit="kl")},
        {
            "prompt": "What is 5 + 4?",
            "constraint": rdlite.Constraint(regex="(yes|no){3}"),
            "depth": Depth(8, exit="argmax-stability"),
        },
    ]
    many = [[] for _ in prompts]
    for index, token in nano.generate_many(prompts, max_tokens=9):
        many[index].append(token)
    for prompt, tokens in zip(prompts, many, strict=True):
        own = {name: value for name, value in prompt.items() if name != "prompt"}
        assert tokens == list(nano.generate(prompt["prompt"], max_tokens=9, **own))


def test_a_call_that_fails_for_one_text_fails_for_no_other(nano, monkeypatch):
    prompts = ["What is 1 + 1?", "What is 48 + 76?", "What is 9 + 9?"]
    how = {"max_tokens": 4, "min_tokens": 4, "depth": Depth(8)}
    alone = [list(nano.generate(prompt, **how)) for prompt in prompts]
    rows = nano.pool.check_open().rows
    run, marked, failed = rows.run_pieces, [], []

    def fail(pieces, *on):
        runners = [ask.runner for ask, _, _ in pieces]
        if len(runners) == len(prompts) and not marked:
            marked.append(runners[1])
        if any(runner in marked for runner in runners):
            failed.append(len(runners))
            raise RuntimeFailure("one of them is at fault")
        return run(pieces, *on)

    monkeypatch.setattr(rows, "run_pieces", fail)
    many, ended = [[] for _ in prompts], {}
    for index, token in nano.generate_many(prompts, finished=ended.__setitem__, **how):
        many[index].append(token)
    assert failed == [3, 1]
    bad = [index for index, result in ended.items() if isinstance(result, RuntimeFailure)]
    assert len(bad) == 1
    for index, tokens in enumerate(many):
        assert tokens == alone[index][: len(tokens)]
        assert index in bad or len(tokens) == 4


def test_rows_of_one_text_need_the_order_of_the_nodes(nano):
    """Each must see what those before it wrote: no edge of the graph says so."""
    prompt, how = "What is 48 + 76?", {"max_tokens": 24, "min_tokens": 24, "depth": Depth(8)}
    plain = list(nano.generate(prompt, **how))
    drafted = nano.generate(prompt, speculate=(16, 2), **how)
    assert list(drafted) == plain
    assert drafted.stats.accepted


def test_products_are_tried_on_this_machine(nano):
    assert rows_pair(nano.bundle.graphs.values()) is False  # blocks of 32


def test_what_is_larger_than_a_call_goes_on_in_the_next(monkeypatch):
    monkeypatch.setattr("rdlite.engine.rows.LARGE", 0)  # calls of eight rows
    how = {"max_tokens": 40, "min_tokens": 40, "depth": Depth(8)}
    with rdlite.load("nano", threads=1) as model:
        model.plan._staggers = None
        alone = [list(model.generate(prompt, **how)) for prompt in ("What is 48 + 76?", "hello")]
        many = [[], []]
        prompts = [{"prompt": "What is 48 + 76?", "speculate": (16, 4)}, "hello"]
        for index, token in model.generate_many(prompts, **how):
            many[index].append(token)
    assert many == alone
