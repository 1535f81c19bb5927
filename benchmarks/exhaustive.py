"""Exhaustive activation patching on every certified model: does it find the circuit, and how long does it take?

python benchmarks/exhaustive.py [--models case_3 case_21 ...] [--pairs 256]

AUROC of the varying edges of the circuit against all edges outside, scored by how far the output moves when one edge
alone carries its value on the counterfactual input. What is certified must be found: 1.00 everywhere. Processor seconds
of one thread, drawing the pairs included, loading the model not.
"""

import argparse
import statistics
import time

from interpbench_hub import get_case, load_circuit, load_model
from interpbench_hub.collecting import case_of
from interpbench_hub.discovery.data import PairData
from interpbench_hub.discovery.exhaustive import exhaustive_patching
from interpbench_hub.discovery.labels import labels_of
from interpbench_hub.discovery.metrics import auroc
from interpbench_hub.manifest import load_manifest
from interpbench_hub.siit.machine import torch_threads


@torch_threads(1)
def main() -> None:
    parser = argparse.ArgumentParser(description="Exhaustive activation patching on every certified model.")
    parser.add_argument("--models", nargs="+", help="bundled models; all of grade edge or path if left out")
    parser.add_argument("--pairs", type=int, default=256)
    given = parser.parse_args()
    models = load_manifest()["models"]
    names = given.models or [name for name, entry in models.items() if entry["grade"] in ("edge", "path")]
    by_tier: dict[str, list[tuple[float, float]]] = {}
    for name in names:
        case, circuit, model = get_case(case_of(name)), load_circuit(name), load_model(name)
        start = time.process_time()
        scores = exhaustive_patching(model, circuit, PairData.of(case, n_pairs=given.pairs))
        seconds = time.process_time() - start
        edges, is_positive = labels_of(circuit)
        area = auroc([scores[edge] for edge in edges], is_positive)
        if area is None:  # nothing to tell apart
            continue
        by_tier.setdefault(case.tier, []).append((area, seconds))
        if given.models or area < 1:
            print(f"{name}: AUROC {area:.4f}, {seconds:.2f} s")
    everything = [pair for pairs in by_tier.values() for pair in pairs]
    print("\n| tier | models | least AUROC | median s | most s |\n|---|---|---|---|---|")
    for tier, pairs in [*by_tier.items(), ("**all**", everything)]:
        areas, seconds = zip(*pairs, strict=True)
        print(f"| {tier} | {len(pairs)} | {min(areas):.4f} | {statistics.median(seconds):.2f} | {max(seconds):.2f} |")


if __name__ == "__main__":
    main()
