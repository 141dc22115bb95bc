"""Depth and sampling from the options of a command: the defaults, changed as the user says."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from rdlite.config.depth import Depth, changed_depth
from rdlite.config.sampling import Sampling


def depth_of(default: Depth, options: Mapping[str, Any]) -> Depth:
    """Return how deep to think: the default, changed as the run options say.

    The parallel sampler freezes tokens by a rule of its own, so the default's exit rule goes.
    """
    rule = options["exit"]
    if rule is None and options.get("sampler") is not None:
        rule = "off"
    return changed_depth(
        default,
        options["steps"],
        options["min_steps"],
        rule,
        options["threshold"],
        options["check_every"],
        options["prompt_exit"],
    )


def sampling_of(default: Sampling, options: Mapping[str, Any]) -> Sampling:
    """Return how tokens are chosen: the default, changed as the run options say."""
    names = {
        "temp": "temperature",
        "top_k": "top_k",
        "top_p": "top_p",
        "min_p": "min_p",
        "repetition_penalty": "repetition_penalty",
    }
    changes = {ours: options[name] for name, ours in names.items() if options[name] is not None}
    return dataclasses.replace(default, **changes)
