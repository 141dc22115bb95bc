"""Schemes that run the model: what they gather is what the loop computes, and it pays."""

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
from itertools import chain

import numpy as np
import pytest
from click.testing import CliRunner
from rdlite.export.exporter import write_bundle
from rdlite.export.read import read_model
from rdlite.quant import Options, find_scheme, quantize_bundle
from rdlite.quant import state_correction as corrected
from rdlite.quant.gptq import factor_moments, quantize_rows
from rdlite.quant.gptq_scheme import FactorFolder
from rdlite.quant.hessians import second_moments
from rdlite.quant.hqq import HalfQuadratic
from rdlite.quant.mixed_precision import spend
from rdlite.quant.report import check_measurable
from rdlite.quant.rounding import Rounding
from rdlite.quant.state_correction import fit_factors
from rdlite.quant.state_errors import state_errors

import rdlite
from rdlite import InputError, OutputError
from rdlite.cli.main import main
from rdlite.config.quantization import Quantization
from rdlite.graphs.packing import dequantize
from rdlite.loader import open_bundle
from rdlite.measure.answers import encode_problem, held_out_problems
from rdlite.measure.divergence import divergence
from rdlite.measure.tasks import TASKS, draw
from rdlite.measure.texts import windows
from rdlite.ort.initial_state import start_at


def correlated(columns, seed=0):
    """Inputs whose columns have much to do with each other, and a weight for them."""
    rng = np.random.default_rng(seed)
    mix = rng.standard_normal((columns, columns)) * np.exp(-np.arange(columns) / 30)[:, None]
    inputs = (rng.standard_normal((2000, columns)) @ mix).astype(np.float32)
    return inputs, rng.standard_normal((40, columns)).astype(np.float32)


def off(inputs, weight, codes, scales):
    wrong = inputs @ (dequantize(codes, scales, weight.shape[1]) - weight).T
    return np.linalg.norm(wrong) / np.linalg.norm(inputs @ weight.T)


@pytest.fixture(scope="module")
def practice(tmp_path_factory):
    """A text of problems with their answers, as nano knows them."""
    rng, lines = random.Random(0), []
    for name in [*TASKS] * 3:
        problem = draw(rng, name, 2, held_out=False)
        lines.append(f"{problem.question}\n{problem.answer}\n")
    path = tmp_path_factory.mktemp("text") / "practice.txt"
    path.write_text("".join(lines))
    return path


@pytest.mark.parametrize("columns", [160, 150])
@pytest.mark.parametrize("bits", [4, 8])
def test_gptq_makes_up_for_what_rounding_loses(columns, bits):
    inputs, weight = correlated(columns)
    factor = factor_moments(inputs.T @ inputs / len(inputs), 32)
    ours = off(inputs, weight, *quantize_rows(weight, factor, bits, 32))
    rounded = off(inputs, weight, *Rounding().quantize("", weight, bits, 32))
    assert ours < 0.6 * rounded


@pytest.mark.parametrize("bits", [4, 8])
def test_gptq_of_unrelated_inputs_rounds_to_the_nearest(bits):
    weight = correlated(64)[1]
    inputs = np.eye(64, dtype=np.float32)
    codes, scales = quantize_rows(weight, factor_moments(inputs.copy(), 32), bits, 32)
    top = 2 ** (bits - 1)
    nearest = np.rint(weight.reshape(-1, 2, 32) / scales.astype(np.float32)[..., None])
    assert (codes == np.clip(nearest, -top, top - 1)).mean() > 0.99
    rounded = off(inputs, weight, *Rounding().quantize("", weight, bits, 32))
    assert off(inputs, weight, codes, scales) < 1.01 * rounded


def test_wide_columns_of_a_block_come_first():
    moments = np.diag(np.arange(1, 81, dtype=np.float32))
    order = factor_moments(moments, 32).order
    assert order.tolist() == [*range(31, -1, -1), *range(63, 31, -1), *range(79, 63, -1)]


