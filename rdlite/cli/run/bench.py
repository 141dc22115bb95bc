"""`rdlite bench`: how fast a model is on this machine."""

import dataclasses
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rdlite.cli.shared.options import json_option, model_argument, open_model, run_options
from rdlite.cli.shared.output import print_json, progress_bar
from rdlite.cli.shared.renamed import Renamed
from rdlite.config.from_options import depth_of, sampling_of

if TYPE_CHECKING:
    from rdlite.api.model import Model

PROMPT = "The lighthouse keeper counted the ships, as every evening, and wrote their names down. "


@click.command()
@model_argument
@click.option(
    "--prompt-tokens",
    type=click.IntRange(1, 2**20),
    default=128,
    show_default=True,
    help="Tokens in the prompt, if the context has room for them.",
)
@click.option(
    "--text",
    type=click.Path(exists=True, dir_okay=False),
    help="Take the prompt from the start of this file. Default: a repeated sentence.",
)
@click.option(
    "--repeats",
    type=click.IntRange(1, 1000),
    default=3,
    show_default=True,
    help="Runs to count, after one to warm up.",
)
@click.option(
    "--max-tokens",
    "new_tokens",
    cls=Renamed,
    formerly="--new-tokens",
    type=click.IntRange(2, 2**20),
    default=32,
    show_default=True,
    help="Tokens to decode, even past the end of the answer.",
)
@run_options
@json_option
def bench(
    model: str,
    prompt_tokens: int,
    text: str | None,
    repeats: int,
    new_tokens: int,
    as_json: bool,
    **options: Any,
) -> None:
    """Measure how fast MODEL is on this machine, and its memory.

    Reports loading, prompt reading, decoding, steps and memory: the median of all runs, with the
    least and the most. It also measures the machine's read bandwidth, because that limits how fast
    a large model can be. Beside each number stands what it was the last time that the same was
    measured, in percent of it.

    \b
    Example:
        rdlite bench BUNDLE --steps 8
        rdlite bench BUNDLE --exit-rule latent-diff --speculate auto --json
    """
    from rdlite.store.last_runs import keep_run, last_run

    measured = {"prompt_tokens": prompt_tokens, "text": text, "new_tokens": new_tokens, **options}
    clock = time.perf_counter()
    with open_model(model, options) as opened:
        loading = time.perf_counter() - clock
        prompt = _prompt(opened, text, prompt_tokens, new_tokens)
        report = {
            "model": opened.bundle.manifest.name,
            "weights": sorted(set(opened.bundle.manifest.weights.values())),
            "load_seconds": round(loading, 3),
            **_measure(opened, prompt, new_tokens, options, repeats),
        }
        key = f"{opened.bundle.folder.resolve()} {measured}"
    before = last_run(key)
    keep_run(key, report | {"on": time.strftime("%Y-%m-%d %H:%M")})
    if as_json:
        print_json(report | {"last_run": before})
    else:
        _print(report, before)


def _prompt(model: "Model", text: str | None, wanted: int, new: int) -> list[int]:
    count = max(1, min(wanted, model.context - new))
    if text is None and model.bundle.read_text("tokenizer.json") is None:
        return [i % model.config.vocab_size for i in range(count)]
    content = Path(text).read_bytes().decode(errors="replace") if text else PROMPT * count
    return model.tokenizer.encode(content)[:count]


def _measure(
    model: "Model", prompt: list[int], new_tokens: int, options: dict[str, Any], repeats: int
) -> dict[str, Any]:
    from rdlite.measure.memory_bandwidth import read_bandwidth
    from rdlite.utils.cpu import usable_cores

    # What would end an answer is never chosen; the rest of the sampling is the user's.
    sampling = dataclasses.replace(
        sampling_of(model.generation_config.sampling, options),
        logit_bias=dict.fromkeys(model.generation_config.stop_ids, -1000.0),
    )
    found, rates = [], []
    peak = None
    with progress_bar("runs", counts_bytes=False) as progress:
        for turn in range(repeats + 1):
            generation = model.generate(
                prompt,
                new_tokens,
                depth_of(model.default_depth, options),
                sampling,
                options["seed"],
                speculate=options["speculate"],
                sampler=options["sampler"],
            )
            found.append(generation.stats)
            peak = peak or _peak_resident()  # before the buffer that the bandwidth is measured on
            rates.append(read_bandwidth(options["threads"] or usable_cores(), repeats=1))
            if progress:
                progress(turn + 1, repeats + 1)
    stats = found[1:]  # the first warmed up
    return {
        "prompt_tokens": len(prompt),
        "new_tokens": stats[0].new_tokens,
        "time_to_first_token": _spread([s.time_to_first_token for s in stats]),
        "prompt_tokens_per_second": _spread([len(prompt) / s.time_to_first_token for s in stats]),
        "tokens_per_second": _spread([s.tokens_per_second for s in stats]),
        "steps_per_prompt_token": round(stats[0].mean_prompt_steps, 2),
        "steps_per_token": round(stats[0].mean_steps, 2),
        "peak_resident_mib": peak,
        "read_bandwidth_gb_per_second": _spread([rate / 1e9 for rate in rates[1:]]),
    }


def _spread(values: list[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), 4),
        "least": round(min(values), 4),
        "most": round(max(values), 4),
    }


def _peak_resident() -> float | None:
    """Peak resident memory of this process in MiB; None where the system does not say."""
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)


def _print(report: dict[str, Any], before: dict[str, Any] | None) -> None:
    if before:
        click.echo(f"{'':<30} now (least to most), last run on {before.get('on')}")
    for name, value in report.items():
        text = str(value)
        if isinstance(value, dict):
            text = f"{value['median']:g} ({value['least']:g} to {value['most']:g})"
        elif isinstance(value, list):
            text = ", ".join(value)
        click.echo(f"{name.replace('_', ' '):<30} {text}{_compared(value, before, name)}")


def _compared(now: Any, before: dict[str, Any] | None, name: str) -> str:
    """What a number was in the last run, and how much more it is now."""
    now, then = (
        each["median"] if isinstance(each, dict) and "median" in each else each
        for each in (now, (before or {}).get(name))
    )
    if now == then or not all(isinstance(each, int | float) and each for each in (now, then)):
        return ""
    return f", last {then:g} ({now / then - 1:+.0%})"
