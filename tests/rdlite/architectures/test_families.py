"""Every family's answers are those of its published implementation, and every command takes it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from rdlite.export import export_checkpoint
from rdlite.export.random_checkpoint import byte_tokenizer, write_text_files
from rdlite.quant import SCHEMES, Options, find_scheme, quantize_bundle
from rdlite.quant.schemes import CALIBRATED
from safetensors.numpy import load_file, save_file

import rdlite
from rdlite import Cache, Depth, DepthWarning, FamilyError, InputError
from rdlite.cli.main import main
from rdlite.config.exit_rules import RULES
from rdlite.decode.loop import generate_tokens
from rdlite.decode.prefill import read
from rdlite.exit.controller import Controller
from rdlite.exit.registry import make_rule
from rdlite.loader import open_bundle
from rdlite.ort.initial_state import start_at
from rdlite.utils.numerics import log_softmax

DATA = Path(__file__).parents[2] / "data"
TOLERANCE = 1e-4
RETROFITTED = ("raven-llama-tiny", "raven-olmo-tiny")


def agree(ours, theirs):
    return np.abs(ours - theirs).max() <= TOLERANCE * np.abs(theirs).max()


class Family:
    """A tiny checkpoint of a family, what its published code answers, and our model of it."""

    def __init__(self, name, folder):
        self.checkpoint = DATA / name
        with np.load(self.checkpoint / "expected.npz") as arrays:
            self.expected = {key: arrays[key] for key in arrays.files}
        self.ids = self.expected["input_ids"][0].tolist()
        self.bundle = export_checkpoint(self.checkpoint, folder / name)
        self.model = rdlite.load(self.bundle, threads=1)


@pytest.fixture(scope="module", params=RETROFITTED)
def retrofitted(request, tmp_path_factory):
    return Family(request.param, tmp_path_factory.mktemp("family"))


@pytest.fixture(scope="module")
def ouro(tmp_path_factory):
    return Family("ouro-tiny", tmp_path_factory.mktemp("family"))


@pytest.fixture(scope="module", params=(*RETROFITTED, "ouro-tiny", "nanbeige-tiny"))
def family(request, tmp_path_factory):
    return Family(request.param, tmp_path_factory.mktemp("family"))


def in_chunks(model, ids, sizes, steps, initial_state):
    sequence, start = model.new_sequence(), start_at(model.config, initial_state)
    controller = Controller(Depth(steps), steps, model.config.vocab_size)
    rows, position = [], 0
    for size in sizes:
        for runner, taken, *_ in read(sequence, ids[position : position + size], controller, start):
            rows.append(runner.logits(taken, size).copy())
        position += size
    return np.concatenate(rows)


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_retrofitted_logits_and_states(retrofitted, steps):
    model, ids, expected = retrofitted.model, retrofitted.ids, retrofitted.expected
    assert agree(model.logits(ids, steps), expected[f"logits_zero_r{steps}"][0])
    states = expected["input_states"][0]
    assert agree(model.logits(ids, steps, states), expected[f"logits_state_r{steps}"][0])
    sequence = model.new_sequence()
    runner = sequence.begin(ids, steps)
    runner.states[0][0] = states
    for number in range(steps):
        runner.step(number)
    assert agree(runner.states[steps % 2], expected[f"states_r{steps}"])


def test_retrofitted_reading_in_chunks(retrofitted):
    ours = in_chunks(retrofitted.model, retrofitted.ids, (9, 1, 1, 4, 5), 4, "zeros")
    assert agree(ours, retrofitted.expected["cached_full_r4_chunks_9_1_1_4_5"][0])


def test_ouro_logits_states_and_gate(ouro):
    sequence = ouro.model.new_sequence()  # which holds the runner
    runner = sequence.begin(ouro.ids, 4)
    start_at(ouro.model.config, "random")(runner, 0)
    for step in range(4):
        runner.step(step)
        assert agree(runner.states[(step + 1) % 2][0], ouro.expected["states"][step])
        assert agree(runner.exit_probability[0], ouro.expected["gate"][step])
        logits = runner.logits(step + 1, len(ouro.ids))
        assert agree(logits, ouro.expected[f"logits_steps{step + 1}"][0])
        assert agree(ouro.model.logits(ouro.ids, step + 1), logits)  # from its own start
    assert agree(ouro.model.logits(ouro.ids), ouro.expected["logits_steps4"][0])


def test_ouro_reading_in_chunks_and_greedy_ids(ouro):
    ours = in_chunks(ouro.model, ouro.ids, (9, 1, 1, 4, 5), 4, "random")
    assert agree(ours, ouro.expected["cached_chunks_9_1_1_4_5"][0])
    ids = ouro.expected["greedy_ids"][0].tolist()
    assert ouro.model.generate(ids[:8], len(ids) - 8).ids == ids[8:]


@pytest.mark.parametrize("threshold", ["0.3", "0.5", "0.7", "0.9", "1"])
def test_the_gate_stops_where_the_published_code_selects(ouro, threshold):
    """It selects for each position among all loops; with the steps it selects come its logits."""
    rule = make_rule("gate", float(threshold), 0)
    sequence = ouro.model.new_sequence()  # which holds the runner
    runner = sequence.begin(ouro.ids, 4)
    start_at(ouro.model.config, "random")(runner, 0)
    rule.start(0, len(ouro.ids))
    steps = np.full(len(ouro.ids), 4)
    for step in range(3):
        runner.step(step)
        content = rule.is_met(rule.measure(runner, step + 1, 0))
        steps[content & (steps == 4)] = step + 1
    assert steps.tolist() == ouro.expected[f"select_steps_q{threshold}"].tolist()
    selected = ouro.expected[f"logits_select_q{threshold}"][0]
    for row, depth in enumerate(steps):
        assert agree(ouro.expected[f"logits_steps{depth}"][0, row], selected[row])


def test_where_all_positions_agree_the_logits_are_the_selected_ones(ouro):
    """With q = 1 all go to the end; with a q under every first word of the gate, none goes on."""
    for threshold, depth in ((1.0, 4), (0.1, 1)):
        controller = ouro.model.plan(1, Depth(exit="gate", threshold=threshold), None, 0, ())
        sequence = ouro.model.new_sequence()  # which holds the runner
        runner = sequence.begin(ouro.ids, 4)
        start_at(ouro.model.config, "random")(runner, 0)
        assert controller.controller.run_steps(runner) == depth
        assert agree(runner.logits(depth, len(ouro.ids)), ouro.expected[f"logits_steps{depth}"][0])


@pytest.mark.parametrize("threshold", ["0.3", "0.5", "0.7", "0.9"])
def test_a_token_alone_stops_and_computes_no_more(ouro, threshold):
    """One position sees only itself, so what it says is what the published code selects."""
    first = ouro.ids[0]
    depth = Depth(exit="gate", threshold=float(threshold))
    token = next(iter(ouro.model.generate([first], 1, depth)))
    steps = int(ouro.expected[f"select_steps_q{threshold}"][0])
    assert token.steps == steps
    assert token.exit_value is not None
    if steps < 4:
        assert token.exit_value >= float(threshold)
    logits = ouro.expected[f"logits_select_q{threshold}"][0, :1]
    assert token.id == logits.argmax()
    assert np.isclose(token.logprob, log_softmax(logits).max(), atol=1e-4)


def test_the_gate_sees_every_step_wherever_it_is_asked(ouro):
    """What it said before the first question counts."""
    ids, last = ouro.ids, len(ouro.ids) - 1
    leaving = ouro.expected["gate"][:, last]
    wanted = 1 - np.cumprod(1 - leaving)
    for options in ({"min_steps": 3}, {"min_steps": 1, "check_every": 2}):
        depth = Depth(exit="gate", threshold=float(wanted[2]) - 1e-4, prompt="each", **options)
        chunks = [*read_once(ouro.model, ids, depth)]
        assert chunks[-1].steps == 3
        assert np.isclose(chunks[-1].value, wanted[2], atol=1e-4)


def read_once(model, ids, depth):
    controller = model.plan(1, depth, None, 0, ()).controller
    sequence = model.new_sequence()
    full = Controller(Depth(4), 4, model.config.vocab_size)
    start = start_at(model.config, "random")
    for _ in read(sequence, ids[:-1], full, start):
        pass  # as the published code does, all loops for what comes before
    yield from read(sequence, ids[-1:], controller, start)


@pytest.mark.parametrize("speculate", [(3, 1), (2, 2), "auto"])
def test_speculation_with_the_gate_changes_nothing(ouro, speculate):
    depth = Depth(exit="gate", threshold=0.7)
    plain = [(t.id, t.steps) for t in ouro.model.generate(ouro.ids[:5], 40, depth)]
    ours = [
        (t.id, t.steps) for t in ouro.model.generate(ouro.ids[:5], 40, depth, speculate=speculate)
    ]
    assert ours == plain
    assert 1 < np.mean([steps for _, steps in plain]) < 4


def test_a_published_threshold_is_the_default(tmp_path):
    checkpoint = shutil.copytree(DATA / "ouro-tiny", tmp_path / "ck")
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(config | {"early_exit_threshold": 0.5}))
    with rdlite.load(export_checkpoint(checkpoint, tmp_path / "out")) as model:
        assert model.default_depth == Depth(exit="gate", threshold=0.5)


def test_a_threshold_that_stops_nothing_is_no_default(ouro):
    assert ouro.model.default_depth == Depth()
    assert RULES["gate"].default < 1


def test_more_loops_than_it_was_made_for_are_refused_unless_forced(ouro):
    for ask in (
        lambda: ouro.model.logits(ouro.ids, 5),
        lambda: ouro.model.logits_by_depth(ouro.ids, [4, 5]),
        lambda: ouro.model.generate(ouro.ids, 1, Depth(5)),
    ):
        with pytest.raises(InputError, match=r"5 steps .* made for 4 at most.*--force-steps"):
            ask()
    with pytest.warns(DepthWarning, match="made for 4 steps at most"):
        forced = rdlite.load(ouro.bundle, force_steps=True)
    with forced:
        assert forced.logits(ouro.ids, 5).shape == (len(ouro.ids), ouro.model.config.vocab_size)
        assert agree(forced.logits(ouro.ids), ouro.model.logits(ouro.ids))


def test_a_model_without_a_gate_says_so(retrofitted):
    with pytest.raises(InputError, match="exit gate needs a model with an exit gate, as Ouro"):
        retrofitted.model.generate([1], 1, Depth(exit="gate"))


@pytest.mark.parametrize("scheme", [name for name in SCHEMES if name not in CALIBRATED])
def test_quantized_families_run(family, scheme, tmp_path):
    out = quantize_bundle(
        family.bundle, tmp_path / scheme, find_scheme(scheme, Options(block_size=16))
    )
    quantized = open_bundle(out).manifest.quantization.bits
    assert not [name for name in quantized if "gate.weight" in name]
    with rdlite.load(out) as model:
        ours, exact = (log_softmax(each.logits(family.ids)) for each in (model, family.model))
        divergence = (np.exp(exact) * (exact - ours)).sum(axis=1).mean()
        assert 0 < divergence < (0.01 if scheme == "int8" else 0.5)
        assert len(model.generate(family.ids[:4], 8).ids) == 8


def test_families_export_with_weights_in_bfloat16_and_shards(family, tmp_path):
    import ml_dtypes

    checkpoint = shutil.copytree(family.checkpoint, tmp_path / "ck")
    tensors = load_file(checkpoint / "model.safetensors")
    (checkpoint / "model.safetensors").unlink()
    halves = {name: tensor.astype(ml_dtypes.bfloat16) for name, tensor in tensors.items()}
    names, weight_map = sorted(halves), {}
    for i in range(2):
        file = f"model-{i + 1:05}-of-00002.safetensors"
        save_file({name: halves[name] for name in names[i::2]}, checkpoint / file)
        weight_map |= dict.fromkeys(names[i::2], file)
    index = {"metadata": {}, "weight_map": weight_map}
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))
    with rdlite.load(export_checkpoint(checkpoint, tmp_path / "out")) as model:
        ours, exact = model.logits(family.ids), family.model.logits(family.ids)
        assert 0 < np.abs(ours - exact).max() < 0.1 * np.abs(exact).max()


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("ouro-tiny", {"model_type": "oro"}, "did you mean 'ouro'? docs/families.md"),
        ("ouro-tiny", {"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ("ouro-tiny", {"use_sliding_window": True}, "use_sliding_window is True"),
        ("ouro-tiny", {"layer_types": ["sliding_attention"] * 3}, "layer_types is"),
        ("ouro-tiny", {"rope_scaling": {"rope_type": "yarn", "factor": 2}}, "rope_type is 'yarn'"),
        ("ouro-tiny", {"early_exit_step": 2}, "early_exit_step (2) is not understood"),
        ("ouro-tiny", {"early_exit_threshold": 1.5}, "exit_threshold must lie between 0 and 1"),
        ("raven-llama-tiny", {"initial_state_mode": "skip-adapter"}, "initial_state_mode is"),
        ("raven-llama-tiny", {"qk_bias": True}, "qk_bias is True"),
        (
            "raven-llama-tiny",
            {"rope_scaling": {"rope_type": "llama3", "factor": 2.0}},
            "lacks 'rope_scaling.low_freq_factor'",
        ),
        ("raven-olmo-tiny", {"test_time_noise": 1}, "test_time_noise is 1"),
    ],
)
def test_what_a_family_does_not_compute_is_refused(name, changes, words, tmp_path):
    checkpoint = shutil.copytree(DATA / name, tmp_path / "ck")
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(FamilyError) as caught:
        export_checkpoint(checkpoint, tmp_path / "out")
    assert words in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_mixture_of_two_families_is_refused(tmp_path):
    checkpoint = shutil.copytree(DATA / "raven-olmo-tiny", tmp_path / "ck")
    tensors = load_file(checkpoint / "model.safetensors")
    tensors["transformer.coda.0.norm_3.weight"] = np.ones(64, np.float32)
    save_file(tensors, checkpoint / "model.safetensors")
    with pytest.raises(FamilyError, match=r"mixes tensors of two families: recurrent-olmo .* and "):
        export_checkpoint(checkpoint, tmp_path / "out")


def by_hand(model, ids, count, steps):
    """Decode greedily with a slot for each step, where a past position's last entry is in all."""
    sequence, start = model.new_sequence(), start_at(model.config, "random")
    said, fresh = [], ids
    while len(said) < count:
        runner = sequence.begin(fresh, steps)
        start(runner, sequence.length)
        for step in range(steps):
            runner.step(step)
        said.append(int(runner.logits(steps)[-1].argmax()))
        sequence.commit(runner.size)
        slots, end = sequence.steps_cache.slots, sequence.length
        for slot in slots[:-1]:
            slot.data[..., :end, :] = slots[-1].data[..., :end, :]
        fresh = [said[-1]]
    return said


