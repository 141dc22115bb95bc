"""Models on a device: the same loop, rules, caches and drafts, with float16 activations.

The device's memory is the host's and its provider the CPU's, so that this runs anywhere; what is
left to a machine with a GPU is `rdlite.cuda` itself, see bench/gpu.py.
"""

import gc
from pathlib import Path

import numpy as np
import pytest
from host_device import QUESTIONS, HostMemory, host_device, on_device
from rdlite.export import export_checkpoint
from rdlite.quant import quantize_bundle

import rdlite
from rdlite import Cache, Depth, InputError, RuntimeFailure, Sampling
from rdlite.cuda.arrays import Device
from rdlite.measure.answers import held_out_problems
from rdlite.measure.tasks import TASKS
from rdlite.ort.kv_cache import FIRST_CAPACITY
from rdlite.ort.session import Provider

DATA = Path(__file__).parents[2] / "data"
#: Rules whose thresholds are as fine as float16.
TIGHT = ("kl", "gated-kl", "entropy-diff")


@pytest.fixture(scope="module")
def nano(exact_nano):
    """With float32 weights and activations: the shipped one's activations are int8 on the CPU."""
    return exact_nano


@pytest.fixture(scope="module")
def device_nano(full_nano):
    with on_device(full_nano) as model:
        yield model


def chat(model, text, **options):
    return [*model.chat(**options).send(text, 20)]


def test_logits_are_those_of_the_cpu_within_float16(device_nano, nano):
    ids = nano.tokenizer.encode(" ".join(QUESTIONS))
    for steps in (1, 8, 32):
        ours, exact = (m.logits(ids, steps, chunk=16) for m in (device_nano, nano))
        assert np.abs(ours - exact).max() < 0.005 * np.abs(exact).max()


def test_logits_are_those_of_the_published_code_within_float16(oracle):
    with on_device(oracle.bundle) as model:
        for steps in (1, 2, 4, 8):
            ours = model.logits(oracle.ids, steps, oracle.states)
            right = oracle.expected[f"logits_state_r{steps}"][0]
            assert np.abs(ours - right).max() < 0.02 * np.abs(right).max()


@pytest.mark.parametrize("family", ["raven-llama-tiny", "raven-olmo-tiny", "ouro-tiny"])
def test_every_family_runs_in_float16(family, tmp_path):
    bundle = export_checkpoint(DATA / family, tmp_path / family)
    with on_device(bundle) as half, rdlite.load(bundle) as exact:
        ids = [5, 9, 2, 7, 30, 11, 4]
        for steps in (1, 4):
            ours, right = (m.logits(ids, steps, seed=1) for m in (half, exact))
            assert np.abs(ours - right).max() < 0.01 * np.abs(right).max()
        if exact.config.recurrence.exit_threshold is not None:
            depth = Depth(4, exit="gate", threshold=0.5)
            steps = [[t.steps for t in m.generate(ids, 5, depth)] for m in (half, exact)]
            assert steps[0] == steps[1]


def test_a_context_longer_than_a_bundles_tables(tmp_path, monkeypatch):
    ids = [5, 9, 2, 7, 30, 11, 4] * 12
    logits = []
    for size in (None, 16 * 64):
        if size is not None:
            monkeypatch.setattr("rdlite.config.model.MAX_ROTARY_SIZE", size)
        bundle = export_checkpoint(DATA / "raven-llama-tiny", tmp_path / str(size))
        with on_device(bundle) as model:
            assert (model.config.rotary_positions < len(ids)) == (size is not None)
            logits.append(model.logits(ids, 4, seed=1))
    assert np.allclose(*logits, atol=1e-3)


@pytest.mark.parametrize("scheme", ["int8", "int4"])
def test_packed_weights_are_the_same_bytes(full_nano, scheme, tmp_path):
    """Against the same weights in float32: the CPU would round activations to int8."""
    bundle = quantize_bundle(full_nano, tmp_path / scheme, scheme)
    with on_device(bundle) as half, rdlite.load(bundle) as cpu:
        ids = cpu.tokenizer.encode(QUESTIONS[0])
        ours, right = (m.logits(ids, 4) for m in (half, cpu))
        assert np.abs(ours - right).max() < 0.05 * np.abs(right).max()


