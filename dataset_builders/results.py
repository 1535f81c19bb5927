"""The results dataset: how every discovery method does on every bundled model, as tables that need only parquet.

The rows come from the checked-in `results.parquet` beside this file, which `benchmarks/discovery/study.py` writes. Owns
which rows make up which table, the leaderboard, and the files of the repository `interpbench/results`.
"""

import statistics
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataset_builders.files import remove_partial_files, usable_folder, write_whole
from interpbench_hub.constants import CARD_FILE, NAMESPACE
from interpbench_hub.discovery.comparison import bootstrap_interval
from interpbench_hub.discovery.methods import METHODS
from interpbench_hub.errors import SettingError
from model_cards.methods import share

if TYPE_CHECKING:
    import pyarrow as pa

Row = dict[str, Any]

REPOSITORY = "results"
"""Name of the results dataset in its namespace."""
RESULTS_FILE = Path(__file__).with_name("results.parquet")
GENERATED = "<!-- Written by `python -m dataset_builders results`, which writes it anew. -->"
"""Stands in the card, so that no other README is overwritten."""
CONFIGS = {
    "methods": "every method with its defaults on every certified model",
    "metrics": "EAP and EAP-IG that differentiate another metric, on the same models",
    "twins": "methods on comparison twins, scored against the program's circuit, which is not known to be theirs",
    "leaderboard": "medians of `methods` by tier with 95 % bootstrap intervals",
}
"""The configs, the default one first: what their rows are about."""
SPLIT = "train"

MEDIANS = (
    "edge_auroc",
    "edge_auroc_no_embedding",
    "edge_auprc",
    "best_f1",
    "hamming_at_size",
    "node_auroc",
    "agreement_at_size",
    "cpu_seconds",
)
"""The columns that the leaderboard has medians of."""
ALL_TIERS = "all"
TIERS = ("elementwise", "single-head", "multi-head", "deep", ALL_TIERS)

_RESAMPLES = 2_000  # of bootstrap intervals: steady to two digits, and half a thousand of them in seconds
_SETTINGS = {"granularity": "qkv-edge", "ablation": "resample", "n_pairs": 256, "split": "test", "seed": 0}
"""What the rows of the study have in common."""
_MAIN_RECIPE, _NO_OPTIONS = "edge-siit", "{}"


# -- rows --------------------------------------------------------------------------------------------------------------


def load_rows(path: Path = RESULTS_FILE) -> list[Row]:
    """The rows of the study, as `interpbench_hub.discovery.results.COLUMNS` has them."""
    import pyarrow.parquet as pq

    return pq.read_table(path).to_pylist()


def commit_of_rows(path: Path = RESULTS_FILE) -> str:
    """The commit that was checked out when the rows were brought together; empty if that is not known."""
    import pyarrow.parquet as pq

    return (pq.read_schema(path).metadata or {}).get(b"commit", b"").decode()


def save_rows(rows: Iterable[Row], path: Path = RESULTS_FILE, *, commit: str | None = None) -> None:
    """Write the rows of the study, in an order of their own; the same rows give the same bytes."""
    schema = _schema().with_metadata({"commit": commit or ""})
    write_whole(path, _parquet(sorted(rows, key=_order), schema))


def merged(*sources: Iterable[Row]) -> list[Row]:
    """The rows of the study among those of several sources; of one method, options and model the last counts.

    Left out are rows of other settings (`_SETTINGS`), and of other weights than the bundled models have.
    """
    from interpbench_hub.constants import WEIGHTS_FILE
    from interpbench_hub.manifest import load_manifest

    weights = {name: entry["files"][WEIGHTS_FILE] for name, entry in load_manifest()["models"].items()}
    found: dict[tuple[str, str, str], Row] = {}
    for row in (row for source in sources for row in source):
        is_of_study = all(row[name] == value for name, value in _SETTINGS.items()) and row["method"] in METHODS
        if is_of_study and row["weights_sha256"] == weights.get(row["model"]):
            found[row["method"], row["options"], row["model"]] = row
    return sorted(found.values(), key=_order)


def part(rows: Iterable[Row], config: str) -> list[Row]:
    """The rows of one config: `methods`, `metrics` or `twins`."""
    wanted = {
        "methods": lambda row: row["recipe"] == _MAIN_RECIPE and row["options"] == _NO_OPTIONS,
        "metrics": lambda row: row["recipe"] == _MAIN_RECIPE and row["options"] != _NO_OPTIONS,
        "twins": lambda row: row["recipe"] != _MAIN_RECIPE,
    }[config]
    return [row for row in rows if wanted(row)]


