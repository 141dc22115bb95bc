"""Scales of int8 caches: one for each channel of each slot, and the file that holds them."""

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from rdlite.bundle.reader import Bundle
from rdlite.config.model import ModelConfig
from rdlite.errors import BundleError, InputError

Floats = npt.NDArray[np.float32]
LOWEST, HIGHEST = 1e-12, 1e12
MAX_HEADER_BYTES = 4096
TENSORS = ("prelude", "core", "coda")


@dataclass(frozen=True, slots=True)
class CacheScales:
    """What a cache entry of 1 is worth, by layer, key or value, head and channel.

    Attributes:
        prelude: float32 [layers, 2, 1, K, 1, D], contiguous, as are the others; all are positive.
            They go along with a slot's entries, [layers, 2, 1, K, C, D].
        core: float32 [T, layers, 2, 1, K, 1, D], for T steps; deeper ones have the last one's.
        coda: float32 [layers, 2, 1, K, 1, D].
    """

    prelude: Floats
    core: Floats
    coda: Floats

    @property
    def steps(self) -> int:
        """How many core steps have scales of their own."""
        return len(self.core)

    def of_slot(self, index: int) -> Floats:
        """Scales of the core's slot number `index`: float32 [layers, 2, 1, K, 1, D]."""
        scales: Floats = self.core[min(index, len(self.core) - 1)]
        return scales

    def shared(self, share: int | None) -> "CacheScales":
        """Return those of a cache that keeps `share` slots, the largest of a slot's steps.

        Steps past the last one may fall to any slot, so every slot is as wide as that at least.
        """
        if share is None:
            return self
        core, last = self.core, self.core[-1]
        slots = [
            np.maximum(core[slot::share].max(axis=0), last) for slot in range(min(share, len(core)))
        ]
        return CacheScales(self.prelude, np.stack(slots), self.coda)


def shapes(config: ModelConfig, steps: int) -> dict[str, tuple[int, ...]]:
    """Return the shape of each array by its name."""
    layers = config.layers
    one = (2, 1, config.num_key_value_heads, 1, config.head_dim)
    return {
        "prelude": (layers.prelude, *one),
        "core": (steps, layers.core, *one),
        "coda": (layers.coda, *one),
    }


def most_bytes(config: ModelConfig, steps: int) -> int:
    """Return the largest size of their file."""
    return 4 * sum(map(prod, shapes(config, steps).values())) + MAX_HEADER_BYTES


def pack(scales: CacheScales) -> bytes:
    """Return the file that holds them: safetensors with prelude, core and coda."""
    from safetensors.numpy import save

    return save({name: getattr(scales, name) for name in TENSORS})


def unpack(data: bytes, config: ModelConfig, steps: int, where: str) -> CacheScales:
    """Read such a file from a stranger; raises BundleError.

    Args:
        data: what `pack` made.
        config: of the model, which says the shapes.
        steps: core steps that must have scales.
        where: the file's name, for messages.
    """
    from safetensors import SafetensorError, deserialize

    expected, most = shapes(config, steps), most_bytes(config, steps)
    if len(data) > most:
        raise BundleError(f"{where} has {len(data)} bytes; scales of {steps} steps need {most}")
    try:
        tensors: dict[str, Any] = dict(deserialize(data))  # type: ignore[no-untyped-call]
    except SafetensorError as problem:
        line = " ".join(str(problem).split())[:200]
        raise BundleError(f"{where} is not a whole safetensors file ({line})") from None
    if sorted(tensors) != sorted(expected):
        raise BundleError(f"{where} must hold {', '.join(TENSORS)}, and nothing else")
    arrays = {}
    for name, shape in expected.items():
        found = tensors[name]
        if found["dtype"] != "F32" or tuple(found["shape"]) != shape:
            raise BundleError(
                f"{where}: {name} must be F32 {list(shape)}, "
                f"it is {found['dtype']} {found['shape']!s:.60}"
            )
        array = np.frombuffer(found["data"], "<f4").astype(np.float32).reshape(shape)
        if not ((array >= LOWEST) & (array <= HIGHEST)).all():
            raise BundleError(
                f"{where}: scales of {name} must lie between {LOWEST:g} and {HIGHEST:g}"
            )
        arrays[name] = array
    return CacheScales(**arrays)


def read_cache_scales(bundle: Bundle) -> CacheScales:
    """Return the scales of a bundle's int8 caches.

    Raises:
        InputError: it has none.
        BundleError: their file breaks a rule.
    """
    noted = bundle.manifest.cache_scales
    if noted is None:
        raise InputError(
            f"{bundle.folder} has no scales for an int8 cache: run 'rdlite tune {bundle.folder}' "
            "to make them, or leave the bits out"
        )
    data = bundle.read_text(noted.file)
    assert data is not None  # a bundle with a file that it does not list is not opened
    return unpack(data, bundle.config, noted.steps, str(bundle.folder / noted.file))


FILE = "cache_scales.safetensors"