def test_logits_of_a_text_do_not_depend_on_its_chunks(device_nano, nano):
    ids = nano.tokenizer.encode(" ".join(QUESTIONS))
    whole = device_nano.logits(ids, 4, chunk=4096)
    for chunk in (1, 7, 64):
        assert np.abs(device_nano.logits(ids, 4, chunk=chunk) - whole).max() < 0.05


@pytest.mark.parametrize(
    "depth",
    [
        Depth(16),
        *(
            Depth(32, exit=rule)
            for rule in (
                "latent-diff", "acceleration", "cosine", "kl", "gated-kl", "minp-kl",
                "entropy-diff", "argmax-stability",
            )
        ),
        Depth(32, exit="latent-diff", prompt="each"),
        Depth(32, exit="cosine", prompt="each"),
        Depth(32, exit="latent-diff", check_every=3, min_steps=2),
    ],
    ids=str,
)  # fmt: skip
def test_exit_rules_find_the_same_answers_at_nearly_the_same_steps(device_nano, nano, depth):
    for text in QUESTIONS:
        ours, exact = (chat(model, text, depth=depth) for model in (device_nano, nano))
        assert [token.id for token in ours] == [token.id for token in exact]
        if depth.exit in TIGHT:
            continue  # float16 comes to rest where float32 still moves a little: fewer steps
        for a, b in zip(ours, exact, strict=True):
            assert abs(a.steps - b.steps) <= 1


@pytest.mark.parametrize("cache", [Cache(), Cache(1), Cache(3), Cache("last")], ids=str)
def test_caches_grow_are_shared_and_filled_as_on_the_cpu(full_nano, cache):
    """Past the first capacity, with positions that left early before ones that go deep."""
    found = []
    for model in (on_device(full_nano, cache), rdlite.load(full_nano, cache=cache)):
        with model:
            talk = model.chat(depth=Depth(24, exit="latent-diff"), history="all")
            answers = [talk.send(text, 8).text for text in QUESTIONS * 3]
            talk.depth = Depth(28)
            answers += [talk.send(text, 8).text for text in QUESTIONS]
            assert talk.context_used > FIRST_CAPACITY
            found.append((answers, talk.context_used))
    assert found[0] == found[1]


@pytest.mark.parametrize("speculate", [(4, 4), (2, 8), "auto"])
def test_drafts_change_nothing(device_nano, speculate):
    for text in QUESTIONS:
        plain = chat(device_nano, text, depth=Depth(24))
        drafted = chat(device_nano, text, depth=Depth(24), speculate=speculate)
        assert [token.id for token in drafted] == [token.id for token in plain]


def test_nearly_all_prompts_get_the_same_greedy_tokens(device_nano, nano):
    """At least 99 of 100, as bench/gpu.py asks of a GPU."""
    same = 0
    problems = held_out_problems(4, 5, TASKS)[::2][:100]
    for problem in problems:
        ours, exact = (
            [token.id for token in m.chat(depth=Depth(8)).send(problem.question, 12)]
            for m in (device_nano, nano)
        )
        same += ours == exact
    assert same >= 0.99 * len(problems)


def test_conversations_are_saved_and_loaded(device_nano, nano, tmp_path):
    talk = device_nano.chat(depth=Depth(8))
    talk.send(QUESTIONS[0]).ids  # noqa: B018
    talk.save(tmp_path / "chat")
    expected = talk.send(QUESTIONS[1]).ids
    again = device_nano.chat(depth=Depth(8))
    again.load(tmp_path / "chat")
    assert again.send(QUESTIONS[1]).ids == expected
    other = nano.chat(depth=Depth(8))  # the CPU goes on from it too
    other.load(tmp_path / "chat")
    assert other.send(QUESTIONS[1]).stats.reused_tokens > 10
    other.save(tmp_path / "back")
    again.load(tmp_path / "back")
    assert again.context_used > 10


def test_traces_see_the_same(device_nano, nano):
    from rdlite.trace.record import trace

    for depth in (Depth(12), Depth(32, exit="latent-diff", prompt="each")):
        ours, exact = (trace(m, QUESTIONS[0], 4, depth, chat=True) for m in (device_nano, nano))
        assert ours.text == exact.text
        first, other = ours.tokens[0], exact.tokens[0]
        assert np.allclose(
            [t.change for t in first.thoughts][:6], [t.change for t in other.thoughts][:6], rtol=0.1
        )


