"""Results of evaluations: the columns of the table, its files, and what tables are read for: summaries, comparisons.

A folder of results has `journal.jsonl`, to which rows are added as they come, and `results.parquet`, made from it. Rows
of other settings lie side by side and are told apart by the column `settings`.
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from interpbench_hub.discovery.comparison import (
    Interval,
    Magnitude,
    PairedTest,
    bootstrap_interval,
    magnitude,
    paired_wilcoxon,
    vargha_delaney,
)
from interpbench_hub.discovery.scoring import METRICS, SMALLER_IS_BETTER
from interpbench_hub.errors import SettingError, unknown_name

if TYPE_CHECKING:
    from pandas import DataFrame

Row = dict[str, Any]

JOURNAL_FILE = "journal.jsonl"
RESULTS_FILE = "results.parquet"
_EXTRA = "interpbench-hub[data]"

_TEXT, _INT, _FLOAT = "string", "int64", "float64"
COLUMNS: dict[str, tuple[str, str]] = {
    "method": (_TEXT, "name of the method, or import path"),
    "model": (_TEXT, "the model, as `load_model` takes it"),
    "case": (_TEXT, "the case it was trained for"),
    "tier": (_TEXT, "tier of the case"),
    "recipe": (_TEXT, "how it was trained: `edge-siit`, `siit` or `behaviour`"),
    "grade": (_TEXT, "grade of its certificate; null without one"),
    "granularity": (_TEXT, "what was scored: `qkv-edge`, `edge` or `node`"),
    "ablation": (_TEXT, "`resample`, `zero` or `mean`"),
    "n_pairs": (_INT, "pairs of inputs that the method saw"),
    "faithfulness_pairs": (_INT, "pairs of these that faithfulness was measured on"),
    "split": (_TEXT, "split of the dataset that the pairs are from"),
    "seed": (_INT, "seed of the pairs, of the method if it has one, and of random knockouts"),
    "options": (_TEXT, "other options of the method, as JSON"),
    "n_edges": (_INT, "edges of the model at this granularity (for nodes: q, k and v edges)"),
    "n_positives": (_INT, "varying edges, the size at which `_at_size` is taken"),
    "n_negatives": (_INT, "edges outside the circuit"),
    **{name: (_FLOAT, meaning) for name, meaning in METRICS.items()},
    "wall_seconds": (_FLOAT, "wall time of the method's call"),
    "cpu_seconds": (_FLOAT, "processor time of the method's call, one thread"),
    "forward_passes": (_FLOAT, "inputs for which the method had logits computed, / n_pairs; half a pass counts as one"),
    "backward_passes": (_FLOAT, "inputs whose logits it took a gradient through, / n_pairs"),
    "peak_memory_mb": (_FLOAT, "resident memory that the call took beyond what was there, in MiB; null but on Linux"),
    "error": (_TEXT, "why there are no scores; null if all went well"),
    "settings": (_TEXT, "digest of all that the scores depend on but for the model: rows compare where it is one"),
    "method_path": (_TEXT, "import path of the method"),
    "method_sha256": (_TEXT, "digest of the file that it is written in"),
    "weights_sha256": (_TEXT, "digest of the model's weights"),
    "package_version": (_TEXT, "version of interpbench-hub"),
    "torch_version": (_TEXT, "version of torch"),
    "python_version": (_TEXT, "version of Python"),
    "hardware": (_TEXT, "processor"),
    "created": (_TEXT, "when the row was made, UTC, ISO 8601"),
}
"""Type and meaning of every column; metrics are null where they are not defined."""


COSTS = ("wall_seconds", "cpu_seconds", "forward_passes", "backward_passes", "peak_memory_mb")
"""Columns of which smaller is better and that are no metrics."""


def row_key(row: Row) -> tuple[str, str, str]:
    """What a row is about: there is one row of each."""
    return row["settings"], row["model"], row["weights_sha256"]


# -- tables ------------------------------------------------------------------------------------------------------------


def check_tables() -> None:
    """Raise `SettingError` where tables cannot be made; to be found out before hours of work."""
    try:
        import pandas as pandas
        import pyarrow as pyarrow
    except ImportError as error:
        raise SettingError(
            f"tables of results need pandas and pyarrow, which are not installed ({error}); pip install '{_EXTRA}'"
        ) from error


def to_frame(rows: Iterable[Row]) -> "DataFrame":
    """The table of some rows: the columns of `COLUMNS`, typed whatever the rows hold."""
    check_tables()
    return _to_arrow(rows).to_pandas()


def _to_arrow(rows: Iterable[Row]) -> Any:
    import pyarrow as pa

    types = {_TEXT: pa.string(), _INT: pa.int64(), _FLOAT: pa.float64()}
    schema = pa.schema([(name, types[kind]) for name, (kind, _) in COLUMNS.items()])
    return pa.Table.from_pylist([{name: row.get(name) for name in COLUMNS} for row in rows], schema)


def read_results(*paths: str | Path) -> "DataFrame":
    """The rows of one or more results: parquet files, or folders of evaluations; of equal rows the last counts.

    Raises `SettingError` for a file that is none of these, and where pandas or pyarrow is missing.
    """
    check_tables()
    if not paths:
        raise SettingError("no results are given; name parquet files, or folders that evaluations wrote to")
    rows: dict[tuple[str, str, str], Row] = {}
    for path in map(Path, paths):
        for row in _read(path):
            key = row_key(row)
            # The place of the last one, too: rows come in the order in which they were made.
            rows.pop(key, None)
            rows[key] = row
    return to_frame(rows.values())


def _read(path: Path) -> list[Row]:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    if path.is_dir():
        if (path / JOURNAL_FILE).exists():
            return Journal(path).rows()
        path = path / RESULTS_FILE
    try:
        table = parquet.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise SettingError(
            f"{path}: no table of results ({error}); give a parquet file that an evaluation wrote, or its folder"
        ) from error
    lacking = [name for name in ("method", "model", "settings", "weights_sha256") if name not in table.column_names]
    if lacking:
        raise SettingError(f"{path}: lacks the columns {', '.join(lacking)}; it was not written by an evaluation")
    return table.to_pylist()


class Journal:
    """The rows of a folder, one line of JSON each, added as they come: what was written once is never touched again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._path = folder / JOURNAL_FILE

    def rows(self) -> list[Row]:
        """All rows so far, the last one of each key."""
        found: dict[tuple[str, str, str], Row] = {}
        for line in self._lines():
            try:
                row = json.loads(line)
                key = row_key(row)
            except (ValueError, KeyError, TypeError) as error:
                raise SettingError(
                    f"{self._path}: a line is no row of results ({error}); delete the file, or choose another folder"
                ) from error
            found.pop(key, None)
            found[key] = row
        return list(found.values())

    def _lines(self) -> list[str]:
        """Whole lines: the last one lacks its end where the process was killed while it wrote."""
        if not self._path.exists():
            return []
        text = self._path.read_bytes().decode("utf-8", "replace")
        return [line for line in text[: text.rfind("\n") + 1].split("\n") if line]

    def repair(self) -> None:
        """Take away half a line at the end, which the next row would be written onto."""
        if self._path.exists():
            content = self._path.read_bytes()
            whole = content.rfind(b"\n") + 1
            if whole < len(content):
                os.truncate(self._path, whole)

    def add(self, row: Row) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")

    def write_table(self) -> Path | None:
        """Write `results.parquet` anew, whole or not at all; returns its path, None while there are no rows."""
        import pyarrow.parquet as parquet

        rows = self.rows()
        if not rows:
            return None
        path = self.folder / RESULTS_FILE
        unfinished = self.folder / f".{RESULTS_FILE}.new"
        parquet.write_table(_to_arrow(rows), unfinished, compression="zstd")
        unfinished.replace(path)
        return path


