"""The `rdlite` command: one file per sub-command, each only parses, calls and prints."""

import os
import sys
import warnings
from typing import Any, NoReturn

import click

from rdlite.cli.convert.export import export
from rdlite.cli.convert.gguf import gguf
from rdlite.cli.convert.pull import pull
from rdlite.cli.convert.quantize import quantize
from rdlite.cli.inspect.config import config, use_settings
from rdlite.cli.inspect.doctor import doctor, in_one_line
from rdlite.cli.inspect.eval import evaluate
from rdlite.cli.inspect.inspect import inspect
from rdlite.cli.inspect.models import models
from rdlite.cli.inspect.tune import tune
from rdlite.cli.inspect.verify import verify
from rdlite.cli.run.batch import batch
from rdlite.cli.run.bench import bench
from rdlite.cli.run.chat import chat
from rdlite.cli.run.generate import generate
from rdlite.cli.run.page import page
from rdlite.cli.run.serve import serve
from rdlite.cli.run.trace import trace
from rdlite.cli.shared.narrow import context_options, narrow
from rdlite.cli.shared.output import complain
from rdlite.errors import RdliteError
from rdlite.utils.printable import one_line
from rdlite.version import __version__

FAILED, INTERRUPTED = 2, 130
#: Commands that work whatever the settings are, so that these can be mended.
MENDING = ("config", "doctor")


class _Group(click.Group):
    """The group of all commands; errors are one line on standard error, and exit code 2."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands as GROUPS has them, their summaries all in one column."""
        width = max(map(len, self.commands))
        for title, commands in GROUPS.items():
            with formatter.section(title):
                limit = formatter.width - formatter.current_indent - width - 2
                formatter.write_dl(
                    [(f"{c.name:{width}}", c.get_short_help_str(limit)) for c in commands]
                )

    def main(self, *args: Any, **kwargs: Any) -> Any:
        if not kwargs.setdefault("standalone_mode", True):
            return super().main(*args, **kwargs)
        try:
            with warnings.catch_warnings():
                warnings.showwarning = _note
                kwargs |= {**context_options(), "standalone_mode": False}
                result = super().main(*args, **kwargs)
            sys.stdout.flush()
        except click.UsageError as problem:
            help_of = (
                f" ('{problem.ctx.command_path} --help' lists the options)" if problem.ctx else ""
            )
            _fail(problem.format_message().rstrip(".") + help_of)
        except click.ClickException as problem:
            _fail(problem.format_message())
        except RdliteError as problem:
            _fail(str(problem))
        except (click.Abort, KeyboardInterrupt):
            sys.exit(INTERRUPTED)
        except BrokenPipeError:  # whoever read the output has left
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115  (or the interpreter flushes again)
            sys.exit(1)
        except MemoryError:
            _fail("there is not enough memory; use fewer --steps or a smaller context or window")
        except OSError as problem:
            _fail(f"cannot read or write: {problem}")
        sys.exit(result if isinstance(result, int) else 0)


def _note(message: Warning | str, *_: object, **__: object) -> None:
    click.echo(f"note: {one_line(str(message))}", err=True)


def _fail(message: str) -> NoReturn:
    complain(message)
    sys.exit(FAILED)


def _show_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        click.echo(f"rdlite {__version__}: {in_one_line()}")
        ctx.exit()


@click.group("rdlite", cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version, and what it runs on.",
)
@click.pass_context
def main(ctx: click.Context) -> None:
    """Run looped (recurrent-depth) language models on this machine.

    MODEL is a bundle made by 'rdlite export', a .gguf file, or a model of the
    Hugging Face Hub, which is downloaded and converted once: ORG/NAME[@revision][:scheme],
    ORG/NAME/FILE.gguf, or a short name ('rdlite models known'). Default: nano, the small model that
    comes with rdlite. (To run your own bundle called nano, write ./nano.)

    \b
    Example:
        rdlite chat
        rdlite export CHECKPOINT -o BUNDLE
        rdlite chat BUNDLE

    Completion in your shell (or write zsh or fish for bash):

    \b
        eval "$(_RDLITE_COMPLETE=bash_source rdlite)"
    """
    if ctx.invoked_subcommand not in MENDING:
        use_settings(ctx)


#: Every command, by what people do with it.
GROUPS: dict[str, tuple[click.Command, ...]] = {
    "Run": (chat, generate, batch, serve, page),
    "Convert": (pull, export, quantize, gguf),
    "Inspect": (models, trace, inspect, verify, doctor, config),
    "Measure": (evaluate, bench, tune),
}

for commands in GROUPS.values():
    for command in commands:
        main.add_command(command)
narrow(main)
