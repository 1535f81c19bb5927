"""Training speed of record: case 3, one thread, several seeds, from nothing to the certificate.

    python benchmarks/train_case_3.py [--seeds 5] [--recipe edge-siit]

Prints CPU seconds (checks and certificate included), steps and grade for each seed, as a Markdown table.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

from interpbench_hub.checkpoint import load_checkpoint
from interpbench_hub.siit import train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--recipe", default="edge-siit")
    parser.add_argument("--case", default="case_3")
    parser.add_argument("--max-steps", type=int, default=None)
    given = parser.parse_args()
    print(
        f"| case | recipe | seed | steps | CPU s | of which certificate | grade | worst entry |\n|{'---|' * 8}",
        flush=True,
    )
    seconds, hardware = [], ""
    for seed in range(given.seeds):
        events: list[dict] = []
        with tempfile.TemporaryDirectory() as folder:
            train(
                given.case,
                out=Path(folder),
                seed=seed,
                recipe=given.recipe,
                max_steps=given.max_steps,
                report=events.append,
            )
            checkpoint = load_checkpoint(folder)
        certificate, provenance = checkpoint.certificate, checkpoint.config.provenance
        assert certificate is not None
        failures = certificate.failures()
        worst = f"{failures[0][0]} {failures[0][1].name}: {failures[0][1].accuracy:.3f}" if failures else "-"
        end, hardware = events[-1], provenance.hardware
        seconds.append(end["cpu_seconds"])
        print(
            f"| {given.case} | {given.recipe} | {seed} | {provenance.steps} | {end['cpu_seconds']:.1f} | "
            f"{end['certificate_cpu_seconds']:.1f} | {certificate.grade} | {worst} |",
            flush=True,
        )
    print(f"\nmedian {statistics.median(seconds):.1f} s, most {max(seconds):.1f} s; {hardware}")


if __name__ == "__main__":
    main()
