"""Help: the commands in their groups, and the page that is made of it."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import rdlite
from rdlite.cli.main import GROUPS, main

DOCS = Path(__file__).parents[3] / "docs"


def test_every_command_is_in_exactly_one_group():
    grouped = [command.name for commands in GROUPS.values() for command in commands]
    assert sorted(grouped) == sorted(set(main.commands))
    cli = Path(rdlite.__file__).parent / "cli"
    files = {
        path.stem for room in ("run", "convert", "inspect") for path in cli.glob(f"{room}/*.py")
    }
    assert set(grouped) == files - {"__init__", "slash_commands", "chat_screen"}


def test_help_shows_the_groups_with_a_summary_for_each_command():
    lines = CliRunner().invoke(main, ["--help"], terminal_width=100).output.splitlines()
    for title, commands in GROUPS.items():
        first = lines.index(f"{title}:") + 1
        for line, command in zip(lines[first:], commands, strict=False):
            name, summary = line.split(maxsplit=1)
            assert name == command.name
            assert command.get_short_help_str(200).startswith(summary.removesuffix("..."))
            assert line.index(summary) == 12


def test_the_page_is_what_the_program_says():
    page = runpy.run_path(str(DOCS / "commands.py"))["page"]()
    assert (DOCS / "commands.md").read_text() == page, "run `make docs`"
    for command in ("rdlite chat", "rdlite gguf import", "rdlite pull"):
        assert f" {command}\n\n```text\nUsage: {command} [OPTIONS]" in page


@pytest.mark.parametrize("name", ["", "chat", "gguf export"])
def test_help_fits_forty_columns(name):
    environment = {**os.environ, "COLUMNS": "40"}
    command = [sys.executable, "-m", "rdlite", *name.split(), "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    for line in shown.stdout.splitlines():  # examples are to be copied as they are
        assert len(line) <= 40 or "rdlite" in line or "--" in line, line


@pytest.mark.parametrize(
    ("command", "new", "old"),
    [("chat", "--exit-rule", "--exit"), ("bench", "--max-tokens", "--new-tokens"),
     ("export", "--scheme", "--quant")],
)  # fmt: skip
def test_old_names_of_options_work_and_are_not_shown(command, new, old):
    found = main.commands[command]
    context = found.make_context(command, [], resilient_parsing=True)
    assert f"{new} " in found.get_help(context)
    assert f"{old} " not in found.get_help(context)
    parser = found.make_parser(context)
    for name in (new, old):
        values, *_ = parser.parse_args([name, "7"])
        assert "7" in values.values()


def test_a_shell_completes_the_values_of_options():
    asked = {"_RDLITE_COMPLETE": "bash_complete", "COMP_WORDS": "rdlite chat --exit-rule lat",
             "COMP_CWORD": "3"}  # fmt: skip
    result = CliRunner().invoke(main, [], prog_name="rdlite", env=asked)
    assert result.output == "plain,latent-diff\n"
    assert "_RDLITE_COMPLETE=bash_source" in main.help


def test_quantize_has_no_model_of_its_own():
    result = CliRunner().invoke(main, ["quantize", "-o", "x"])
    assert result.exit_code == 2
    assert "Missing argument 'MODEL'" in result.output
