"""Which device a user means."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rdlite.errors import InputError

if TYPE_CHECKING:
    from rdlite.cuda.arrays import Device

NAMES = ("auto", "cpu", "cuda")


def find_device(wanted: object) -> Device | None:
    """Return the device that is asked for; None is the CPU.

    Args:
        wanted: "cpu", "cuda" or `rdlite.Cuda(...)`, or "auto": a GPU if one can be used.

    Raises:
        InputError: it is none of these.
        RuntimeFailure: the GPU cannot be used.
    """
    if wanted == "cpu":
        return None
    from rdlite.config.cuda import Cuda
    from rdlite.cuda.install import what_is_missing
    from rdlite.cuda.runtime import open_cuda

    if isinstance(wanted, Cuda):
        return open_cuda(wanted)
    if wanted not in NAMES:
        raise InputError(
            f"device must be {', '.join(NAMES)} or rdlite.Cuda(...), got {wanted!r:.60}"
        )
    if wanted == "auto" and what_is_missing() is not None:
        return None
    return open_cuda(Cuda())
