"""reasoning_effort, as core steps: how the effort that clients ask for becomes depth."""

import dataclasses
from typing import Literal

from rdlite.config.depth import Depth
from rdlite.config.exit_defaults import ExitDefaults

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh"]
#: By the curve of `rdlite tune`: share of the answers that stay as they are at full depth.
AGREEMENT = {"none": 0.75, "minimal": 0.75, "low": 0.9}
#: Without a curve: the part of the full depth that an effort may take at most.
PARTS = {"none": 8, "minimal": 8, "low": 4}


def depth_for(
    effort: Effort | None, default: Depth, full: int, tuned: ExitDefaults | None = None
) -> Depth:
    """Return the depth of an effort.

    "high" and "xhigh" take the full depth, without an exit rule; "medium" is the default, which is
    the exit rule that `rdlite tune` measured where there is one. "low" stops earlier by that rule:
    at the threshold that keeps 90% of the answers as they are at full depth, "minimal" and "none"
    75%. Without a curve, or where the server has another rule or threshold, they take up to a
    quarter or an eighth of the full depth.

    Args:
        effort: None: the default.
        default: the server's.
        full: core steps of the full depth.
        tuned: what was measured for the model, None: nothing.
    """
    if effort is None or effort == "medium":
        return default
    if effort not in PARTS:
        return Depth(full)
    if tuned is not None and default.exit == tuned.rule:
        threshold = tuned.threshold_for(min(AGREEMENT[effort], 1 - tuned.loss))
        own = tuned.thresholds[tuned.rule]
        if threshold is not None and default.threshold in (None, own):
            return dataclasses.replace(default, threshold=threshold)
    most = max(1, full // PARTS[effort])
    least = min(default.min_steps, most)
    return dataclasses.replace(default, max_steps=most, min_steps=least)
