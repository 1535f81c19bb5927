"""How long the package takes to import, and what `load_model` adds to importing TransformerLens.

    python benchmarks/loading.py [--runs 5]

Every figure is a fresh process's; medians are printed as a Markdown table.
"""

import argparse
import statistics
import subprocess
import sys

IMPORT = """
import sys, time
start = time.perf_counter()
import interpbench_hub
seconds = time.perf_counter() - start
assert "torch" not in sys.modules and "transformer_lens" not in sys.modules
print(seconds)
"""
CIRCUIT = """
import time
start = time.perf_counter()
from interpbench_hub import load_circuit
load_circuit("interpbench/case_3")
print(time.perf_counter() - start)
"""
LOAD = """
import time, transformer_lens
start = time.perf_counter()
from interpbench_hub import load_model
load_model("interpbench/case_3")
print(time.perf_counter() - start)
"""
TRANSFORMER_LENS = """
import time
start = time.perf_counter()
import transformer_lens
print(time.perf_counter() - start)
"""
FIGURES = {
    "import interpbench_hub": IMPORT,
    'load_circuit("interpbench/case_3"), import included': CIRCUIT,
    "import transformer_lens": TRANSFORMER_LENS,
    'load_model("interpbench/case_3") after import transformer_lens': LOAD,
}


def seconds(code: str) -> float:
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    print("| what | median s | least | most |\n|---|---|---|---|")
    for name, code in FIGURES.items():
        seconds(code)  # warms the disk's cache
        taken = [seconds(code) for _ in range(runs)]
        print(f"| `{name}` | {statistics.median(taken):.3f} | {min(taken):.3f} | {max(taken):.3f} |", flush=True)


if __name__ == "__main__":
    main()