def test_states_start_as_asked(device_nano, nano):
    ids = nano.tokenizer.encode(QUESTIONS[0])
    given = np.random.default_rng(0).normal(size=(len(ids), nano.config.hidden_size))
    for start in ("zeros", "random", "embeds", given.astype(np.float32)):
        ours, exact = (m.logits(ids, 2, start, seed=3) for m in (device_nano, nano))
        assert np.abs(ours - exact).max() < 0.005 * np.abs(exact).max()


def test_a_generation_is_cancelled_and_the_next_one_is_as_ever(device_nano):
    expected = chat(device_nano, QUESTIONS[0], depth=Depth(8))
    talk = device_nano.chat(depth=Depth(8))
    generation = talk.send(QUESTIONS[0])
    tokens = iter(generation)
    next(tokens)
    generation.cancel()
    assert list(tokens) == []
    talk.reset()
    assert [t.id for t in talk.send(QUESTIONS[0], 20)] == [t.id for t in expected]


def test_sampling_is_a_function_of_the_seed(device_nano):
    how = {"sampling": Sampling(temperature=2.0), "seed": 4, "depth": Depth(4)}
    assert (
        device_nano.generate("hello", 12, **how).ids == device_nano.generate("hello", 12, **how).ids
    )


def test_calls_that_are_captured_are_given_room_for_the_whole_cache(full_nano, nano):
    """On a GPU they are replayed as they were; here they run each time, with the same arrays."""
    device = host_device(graphs=True)
    with on_device(full_nano, device=device) as model:
        talk, other = (m.chat(depth=Depth(16), history="all") for m in (model, nano))
        for text in QUESTIONS * 3:  # past the first capacity, where all are captured anew
            assert talk.send(text, 12).ids == other.send(text, 12).ids


@pytest.mark.host_memory
def test_memory_is_given_back():
    device = host_device()
    with on_device(device=device) as model:
        chat(model, QUESTIONS[0])
    del model
    gc.collect()
    assert device.memory.blocks == {}


@pytest.mark.host_memory
def test_runners_of_a_text_share_the_room_for_logits():
    device = host_device()
    with on_device(device=device) as model:
        sequence = model.new_sequence()

        def decode(size):
            runner = sequence.begin([1] * size, 2)
            runner.fill_state(lambda rows: rows.fill(0))
            for steps in (1, 2):
                runner.step(steps - 1)
                runner.logits(steps, size)

        def taken():
            gc.collect()
            return sum(len(block) for block in device.memory.blocks.values())

        decode(8)
        sequence.commit(0)
        before = taken()
        for size in range(1, 8):
            decode(size)
        rows = 28 * model.config.hidden_size
        assert taken() - before < 28 * model.config.vocab_size * 4 + 16 * rows


@pytest.mark.host_memory
def test_too_little_memory_is_said_and_the_model_goes_on():
    device = host_device()
    with on_device(device=device) as model:
        device.memory.most = 2**20
        with pytest.raises(RuntimeFailure, match="no memory for another"):
            chat(model, QUESTIONS[0], depth=Depth(64))
        device.memory.most = 2**40
        assert "".join(t.text for t in chat(model, QUESTIONS[0])) == "124"


@pytest.mark.host_memory
def test_int8_caches_are_for_the_cpu():
    with pytest.raises(InputError, match=r"cache on host is float16; Cache\(bits=8\) is for the"):
        on_device(cache=Cache(bits=8))


def test_portable_bundles_are_for_the_cpu(portable_bundle):
    with pytest.raises(InputError, match="is portable, and those run on the CPU"):
        on_device(portable_bundle)


@pytest.mark.host_memory
def test_what_runs_elsewhere_than_asked_is_refused():
    """The CPU build of onnxruntime warns, and would take the CPU."""
    device = Device(
        "cuda", HostMemory(), Provider("CUDAExecutionProvider", hint=lambda said: "; see doctor")
    )
    with (
        pytest.warns(UserWarning, match="not in available provider names"),
        pytest.raises(RuntimeFailure, match="; see doctor"),
    ):
        on_device(device=device)