def values_of(rows: Iterable[Row], column: str, *, tier: str = ALL_TIERS, method: str | None = None) -> list[float]:
    """The values of a column that are defined, of one tier or all, of one method or all."""
    return [
        row[column]
        for row in rows
        if tier in (ALL_TIERS, row["tier"]) and method in (None, row["method"]) and row[column] is not None
    ]


def methods_of(rows: Iterable[Row]) -> list[str]:
    """The methods that the rows have, in the order of the package's table."""
    present = {row["method"] for row in rows}
    return [name for name in METHODS if name in present]


# -- leaderboard -------------------------------------------------------------------------------------------------------


def leaderboard(rows: Sequence[Row]) -> list[Row]:
    """A row a method and tier: how many models, and of each column of `MEDIANS` the median and its interval.

    `rows` are those of `methods`. Tiers without a model are left out; an interval needs two models.
    """
    lines: list[Row] = []
    for method in methods_of(rows):
        for tier in TIERS:
            own = [row for row in rows if row["method"] == method and tier in (ALL_TIERS, row["tier"])]
            if not own:
                continue
            entry = METHODS[method]
            line: Row = {"method": method, "title": entry.title, "paper": entry.paper, "tier": tier}
            line["n_models"] = len(values_of(own, "edge_auroc"))
            for column in MEDIANS:
                values = values_of(own, column)
                interval = bootstrap_interval(values, n=_RESAMPLES)
                line[column] = statistics.median(values) if values else None
                line[f"{column}_low"], line[f"{column}_high"] = interval or (None, None)
            lines.append(line)
    return lines


SHORT_HEADER = (
    "method",
    *TIERS,
    "mean",
    "found exactly",
    "best F1",
    "agreement",
    "CPU s",
)


