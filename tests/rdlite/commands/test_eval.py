"""`rdlite eval`: its three measures, its table, JSON and picture, and what it refuses."""

import json

import pytest
from click.testing import CliRunner

from rdlite.commands import main
from rdlite.evaluation import answer, held_out_problems

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
    assert report["tasks"]["chain"]["by_difficulty"]["10"] == answers.accuracy("chain", 10)


def test_the_table_has_a_row_for_each_difficulty():
    lines = run(*QUICK).stdout.splitlines()
    assert lines[0].split() == ["steps", "1", "4"]
    assert [line.split()[0] for line in lines] == [
        *["steps", "addition", *["difficulty"] * 4],
        *["chain", *["difficulty"] * 10, "all"],
    ]
    assert all(cell.endswith("%") for line in lines[1:] for cell in line.split()[-2:])


def test_perplexity_of_a_text_by_depth(text, text_bundle):
    report = json.loads(
        run(text_bundle, "--text", text, "--steps", "1,3", "--window", 50, "--json").stdout
    )
    assert report["tokens"] == 120
    assert len(report["perplexity"]) == 2
    assert all(1 < value < 10_000 for value in report["perplexity"])
    assert "perplexity" in run(text_bundle, "--text", text, "--steps", "1,3").stdout


@pytest.mark.parametrize("on_text", [True, False])
def test_divergence_from_another_bundle(on_text, text, nano):
    what = ("--text", text, "--window", 50) if on_text else ("--count", 1, "--tasks", "sorting")
    result = run("nano", "--against", "nano", *what, "--steps", "1,2", "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)["divergence"]
    assert list(found) == ["mean", "median", "percentile_99", "maximum", "same_top"]
    assert max(found["maximum"]) < 1e-6
    assert found["same_top"] == [1, 1]


@pytest.mark.parametrize("name", ["depth.png", "depth.svg"])
def test_a_picture_is_drawn(name, tmp_path):
    path = tmp_path / name
    assert run(*QUICK, "--plot", path).exit_code == 0
    start = path.read_bytes()[:200]
    assert b"PNG" in start if name.endswith("png") else b"<svg" in path.read_bytes()
    assert [file.name for file in tmp_path.iterdir()] == [name]


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
        (["--plot", "NO/x.png"], "is not a folder, so NO/x.png cannot be written"),
        (["--plot", "x.png", "--against", "nano"], "leave --text and --against out"),
        (["--window", "1", "--text", __file__], "1 is not in the range"),
        (["--window", "4096", "--text", __file__], "window must be a whole number from 2 to"),
        (["--text", "/dev/null"], ""),
        (["--count", "0"], "0 is not in the range"),
    ],
)
def test_what_it_refuses_is_one_line(arguments, message):
    result = run(*arguments)
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line
