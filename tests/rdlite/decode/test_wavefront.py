"""The parallel sampler: what the published code answers, and that bad values are refused."""

import json
import re

import numpy as np
import pytest
from click.testing import CliRunner

import rdlite
from rdlite import Depth, Parallel, Sampling
from rdlite.cli.main import main
from rdlite.config.parallel import parse_sampler
from rdlite.decode.wavefront import Wavefront

KNOBS = ("inner_recurrence", "exit_t", "ema_embeds", "max_wavefront", "freeze_strategy")


@pytest.fixture(scope="module")
def published(oracle):
    """What `generate_diffusion_style` answers: see tests/data/parallel/README.md."""
    path = oracle.checkpoint.parent / "parallel" / f"{oracle.checkpoint.name}.npz"
    with np.load(path) as arrays:
        cases = json.loads(arrays["cases"].tobytes())["cases"]
        return cases, {name: arrays[name] for name in arrays.files}


def looks_of(model, case, **more):
    looks = []

    def observe(look):
        looks.append((look.frozen, [*look.tokens], look.start, look.states.copy()))

    knobs = {name: case[name] for name in KNOBS}
    sampler = Parallel(**knobs, **more, observe=observe)
    generation = model.generate(
        case["prompt"],
        len(case["ids"]) - len(case["prompt"]),
        Depth(case["num_steps"]),
        initial_state="random" if case["noise"] else "zeros",
        sampler=sampler,
    )
    return generation, looks


def same_wave(case, generation, looks):
    assert [*case["prompt"], *generation.ids] == case["ids"]
    count = len(case["frozen"])  # its record holds twice as many as tokens were wanted
    assert len(looks) == case["outer_steps"]
    for (frozen, tokens, start, _), wanted, all_tokens in zip(
        looks[:count], case["frozen"], case["tokens"], strict=True
    ):
        assert frozen == wanted
        assert tokens == all_tokens[start:]


def test_the_same_tokens_freeze_as_in_the_published_code(oracle, published):
    cases, _ = published
    quiet = [case for case in cases if not case["noise"]]
    assert len(quiet) == 20
    for case in quiet:
        same_wave(case, *looks_of(oracle.model, case, state_noise_mixing=0))


def test_with_the_same_noise_states_are_the_same(oracle, published, monkeypatch):
    cases, arrays = published
    std = np.float32(oracle.model.config.recurrence.initial_std)
    calls = [0]

    def draw(rows):
        rng = np.random.default_rng(calls[0])
        calls[0] += 1
        rows[...] = rng.standard_normal(rows.shape).astype(np.float32) * std

    monkeypatch.setattr("rdlite.decode.planner.fill_initial_states", lambda rows, *_: draw(rows))
    monkeypatch.setattr("rdlite.ort.initial_state.fill_initial_states", lambda rows, *_: draw(rows))
    for index, case in enumerate(cases):
        if not case["noise"]:
            continue
        calls[0] = 0
        seen = []
        plain = Wavefront._append

        def spy(self, states, position, plain=plain, seen=seen):
            seen.append(states.copy())
            return plain(self, states, position)

        with monkeypatch.context() as patch:
            patch.setattr(Wavefront, "_append", spy)
            generation, looks = looks_of(oracle.model, case)
            same_wave(case, generation, looks)
        for step, states in enumerate(seen):
            wanted = arrays[f"case{index}_states{step}"]
            assert np.abs(states - wanted).max() < 1e-4 * np.abs(wanted).max()


def test_the_same_seed_gives_the_same_text(nano):
    wanted = nano.encode("What is 48 + 76?")
    sampling = Sampling(temperature=1)
    texts = [
        nano.generate(wanted, 12, sampling=sampling, seed=seed, sampler=Parallel()).ids
        for seed in (3, 3, 4)
    ]
    assert texts[0] == texts[1]


def test_it_leaves_nothing_that_others_would_see(nano):
    ids = nano.encode("What is 48 + 76?")
    chat = nano.chat()
    alone = [chat.send("What is 12 + 13?").text, chat.send("What is 9 + 2?").text]
    chat = nano.chat()
    chat.send("What is 12 + 13?")
    chat.sampler = Parallel()
    chat.depth = Depth(8)
    assert len(chat.send("What is 7 + 7?", 8).ids) >= 1
    assert chat.undo()
    chat.sampler, chat.depth = None, nano.default_depth
    assert chat.send("What is 9 + 2?").text == alone[1]
    first = nano.generate(ids, 8).ids
    assert nano.generate(ids, 8, sampler=Parallel(), depth=Depth(8)).ids
    assert nano.generate(ids, 8).ids == first


def test_it_ends_at_stop_tokens_at_the_length_and_at_the_context(nano, oracle):
    chat = nano.chat(sampler=Parallel())
    answer = chat.send("What is 48 + 76?")
    assert answer.stats.finish == "stop"
    assert oracle.model.generate([5, 6, 7], 9, sampler=Parallel()).stats.finish == "length"
    full = oracle.model.generate(oracle.ids, 2**20, sampler=Parallel())
    assert full.stats.finish == "context"
    assert len(full.ids) <= oracle.model.context + 1 - len(oracle.ids)
    short = oracle.model.generate([5, 6, 7], 50, sampler=Parallel(max_diffusion_steps=3))
    assert len(short.ids) < 50
    assert short.stats.finish == "length"