def test_the_last_cache_keeps_all_loops_of_a_prompt_and_then_the_last(family):
    steps, prompt = family.model.config.recurrence.max_steps or 4, family.ids[:9]
    with rdlite.load(family.bundle, cache=Cache("last")) as model:
        assert model.generate(prompt, 12, Depth(steps)).ids == by_hand(
            family.model, prompt, 12, steps
        )
        # A prompt is read like with a slot for each step, also where a sequence serves again.
        assert agree(model.logits(family.ids, steps), family.model.logits(family.ids, steps))


def test_the_last_cache_is_a_fraction_while_decoding(ouro):
    held = {}
    for cache in (Cache(), Cache("last")):
        with rdlite.load(ouro.bundle, cache=cache) as model:
            sequence, plan = model.new_sequence(), model.plan(4, None, None, 0, ())
            assert len([*generate_tokens(sequence, ouro.ids, plan)]) == 4
            held[cache.share] = sequence.cache_bytes
            sequence.truncate(0)
            assert not sequence.steps_cache.gathered
    assert held["last"] == held[None] / 4


def test_correction_needs_a_norm_at_the_end_of_a_step(retrofitted, tmp_path):
    with pytest.raises(InputError, match="int4-corrected scales the norm that ends a core step"):
        quantize_bundle(retrofitted.bundle, tmp_path / "out", "int4-corrected")


