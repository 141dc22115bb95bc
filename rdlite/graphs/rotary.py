"""Tables of rotary positions: in a bundle as far as they are bounded, and longer ones at load."""

from typing import Any

import numpy as np
import numpy.typing as npt

from rdlite.config.model import ModelConfig, RotaryScaling

Floats = npt.NDArray[np.float32]
TABLES = {"rotary.cos": np.cos, "rotary.sin": np.sin}


def rotary_table(config: ModelConfig, name: str, positions: int) -> Floats:
    """Return the table of cosines or sines, float32 [positions, D/2], as the published code has it.

    A longer table begins like a shorter one, to the bit.
    """
    pairs = np.arange(0, config.head_dim, 2, dtype=np.float32) / np.float32(config.head_dim)
    frequencies = np.float32(1) / np.float32(config.rotary.base) ** pairs
    if config.rotary.scaling is not None:
        frequencies = _stretch(frequencies, config.rotary.scaling)
    angles = np.outer(np.arange(positions, dtype=np.float32), frequencies)
    result: Floats = TABLES[name](angles, out=angles)
    return result


def _stretch(frequencies: Floats, scaling: RotaryScaling) -> Floats:
    """Divide slow frequencies by the factor; between slow and fast, by a part of it."""
    turns = scaling.original_context * frequencies / np.float32(2 * np.pi)
    low, high = scaling.low_frequency, scaling.high_frequency
    fast = np.clip((turns - low) / (high - low), 0, 1)
    stretched: Floats = frequencies * (fast + (1 - fast) / scaling.factor)
    return stretched.astype(np.float32)


def with_positions(graph: bytes, positions: int) -> tuple[bytes, tuple[str, ...]]:
    """Return a checked graph whose tables have so many rows, and the names of those it uses.

    The tables are without data: the session is given them.
    """
    import onnx

    model: Any = onnx.ModelProto.FromString(graph)
    found = []
    for tensor in model.graph.initializer:
        if tensor.name in TABLES:
            tensor.dims[0] = positions
            kept = [entry for entry in tensor.external_data if entry.key == "location"]
            del tensor.external_data[:]
            tensor.external_data.extend(kept)
            found.append(tensor.name)
    return model.SerializeToString(deterministic=True), tuple(found)