def test_what_the_inputs_see_decides_the_scale_of_a_block():
    """One large weight on an input that hardly comes would widen the steps of all others."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((8, 128)).astype(np.float32)
    weight[:, 3] = 40
    inputs = rng.standard_normal((2000, 128)).astype(np.float32)
    inputs[:, 3] *= 0.001
    factor = factor_moments(inputs.T @ inputs / len(inputs), 128)
    ours = off(inputs, weight, *quantize_rows(weight, factor, 4, 128))
    assert ours < 0.8 * off(inputs, weight, *Rounding().quantize("", weight, 4, 128))


def test_rows_of_zeros_stay_zero():
    inputs, weight = correlated(64)
    weight[3] = 0
    factor = factor_moments(inputs.T @ inputs, 32)
    codes, scales = quantize_rows(weight, factor, 4, 32)
    assert not dequantize(codes, scales, 64)[3].any()


def test_gptq_of_a_row_depends_on_no_other():
    inputs, weight = correlated(96)
    factor = factor_moments(inputs.T @ inputs, 32)
    codes, scales = quantize_rows(weight, factor, 4, 32)
    alone, scale = quantize_rows(weight[7:8], factor, 4, 32)
    assert (alone[0] == codes[7]).all()
    assert (scale[0] == scales[7]).all()


def test_inputs_that_never_come_do_no_harm():
    inputs, weight = correlated(64)
    inputs[:, 5] = 0
    codes, scales = quantize_rows(weight, factor_moments(inputs.T @ inputs, 32), 4, 32)
    assert np.isfinite(dequantize(codes, scales, 64)).all()
    assert off(inputs, weight, codes, scales) < 0.1
    # Nor does it matter in what unit the others come.
    small, same = quantize_rows(weight, factor_moments(inputs.T @ inputs / 2**20, 32), 4, 32)
    assert (small == codes).all()
    assert (same == scales).all()


def test_moments_that_rounding_left_indefinite_are_damped_until_they_can_be_inverted():
    inputs, weight = correlated(64)
    moments = inputs.T @ inputs
    moments -= 0.05 * np.diag(moments).mean() * np.eye(64, dtype=np.float32)
    assert np.linalg.eigvalsh(moments).min() < 0
    codes, scales = quantize_rows(weight, factor_moments(moments, 32), 4, 32)
    assert off(inputs, weight, codes, scales) < off(
        inputs, weight, *Rounding().quantize("", weight, 4, 32)
    )


def test_a_model_that_overflows_cannot_be_calibrated(text_bundle, practice, tmp_path):
    original = read_model(text_bundle)
    norm = original.family.state_norm(original.config)
    factors = np.full(original.config.hidden_size, 1e38, np.float32)
    broken = dataclasses.replace(original, source=Scaled(original.source, norm, factors))
    options = Options(calibration=practice, steps=2, work=tmp_path)
    with pytest.raises(InputError, match=r"what \S+ is applied to is not finite"):
        find_scheme("int4-gptq", options).prepare(broken)


def test_hqq_leaves_outliers_to_get_the_others_right():
    rows = np.random.default_rng(0).standard_t(3, (50, 320)).astype(np.float32)

    def typical(quantizer):
        codes, scales = quantizer.quantize("", rows, 4, 32)
        return (np.abs(dequantize(codes, scales, 320) - rows) ** 0.7).mean()

    assert typical(HalfQuadratic()) < 0.99 * typical(Rounding())


def test_moments_are_those_of_the_loop(text_bundle):
    """The adapter's inputs, gathered by hand: state and embeds, at every step of every text."""
    bundle, steps = open_bundle(text_bundle), 3
    texts = [[5, 6, 7, 8], [9, 10]]
    rows = []
    with rdlite.load(text_bundle) as model:
        start = start_at(model.config, "random", 4)
        for ids in texts:
            sequence = model.new_sequence()
            runner = sequence.begin(ids, steps)
            start(runner, 0)
            for step in range(steps):
                rows.append(np.concatenate((runner.states[step % 2][0], runner.embeds[0]), axis=1))
                runner.step(step)
    inputs = np.concatenate(rows)
    name = "core.adapter.weight"
    found = second_moments(bundle, texts, steps, [name], seed=4)
    assert list(found) == [name]
    assert np.allclose(found[name], inputs.T @ inputs / len(inputs), rtol=1e-4, atol=1e-6)


