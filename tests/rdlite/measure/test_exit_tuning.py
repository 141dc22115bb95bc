"""Tuning: thresholds from a trace, a default that holds, and a manifest that says it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import rdlite
from rdlite import BundleError, Depth, InputError, OutputError
from rdlite.bundle.update import update_bundle
from rdlite.cli.main import main
from rdlite.config.exit_defaults import RULE_NAMES, CurvePoint, ExitDefaults
from rdlite.config.exit_rules import RULES
from rdlite.exit.registry import make_rule
from rdlite.loader import find_model, open_bundle
from rdlite.measure.answers import held_out_problems
from rdlite.measure.exit_record import (
    MOST_SCORED,
    Sample,
    Trace,
    problem_samples,
    record,
    text_samples,
)
from rdlite.measure.exit_tuning import Curve, Point, choose, cost, curve, exits, settle


@pytest.fixture
def nano_copy(tmp_path):
    """A nano that may be changed."""
    return Path(shutil.copytree(find_model("nano"), tmp_path / "nano"))


@pytest.fixture(scope="module")
def trace(nano):
    return record(nano, problem_samples(nano, 1, seed=3)[::3], 24)


def test_rules_are_those_that_a_manifest_knows():
    assert tuple(RULES) == RULE_NAMES


def test_exits_are_those_of_the_rules():
    values = np.array([[9, 1, 9, 1, 1, 1], [9, 9, 9, 9, 9, 9], [1, 1, 1, 1, 1, 1]], np.float32)
    assert exits(make_rule("latent-diff", 2, 1), values).tolist() == [2, 6, 1]
    assert exits(make_rule("acceleration", 2, 1), values).tolist() == [5, 6, 2]
    assert exits(make_rule("argmax-stability", 2, 1), values).tolist() == [1, 1, 6]


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule != "gate"])
def test_a_trace_holds_what_the_controller_sees(nano, trace, rule):
    """A text of one token leaves where its trace says that it would."""
    values = record(nano, [Sample([77], 1)], 24).values[rule]
    seen = np.unique(values[np.isfinite(values) & (values > 0)])
    for low, high in zip(seen[2::3], seen[3::3], strict=False):
        threshold = (float(low) + float(high)) / 2
        depth = Depth(24, exit=rule, threshold=threshold)
        token = next(iter(nano.generate([77], 1, depth)))
        assert token.steps == exits(make_rule(rule, threshold, 1), values)[0]


@pytest.mark.parametrize("rule", ["latent-diff", "cosine", "kl", "argmax-stability"])
def test_curves_go_from_strict_to_loose(trace, rule):
    found = curve(trace, rule, 0.02)
    steps = [point.steps for point in found.points]
    assert steps == sorted(steps, reverse=True)
    assert steps[0] > 2 * steps[-1]
    assert found.chosen is not None
    assert found.chosen.agreement >= 0.98
    assert found.chosen.steps < 24


def test_more_loss_allows_fewer_steps(trace):
    strict, loose = (curve(trace, "latent-diff", loss).chosen for loss in (0, 0.2))
    assert strict.agreement == 1
    assert loose.steps < strict.steps
    assert loose.threshold > strict.threshold


def test_an_answer_counts_once_however_many_of_its_tokens_differ():
    tops = np.array([[9, 1, 2], [9, 1, 2], [9, 2, 2], [9, 2, 2]])
    values = {"latent-diff": np.array([[0.5, 0.1, 0.05]] * 4, np.float32)}
    for answers, agreement in (
        ([0, 0, 1, 1], 0.5),
        ([0, 1, 2, 3], 0.5),
        ([0, 0, 0, 1], 0.5),
        ([0, 1, 1, 2], 1 / 3),
    ):
        point = curve(Trace(values, tops, np.array(answers)), "latent-diff", 1).points[-1]
        assert point.agreement == pytest.approx(agreement)
        assert point.steps == 2


def test_decoding_rules_pay_for_their_looks(trace):
    point = curve(trace, "kl", 0.02).chosen
    assert point.looks == pytest.approx(point.steps - 1)
    assert curve(trace, "gated-kl", 0.02).chosen.looks < point.looks
    assert curve(trace, "cosine", 0.02).chosen.looks == 0
    sizes = {"core": 100, "coda": 40, "head": 1, "embedding": 60}
    assert cost(sizes, Point(1, 10, 9, 1)) == 10 + 9
    assert cost(sizes, Point(1, 10, 0, 1)) == 10


def test_the_cheapest_rule_is_chosen():
    sizes = {"core": 100, "coda": 40, "head": 1, "embedding": 60}
    curves = [Curve("kl", (), Point(1, 5, 4, 1)), Curve("cosine", (), Point(1, 8, 0, 1))]
    assert choose(curves, sizes).rule == "cosine"
    close = [Curve("latent-diff", (), Point(1, 8.1, 0, 1)), *curves]
    assert choose(close, sizes).rule == "latent-diff"  # as good, and cheaper to ask
    with pytest.raises(InputError, match="no rule keeps the loss"):
        choose([Curve("kl", (), None)], sizes)


def test_a_threshold_that_does_not_hold_in_answers_is_made_stricter(nano):
    samples = problem_samples(nano, 1, seed=3)[::4]
    points = tuple(Point(threshold, 1, 0, 1) for threshold in (0.001, 0.01, 0.05, 9))
    found, agreement = settle(nano, samples, Curve("latent-diff", points, points[-1]), 24, 0.02)
    assert found.chosen in points[:-1]
    assert agreement >= 0.98
    none, _ = settle(nano, samples, Curve("latent-diff", points[-1:], points[-1]), 24, 0.02)
    assert none.chosen is None


def test_samples(nano):
    for sample in problem_samples(nano, 1):
        assert 1 < sample.scored <= MOST_SCORED
        assert sample.prompt + sample.scored - 1 == len(sample.ids)
    assert text_samples([[1, 2, 3, 4], [1] * 400]) == [
        *text_samples([[1, 2, 3, 4]]),
        *text_samples([[1] * 400]),
    ]
    assert [s.scored for s in text_samples([[1, 2, 3, 4], [1] * 400])] == [2, MOST_SCORED]


def test_tune_makes_it_the_default(nano_copy, tmp_path):
    picture = tmp_path / "tune.svg"
    result = CliRunner().invoke(
        main,
        [
            "tune",
            str(nano_copy),
            "--threads",
            "1",
            "--count",
            "1",
            "--json",
            "--plot",
            str(picture),
        ],
    )
    assert result.exit_code == 0, result.output
    report = json.loads(result.output)
    assert report["full_steps"] == 32
    assert "<svg" in picture.read_text()
    chosen = report["rules"][report["default"]]
    assert chosen["steps"] < 16
    with rdlite.load(nano_copy, cache=rdlite.Cache(bits=8)) as model:
        wanted = Depth(32, exit=report["default"], threshold=chosen["threshold"])
        assert model.default_depth == wanted
        assert model.chat().depth == wanted
        said = model.generate([1, 2, 3], 4)
        assert said.ids == model.generate([1, 2, 3], 4, wanted).ids
        # another rule finds its threshold too; a given one stands
        for rule, found in report["rules"].items():
            if found:
                told = Depth(32, exit=rule, threshold=found["threshold"])
                a, b = (model.generate([5, 6], 3, d) for d in (Depth(32, exit=rule), told))
                assert [t.exit_value for t in a] == [t.exit_value for t in b]


def test_nano_itself_is_never_changed(monkeypatch, tmp_path):
    monkeypatch.setenv("RDLITE_HOME", str(tmp_path / "home"))

    def run(*words):
        return CliRunner().invoke(main, words)

    shipped = find_model("nano")
    before = {file.name: file.read_bytes() for file in shipped.iterdir()}
    missing = run("inspect", "nano:tuned")
    assert (missing.exit_code, missing.stderr.count("\n")) == (2, 1)
    assert "'rdlite tune nano' makes it" in missing.stderr
    text = tmp_path / "text"
    text.write_text("What is 48 + 76? " * 40)
    for steps in ("6", "5"):  # the second copy takes the place of the first
        few = f"--text {text} --threads 1 --count 4 --loss 50 --steps {steps}"
        result = run("tune", *few.split())
        assert result.exit_code == 0, result.output
        place = tmp_path / "home/models/nano/main/tuned"
        assert f"a tuned copy is in\n{place}." in result.output
    assert {file.name: file.read_bytes() for file in shipped.iterdir()} == before
    assert open_bundle(place).manifest.exit.steps == 5
    assert {path.name for path in place.parent.iterdir()} == {"tuned", "tuned.record.json"}
    with rdlite.load() as model:
        assert model.default_depth.max_steps != 5
    answer = run("generate", "nano:tuned", "Hi", "--max-tokens", "1", "--json")
    assert json.loads(answer.output.splitlines()[0])["steps"] <= 5
    assert "nano:tuned" in run("models").output
    run("models", "rm", "nano:tuned")
    assert not place.exists()
    with pytest.raises(OutputError, match="comes with rdlite, which is never changed"):
        update_bundle(open_bundle("nano"), {"name": "mine"}, {})


def test_the_tuned_default_halves_the_steps_and_keeps_the_answers(nano):
    problems = held_out_problems(2, seed=11)
    full = right = steps = tokens = 0
    for problem in problems:
        prompt = nano.encode_chat([{"role": "user", "content": problem.question}])
        plain, tuned = nano.generate(prompt, 24, Depth(32)), nano.generate(prompt, 24)
        full += plain.text == problem.answer
        right += tuned.text == problem.answer
        steps, tokens = steps + tuned.stats.core_steps, tokens + tuned.stats.new_tokens
    assert steps / tokens < 16
    assert right >= full - 0.01 * len(problems)


def test_a_dry_run_changes_nothing(nano_copy):
    before = {file.name: file.read_bytes() for file in nano_copy.iterdir()}
    result = CliRunner().invoke(
        main, ["tune", str(nano_copy), *"--threads 1 --count 1 --steps 12 --dry-run".split()]
    )
    assert "Nothing was written" in result.output
    assert {file.name: file.read_bytes() for file in nano_copy.iterdir()} == before


def test_tune_on_a_text(text_bundle, tmp_path):
    bundle = shutil.copytree(text_bundle, tmp_path / "bundle")
    text = tmp_path / "text.txt"
    text.write_text("The quick brown fox jumps over the lazy dog. " * 4)
    tune = ["tune", str(bundle), "--text", str(text)]
    result = CliRunner().invoke(main, [*tune, "--loss", "20"])
    assert result.exit_code == 0, result.output
    tuned = open_bundle(bundle).manifest.exit
    assert tuned.measured_on == "text.txt"
    assert 1 < len(tuned.curve) <= 64
    assert tuned.threshold_for(1 - tuned.loss) == tuned.thresholds[tuned.rule]
    arguments = ["--count", "1", "--steps", "2", "--loss", "50", "--dry-run", "--json"]
    result = CliRunner().invoke(main, [*tune, *arguments])
    assert json.loads(result.stdout)["samples"] == 1  # of three windows
    text.write_text("T")
    result = CliRunner().invoke(main, ["tune", str(bundle), "--text", str(text)])
    assert result.exit_code == 2
    assert "at least 2 are needed" in result.stderr
    (bundle / ".update").touch()  # in the way of any change; found before any work
    result = CliRunner().invoke(main, ["tune", str(bundle), "--text", str(text)])
    assert result.exit_code == 2
    assert "cannot write" in result.stderr


def test_a_curve_says_which_threshold_keeps_so_many_answers():
    shares = ((0.1, 9, 1), (0.2, 7, 0.97), (0.3, 5, 0.8), (0.4, 3, 0.95))
    curve = tuple(CurvePoint(*point) for point in shares)
    tuned = ExitDefaults("latent-diff", 8, {"latent-diff": 0.2}, 0.05, "x", curve)
    wanted = {1: 0.1, 0.9: 0.2, 0.8: 0.4, 0.1: 0.4}
    assert {share: tuned.threshold_for(share) for share in wanted} == wanted
    assert ExitDefaults("kl", 8, {"kl": 0.2}, 0.05, "x").threshold_for(0) is None


def test_a_loss_that_is_no_number_is_refused(text_bundle):
    result = CliRunner().invoke(main, ["tune", str(text_bundle), "--loss", "nan", "--dry-run"])
    assert result.exit_code == 2
    assert "--loss must be a number from 0 to 50, got nan" in result.stderr


@pytest.mark.parametrize(
    "change",
    [
        {"rule": "luck"},
        {"steps": 0},
        {"thresholds": {"latent-diff": -1}},
        {"thresholds": {"kl": 0.1}},
        {"thresholds": {"latent-diff": 0.1, "luck": 1}},
        {"loss": 2},
        {"measured_on": "a\nb"},
        {"curve": (CurvePoint(0.1, 2, 0.5),) * 65},
        {"curve": (CurvePoint(0.1, 0.5, 0.5),)},
        {"curve": (CurvePoint(0.1, 2, 1.5),)},
        {"curve": (CurvePoint(0.1, 2, 1), CurvePoint(0.2, 3, 1))},
    ],
)
def test_a_manifest_says_nothing_impossible(change):
    fine = {"rule": "latent-diff", "steps": 8, "thresholds": {"latent-diff": 0.1}, "loss": 0.01}
    ExitDefaults(**fine, measured_on="x")
    with pytest.raises(BundleError, match="exit: "):
        ExitDefaults(**{**fine, "measured_on": "x", **change})
