"""What discovery methods make of a bundled model, as a card shows it: from the study's results, checked in as JSON.

The file `methods.json` holds a few columns of the study's rows, so that cards need no reader of parquet;
`benchmarks/discovery/study.py` writes it.
"""

import json
import math
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from model_cards.rendering import code

METHODS_FILE = Path(__file__).with_name("methods.json")
METHODS_HEADER = ("method", "edge AUROC", "without embeddings", "best F1", "node AUROC", "agreement", "CPU s")

_SHARES = ("edge_auroc", "edge_auroc_no_embedding", "best_f1", "node_auroc", "agreement_at_size")
_SECONDS = "cpu_seconds"


def methods_json(rows: Iterable[dict[str, Any]]) -> str:
    """The text of the file, from rows of the study in their order: for each model its weights and a row a method."""
    models: dict[str, Any] = {}
    for row in rows:
        if row["error"] is None:
            model = models.setdefault(row["model"], {"weights_sha256": row["weights_sha256"], "methods": {}})
            figures = [None if row[column] is None else float(share(row[column])) for column in _SHARES]
            model["methods"][row["method"]] = [*figures, float(f"{row[_SECONDS]:.2g}")]
    lines = (f"{json.dumps(name)}: {json.dumps(model)}" for name, model in models.items())
    return "{\n" + ",\n".join(lines) + "\n}\n"


def method_rows(model_id: str, weights_sha256: str) -> list[tuple[str, ...]]:
    """A row a method under `METHODS_HEADER`; none if these weights were not part of the study."""
    model = _models().get(model_id)
    if model is None or model["weights_sha256"] != weights_sha256:
        return []
    rows = []
    for method, (*shares, seconds) in model["methods"].items():
        rows.append((code(method), *("–" if value is None else f"{value:.3f}" for value in shares), f"{seconds:g}"))
    return rows


@cache
def _models() -> dict[str, Any]:
    return json.loads(METHODS_FILE.read_text(encoding="utf-8")) if METHODS_FILE.exists() else {}


def share(value: float) -> str:
    """A share, cut off after three digits: 1.000 is said of nothing that is below 1.

    >>> share(0.99996), share(1.0), share(0.29)
    ('0.999', '1.000', '0.290')
    """
    # What floats make of 0.29 * 1000 may lie a little below 290.
    return f"{math.floor(value * 1000 + 1e-9) / 1000:.3f}"