def test_moments_of_every_matrix_and_any_number_of_threads(text_bundle):
    bundle = open_bundle(quantize_bundle(text_bundle, text_bundle.parent / "int8", "int8"))
    texts = [list(range(40))]
    names = [*bundle.manifest.quantization.bits]
    one, two = (second_moments(bundle, texts, 4, names, threads=n) for n in (1, 2))
    assert set(one) == set(names)
    assert one["core.1.mlp.down.weight"].shape == (96, 96)
    for name in names:
        assert (one[name] == two[name]).all(), name
        assert np.diag(one[name]).min() >= 0


@pytest.mark.parametrize("scheme", ["int8-gptq", "int4-gptq", "int4-mixed"])
def test_calibrated_schemes_halve_what_plain_rounding_costs(scheme, full_nano, practice, tmp_path):
    level = 1 if scheme == "int8-gptq" else 4  # rounding activations would hide what 8 bits cost
    options = Options(calibration=practice, steps=8, threads=1, accuracy_level=level)
    nano = rdlite.load(full_nano, threads=1)
    ids = nano.tokenizer.encode(practice.read_text())
    texts = list(windows(ids, 64, 1024))
    found = {}
    plain = find_scheme("int8" if level == 1 else "int4-plain", Options(accuracy_level=level))
    for name, chosen in (("plain", plain), ("ours", find_scheme(scheme, options))):
        with rdlite.load(quantize_bundle(full_nano, tmp_path / name, chosen), threads=1) as model:
            found[name] = divergence(model, nano, texts, [8, 32])
            errors = state_errors(model, nano, texts[:4], 32)
        assert errors[31] < 2 * errors[0]  # the loop does not add them up
    for plain, ours in zip(found["plain"], found["ours"], strict=True):
        assert ours.mean < 0.5 * plain.mean
    bits = open_bundle(tmp_path / "ours").manifest.quantization.bits
    expected = {"int8-gptq": {8}, "int4-gptq": {4}, "int4-mixed": {4, 8}}
    assert set(bits.values()) == expected[scheme]


class Scaled:
    """Weights of which one is multiplied by something."""

    def __init__(self, source, name, factors):
        self.source, self.name, self.factors = source, name, factors

    def pieces(self, name):
        for piece in self.source.pieces(name):
            yield piece * self.factors if name == self.name else piece


def test_factors_undo_what_a_state_was_multiplied_with(text_bundle, tmp_path):
    original = read_model(text_bundle)
    norm = original.family.state_norm(original.config)
    factors = np.linspace(0.5, 2, original.config.hidden_size, dtype=np.float32)
    scaled = dataclasses.replace(original, source=Scaled(original.source, norm, factors))
    with (
        rdlite.load(text_bundle) as model,
        rdlite.load(write_bundle(scaled, tmp_path / "scaled")) as changed,
    ):
        found = fit_factors(changed, model, [[1, 2, 3], [4, 5]], 1)
    assert np.allclose(found, 1 / factors, rtol=1e-4)


