"""The `rdlite` command: one file per sub-command, each only parses, calls and prints."""

from typing import Any

import click

import rdlite
from rdlite.commands.chat import chat
from rdlite.commands.doctor import doctor
from rdlite.commands.export import export
from rdlite.commands.generate import generate
from rdlite.commands.inspect import inspect
from rdlite.commands.verify import verify
from rdlite.errors import RdliteError


class _Failure(click.ClickException):
    """An RdliteError on its way out: one line, exit code 2."""

    exit_code = 2

    def show(self, file: Any = None) -> None:
        line = " ".join(self.message.split())
        line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)
        click.echo(f"error: {line}", err=True)


class _Group(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except RdliteError as problem:
            raise _Failure(str(problem)) from None


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(rdlite.__version__, prog_name="rdlite")
def main() -> None:
    """Run recurrent-depth language models on this machine.

    \b
    Example:
        rdlite export CHECKPOINT -o BUNDLE
        rdlite chat BUNDLE
    """


for command in (chat, generate, export, inspect, verify, doctor):
    main.add_command(command)