@pytest.mark.parametrize("share", ["last", 1])
def test_shared_caches_will_do(oracle, share):
    with rdlite.load(oracle.bundle, cache=rdlite.Cache(share=share)) as model:
        assert len(model.generate([5, 6, 7], 9, sampler=Parallel()).ids) == 9


@pytest.mark.parametrize("seed", range(40))
def test_settings_of_all_kinds_run(nano, seed):
    rng = np.random.default_rng(seed)
    sampler = Parallel(
        inner_recurrence=int(rng.integers(1, 8)),
        ema_embeds=float(rng.uniform(0, 0.99)),
        state_noise_mixing=float(rng.uniform(0, 1)),
        dampened_state_mixer=bool(rng.integers(2)),
        sqrt_mixer=bool(rng.integers(2)),
        headway=int(rng.integers(1, 4)),
        freeze_strategy=str(rng.choice(["latent-diff", "token-stability", "fixed"])),
        exit_t=float(rng.uniform(0, 1)),
        max_wavefront=int(rng.integers(4, 40)),
        continuous_compute=bool(rng.integers(2)),
        max_diffusion_steps=120,
    )
    wanted = int(rng.integers(1, 12))
    sampling = Sampling(temperature=float(rng.integers(2)))
    depth = Depth(int(rng.integers(1, 20)))
    generation = nano.generate([5, 6, 7], wanted, depth, sampling, sampler=sampler, top_logprobs=2)
    tokens = list(generation)
    assert 1 <= len(tokens) <= wanted
    assert all(np.isfinite(token.logprob) and token.logprob <= 0 for token in tokens)
    assert all(len(token.alternatives) == 2 and token.steps >= 1 for token in tokens)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"inner_recurrence": 0}, "inner_recurrence must be a whole number from 1 to 64"),
        ({"ema_embeds": 1}, "ema_embeds must be a number from 0 to 0.99"),
        ({"state_noise_mixing": float("nan")}, "state_noise_mixing must be a number from 0 to 1"),
        ({"headway": 17}, "headway must be a whole number from 1 to 16"),
        ({"headway": 4, "max_wavefront": 4}, "headway must be below max_wavefront (4), got 4"),
        ({"exit_t": -1}, "exit_t must be a number from 0 to 10"),
        ({"max_wavefront": 1}, "max_wavefront must be a whole number from 2 to 1024"),
        ({"freeze_strategy": "hope"}, "freeze_strategy must be one of latent-diff, token-"),
        ({"sqrt_mixer": 1}, "sqrt_mixer must be True or False, got 1"),
    ],
)
def test_knobs_have_bounds(wrong, message):
    with pytest.raises(rdlite.InputError, match=re.escape(message)):
        Parallel(**wrong)


def test_what_does_not_go_together_is_refused(nano):
    for arguments, message in (
        ({"speculate": "auto"}, "speculate and the parallel sampler exclude each other"),
        ({"changes": True}, "changes and the parallel sampler exclude each other"),
        ({"depth": Depth(8, exit="kl")}, "give a Depth without exit"),
        ({"initial_state": "embeds"}, "starts positions at initial_state random or zeros"),
    ):
        with pytest.raises(rdlite.InputError, match=re.escape(message)):
            nano.generate([5], sampler=Parallel(), **arguments)
    with pytest.raises(rdlite.InputError, match="sampler must be None"):
        nano.generate([5], sampler="parallel")


@pytest.mark.parametrize(
    ("text", "sampler"),
    [
        ("plain", None),
        ("parallel", Parallel()),
        (
            "parallel:exit_t=0.1,headway=2,sqrt_mixer=true,freeze_strategy=fixed",
            Parallel(exit_t=0.1, headway=2, sqrt_mixer=True, freeze_strategy="fixed"),
        ),
    ],
)
def test_the_command_line_says_it_in_a_word(text, sampler):
    assert parse_sampler(text) == sampler


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("paralel", "sampler must be plain, parallel or parallel:KNOB=VALUE,..., got 'paralel'"),
        ("parallel:speed=9", "sampler: no knob 'speed'; there are inner_recurrence, "),
        ("parallel:headway=x", "sampler: headway must be a whole number, got 'x'"),
        ("parallel:sqrt_mixer=1", "sampler: sqrt_mixer must be true or false, got '1'"),
        ("parallel:observe=1", "sampler: no knob 'observe'"),
    ],
)
def test_what_the_command_line_cannot_mean_is_refused(text, message):
    with pytest.raises(rdlite.InputError, match=re.escape(message)):
        parse_sampler(text)


def test_commands_generate_chat_bench_and_trace_take_it():
    def run(*arguments, **how):
        result = CliRunner().invoke(main, [*arguments, "--sampler", "parallel"], **how)
        assert result.exit_code == 0, result.output
        return result.stdout

    assert run("chat", input="What is 48 + 76?\n") == "124\n"
    assert "124" in run("trace", "--chat", "What is 48 + 76?")
    rows = json.loads(run("trace", "--chat", "What is 48 + 76?", "--json"))["wavefront"]
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    assert run("generate", "12", "--max-tokens", "4")
    report = json.loads(run("bench", "--repeats", "1", "--new-tokens", "4", "--json"))
    assert report["new_tokens"] == 4