def test_a_corrected_model_is_the_rounded_one_with_a_norm_that_is_no_worse(full_nano, tmp_path):
    nano = rdlite.load(full_nano, threads=1)
    texts = [[*chain(*encode_problem(nano, each))] for each in held_out_problems(1)]
    options = Options(block_size=32, steps=8, threads=1)
    outs = [
        quantize_bundle(full_nano, tmp_path / scheme, chosen)
        for scheme, chosen in (
            ("int4", find_scheme("int4", Options(block_size=32))),
            ("int4-corrected", find_scheme("int4-corrected", options)),
        )
    ]
    found = []
    for out in outs:
        with rdlite.load(out, threads=1) as model:
            found.append(divergence(model, nano, texts, [32])[0].mean)
    plain, ours = found
    assert ours <= plain
    before, after = map(open_bundle, outs)
    sizes = [
        {n: f.bytes for n, f in b.manifest.files.items() if ".data" in n} for b in (before, after)
    ]
    assert sizes[0] == sizes[1]
    assert after.manifest.quantization.scheme == "int4-corrected"


def test_a_correction_that_does_not_help_is_left_out(text_bundle, practice, monkeypatch):
    def useless(model, *_):
        return np.full(model.config.hidden_size, 3, np.float32)

    monkeypatch.setattr(corrected, "fit_factors", useless)
    options = Options(calibration=practice, steps=2)
    storage = find_scheme("int4-corrected", options).prepare(read_model(text_bundle))
    assert storage.factors == {}


def test_the_same_seed_and_text_give_the_same_bundle(text_bundle, practice, tmp_path):
    outs = []
    for threads in (1, 2):
        options = Options(calibration=practice, steps=2, threads=threads, work=tmp_path)
        outs.append(
            quantize_bundle(text_bundle, tmp_path / f"{threads}", find_scheme("int4-gptq", options))
        )
    assert open_bundle(outs[0]).manifest.files == open_bundle(outs[1]).manifest.files
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]  # nothing is left


KILLED_QUANTIZE = """
import sys, time
from rdlite.cli.main import main
from rdlite.quant import gptq_scheme as calibrated
def stuck(*_):
    print("stuck", flush=True)
    time.sleep(600)
calibrated.factor_moments = stuck
main(sys.argv[1:])
"""


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGINT])
def test_what_a_killed_calibration_leaves_is_swept_up(kill, text_bundle, practice, tmp_path):
    out = tmp_path / "out"
    arguments = ["quantize", text_bundle, "-o", out, "--scheme", "int4-gptq", "--steps", "2"]
    arguments = [str(a) for a in [*arguments, "--calibration", practice]]
    command = [sys.executable, "-c", KILLED_QUANTIZE, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "stuck\n"
        process.send_signal(kill)
    assert [*tmp_path.iterdir()] if kill == signal.SIGKILL else not [*tmp_path.iterdir()]
    assert all(path.name.startswith(".out.work-") for path in tmp_path.iterdir())
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_output_that_cannot_be_written_is_refused_before_any_work(text_bundle, tmp_path):
    (tmp_path / "file").touch()
    arguments = ["quantize", text_bundle, "-o", tmp_path / "file" / "out", "--scheme", "int4-gptq"]
    result = CliRunner().invoke(
        main, [str(a) for a in [*arguments, "--calibration", tmp_path / "file"]]
    )
    assert result.exit_code == 2
    assert "cannot write" in result.stderr
    assert "Not a directory" in result.stderr


def test_factors_that_do_not_fit_on_the_disk_are_one_clear_error(text_bundle, practice, tmp_path):
    resource = pytest.importorskip("resource")
    options = Options(calibration=practice, steps=1)
    factors, plan = FactorFolder(tmp_path), Quantization("x", {"core.adapter.weight": 4})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OutputError, match=r"cannot write .*core.adapter.weight.npz: "):
            factors.gather(open_bundle(text_bundle), plan, options)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_the_budget_goes_where_the_harm_is():
    harm = {"small": 1.0, "large": 5.0, "harmless": 0.1}
    sizes = {"small": 10, "large": 100, "harmless": 10}
    assert spend(harm, sizes, 0) == set()
    assert spend(harm, sizes, 10 / 120) == {"small"}
    assert spend(harm, sizes, 20 / 120) == {"small", "harmless"}
    assert spend(harm, sizes, 110 / 120) == {"small", "large"}
    assert spend(harm, sizes, 1) == {"small", "large", "harmless"}