@pytest.fixture(scope="module")
def speaking(family, tmp_path_factory):
    """The family's checkpoint with a tokenizer of bytes and a chat template, and a text."""
    folder = tmp_path_factory.mktemp("speaking")
    checkpoint = shutil.copytree(family.checkpoint, folder / "checkpoint")
    write_text_files(checkpoint, byte_tokenizer())
    text = folder / "text.txt"
    text.write_text("The quick brown fox jumps over the lazy dog. " * 12)
    return checkpoint, text


def run(*arguments, **options):
    result = CliRunner().invoke(main, [str(a) for a in arguments], **options)
    assert result.exit_code == 0, (arguments, result.output)
    return result.stdout


@pytest.mark.parametrize("scheme", ["int8-gptq", "int4-gptq", "int4-mixed"])
def test_calibrated_schemes_take_every_family(family, speaking, scheme, tmp_path):
    checkpoint, text = speaking
    arguments = ["--scheme", scheme, "--calibration", text, "--steps", 2, "--threads", 1]
    run("quantize", checkpoint, "-o", tmp_path / "out", *arguments)
    with rdlite.load(tmp_path / "out") as model:
        assert len(model.generate("fox", 4).ids) == 4


def test_reports_go_no_deeper_than_a_model_was_made_for(ouro, tmp_path):
    checkpoint = shutil.copytree(ouro.checkpoint, tmp_path / "checkpoint")
    write_text_files(checkpoint, byte_tokenizer())
    text, report = tmp_path / "text.txt", tmp_path / "report.md"
    text.write_text("The quick brown fox jumps over the lazy dog. ")
    run("quantize", checkpoint, "-o", tmp_path / "out", "--report", report, "--text", text)
    assert json.loads(report.with_suffix(".json").read_text())["depths"] == [1, 2, 3, 4]


