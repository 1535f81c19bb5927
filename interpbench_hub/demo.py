"""What `make demo` shows: one certified model, run, its circuit, and a part of its certificate verified live."""

import random
import time

from rich.console import Console
from rich.table import Table

from interpbench_hub.certificate import Section
from interpbench_hub.constants import MODEL_FILES

MODEL = "interpbench/case_3"
N_INPUTS = 5
LIVE_PAIRS = 256


def run_demo(console: Console) -> None:
    """Print the demo; raises the loader's errors if the bundled model is not whole."""
    started = time.perf_counter()
    from interpbench_hub.hub import resolve
    from interpbench_hub.loader import load_case, load_certificate, load_circuit, load_model

    console.print(f"[bold]{MODEL}[/bold]", highlight=False, soft_wrap=True)
    case, circuit, certificate = load_case(MODEL), load_circuit(MODEL), load_certificate(MODEL)
    console.print(f"{case.description}\n", highlight=False, soft_wrap=True)
    console.print(f"{case.program}\n", highlight=False, markup=False, soft_wrap=True)

    model = load_model(MODEL)
    cfg = model.cfg
    console.print(
        f"A HookedTransformer with {cfg.n_layers} layers of {cfg.n_heads} heads, d_model {cfg.d_model}. Five inputs:",
        highlight=False,
        soft_wrap=True,
    )
    console.print(_outputs(case, model))
    console.print(f"\nIts circuit, {len(circuit)} of {len(circuit.universe)} edges:", highlight=False, soft_wrap=True)
    console.print(str(circuit), highlight=False, markup=False, soft_wrap=True)
    console.print(f"\nIts certificate:\n{certificate}\n", highlight=False, markup=False, soft_wrap=True)
    _verify(console, case, resolve(MODEL, files=MODEL_FILES))
    console.print(f"{time.perf_counter() - started:.1f} s in all", highlight=False, soft_wrap=True)


def _outputs(case, model) -> Table:
    rng = random.Random(0)
    table = Table(box=None, header_style="bold")
    for heading in ("input", "model", "program"):
        table.add_column(heading)
    for _ in range(N_INPUTS):
        sequence = case.sample(rng, case.max_len - 1)
        got = case.decode(model(case.encode([sequence])))[0]
        table.add_row(" ".join(map(str, sequence)), _row(got), _row(case.program(sequence)))
    return table


def _row(values: list) -> str:
    return "  ".join(f"{value:.2f}" if isinstance(value, float | int) else str(value) for value in values)


def _verify(console: Console, case, folder) -> None:
    from interpbench_hub.checkpoint import load_checkpoint
    from interpbench_hub.verification import sample

    started = time.perf_counter()
    measurement = sample(case, load_checkpoint(folder), n_pairs=LIVE_PAIRS, seed=random.randrange(2**31))
    seconds = time.perf_counter() - started
    console.print(
        f"Verified just now, on {LIVE_PAIRS} fresh random pairs an entry ({seconds:.1f} s), worst of each kind:",
        highlight=False,
        soft_wrap=True,
    )
    table = Table(box=None, show_header=False)
    sections: tuple[tuple[Section, str], ...] = (
        ("behaviour", "the output is the program's"),
        ("node_interchange", "a circuit node swapped in from another input: the program's output under the same swap"),
        ("edge_interchange", "a single circuit edge swapped in: likewise"),
        ("node_strict", "a node outside the circuit replaced (resample, zero, mean): nothing changes"),
        ("edge_strict", "any single edge outside the circuit replaced: nothing changes"),
        ("complement", "everything outside the circuit replaced at once: nothing changes"),
    )
    for section, meaning in sections:
        worst = min(entry.accuracy for entry in measurement.tally.entries(section))
        table.add_row(section, f"{worst:.4f}", meaning)
    console.print(table)
