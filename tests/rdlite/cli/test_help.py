"""Help: the commands in their groups, and the page that is made of it."""

import runpy
from pathlib import Path

from click.testing import CliRunner

from rdlite.cli.main import GROUPS, main

DOCS = Path(__file__).parents[3] / "docs"


def test_every_command_is_in_exactly_one_group():
    grouped = [command.name for commands in GROUPS.values() for command in commands]
    assert sorted(grouped) == sorted(set(main.commands))
    cli = Path(main.callback.__code__.co_filename).parent
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