# -- what tables say ---------------------------------------------------------------------------------------------------


def with_labels(table: "DataFrame") -> "DataFrame":
    """The table with a column `label`: the method, and its settings' digest where it comes with several."""
    rows = _records(table)
    settings: dict[str, set[str]] = {}
    for row in rows:
        settings.setdefault(row["method"], set()).add(row["settings"])
    several = {method for method, digests in settings.items() if len(digests) > 1}
    labels = [f"{row['method']}@{row['settings'][:6]}" if row["method"] in several else row["method"] for row in rows]
    return table.assign(label=labels)


def _records(table: Any) -> list[Row]:
    """The rows of a table as dictionaries, None for what is null or NaN."""
    return [
        {name: None if value is None or value != value else value for name, value in row.items()}
        for row in table.to_dict("records")
    ]


class Summary(NamedTuple):
    """One metric of one method over some models."""

    label: str
    """The method; with the first digits of its settings behind an @ where the table has several."""
    tier: str | None
    """None for all tiers."""
    n: int
    """Models for which the metric is defined."""
    median: float | None
    interval: Interval | None
    """95 % bootstrap interval of the median over models."""


def summarise(table: "DataFrame", metric: str = "edge_auroc") -> list[Summary]:
    """Medians of a metric by method and tier with their bootstrap intervals; each method's last line is all tiers.

    Models for which the metric is not defined, rows with an error among them, are left out; `n` says how many count.
    """
    check_metric(metric)
    rows = _records(with_labels(table))
    lines: list[Summary] = []
    for label in dict.fromkeys(row["label"] for row in rows):
        own = [row for row in rows if row["label"] == label]
        tiers = dict.fromkeys(row["tier"] for row in own if row["tier"] is not None)
        for tier in (*tiers, None):
            values = [row[metric] for row in own if tier in (None, row["tier"]) and row[metric] is not None]
            median = float(np.median(values)) if values else None
            lines.append(Summary(label, tier, len(values), median, bootstrap_interval(values)))
    return lines