@pytest.mark.parametrize(
    ("scheme", "options", "words"),
    [
        ("int4-mixed", {"bits": 9}, "bits must lie between 4.31 and 8.31"),
        ("int4-mixed", {"bits": 4.2}, "bits must lie between 4.31 and 8.31"),
        ("int4", {"bits": 4.6}, "bits are for int4-mixed"),
        ("int8", {"steps": 4}, "steps means nothing to int8"),
        ("int4-gptq", {"steps": 0}, "steps must be a whole number from 1 to 1024, got 0"),
        ("int4-gptq", {"threads": 257}, "threads must be a whole number from 1 to 256, got 257"),
    ],
)
def test_options_that_do_not_fit_are_refused(scheme, options, words, text_bundle, practice):
    if scheme == "int4-mixed":
        options |= {"calibration": practice, "steps": 1}
    out = text_bundle.parent / "never"
    with pytest.raises(InputError, match=words):
        quantize_bundle(text_bundle, out, find_scheme(scheme, Options(**options)))
    assert not out.exists()


@pytest.mark.parametrize("text", ["", "a little"])
def test_short_calibration_texts_are_refused(text, text_bundle, tmp_path):
    path = tmp_path / "short.txt"
    path.write_text(text)
    with pytest.raises(InputError, match=r"has \d tokens; at least 256 are needed"):
        quantize_bundle(text_bundle, tmp_path / "out", "int4-gptq", path)
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="means nothing to int4"):
        quantize_bundle(text_bundle, tmp_path / "out", "int4", path)


def test_a_report_says_what_it_cost(text_checkpoint, practice, tmp_path):
    report = tmp_path / "report.md"
    arguments = ["quantize", text_checkpoint, "-o", tmp_path / "out", "--report", report]
    arguments += ["--text", practice, "--threads", 1]
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    found = json.loads(report.with_suffix(".json").read_text())
    assert found["scheme"] == "int4"
    assert found["depths"] == [1, 4, 8, 16, 32]
    assert len(found["state_errors"]) == 32
    assert set(found["sensitivity"]) >= {"embedding", "prelude", "core", "coda", "core.adapter"}
    # Float32 activations leave less of an error, and one part alone less than all of them.
    for column, both in enumerate(found["divergence"]):
        assert found["sensitivity"]["prelude"][column] < both["mean"]
    assert found["sizes"][0] < found["sizes"][1] / 4
    assert "| core.*.mlp.down |" in report.read_text()
    assert report.with_suffix(".png").read_bytes()[:4] == b"\x89PNG"


def test_reports_are_refused_before_any_work(bundle_copy, tmp_path):
    (tmp_path / "taken.json").mkdir()
    for name, words in (
        ("x.txt", "must end in .md"),
        ("no/x.md", "cannot write"),
        ("taken.md", "taken.json is a folder"),
        ("bundle/rdlite.md", "lies in"),  # rdlite.json would take the manifest's place
        ("out/x.md", "lies in"),
    ):
        arguments = [
            str(bundle_copy),
            "-o",
            str(tmp_path / "out"),
            "--report",
            str(tmp_path / name),
        ]
        result = CliRunner().invoke(main, ["quantize", *arguments])
        assert result.exit_code == 2
        assert words in result.stderr
        assert not (tmp_path / "out").exists()
    open_bundle(bundle_copy)
    original = read_model(bundle_copy)
    silent = dataclasses.replace(original, text_files={"tokenizer.json": b""})
    check_measurable(silent, tmp_path)
    with pytest.raises(InputError, match=r"needs a chat_template.jinja.*; give a text"):
        check_measurable(silent, None)
    with pytest.raises(InputError, match=r"needs a tokenizer.json, and \S+ has none$"):
        check_measurable(dataclasses.replace(original, text_files={}), tmp_path)
