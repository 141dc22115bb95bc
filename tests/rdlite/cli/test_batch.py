"""`rdlite batch`: from files of prompts to files of answers, and what it says."""

import json
import os
import re
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from rdlite.cli.main import main

QUESTION = "What is 48 + 76?"


def run(*arguments):
    return CliRunner().invoke(main, ["batch", *map(str, arguments)])


@pytest.fixture
def given(tmp_path):
    path = tmp_path / "in.jsonl"
    rows = [{"id": "a", "prompt": QUESTION}, {"id": "b"}, {"id": "c", "prompt": [5, 600]}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_answers_are_written_and_the_totals_said(given, tmp_path):
    out = tmp_path / "out.jsonl"
    result = run(given, "-o", out, "--processes", 1, "--max-tokens", 6, "--logprob")
    assert result.exit_code == 0, result.output
    said = re.escape(f"{out}: 3 rows, 2 of them errors; 4 tokens, ")
    assert re.fullmatch(said + r"\d+\.\d steps a token\n", result.output)
    first, second, third = map(json.loads, out.read_text().splitlines())
    assert first["text"] == "124"
    assert first["logprob"] < 0
    assert second == {"id": "b", "error": "a row needs 'prompt' or 'messages', one of them"}
    assert "a token id must be" in third["error"]


def test_parquet_and_a_column_by_name(tmp_path):
    given, out = tmp_path / "in.parquet", tmp_path / "out.parquet"
    pq.write_table(pa.table({"text": [QUESTION], "label": [3]}), given)
    result = run("nano", given, "-o", out, "--column", "text", "--processes", 1)
    assert result.exit_code == 0, result.output
    assert pq.read_table(out)["text"].to_pylist() == ["124"]
    result = run("nano", given, "-o", tmp_path / "no.parquet")
    assert result.exit_code == 2
    assert "has no column 'prompt' or 'messages', it has text, label" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{in}"], "Missing option '-o'"),
        (["-o", "{out}"], "Missing argument '[MODEL] IN'"),
        (["a", "b", "c", "-o", "{out}"], "got 3 arguments"),
        (["{missing}", "-o", "{out}"], "there is no file or folder"),
        (["{in}", "-o", "{out}.txt"], "must end in .jsonl or .parquet"),
        (["{in}", "-o", "{in}"], "is there already"),
        (["{missing}", "{in}", "-o", "{out}"], "missing"),
    ],
)
def test_what_cannot_be_done_is_one_line(given, tmp_path, arguments, message):
    names = {"in": given, "out": tmp_path / "out.jsonl", "missing": tmp_path / "missing"}
    result = run(*(argument.format(**names) for argument in arguments))
    assert result.exit_code == 2
    assert message in result.output
    assert len(result.output.splitlines()) == 1
    assert os.listdir(tmp_path) == ["in.jsonl"]


def test_strict_stops(given, tmp_path):
    result = run(given, "-o", tmp_path / "out.jsonl", "--chat", "--strict", "--processes", 1)
    assert result.exit_code == 2
    assert "row 1 (id 'b'): a row needs 'prompt' or 'messages'" in result.output


def test_without_ray_a_line_says_how_to_install_it(given, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    result = run(given, "-o", tmp_path / "out.jsonl", "--ray")
    assert result.exit_code == 2
    assert re.fullmatch(r"error: --ray needs Ray Data: pip install .*\[ray\]'\n", result.output)
    result = run(given, "-o", tmp_path / "out.jsonl", "--cores", 2)
    assert "--cores is of --ray" in result.output


def test_without_pyarrow_a_line_says_how_to_install_it(tmp_path, given, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    result = run(given, "-o", tmp_path / "out.parquet")
    assert result.exit_code == 2
    assert re.fullmatch(r"error: Parquet files need pyarrow: pip .*\[parquet\]'\n", result.output)
    assert os.listdir(tmp_path) == ["in.jsonl"]


def test_a_terminal_sees_how_far_it_is(given, tmp_path):
    pexpect = pytest.importorskip("pexpect", reason="no pseudo-terminals here")
    words = ["-m", "rdlite", "batch", given, "-o", tmp_path / "out.jsonl", "--chat"]
    child = pexpect.spawn(sys.executable, [str(word) for word in words], encoding="utf-8")
    child.timeout = 60
    child.expect(r"3/3[^\n]*rows, \d+ tokens/s, \d+\.\d steps")
    child.expect("3 rows, 2 of them errors")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
