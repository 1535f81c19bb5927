"""What becomes of EAP's scores where its metric is saturated, and what a staircase of thresholds makes of them.

The 2024 release scores all methods by circuits at 16 thresholds, and takes the area below the staircase of their points
that lies below the curve (ACDC's `pessimistic_auc`, arXiv:2304.14997). Equal scores count against the method there:
scores that all lie between two thresholds get 0, where an exact AUROC with ties is 0.5 if all are equal, and whatever
their order is worth if they are not.
"""

from collections.abc import Iterable, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike

THRESHOLDS = (0.0, 1e-5, 1e-4, 1e-3, 1e-2, 0.025, 0.05, 0.1, 0.2, 0.5, 0.8, 1.0, 10.0, 20.0, 50.0, 100.0)
"""Those of the 2024 release, for every method and case."""
METRICS = ("logit_difference", "kl", "loss")
METHODS = ("eap", "eap-ig-inputs")


def staircase_auc(scores: ArrayLike, is_positive: ArrayLike, thresholds: Sequence[float] = THRESHOLDS) -> float:
    """The area below the lower staircase through the points (false, true positive rate) of some thresholds.

    A score [item] is found at a threshold if it is at least as large. From each point the stairs go right at its height
    and up only where the next point lies; (0, 0) is the first. Never above the exact AUROC. NaN without a positive or
    a negative.

    >>> staircase_auc([3, 2, 1], [True, False, False], [0.5, 1.5, 2.5]), staircase_auc([1e-9, 0], [True, False])
    (1.0, 0.0)
    """
    values, positive = np.asarray(scores, dtype=float), np.asarray(is_positive, dtype=bool)
    if positive.all() or not positive.any():
        return float("nan")
    found = values[None, :] >= np.sort(np.asarray(thresholds, dtype=float))[::-1, None]
    true, false = found[:, positive].mean(1), found[:, ~positive].mean(1)
    return float(((1 - false) * np.diff(true, prepend=0)).sum())


def measure(models: Iterable[str]) -> list[dict[str, Any]]:
    """A row a model, method and metric: largest score, scores above 0, exact AUROC and that of the staircase.

    Pairs and universe are those of the study. A minute of one core for 16 cases.
    """
    from interpbench_hub.constants import MODEL_FILES
    from interpbench_hub.discovery.labels import labels_of
    from interpbench_hub.discovery.methods import get_method
    from interpbench_hub.discovery.metrics import auroc
    from interpbench_hub.discovery.subject import Subject
    from interpbench_hub.hub import resolve
    from interpbench_hub.siit.machine import torch_threads

    rows = []
    with torch_threads(1):
        for model in models:
            subject = Subject(resolve(model, files=MODEL_FILES))
            data, universe = subject.pairs(256, 0, "test"), subject.circuit.universe
            counted, is_positive = labels_of(subject.circuit)
            for method in METHODS:
                for metric in METRICS:
                    scores = cast(Any, get_method(method).function)(subject.transformer, universe, data, metric=metric)
                    values = [float(scores[edge]) for edge in counted]
                    rows.append(
                        {
                            "model": model,
                            "output": "classes" if subject.case.categorical else "numbers",
                            "method": method,
                            "metric": metric,
                            "largest": max(values),
                            "share_above_0": float(np.mean(np.array(values) > 0)),
                            "auroc": auroc(values, is_positive),
                            "staircase": staircase_auc(values, is_positive),
                        }
                    )
    return rows
