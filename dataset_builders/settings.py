"""What a user may choose about a dataset, checked; imports nothing heavy, so that the command line starts quickly."""

from collections.abc import Sequence

from interpbench_hub.errors import SettingError

DEFAULT_ROWS = (10_000, 1_000, 1_000)
"""Rows of train, validation and test."""


def check_settings(rows: Sequence[int], seed: int) -> tuple[int, int, int]:
    """The rows as a tuple; raises `SettingError` for what is no row count or no seed."""
    given = tuple(rows)
    if len(given) != 3 or not all(_is_int(count) and count > 0 for count in given):
        raise SettingError(
            f"rows {given!r} are not three positive numbers; give the rows of train, validation and test, such as "
            f"{' '.join(map(str, DEFAULT_ROWS))}"
        )
    if not _is_int(seed) or seed < 0:
        raise SettingError(f"seed {seed!r} is not a whole number from 0 up; every seed makes another dataset")
    return given[0], given[1], given[2]


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
