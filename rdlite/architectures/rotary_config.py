"""Reads what a hub config.json says of rotary positions, in the old form and in transformers 5's.

The old form has the base in a key of its own and how it is stretched in `rope_scaling`;
transformers 5 has both in `rope_parameters`. A config may have both forms if they say the same.
"""

from typing import Any

from rdlite.architectures.hf_config import MISSING, ConfigReader
from rdlite.config.model import Rotary, RotaryScaling
from rdlite.errors import FamilyError

OLD, NEW = "rope_scaling", "rope_parameters"
#: Numbers of the way to stretch that Llama 3 has.
LLAMA3 = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")


def read_rotary(
    keys: ConfigReader, name: str, *others: str, interleaved: bool = False, default: Any = MISSING
) -> Rotary:
    """Take what a config says of rotary positions.

    Args:
        keys: of the config.
        name: where the old form has the base.
        others: where else the base may be, if it is in neither form; ignored where it is.
        interleaved: whether neighbours are rotated, not halves; that is the family's.
        default: the base where the config has none.

    Raises:
        FamilyError: both forms are there and differ, or positions are stretched in another way
            than Llama 3's.
    """
    theta = f"{NEW}.rope_theta"
    if keys.given(name) is not None and keys.given(theta) is not None:
        first, second = keys.number(name), keys.number(theta)
        if first != second:
            raise FamilyError(
                f"config: {name} is {first:g} and {theta} is {second:g}; both say the base of "
                "rotary positions, so remove the one that is wrong"
            )
    base = keys.number(name, theta, *others, default=default)
    stretched = {group: found for group in (OLD, NEW) if (found := _scaling(keys, group))}
    if len(stretched) == 2 and stretched[OLD] != stretched[NEW]:
        raise FamilyError(
            f"config: {OLD} says {_say(stretched[OLD])} and {NEW} {_say(stretched[NEW])}; both say "
            "how rotary positions are stretched, so remove the one that is wrong"
        )
    scaling = next(iter(stretched.values()), None)
    return Rotary(base, interleaved, scaling if isinstance(scaling, RotaryScaling) else None)


def _scaling(keys: ConfigReader, group: str) -> RotaryScaling | str | None:
    """Take one form: how it stretches, or "default" if it says that it does not, None if nothing.

    A `rope_parameters` with a base alone says nothing of stretching.
    """
    kinds = {keys.given(f"{group}.{key}") for key in ("rope_type", "type")} - {None}
    keys.harmless(f"{group}.rope_type", f"{group}.type")
    keys.must_be(f"{group}.partial_rotary_factor", 1.0)
    numbers = [f"{group}.{name}" for name in LLAMA3]
    if not kinds and keys.given(numbers[0]) is None:
        return None
    if kinds == {"default"}:
        keys.must_be(numbers[0], 1.0)
        keys.harmless(*numbers)
        return "default"
    if kinds not in ({"llama3"}, set()):
        raise FamilyError(
            f"config: {group}.rope_type is {' and '.join(sorted(map(repr, kinds)))[:60]}; rdlite "
            "knows default and llama3"
        )
    factor, low, high = (keys.number(name) for name in numbers[:3])
    return RotaryScaling(factor, low, high, keys.integer(numbers[3]))


def _say(scaling: RotaryScaling | str) -> str:
    return scaling if isinstance(scaling, str) else f"llama3 by {scaling.factor:g} ({scaling})"
