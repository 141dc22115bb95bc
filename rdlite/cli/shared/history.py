"""How much of a long conversation is read: an option of commands that chat."""

import click

from rdlite.cli.shared.suggested import Suggested


def _history(ctx: click.Context, param: click.Parameter, value: str) -> int | str:
    """Read "trained", "all" or a number."""
    from rdlite.api.history import history_length
    from rdlite.errors import InputError

    history = int(value) if value.isdecimal() else value
    try:
        history_length(history, None)
    except InputError as problem:
        raise click.BadParameter(str(problem)) from None
    return history


history_option = click.option(
    "--history",
    callback=_history,
    type=Suggested(lambda: ("trained", "all")),
    metavar="trained|all|N",
    default="trained",
    show_default=True,
    help="How long a conversation may get before its oldest turns are left out: as long as MODEL "
    "was trained for, as its context has room for, or N tokens.",
)
