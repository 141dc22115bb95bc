"""`rdlite serve`: an OpenAI-compatible server and a page in the browser."""

import re
from pathlib import Path
from typing import Any, Literal

import click

from rdlite.cli.shared.history import history_option
from rdlite.cli.shared.options import max_tokens_option, model_argument, open_model, run_options
from rdlite.cli.shared.template_variables import template_variables_option, variables_for
from rdlite.config.from_options import depth_of, sampling_of
from rdlite.errors import RuntimeFailure
from rdlite.utils.install import install_hint

SIZES = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30}


def _size(ctx: click.Context, param: click.Parameter, value: str) -> int:
    """Read a size like 512M."""
    found = re.fullmatch(r"(\d{1,12})([kmg]?)b?", value.strip().lower())
    if found is None:
        raise click.BadParameter(f"{value!r} must be a size like 512M, 2G, or 0")
    return int(found[1]) * SIZES[found[2]]


@click.command()
@model_argument
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on. One that other machines can reach needs an API key.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8080,
    show_default=True,
    help="Port to listen on; 0: any free port.",
)
@click.option(
    "--api-key",
    envvar="RDLITE_API_KEY",
    metavar="KEY",
    help="Key that clients must send. Better set it in the environment, as RDLITE_API_KEY: others "
    "on this machine can read command lines.",
)
@click.option(
    "--api-keys",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="File of keys that clients may send, a line each: NAME KEY, or NAME sha256:HASH, then "
    "requests=N (at once) and tokens-per-minute=N. It is read again when it changes.",
)
@click.option(
    "--log",
    type=click.Choice(["off", "requests", "texts"]),
    default="off",
    show_default=True,
    help="What to write down besides what goes wrong: a line for each request, with the name of "
    "its key but no text; or also what was asked and answered.",
)
@click.option(
    "--allow-host",
    multiple=True,
    metavar="NAME",
    help="Another host name to accept; may be repeated.",
)
@click.option(
    "--cors-origin",
    multiple=True,
    metavar="ORIGIN",
    help="Origin whose pages may call the server from a browser; may be repeated. Default: only "
    "the server's own.",
)
@click.option(
    "--slots",
    type=click.IntRange(1, 64),
    default=2,
    show_default=True,
    help="Answers to generate at once.",
)
@click.option(
    "--queue",
    type=click.IntRange(0, 4096),
    default=16,
    show_default=True,
    help="Requests that may wait; any more are told to come back later.",
)
@click.option(
    "--prefix-cache",
    callback=_size,
    metavar="SIZE",
    default="1G",
    show_default=True,
    help="Memory to keep earlier prompts, for requests that start the same way; 0: keep none.",
)
@click.option(
    "--lenient",
    is_flag=True,
    help="Drop parameters that are unknown, with a line in the log and the header "
    "X-Rdlite-Ignored, rather than refuse the request.",
)
@max_tokens_option
@history_option
@template_variables_option
@run_options
def serve(
    model: str,
    host: str,
    port: int,
    api_key: str | None,
    api_keys: Path | None,
    log: Literal["off", "requests", "texts"],
    allow_host: tuple[str, ...],
    cors_origin: tuple[str, ...],
    slots: int,
    queue: int,
    prefix_cache: int,
    lenient: bool,
    max_tokens: int,
    template_var: tuple[tuple[str, Any], ...],
    **options: Any,
) -> None:
    """Serve MODEL (default: nano) through OpenAI's API, with a chat page.

    The API is at http://127.0.0.1:8080/v1, the page at http://127.0.0.1:8080. The options below are
    the defaults for what a request leaves out.

    \b
    Example:
        rdlite serve
        rdlite serve BUNDLE --port 9000 --steps 16
        curl http://127.0.0.1:8080/v1/chat/completions -H "Content-Type: application/json" \\
          -d '{"model": "nano", "messages": [{"role": "user", "content": "What is 48 + 76?"}]}'
    """
    try:
        from rdlite.serve.server import listen, serve
    except ImportError as problem:
        raise RuntimeFailure(
            f"the server's packages are missing ({problem}): {install_hint('serve')}"
        ) from None
    from rdlite.serve.access.keys import read_keys
    from rdlite.serve.settings import Settings, check_listening, check_names

    check_listening(host, api_key, api_keys)
    if api_keys is not None:
        read_keys(api_keys)  # before a model is read for nothing
    check_names(allow_host, cors_origin)
    with listen(host, port) as listener, open_model(model, options, together=True) as opened:
        settings = Settings(
            host=host,
            api_key=api_key,
            api_keys=api_keys,
            log=log,
            hosts=allow_host,
            origins=cors_origin,
            slots=slots,
            waiting=queue,
            prefix_bytes=prefix_cache,
            lenient=lenient,
            max_tokens=max_tokens,
            depth=depth_of(opened.default_depth, options),
            sampling=sampling_of(opened.generation_config.sampling, options),
            seed=options["seed"],
            speculate=options["speculate"],
            template_variables=variables_for(opened, template_var),
            sampler=options["sampler"],
            history=options["history"],
        )
        shown = f"[{host}]" if ":" in host else host
        address = f"http://{shown}:{listener.getsockname()[1]}"
        name = opened.bundle.manifest.name

        def ready() -> None:
            click.echo(f"Serving {name} at {address} (API: {address}/v1). Press Ctrl-C to stop.")

        serve(opened, settings, listener, ready)
