"""Certified models next to their comparison twins: the node-level recipe of 2024, and plain training on the output.

python benchmarks/twins.py [--pairs 256]

For each case with twins and each of its models: single edges outside the circuit that matter (resampling one alone
spoils more than 0.1 % of outputs) of all outside, outputs right with everything outside resampled at once (both from
the certificates), and the AUROC of exhaustive patching against the circuit of the program.
"""

import argparse

from interpbench_hub import get_case, load_certificate, load_circuit, load_model
from interpbench_hub.certificate import THRESHOLD
from interpbench_hub.collecting import case_of
from interpbench_hub.discovery.data import PairData
from interpbench_hub.discovery.exhaustive import exhaustive_patching
from interpbench_hub.discovery.labels import labels_of
from interpbench_hub.discovery.metrics import auroc
from interpbench_hub.manifest import load_manifest
from interpbench_hub.siit.machine import torch_threads

SUFFIXES = ("", "_siit", "_natural")


@torch_threads(1)
def main() -> None:
    parser = argparse.ArgumentParser(description="Certified models next to their comparison twins.")
    parser.add_argument("--pairs", type=int, default=256)
    given = parser.parse_args()
    models = load_manifest()["models"]
    cases = [name for name in dict.fromkeys(map(case_of, models)) if all(name + end in models for end in SUFFIXES)]
    what = ("edges outside that matter", "right without the rest", "AUROC")
    header = ["case", *(f"{recipe}: {each}" for each in what for recipe in ("edge-siit", "siit", "behaviour"))]
    print(f"| {' | '.join(header)} |\n|{'---|' * len(header)}")
    for case in cases:
        columns = [measured(case, case + end, given.pairs) for end in SUFFIXES]
        cells = [column[place] for place in range(len(what)) for column in columns]
        print(f"| {' | '.join([case, *cells])} |")


def measured(case: str, name: str, n_pairs: int) -> tuple[str, str, str]:
    """The three figures of one model."""
    certificate, circuit = load_certificate(name), load_circuit(name)
    alone = [entry.accuracy for entry in certificate.edge_strict if entry.ablation == "resample"]
    (together,) = (entry.accuracy for entry in certificate.complement if entry.ablation == "resample")
    scores = exhaustive_patching(load_model(name), circuit, PairData.of(get_case(case), n_pairs=n_pairs))
    edges, is_positive = labels_of(circuit)
    area = auroc([scores[edge] for edge in edges], is_positive)
    matter = sum(accuracy < THRESHOLD for accuracy in alone)
    return f"{matter} of {len(alone)}", f"{together:.3f}", "-" if area is None else f"{area:.3f}"


if __name__ == "__main__":
    main()
