"""The option --template-var: variables of a chat template's own, like enable_thinking."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from rdlite.utils.printable import one_line

if TYPE_CHECKING:
    from rdlite.api.model import Model


def _parse(
    ctx: click.Context, param: click.Parameter, values: tuple[str, ...]
) -> tuple[tuple[str, Any], ...]:
    """Read NAME=VALUE; a VALUE that is JSON is what it says, any other is text."""
    pairs = []
    for value in values:
        name, equals, text = value.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"{value!r} must be like enable_thinking=false")
        try:
            pairs.append((name, json.loads(text)))
        except (ValueError, RecursionError):
            pairs.append((name, text))
    return tuple(pairs)


template_variables_option = click.option(
    "--template-var",
    multiple=True,
    callback=_parse,
    metavar="NAME=VALUE",
    help="Set a variable of the chat template, such as enable_thinking=false; may be repeated. "
    "VALUE is JSON or text. 'rdlite inspect' lists the variables.",
)


def variables_for(model: "Model", pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Return the variables; says so where the model's template asks for none of that name."""
    from rdlite.tokenizer.chat_template import check_variables

    variables = check_variables(dict(pairs))
    unused = sorted(variables.keys() - model.chat_template.variables) if variables else []
    for name in unused:
        known = ", ".join(sorted(model.chat_template.variables)) or "none"
        click.echo(
            one_line(f"note: the chat template does not ask for {name}; it asks for: {known}"),
            err=True,
        )
    return variables
