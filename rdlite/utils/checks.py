"""Checks of numbers that users give; the error names the value and the bounds."""

from rdlite.errors import InputError


def check_integer(name: str, value: object, low: int, high: int) -> int:
    """Return `value` as an int if it is one within [low, high], else raise InputError."""
    try:
        number = value.__index__()  # type: ignore[attr-defined]
    except (AttributeError, TypeError):
        number = None
    if isinstance(value, bool) or not isinstance(number, int) or not low <= number <= high:
        raise InputError(f"{name} must be a whole number from {low} to {high}, got {value!r}")
    return number


def check_number(name: str, value: object, low: float, high: float) -> float:
    """Return `value` as a float if it lies within [low, high], else raise InputError."""
    try:
        number = None if isinstance(value, str | bytes) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        number = None
    if isinstance(value, bool) or number is None or not low <= number <= high:
        raise InputError(f"{name} must be a number from {low:g} to {high:g}, got {value!r}")
    return number


def check_seed(seed: int) -> int:
    """Return the seed, or raise InputError unless it is a whole number below 2^64."""
    return check_integer("seed", seed, 0, 2**64 - 1)
