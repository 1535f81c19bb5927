"""Value sets: every value a variable can take, in a fixed order, and what cannot be one."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from interpbench_hub.errors import ProgramError
from interpbench_hub.rasp.language import Value

MAX_VALUES = 10_000
"""Most values a variable may take; a larger set cannot be told apart by a small transformer."""


def value_order(value: Value) -> tuple[Any, ...]:
    """Sort key over values of all types: numbers, then strings, then the rest."""
    if isinstance(value, int | float):
        return (0, value, "")
    return (1, 0, value) if isinstance(value, str) else (2, 0, repr(value))


def value_set(values: Iterable[Value], name: str, keeps_order: bool) -> tuple[Value, ...]:
    """The distinct values: in their order if that is to be kept, else by `value_order`.

    Raises `ProgramError`, naming the variable, for none at all, too many, NaN, and values without a hash.
    """
    try:
        unique = dict.fromkeys(values)
    except TypeError as error:
        raise ProgramError(f"variable {name!r} takes a value that cannot be told apart: {error}") from error
    if any(value != value for value in unique):
        raise ProgramError(f"variable {name!r} takes the value NaN, which equals nothing; return None for undefined")
    if len(unique) > MAX_VALUES:
        raise ProgramError(
            f"variable {name!r} takes {len(unique)} values; at most {MAX_VALUES} can be told apart, so round or "
            "coarsen it first"
        )
    if not unique:
        raise ProgramError(f"variable {name!r} is undefined for every input")
    return tuple(unique) if keeps_order else tuple(sorted(unique, key=value_order))


def without_near_copies(values: tuple[Value, ...]) -> tuple[Value, ...]:
    """Ascending numbers without those that differ from another by a rounding error; of such, the roundest stays."""
    groups: dict[float, Value] = {}
    for value in values:
        # Adding 0.0 turns -0.0 into 0.0.
        key = round(value, 9) + 0.0
        if key not in groups or abs(value - key) < abs(groups[key] - key):
            groups[key] = value
    return tuple(sorted(groups.values()))


def means_of(values: Sequence[Value], most: int, name: str) -> list[float]:
    """Means of one to `most` of the values."""
    sums: dict[float, float] = {0.0: 0.0}
    means: dict[float, float] = {}
    for count in range(1, most + 1):
        # Rounded keys join sums that differ by the order of additions only.
        sums = {round(total + value, 9): total + value for total in sums.values() for value in values}
        means.update((round(total / count, 9), total / count) for total in sums.values())
        if len(means) > MAX_VALUES:
            raise ProgramError(
                f"variable {name!r} has more than {MAX_VALUES} possible means of {len(values)} values; average fewer "
                "distinct values"
            )
    return list(means.values())


def is_finite(value: float) -> bool:
    """Whether a number is one that floats can hold."""
    try:
        return math.isfinite(value)
    except OverflowError:
        # An integer beyond the range of floats.
        return False
