"""Options that several commands share, and what they all do with a terminal."""

from collections.abc import Callable
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import click

from rdlite.cli.shared.models import download_options, model_path
from rdlite.cli.shared.renamed import Renamed
from rdlite.cli.shared.suggested import Suggested
from rdlite.config.exit_rules import RULES

if TYPE_CHECKING:
    from rdlite.api.model import Model
    from rdlite.config.parallel import Parallel


#: Models that may take more than this are worth a word.
SAID_BYTES = 2**28


def model_argument(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the argument MODEL, and what a download of it asks for."""
    argument = click.argument("model", callback=model_path, default="nano", required=False)
    return argument(download_options(command))


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
threads_option = click.option(
    "--threads",
    type=click.IntRange(1, 256),
    help="Threads per operator. Default: one per physical core; 1 for small models.",
)
force_steps_option = click.option(
    "--force-steps",
    is_flag=True,
    help="Allow more steps than MODEL was made for; its answers may be ruined.",
)
cache_bits_option = click.option(
    "--cache-bits",
    type=int,
    metavar="8",
    help="Store the cache as int8: a quarter of the memory, not exact. 'rdlite tune' finds the "
    "scales that MODEL needs for this. Default: float32.",
)


def _speculation(
    ctx: click.Context, param: click.Parameter, value: str
) -> "tuple[int, int] | str | None":
    """Read "auto", "K,D" or "off"."""
    if value in ("auto", "off"):
        return value if value == "auto" else None
    try:
        drafts, steps = (int(part) for part in value.split(","))
    except ValueError:
        near = get_close_matches(value.lower(), ("auto", "off"), 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise click.BadParameter(
            f"{value!r} must be auto, off, or two numbers like 4,8{hint}"
        ) from None
    return drafts, steps


def _cache_share(ctx: click.Context, param: click.Parameter, value: str | None) -> int | str | None:
    """Read "last" or a number."""
    if value is None or value == "last":
        return value
    try:
        number = int(value)
    except ValueError:
        number = 0
    if not 1 <= number <= 1024:
        raise click.BadParameter(f"{value!r} must be last, or a number from 1 to 1024")
    return number


def _sampler(ctx: click.Context, param: click.Parameter, value: str) -> "Parallel | None":
    """Read "plain", or "parallel" with knobs."""
    from rdlite.config.parallel import parse_sampler
    from rdlite.errors import InputError

    try:
        return parse_sampler(value)
    except InputError as problem:
        raise click.BadParameter(str(problem)) from None


sampler_option = click.option(
    "--sampler",
    callback=_sampler,
    metavar="plain|parallel[:KNOB=VALUE,...]",
    default="plain",
    show_default=True,
    help="plain: one token after the other. parallel: draft and refine several together, which is "
    "not exact; for example parallel:exit_t=0.1,max_wavefront=16.",
)

max_tokens_option = click.option(
    "--max-tokens",
    type=click.IntRange(1, 2**22),
    default=1024,
    show_default=True,
    help="Maximum tokens per answer.",
)


def run_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of commands that run a model."""
    speculate = click.option(
        "--speculate",
        callback=_speculation,
        metavar="auto|K,D|off",
        default="off",
        show_default=True,
        help="Read what may follow a token after D of its core steps, up to K tokens at once: the "
        "same text, faster. auto: choose K and D by what has been fastest so far.",
    )
    return plain_run_options(speculate(sampler_option(command)))


def plain_run_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of commands that run a model one token after the other."""
    for option in reversed(
        (
            click.option(
                "--steps",
                type=click.IntRange(1, 1024),
                help="Maximum core steps per token: how deep to think. Default: the model's.",
            ),
            force_steps_option,
            click.option(
                "--exit-rule",
                "exit",
                cls=Renamed,
                formerly="--exit",
                type=Suggested(lambda: ("off", *RULES)),
                metavar="RULE",
                help="Stop before --steps when this rule says so: latent-diff, acceleration, "
                "cosine, kl, gated-kl, minp-kl, entropy-diff, argmax-stability, or gate (for "
                "models with an exit gate). off: never stop early. Default: the model's, if "
                "'rdlite tune' found one.",
            ),
            click.option(
                "--threshold",
                type=float,
                help="Threshold of the exit rule. Default: what 'rdlite tune' found, or the "
                "rule's own.",
            ),
            click.option(
                "--min-steps",
                type=click.IntRange(1, 1024),
                default=1,
                show_default=True,
                help="Core steps before the exit rule is first checked.",
            ),
            click.option(
                "--check-every",
                type=click.IntRange(1, 1024),
                default=1,
                show_default=True,
                help="Core steps between checks of the exit rule.",
            ),
            click.option(
                "--prompt-exit",
                type=click.Choice(("mean", "each")),
                default="mean",
                show_default=True,
                help="How the tokens of a prompt stop: together, by the mean of their chunk, or "
                "each at its own step.",
            ),
            click.option(
                "--temp",
                type=click.FloatRange(0, 100),
                help="Temperature; 0 always picks the likeliest token. Default, here and for the "
                "filters below: the model's own.",
            ),
            click.option(
                "--top-k",
                type=click.IntRange(0, 2**22),
                help="Sample from the k likeliest tokens only; 0: from all.",
            ),
            click.option(
                "--top-p",
                type=click.FloatRange(0, 1, min_open=True),
                help="Sample from the likeliest tokens whose probabilities add up to this.",
            ),
            click.option(
                "--min-p",
                type=click.FloatRange(0, 1),
                help="Drop tokens less likely than this times the likeliest.",
            ),
            click.option(
                "--repetition-penalty",
                type=click.FloatRange(0.01, 100),
                help="Above 1, tokens already in the text become less likely.",
            ),
            click.option(
                "--seed",
                type=click.IntRange(0, 2**64 - 1),
                default=0,
                show_default=True,
                help="Random seed; the same seed gives the same text.",
            ),
            click.option(
                "--device",
                type=click.Choice(("auto", "cpu", "cuda")),
                default="cpu",
                show_default=True,
                help="Where to run. cuda: an NVIDIA GPU. auto: a GPU if it works, else the CPU.",
            ),
            threads_option,
            click.option(
                "--context",
                type=click.IntRange(1, 2**22),
                help="Maximum length of the text in tokens. Default: the model's, or as much as "
                "fits in the memory that is free.",
            ),
            click.option(
                "--cache-share",
                callback=_cache_share,
                metavar="N|last",
                help="Save cache memory; not exact. N: keep N slots and reuse them for the other "
                "steps. last: after the prompt, keep only each token's last step. Default: a slot "
                "for every step.",
            ),
            cache_bits_option,
        )
    ):
        command = option(command)
    return command


def open_model(model: str, options: dict[str, Any], together: bool = False) -> "Model":
    """Load MODEL as the run options say."""
    from rdlite.api.load import load
    from rdlite.config.cache import Cache

    cache = Cache(options["cache_share"], options["cache_bits"])
    opened = load(
        model,
        device=options["device"],
        threads=options["threads"],
        context=options["context"] or "auto",
        cache=cache,
        force_steps=options["force_steps"],
        together=together or options.get("speculate") is not None,
    )
    _say_what_it_takes(opened, options)
    if opened.bundle.unhashed:
        count = len(opened.bundle.unhashed)
        click.echo(
            f"note: {count} large files were not hashed; 'rdlite verify' does that", err=True
        )
    return opened


def _say_what_it_takes(opened: "Model", options: dict[str, Any]) -> None:
    """Say in a line what was chosen for this machine, if the model may take much of it."""
    from rdlite.utils.cpu import usable_cores
    from rdlite.utils.memory import in_gb

    bundle, steps = opened.bundle, opened.config.recurrence.mean_steps
    cache = opened.context * opened.cache.bytes_per_token(opened.config, steps)
    own = bundle.config.rotary_positions
    chosen = options["context"] is None and opened.context < own
    if bundle.weight_bytes + cache < SAID_BYTES and not chosen:
        return
    threads = options["threads"] or usable_cores()
    click.echo(
        f"note: {bundle.manifest.weights.get('core')}, {in_gb(bundle.weight_bytes)}, "
        f"{opened.context} tokens of context (with {in_gb(cache)} of cache at {steps} steps), "
        f"{threads} thread{'s' * (threads > 1)}"
        + (f"; the model's own context of {own} does not fit in free memory" if chosen else ""),
        err=True,
    )
