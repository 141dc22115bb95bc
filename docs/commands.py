"""Prints docs/commands.md: what --help says of every command. `make docs` writes it."""

from collections.abc import Iterator

import click

from rdlite.cli.main import GROUPS, main

WIDTH = 90

INTRODUCTION = """\
# The commands

What `--help` says of each. `make docs` writes this page; a test holds it against the program.
"""


def pages(command: click.Command, context: click.Context, level: str) -> Iterator[str]:
    """Yield the help of a command and of those below it, each under a heading of its own."""
    yield f"{level} {context.command_path}\n\n```text\n{command.get_help(context)}\n```\n"
    if isinstance(command, click.Group):
        for name, child in command.commands.items():
            inner = click.Context(child, info_name=name, parent=context)
            yield from pages(child, inner, level + "#")


def page() -> str:
    """Return the whole page."""
    top = click.Context(
        main,
        info_name="rdlite",
        terminal_width=WIDTH,
        max_content_width=WIDTH,
        **main.context_settings,
    )
    parts = [INTRODUCTION, f"```text\n{main.get_help(top)}\n```\n"]
    for title, commands in GROUPS.items():
        parts.append(f"## {title}\n")
        for command in commands:
            inner = click.Context(command, info_name=command.name, parent=top)
            parts.extend(pages(command, inner, "###"))
    return "\n".join(parts)


if __name__ == "__main__":
    print(page(), end="")