class Comparison(NamedTuple):
    """Two methods on the models that both have a value for."""

    metric: str
    first: str
    second: str
    n: int
    """Models that both have the metric for."""
    n_differ: int
    """Models on which they differ: those that the test is about."""
    medians: tuple[float, float] | None
    test: PairedTest | None
    """Two-sided Wilcoxon signed-rank test; None with fewer than six differing models."""
    a12: float | None
    """Chance that the first is better than the second on models drawn at random, ties counting half."""
    effect: Magnitude | None
    """That in a word."""


def compare(
    table: "DataFrame", first: str, second: str, metric: str = "edge_auroc", *, tier: str | None = None
) -> Comparison:
    """Compare two methods by a metric, over all models or those of a tier: `paired_wilcoxon` and `vargha_delaney`.

    `first` and `second` are labels as `summarise` has them. Raises `UnknownNameError` for one that the table has not.
    """
    check_metric(metric)
    rows = _records(with_labels(table))
    values: list[dict[str, float]] = []
    for label in (first, second):
        own = [row for row in rows if row["label"] == label]
        if not own:
            raise unknown_name("method of these results", label, dict.fromkeys(row["label"] for row in rows))
        own = [row for row in own if tier in (None, row["tier"]) and row[metric] is not None]
        values.append({row["model"]: row[metric] for row in own})
    models = [model for model in values[0] if model in values[1]]
    a, b = (np.array([of_model[model] for model in models]) for of_model in values)
    a12 = vargha_delaney(b, a) if metric in (*SMALLER_IS_BETTER, *COSTS) else vargha_delaney(a, b)
    return Comparison(
        metric,
        first,
        second,
        len(models),
        int(np.count_nonzero(a != b)),
        (float(np.median(a)), float(np.median(b))) if models else None,
        paired_wilcoxon(a, b),
        a12,
        None if a12 is None else magnitude(a12),
    )


def check_metric(metric: str) -> None:
    """Raise `UnknownNameError` for what is neither a metric nor a cost."""
    known = (*METRICS, *COSTS)
    if metric not in known:
        raise unknown_name("metric", metric, known)
