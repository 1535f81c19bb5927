"""The study of circuit discovery methods: runs it, and writes its tables, charts, cards and leaderboards.

    python benchmarks/discovery/study.py                                       run or resume in runs/study, then write
    python benchmarks/discovery/study.py --from /tmp/study --from /tmp/twins   only write, with the rows of folders
    python benchmarks/discovery/study.py --write                               only write, from the checked-in rows
    python benchmarks/discovery/study.py --check                               fail if what is written is stale

The rows are in `dataset_builders/results.parquet`; those of other folders replace rows of the same method, options and
model. Written from them: `model_cards/methods.json`, `benchmarks/discovery/*.svg`, the marked parts of
`benchmarks/README.md` and `README.md`, and (by `scripts/make_docs.py`) the cards.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from benchmarks.discovery.plots import all_plots  # noqa: E402
from benchmarks.discovery.saturation import measure  # noqa: E402
from benchmarks.discovery.tables import PAPER_CASES, all_tables  # noqa: E402
from dataset_builders.results import (  # noqa: E402
    RESULTS_FILE,
    SHORT_HEADER,
    Row,
    leaderboard,
    load_rows,
    merged,
    part,
    provenance,
    save_rows,
    short_leaderboard,
)
from model_cards.methods import METHODS_FILE, methods_json  # noqa: E402
from model_cards.rendering import table  # noqa: E402

HERE = Path(__file__).resolve().parent
SATURATION_FILE = HERE / "saturation.json"
BENCHMARKS, README = ROOT / "benchmarks" / "README.md", ROOT / "README.md"
BEGIN, END = "<!-- begin: written by benchmarks/discovery/study.py -->", "<!-- end: benchmarks/discovery/study.py -->"

METRIC_METHODS = ("eap", "eap-ig-inputs")
TWIN_METHODS = (
    "exhaustive",
    "acdc",
    "eap",
    "eap-ig-inputs",
    "eap-ig-activations",
    "node-attribution",
    "information-flow",
)
"""Those that take no training: seconds a model."""
TWINS = ("_siit", "_natural")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "study", help="folder that keeps the rows of a run")
    parser.add_argument("--workers", type=int, help="processes; as many as cores if left out")
    parser.add_argument("--from", dest="folders", type=Path, action="append", help="folder of an evaluation; several")
    parser.add_argument("--write", action="store_true", help="write from the checked-in rows")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if something is stale")
    parser.add_argument("--saturation", action="store_true", help="measure saturated metrics anew, in about a minute")
    given = parser.parse_args()
    if given.check:
        stale = [path for path, text in written(load_rows()).items() if not is_text(path, text)]
        for path in stale:
            print(f"{path.relative_to(ROOT)} is stale; run python benchmarks/discovery/study.py --write")
        return int(bool(stale))
    folders = given.folders or ([] if given.write else run(given.out, given.workers))
    gather(folders)
    if given.saturation or not SATURATION_FILE.exists():
        lines = ",\n".join(json.dumps(row) for row in measure(PAPER_CASES))
        SATURATION_FILE.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    for path, text in written(load_rows()).items():
        if not is_text(path, text):
            path.write_text(text, encoding="utf-8")
            print(f"wrote {path.relative_to(ROOT)}")
    return subprocess.run([sys.executable, str(ROOT / "scripts" / "make_docs.py")], check=False).returncode


# -- rows --------------------------------------------------------------------------------------------------------------


def run(out: Path, workers: int | None) -> list[Path]:
    """Run or resume the three evaluations; the folders that have their rows."""
    from interpbench_hub import evaluate
    from interpbench_hub.discovery.methods import METHODS
    from interpbench_hub.manifest import load_manifest

    twins = [name for name in load_manifest()["models"] if name.endswith(TWINS)]
    shared: dict[str, Any] = {"workers": workers, "report": _report}
    evaluate(list(METHODS), out=out / "methods", **shared)
    evaluate(METRIC_METHODS, out=out / "metrics", metric="kl", **shared)
    evaluate(TWIN_METHODS, twins, out=out / "twins", **shared)
    return [out / "methods", out / "metrics", out / "twins"]


def _report(event: dict[str, Any]) -> None:
    if event["event"] == "row":
        row = event["row"]
        print(f"{row['model']} {row['method']} {row['options']}: {row['error'] or row['edge_auroc']}", flush=True)


def gather(folders: Sequence[Path]) -> list[Row]:
    """Put the rows of some folders among the checked-in ones, and say what is lacking."""
    from interpbench_hub.discovery.evaluation import chosen_models
    from interpbench_hub.discovery.methods import METHODS
    from interpbench_hub.discovery.results import Journal
    from interpbench_hub.siit.runs import source_commit

    before = load_rows() if RESULTS_FILE.exists() else []
    rows = merged(before, *(Journal(folder).rows() for folder in folders))
    if rows != before:
        save_rows(rows, commit=source_commit())
        print(f"wrote {RESULTS_FILE.relative_to(ROOT)}: {len(rows)} rows")
    main = part(rows, "methods")
    there = {(row["method"], row["model"]) for row in main}
    lacking = [(method, model) for method in METHODS for model in chosen_models() if (method, model) not in there]
    if lacking:
        print(f"{len(lacking)} rows are lacking, the first {lacking[0]}")
    for row in rows:
        if row["error"] is not None:
            print(f"{row['method']} on {row['model']} has an error: {row['error']}")
    return rows


# -- texts -------------------------------------------------------------------------------------------------------------


def written(rows: Sequence[Row]) -> dict[Path, str]:
    """The text of every file that is made of the rows."""
    saturation = json.loads(SATURATION_FILE.read_text(encoding="utf-8")) if SATURATION_FILE.exists() else []
    main = part(rows, "methods")
    parts = [f"Made from `dataset_builders/results.parquet`: {_sentence(main)}."]
    board = leaderboard(main)
    parts += [one.markdown for one in all_tables(rows, board, saturation)]
    return {
        METHODS_FILE: methods_json(main),
        **{HERE / name: text for name, text in all_plots(rows, board).items()},
        BENCHMARKS: replaced(BENCHMARKS, "\n\n".join(parts)),
        README: replaced(README, leaderboard_text(main)),
    }


def leaderboard_text(main: Sequence[Row]) -> str:
    """The leaderboard of the README."""
    return table(SHORT_HEADER, short_leaderboard(main))


def replaced(path: Path, content: str) -> str:
    """The text of a file with `content` between the two markers."""
    text = path.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{path}: lacks the lines {BEGIN!r} and {END!r}; put them where the tables belong")
    return f"{before}{BEGIN}\n\n{content}\n\n{END}{after}"


def is_text(path: Path, text: str) -> bool:
    return path.exists() and path.read_text(encoding="utf-8") == text


def _sentence(rows: Sequence[Row]) -> str:
    return "; ".join(f"{what} {value}" for what, value in provenance(rows))


if __name__ == "__main__":
    sys.exit(main())
