"""`rdlite trace`: its table, JSON, picture and page, and what it refuses before any work."""

import json

import pytest
from click.testing import CliRunner

from rdlite.cli.main import main
from rdlite.trace.html import trace_page
from rdlite.trace.record import trace

SUM = "What is 4848 + 1576?"


def run(*arguments, stdin=None, command="trace"):
    return CliRunner().invoke(main, [command, *map(str, arguments)], input=stdin)


def test_the_table_tells_every_step(nano):
    result = run("--chat", SUM)
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["#", "token", "steps", "settled", "at", "probability"]
    found = trace(nano, SUM, chat=True)
    for line, token in zip(lines[1:], found.tokens, strict=False):
        assert line.split()[1:4] == [token.token, str(token.steps), str(token.settled)]
    rows = [line for line in lines if line.startswith("   1  ")]
    assert len(rows) == len(found.tokens)
    first = found.tokens[0].thoughts[0]
    best = first.likeliest[0]
    assert rows[0].split()[1:5] == [
        *(f"{first.change:.3g}", f"{first.exit_value:.3g}"),
        *(best.token, f"{best.probability:.1%}"),
    ]


def test_json_tells_what_generate_says(text_bundle):
    options = ("--max-tokens", 5, "--steps", 3, "--temp", 1, "--seed", 4, "--json")
    report = json.loads(run(text_bundle, "hello", *options, "--top", 2).stdout)
    said = run(text_bundle, "hello", *options, command="generate").stdout.splitlines()
    tokens, last = [json.loads(line) for line in said[:-1]], json.loads(said[-1])
    assert len(tokens) == len(report["tokens"]) == 5
    for mine, theirs in zip(report["tokens"], tokens, strict=True):
        assert {name: mine[name] for name in ("id", "text", "steps", "logprob")} == {
            name: theirs[name] for name in ("id", "text", "steps", "logprob")
        }
        assert [len(thought["likeliest"]) for thought in mine["thoughts"]] == [2, 2, 2]
    assert report["text"] == last["text"]
    assert report["seed"] == 4
    assert report["depth"]["max_steps"] == 3


def test_stop_texts_and_pipes_work_as_for_generate(text_bundle):
    options = ("--max-tokens", 30, "--steps", 2, "--json")
    whole = json.loads(run(text_bundle, *options, stdin="hello\n").stdout)
    assert whole["prompt"] == "hello"
    stop = whole["text"][3:5]
    cut = json.loads(run(text_bundle, "hello", *options, "--stop", stop).stdout)
    assert cut["text"] == whole["text"][: whole["text"].index(stop)]
    assert cut["stats"]["finish"] == "stop-string"


def test_page_and_picture_are_written(nano, tmp_path):
    page, picture = tmp_path / "trace.html", tmp_path / "trace.png"
    result = run("nano", SUM, "--chat", "--html", page, "--plot", picture)
    assert result.exit_code == 0, result.stderr
    assert picture.read_bytes()[1:4] == b"PNG"
    assert page.read_text(encoding="utf-8") == trace_page(trace(nano, SUM, chat=True))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["trace.html", "trace.png"]


def test_what_a_model_says_cannot_play_tricks_on_a_terminal(text_bundle):
    result = run(text_bundle, "\x1b[2J", "--max-tokens", 40, "--steps", 1, "--temp", 50)
    assert result.exit_code == 0
    assert all(c.isprintable() or c == "\n" for c in result.stdout)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--plot", "x.jpg"], "a picture's name must end in .png, .svg, .pdf, got x.jpg"),
        (["--plot", "NO/x.png"], "cannot write NO/x.png: No such file or directory"),
        (["--html", "x.htm"], "--html writes a page: x.htm must end in .html"),
        (["--html", "NO/x.html"], "cannot write NO/x.html: No such file or directory"),
        (["--top", "0"], "0 is not in the range"),
        (["--max-tokens", "0"], "0 is not in the range"),
        (["--speculate", "auto"], "No such option"),
        (["more"], "got 3 arguments; put the PROMPT in quotation marks"),
    ],
)
def test_bad_options_are_refused_before_the_model_is_opened(arguments, message, tmp_path):
    nowhere = tmp_path / "nowhere"
    result = run(nowhere, "hello", *arguments)
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert message in line
    assert result.stdout == ""
    assert not list(tmp_path.iterdir())


def test_a_model_without_a_tokenizer_is_refused(oracle):
    result = run(oracle.bundle, "hello")
    assert result.exit_code == 2
    assert "no tokenizer.json" in result.stderr
    result = run(oracle.bundle, "hello", "--chat")
    assert "no chat template" in result.stderr


def test_a_page_that_cannot_be_written_keeps_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "trace.html"
    path.write_text("old")

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.replace", full)
        result = run("--chat", SUM, "--html", path)
    assert result.exit_code == 2
    assert f"error: cannot write {path}: No space left on device" in result.stderr
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["trace.html"]
