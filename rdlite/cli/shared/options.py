"""Options that several commands share, and what they all do with a terminal."""

from collections.abc import Callable
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rdlite.api.model import Model


#: Caches that may grow past this are worth a word.
SAID_BYTES = 2**28
model_argument = click.argument("model", type=click.Path(), default="nano", required=False)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
threads_option = click.option(
    "--threads",
    type=click.IntRange(1, 256),
    help="Threads for one operator. Default: one a physical core.",
)
force_steps_option = click.option(
    "--force-steps",
    is_flag=True,
    help="Allow more steps than MODEL was made for, where that is fixed; they ruin its answers.",
)
cache_bits_option = click.option(
    "--cache-bits",
    type=int,
    metavar="8",
    help="Keep the cache in int8: a quarter of the memory, not exact. MODEL needs scales for that, "
    "which 'rdlite tune' finds. Default: float32.",
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


max_tokens_option = click.option(
    "--max-tokens",
    type=click.IntRange(1, 2**22),
    default=1024,
    show_default=True,
    help="Most tokens of an answer.",
)


def run_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of commands that run a model."""
    speculate = click.option(
        "--speculate",
        callback=_speculation,
        metavar="auto|K,D|off",
        default="off",
        show_default=True,
        help="Draft up to K tokens at D core steps each and verify them together: the same text, "
        "sooner. auto: K and D as is quickest by what was seen so far.",
    )
    return plain_run_options(speculate(command))


def plain_run_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of commands that run a model one token after the other."""
    for option in reversed(
        (
            click.option(
                "--steps",
                type=click.IntRange(1, 1024),
                help="Core steps for each token, at most: how deep to think. Default: the model's.",
            ),
            force_steps_option,
            click.option(
                "--exit",
                metavar="RULE",
                help="Stop thinking before --steps when this rule says so: latent-diff, "
                "acceleration, cosine, kl, gated-kl, minp-kl, entropy-diff, argmax-stability, gate "
                "(of models that have one); off: never. Default: the model's, if 'rdlite tune' "
                "found one.",
            ),
            click.option(
                "--threshold",
                type=float,
                help="Of the exit rule. Default: what 'rdlite tune' found, or the rule's own.",
            ),
            click.option(
                "--min-steps",
                type=click.IntRange(1, 1024),
                default=1,
                show_default=True,
                help="Core steps before the exit rule is first asked.",
            ),
            click.option(
                "--check-every",
                type=click.IntRange(1, 1024),
                default=1,
                show_default=True,
                help="Core steps from one question to the exit rule to the next.",
            ),
            click.option(
                "--prompt-exit",
                type=click.Choice(("mean", "each")),
                default="mean",
                show_default=True,
                help="How the exit rule reads a prompt: a chunk's tokens stop together at their "
                "mean, or each token at its own step.",
            ),
            click.option(
                "--temp",
                type=click.FloatRange(0, 100),
                help="Temperature; 0 always takes the likeliest. Default, as for the filters "
                "below: the model's own.",
            ),
            click.option(
                "--top-k",
                type=click.IntRange(0, 2**22),
                help="Keep the k likeliest tokens; 0 keeps all.",
            ),
            click.option(
                "--top-p",
                type=click.FloatRange(0, 1, min_open=True),
                help="Keep the likeliest tokens up to this probability in all.",
            ),
            click.option(
                "--min-p",
                type=click.FloatRange(0, 1),
                help="Drop tokens less likely than this times the likeliest.",
            ),
            click.option(
                "--repetition-penalty",
                type=click.FloatRange(0.01, 100),
                help="Above 1: tokens that the text has already become less likely.",
            ),
            click.option(
                "--seed",
                type=click.IntRange(0, 2**64 - 1),
                default=0,
                show_default=True,
                help="Selects initial states and draws; the same seed gives the same text.",
            ),
            click.option(
                "--device",
                type=click.Choice(("auto", "cpu", "cuda")),
                default="cpu",
                show_default=True,
                help="Where to run: cuda is an NVIDIA GPU, auto takes one if it can be used.",
            ),
            threads_option,
            click.option(
                "--context",
                type=click.IntRange(1, 2**22),
                help="Longest text in tokens. Default: what the model allows.",
            ),
            click.option(
                "--cache-share",
                callback=_cache_share,
                metavar="N|last",
                help="Keep the cache of N steps and reuse it for the others; last: keep every "
                "step's while a prompt is read, and then each token's last. Less memory, not "
                "exact. Default: keep every step's.",
            ),
            cache_bits_option,
        )
    ):
        command = option(command)
    return command


def open_model(model: str, options: dict[str, Any]) -> "Model":
    """Load MODEL as the run options say."""
    from rdlite.api.load import load
    from rdlite.config.cache import Cache
    from rdlite.utils.memory import in_gb

    cache = Cache(options["cache_share"], options["cache_bits"])
    opened = load(
        model,
        device=options["device"],
        threads=options["threads"],
        context=options["context"],
        cache=cache,
        force_steps=options["force_steps"],
    )
    if options["context"] is not None:
        steps = opened.config.recurrence.mean_steps
        most = opened.context * cache.bytes_per_token(opened.config, steps)
        if most >= SAID_BYTES:
            click.echo(
                f"note: the cache takes up to {in_gb(most)}, with {opened.context} tokens at "
                f"{steps} steps",
                err=True,
            )
    if opened.bundle.unhashed:
        count = len(opened.bundle.unhashed)
        click.echo(
            f"note: {count} large files were not hashed; 'rdlite verify' does that", err=True
        )
    return opened
