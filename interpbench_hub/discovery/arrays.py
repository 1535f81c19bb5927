"""Numbers that a user passes, checked once: real numbers of the right shape, none of them NaN."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from interpbench_hub.errors import SettingError

FloatArray = NDArray[np.float64]


def as_floats(values: ArrayLike, what: str, *, is_finite: bool = True, n_dims: int | None = 1) -> FloatArray:
    """`values` as float64; `what` names them in errors. `is_finite=False` lets +-inf pass, `n_dims=None` any shape."""
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise SettingError(f"{what} {_brief(values)} are not numbers; pass real numbers only") from error
    if n_dims is not None and array.ndim != n_dims:
        raise SettingError(f"{what} have shape {array.shape}; pass an array of {n_dims} dimension(s)")
    is_bad = ~np.isfinite(array) if is_finite else np.isnan(array)
    if is_bad.any():
        where = np.argwhere(is_bad)[0]
        index = int(where[0]) if len(where) == 1 else tuple(map(int, where))
        rule = "every one must be finite" if is_finite else "a ranking has no place for NaN"
        raise SettingError(
            f"{what} hold {array[tuple(where)]} at index {index} ({int(is_bad.sum())} such of {array.size}); {rule}: "
            "find what produced it, or leave the entry out"
        )
    return array


def _brief(values: object) -> str:
    text = repr(values)
    return text if len(text) <= 80 else text[:77] + "..."
