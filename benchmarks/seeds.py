"""What every seed came to: cases by seeds, from a folder of runs.

    python benchmarks/seeds.py [runs] [--recipe edge-siit] [--cases case_3 case_21] [--seeds 5]

Reads `<runs>/<case>/<recipe>_<seed>/` (config.json and certificate.json) and prints a Markdown table: grade, steps and
CPU seconds (checks and certificates included) of each seed, and how many seeds reached grade edge or better, and path.
Runs without a certificate, under way or broken off, are shown as such and count as not there yet.
"""

import argparse
import re
import statistics
from dataclasses import dataclass
from pathlib import Path

from interpbench_hub.certificate import Grade
from interpbench_hub.checkpoint import load_certificate_file, load_config
from interpbench_hub.constants import CERTIFICATE_FILE, CONFIG_FILE, TRAINING_STATE_FILE
from interpbench_hub.manifest import natural_order


@dataclass(frozen=True)
class Run:
    """One seed of one case; the numbers are None until it has a certificate and is done."""

    case: str
    seed: int
    grade: Grade | None = None
    steps: int = 0
    cpu_seconds: float = 0.0

    @classmethod
    def read(cls, folder: Path, seed: int) -> "Run":
        # A state that is still there means that training goes on, or can: a certificate may yet be bettered.
        is_done = not (folder / TRAINING_STATE_FILE).exists()
        if not is_done or not all((folder / file).exists() for file in (CONFIG_FILE, CERTIFICATE_FILE)):
            return cls(folder.parent.name, seed)
        provenance = load_config(folder).provenance
        grade = load_certificate_file(folder).grade
        return cls(folder.parent.name, seed, grade, provenance.steps, provenance.cpu_seconds)

    def __str__(self) -> str:
        if self.grade is None:
            return "unfinished"
        return f"{self.grade} {self.steps} / {self.cpu_seconds:.0f} s"


def read_runs(folder: Path, recipe: str) -> list[Run]:
    """Every run of a recipe in a folder of runs, cases in natural order."""
    runs = []
    for path in folder.glob(f"*/{recipe}_*"):
        match = re.fullmatch(rf"{re.escape(recipe)}_(\d+)", path.name)
        if match and path.is_dir():
            runs.append(Run.read(path, int(match[1])))
    return sorted(runs, key=lambda run: (natural_order(run.case), run.seed))


def markdown_table(runs: list[Run], n_seeds: int) -> str:
    by_case: dict[str, dict[int, Run]] = {}
    for run in runs:
        by_case.setdefault(run.case, {})[run.seed] = run
    seeds = sorted({*range(n_seeds), *(run.seed for run in runs)})
    counts = [f"edge or path, of {len(seeds)}", f"path, of {len(seeds)}"]
    head = ["case", *(f"seed {seed}" for seed in seeds), *counts]
    lines = [head, ["---"] * len(head)]
    totals = [0, 0]
    for case, found in by_case.items():
        grades = [run.grade for run in found.values()]
        reached = [sum(grade in ("edge", "path") for grade in grades), grades.count("path")]
        totals = [total + more for total, more in zip(totals, reached, strict=True)]
        cells = [str(found[seed]) if seed in found else "" for seed in seeds]
        lines.append([case, *cells, *map(str, reached)])
    whole = len(by_case) * len(seeds)
    lines.append([f"**all {len(by_case)}**", *[""] * len(seeds), *(f"{total} of {whole}" for total in totals)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="?", type=Path, default=Path("runs"))
    parser.add_argument("--recipe", default="edge-siit")
    parser.add_argument("--cases", nargs="*")
    parser.add_argument("--seeds", type=int, default=5, help="seeds every case should have, counted from 0")
    given = parser.parse_args()
    if not given.runs.is_dir():
        raise SystemExit(f"{given.runs} is no folder; give the folder of runs")
    runs = [run for run in read_runs(given.runs, given.recipe) if not given.cases or run.case in given.cases]
    print(markdown_table(runs, given.seeds))
    finished = [run for run in runs if run.grade]
    if finished:
        steps, seconds = ([getattr(run, name) for run in finished] for name in ("steps", "cpu_seconds"))
        print(
            f"\n{len(finished)} finished runs: median {statistics.median(steps):.0f} steps, "
            f"{statistics.median(seconds):.0f} CPU s; {sum(seconds):.0f} CPU s in all"
        )


if __name__ == "__main__":
    main()
