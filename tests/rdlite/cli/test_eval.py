"""`rdlite eval`: its three measures, its table, JSON and picture, and what it refuses."""

import json
import re

import pytest
from click.testing import CliRunner
from rdlite.export import export_checkpoint
from rdlite.export.random_checkpoint import write_random_checkpoint

import rdlite
from rdlite.cli.main import main
from rdlite.measure.answers import answer, encode_problem, held_out_problems
from rdlite.measure.divergence import divergence, perplexity
from rdlite.measure.texts import windows

QUICK = ("--count", "1", "--tasks", "addition,chain", "--steps", "1,4")


def run(*arguments):
    return CliRunner().invoke(main, ["eval", *map(str, arguments)])


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("What is 2 + 2? It is 4. " * 5)
    return path


def test_accuracy_by_task_difficulty_and_depth(nano):
    result = run(*QUICK, "--json")
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    answers = answer(nano, held_out_problems(1, 0, ("addition", "chain")), (1, 4))
    assert report["steps"] == [1, 4]
    assert report["problems"] == len(answers.problems)
    assert report["accuracy"] == answers.accuracy()
    assert list(report["tasks"]) == ["addition", "chain"]
    assert report["tasks"]["chain"]["accuracy"] == answers.accuracy("chain")
    assert report["tasks"]["chain"]["by_difficulty"]["10"] == {
        "problems": 1,
        "accuracy": answers.accuracy("chain", 10),
    }


def test_the_table_has_a_row_for_each_difficulty():
    lines = run(*QUICK).stdout.splitlines()
    assert lines[0].split() == ["steps", "1", "4"]
    assert [line.split()[0] for line in lines] == [
        *["steps", "addition", *["difficulty"] * 4],
        *["chain", *["difficulty"] * 10, "all"],
    ]
    assert all(cell.endswith("%") for line in lines[1:] for cell in line.split()[-2:])


def test_perplexity_of_a_text_by_depth(text, text_bundle, model):
    options = ("--text", text, "--steps", "1,3", "--seed", 5)
    for window, more in ((50, ("--window", 50)), (120, ())):
        report = json.loads(run(text_bundle, *options, *more, "--json").stdout)
        parts = list(windows(model.tokenizer.encode(text.read_text()), window, 640))
        assert report["tokens"] == 120
        assert report["perplexity"] == perplexity(model, parts, (1, 3), seed=5)
    assert run(text_bundle, *options).stdout.splitlines()[1].startswith("perplexity")


@pytest.fixture(scope="module")
def other_bundle(tmp_path_factory, text_bundle):
    """A model like the other one, its weights drawn with another seed."""
    config = json.loads((text_bundle.parent / "checkpoint" / "config.json").read_text())
    folder = write_random_checkpoint(tmp_path_factory.mktemp("other") / "c", config, seed=9)
    return export_checkpoint(folder, folder.parent / "bundle")


@pytest.mark.parametrize("on_text", [True, False])
def test_divergence_from_another_bundle(on_text, text, text_bundle, other_bundle, model):
    what = ("--text", text, "--window", 50) if on_text else ("--count", 1, "--tasks", "sorting")
    options = (text_bundle, "--against", other_bundle, *what, "--steps", "1,2")
    result = run(*options, "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)["divergence"]
    assert list(found) == ["mean", "median", "percentile_99", "maximum", "same_top"]
    if on_text:
        texts = list(windows(model.tokenizer.encode(text.read_text()), 50, 640))
    else:
        problems = held_out_problems(1, 0, ("sorting",))
        texts = [sum(encode_problem(model, problem), []) for problem in problems]  # noqa: RUF017
    with rdlite.load(other_bundle) as other:
        expected = divergence(model, other, texts, (1, 2))
    assert found["mean"] == [each.mean for each in expected]
    assert found["same_top"] == [each.same_top for each in expected]
    assert "KL, 99th percentile " in run(*options).stdout


@pytest.mark.parametrize("name", ["depth.png", "depth.svg"])
def test_a_picture_is_drawn(name, tmp_path):
    path = tmp_path / name
    assert run(*QUICK, "--plot", path).exit_code == 0
    start = path.read_bytes()[:200]
    assert b"PNG" in start if name.endswith("png") else b"<svg" in path.read_bytes()
    assert len(path.read_bytes()) > 10_000
    assert [file.name for file in tmp_path.iterdir()] == [name]
    for title in ("all tasks", "addition", "chain", "core steps"):
        assert name.endswith("png") or f"<!-- {title} -->" in path.read_text()


def test_a_picture_that_cannot_be_written_keeps_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "depth.png"
    path.write_bytes(b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.replace", full)
        result = run(*QUICK, "--plot", path)
    assert result.exit_code == 2
    assert f"error: cannot write {path}: No space left on device" in result.stderr
    assert "all tasks" in result.stdout  # what was measured is not lost
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["depth.png"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "4,2"], "'4,2' must be ascending numbers of 1 to 1024"),
        (["--steps", "0,2"], "must be ascending numbers"),
        (["--steps", "1,9999"], "must be ascending numbers"),
        (["--steps", "many"], "'many' must be ascending numbers"),
        (["--tasks", "cooking"], "'cooking' is no task; there are addition, "),
        (["--text", "NOWHERE"], "File 'NOWHERE' does not exist"),
        (["--against", "NOWHERE"], "NOWHERE is not a folder"),
        (["--plot", "x.jpg"], "a picture's name must end in .png, .svg, .pdf, got x.jpg"),
        (["--plot", "NO/x.png"], "cannot write NO/x.png: No such file or directory"),
        (
            ["--plot", "x.png", "--against", "nano"],
            "--plot means nothing with --text and --against",
        ),
        (["--tasks", "chain", "--text", __file__], "--tasks means nothing with --text"),
        (["--count", "3", "--text", __file__], "--count means nothing with --text"),
        (["--window", "3"], "--window means nothing with the tasks"),
        (["--against", ""], "is not a bundle"),
        (["--window", "1", "--text", __file__], "1 is not in the range"),
        (["--window", "4096", "--text", __file__], "window must be a whole number from 2 to"),
        (["--text", "EMPTY"], "the text has 0 tokens; at least 2 are needed"),
        (["--count", "0"], "0 is not in the range"),
    ],
)
def test_what_it_refuses_is_one_line(arguments, message, tmp_path):
    (tmp_path / "empty").touch()
    result = run(*(tmp_path / "empty" if each == "EMPTY" else each for each in arguments))
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_columns_of_any_numbers_stay_apart(capsys):
    from rdlite.cli.inspect.eval import _print_table

    report = {
        "perplexity": [123456.7, 9.87e300],
        "divergence": {"mean": [1e-300, 12345.6], "same_top": [1.0, 0.5]},
        "accuracy": [1.0, 1.0],
    }
    _print_table((1024, 1000), report)
    lines = capsys.readouterr().out.splitlines()
    assert [len(re.split(r"  +| (?=[\d.])", line)) for line in lines] == [3] * len(lines)
