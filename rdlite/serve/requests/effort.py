"""reasoning_effort, as core steps: how the effort that clients ask for becomes depth."""

import dataclasses
from typing import Literal

from rdlite.config.depth import Depth

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh"]
#: The part of the full depth that an effort may take at most.
PARTS = {"none": 8, "minimal": 8, "low": 4}


def depth_for(effort: Effort | None, default: Depth, full: int) -> Depth:
    """Return the depth of an effort.

    "high" and "xhigh" take the full depth, without an exit rule; "medium" is the default, which is
    the exit rule that `rdlite tune` measured where there is one; "low" takes up to a quarter of the
    full depth, "minimal" and "none" up to an eighth.

    Args:
        effort: None: the default.
        default: the server's.
        full: core steps of the full depth.
    """
    if effort is None or effort == "medium":
        return default
    if effort in PARTS:
        most = max(1, full // PARTS[effort])
        least = min(default.min_steps, most)
        return dataclasses.replace(default, max_steps=most, min_steps=least)
    return Depth(full)
