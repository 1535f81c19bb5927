"""How fast the high-level models are: every case on 100 000 inputs, all variables.

    python benchmarks/high_level.py [--cases case_3 case_39] [--inputs 100000]

Prints build seconds (program to variables, alignment, circuit with kinds) and run seconds a case, slowest first.
"""

import argparse
import time

import torch

from interpbench_hub.cases import Case, get_case, list_cases
from interpbench_hub.cases.pairs import PairSampler
from interpbench_hub.rasp.high_level import HighLevelModel


def seconds_of(case: Case, n_inputs: int) -> tuple[float, float]:
    start = time.perf_counter()
    model = HighLevelModel(case.graph, case.alignment)
    assert len(case.circuit) == len(model.circuit)
    built = time.perf_counter() - start
    tokens, lengths = PairSampler(case, seed="benchmark").inputs(2_000)
    times = -(-n_inputs // len(tokens))
    tokens, lengths = tokens.repeat(times, 1)[:n_inputs], lengths.repeat(times)[:n_inputs]
    start = time.perf_counter()
    model.run(tokens, lengths)
    return built, time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", nargs="*")
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    cases = [get_case(name) for name in given.cases] if given.cases else list_cases()
    rows = [(*seconds_of(case, given.inputs), case.id) for case in cases]
    print(f"| case | build s | {given.inputs} inputs s |\n|---|---|---|")
    for built, ran, name in sorted(rows, key=lambda row: -row[1])[:12]:
        print(f"| {name} | {built:.2f} | {ran:.2f} |")
    print(f"\nall {len(rows)}: build {sum(row[0] for row in rows):.1f} s, run {sum(row[1] for row in rows):.1f} s")


if __name__ == "__main__":
    main()