def short_leaderboard(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """Cells under `SHORT_HEADER`: median edge AUROC by tier, best mean first; shares are cut off, not rounded up.

    `found exactly` says on how many models every varying edge comes before every edge outside; the last three columns
    are medians over all models.
    """
    lines = []
    for place, method in enumerate(methods_of(rows)):
        areas = values_of(rows, "edge_auroc", method=method)
        if not areas:
            continue
        medians = [values_of(rows, "edge_auroc", tier=tier, method=method) for tier in TIERS]
        others = [values_of(rows, column, method=method) for column in ("best_f1", "agreement_at_size")]
        seconds = values_of(rows, "cpu_seconds", method=method)
        cells = (
            f"`{method}`",
            *(share(statistics.median(values)) if values else "–" for values in medians),
            share(statistics.mean(areas)),
            f"{sum(area == 1 for area in areas)} of {len(areas)}",
            *(share(statistics.median(values)) if values else "–" for values in others),
            f"{statistics.median(seconds):.2g}" if seconds else "–",
        )
        lines.append((-statistics.mean(areas), place, cells))
    return [cells for _, _, cells in sorted(lines)]


# -- repository --------------------------------------------------------------------------------------------------------


def results_files(path: Path = RESULTS_FILE, *, namespace: str = NAMESPACE) -> dict[str, bytes]:
    """The files of the repository `<namespace>/results`, by their paths in it: a table a config, and the card.

    Raises `SettingError` where there are no results. The same results give the same bytes, as long as the version of
    pyarrow is the same.

    >>> sorted(results_files())[:2]
    ['README.md', 'leaderboard/train-00000-of-00001.parquet']
    """
    if not path.exists():
        raise SettingError(f"{path} is not there; python benchmarks/discovery/study.py makes it")
    tables = _tables(path.read_bytes())
    return {CARD_FILE: results_card(path, namespace=namespace).encode(), **tables}


def write_results(out: str | Path, path: Path = RESULTS_FILE, *, namespace: str = NAMESPACE) -> Path:
    """Writes these files into a folder, which `datasets.load_dataset` loads; returns the folder.

    A folder that has them already gets new ones; one with another README is refused. Interrupted, it lacks its card.
    """
    files = results_files(path, namespace=namespace)
    folder = usable_folder(out, GENERATED, REPOSITORY)
    # Taken away first and written last: a folder with a card is whole.
    (folder / CARD_FILE).unlink(missing_ok=True)
    for name in sorted(files, key=lambda name: name == CARD_FILE):
        target = folder / name
        target.parent.mkdir(exist_ok=True)
        remove_partial_files(target.parent)
        write_whole(target, files[name])
    return folder


def results_card(path: Path = RESULTS_FILE, *, namespace: str = NAMESPACE) -> str:
    """The card of the results dataset."""
    from dataset_builders.metadata import card_data, render_card
    from interpbench_hub import __version__
    from interpbench_hub.discovery.results import COLUMNS
    from interpbench_hub.manifest import version_tag

    rows = load_rows(path)
    by_config = {config: part(rows, config) for config in CONFIGS if config != "leaderboard"}
    configs = {config: {SPLIT: table_file(config)} for config in CONFIGS if by_config.get(config, rows)}
    main = by_config["methods"]
    counts = {config: len(of_config) for config, of_config in by_config.items()}
    counts["leaderboard"] = len({(row["method"], tier) for row in main for tier in (row["tier"], ALL_TIERS)})
    return render_card(
        "results_card.md.jinja",
        card_data(
            "InterpBench Hub: circuit discovery methods on certified circuits",
            ("known-circuit", "leaderboard"),
            sum(counts.values()),
            configs,
            default="methods",
        ),
        generated=GENERATED,
        namespace=namespace,
        repository=REPOSITORY,
        version=__version__,
        tag=version_tag(),
        config_rows=[(f"`{config}`", f"{counts[config]:,}", CONFIGS[config]) for config in configs],
        leaderboard_header=SHORT_HEADER,
        leaderboard_rows=short_leaderboard(main),
        n_models=len({row["model"] for row in main}),
        method_rows=[
            (f"`{method}`", METHODS[method].title, METHODS[method].paper or "–") for method in methods_of(main)
        ],
        column_rows=[(f"`{name}`", kind, meaning) for name, (kind, meaning) in COLUMNS.items()],
        made=provenance(main, path),
    )


def provenance(rows: Sequence[Row], path: Path = RESULTS_FILE) -> list[tuple[str, str]]:
    """Where the rows come from: settings, versions, machine, commit, dates."""

    def listed(column: str) -> str:
        return ", ".join(sorted({str(row[column]) for row in rows}))

    versions = ("package_version", "torch_version", "python_version")
    days = sorted({row["created"][:10] for row in rows}) or [""]
    return [
        ("seed", listed("seed")),
        ("pairs a model", f"{listed('n_pairs')}, of split {listed('split')}"),
        ("edges replaced by", f"{listed('ablation')}d values"),
        ("interpbench-hub, torch, Python", ", ".join(map(listed, versions))),
        ("hardware", f"{listed('hardware')}, one thread"),
        ("commit", commit_of_rows(path) or "not known"),
        ("made", days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"),
    ]


def table_file(config: str) -> str:
    """Where the table of a config is in the repository."""
    return f"{config}/{SPLIT}-00000-of-00001.parquet"


@cache
def _tables(content: bytes) -> dict[str, bytes]:
    """The tables that have rows, from the bytes of the checked-in file; kept, since intervals take seconds."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows: list[Row] = pq.read_table(pa.BufferReader(content)).to_pylist()
    tables = {config: part(rows, config) for config in CONFIGS if config != "leaderboard"}
    files = {table_file(config): _parquet(of_config, _schema()) for config, of_config in tables.items() if of_config}
    board = leaderboard(tables["methods"])
    return files | {table_file("leaderboard"): _parquet(board, _leaderboard_schema())}


def _schema() -> "pa.Schema":
    import pyarrow as pa

    # Imports torch, which commands that make no table do without.
    from interpbench_hub.discovery.results import COLUMNS

    return pa.schema([(name, pa.type_for_alias(kind)) for name, (kind, _) in COLUMNS.items()])


def _leaderboard_schema() -> "pa.Schema":
    import pyarrow as pa

    medians = [f"{column}{end}" for column in MEDIANS for end in ("", "_low", "_high")]
    return pa.schema(
        [
            *((name, pa.string()) for name in ("method", "title", "paper", "tier")),
            ("n_models", pa.int64()),
            *((name, pa.float64()) for name in medians),
        ]
    )


def _parquet(rows: Iterable[Row], schema: "pa.Schema") -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pylist([{name: row.get(name) for name in schema.names} for row in rows], schema)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue().to_pybytes()


def _order(row: Row) -> tuple[Any, ...]:
    from interpbench_hub.manifest import natural_order

    return natural_order(row["model"]), list(METHODS).index(row["method"]), row["options"]