def test_every_command_takes_every_family(family, speaking, tmp_path):
    checkpoint, text = speaking
    bundle, file = tmp_path / "bundle", tmp_path / "model.gguf"
    run("export", checkpoint, "-o", bundle, "--quant", "int8")
    run("tune", bundle, "--text", text, "--count", 2, "--loss", 50)
    depth = rdlite.load(bundle).default_depth
    assert depth.exit is not None
    run("gguf", "export", bundle, "-o", file)
    for model in (bundle, file):
        run("verify", model)
        assert family.model.config.family in run("inspect", model)
        run("eval", model, "--text", text, "--steps", "1,2")
        run("bench", model, "--prompt-tokens", 8, "--new-tokens", 4, "--repeats", 1)
        for more in ((), ("--speculate", "auto", "--cache-bits", 8), ("--cache-share", "last")):
            said = run("generate", model, "fox", "--max-tokens", 6, "--json", *more).splitlines()
            assert json.loads(said[-1])["stats"]["new_tokens"] == len(said) - 1
        traced = json.loads(run("trace", model, "fox", "--max-tokens", 6, "--json"))
        plain = run("generate", model, "fox", "--max-tokens", 6, "--json").splitlines()[:-1]
        assert [(each["id"], each["steps"]) for each in traced["tokens"]] == [
            (each["id"], each["steps"]) for each in map(json.loads, plain)
        ]
        run("chat", model, "--max-tokens", 4, input="hello\n")
    both = [rdlite.load(model) for model in (bundle, file)]
    first, second = ([(t.id, t.steps) for t in each.generate("fox", 12)] for each in both)
    assert first == second
