"""A certificate as a card shows it: the table of its entries, what falls short, and the Hub's two formats of results.

Shares are cut off after the last digit shown, never rounded up.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from interpbench_hub.certificate import SECTIONS, THRESHOLD, Ablation, Certificate, Entry, Section
from interpbench_hub.circuit import Circuit, Edge
from interpbench_hub.constants import CERTIFICATE_FILE
from model_cards.rendering import code

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

MOST_FAILURES = 12
"""Entries below the threshold that a card lists one by one."""

_DIGITS = 4
_EXACT_DIGITS = 6

_ABLATIONS: dict[Ablation | None, str] = {
    "resample": "another input's value",
    "name_swap": "another input's value, name_swap",
    "s2_to_io": "another input's value, s2_to_io",
    "abc": "another input's value, abc",
    "zero": "zero",
    "mean": "mean",
    None: "",
}

_MEASURED: dict[Section, str] = {
    "behaviour": "nothing is replaced: the program's output",
    "node_interchange": "one node of the circuit carries its value on another input: the program's output under the "
    "same exchange",
    "edge_interchange": "one edge of the circuit alone does: the program's output under the same exchange",
    "node_strict": "one node outside is replaced: the output as it was",
    "edge_strict": "one edge outside is replaced: the output as it was",
    "complement": "everything outside is replaced at once: the output as it was",
}
"""What is done, and what must come out."""

_NAMES: dict[Section, str] = {
    "behaviour": "Behaviour",
    "node_interchange": "Node interchange",
    "edge_interchange": "Edge interchange",
    "node_strict": "Node strictness",
    "edge_strict": "Edge strictness",
    "complement": "Complement",
}


def cut(part: int, whole: int) -> str:
    """A share with four digits after the point, cut off.

    >>> cut(2046, 2048), cut(99999, 100000)
    ('0.9990', '0.9999')
    """
    return f"{_cut(part, whole, _DIGITS):.{_DIGITS}f}"


@dataclass(frozen=True)
class Worst:
    """The worst entry of one section."""

    section: Section
    entry: Entry
    """Least share of right pairs and, among equals, the one with the fewest pairs."""
    entries: tuple[Entry, ...]

    @property
    def value(self) -> float:
        """The share, cut off after six digits."""
        return _cut(self.entry.correct, self.entry.count, _EXACT_DIGITS)

    @property
    def unit(self) -> str:
        """What is counted: `behaviour` replaces nothing and so needs no pairs."""
        return "inputs" if self.section == "behaviour" else "pairs"

    @property
    def rank(self) -> str:
        """Of how many entries it is the worst."""
        return f"worst of {len(self.entries):,} entries" if len(self.entries) > 1 else "the only entry"

    @property
    def bound(self) -> str:
        """The lower confidence bound, cut off."""
        return f"{math.floor(self.entry.lower_bound * 10**_DIGITS) / 10**_DIGITS:.{_DIGITS}f}"


def worst_entries(certificate: Certificate) -> list[Worst]:
    """The worst entry of every section that has any."""
    found = []
    for section in SECTIONS:
        entries: tuple[Entry, ...] = getattr(certificate, section)
        if entries:
            worst = min(entries, key=lambda entry: (entry.accuracy, entry.lower_bound))
            found.append(Worst(section, worst, entries))
    return found


# -- tables ------------------------------------------------------------------------------------------------------------

SECTION_HEADER = (
    "entry",
    "what is done: what must come out",
    "entries",
    "pairs each",
    f"below {THRESHOLD}",
    "worst entry",
    "share right",
    "99 % bound",
)
FAILURE_HEADER = ("entry", "node or edge", "replaced by", "right", "share right", "99 % bound")
EDGE_HEADER = ("source", "target", "slot", "kind", "effect measured", "effect predicted")


def section_rows(certificate: Certificate) -> list[tuple[object, ...]]:
    """A row for every section that has entries."""
    return [
        (
            code(worst.section),
            _MEASURED[worst.section],
            f"{len(worst.entries):,}",
            _range([entry.count for entry in worst.entries]) + (" inputs" if worst.unit == "inputs" else ""),
            f"{sum(not entry.passes for entry in worst.entries):,}",
            _name(worst.entry) if worst.entry.accuracy < 1 else "–",
            cut(worst.entry.correct, worst.entry.count),
            worst.bound,
        )
        for worst in worst_entries(certificate)
    ]


def failure_rows(certificate: Certificate) -> list[tuple[object, ...]]:
    """A row for each of the worst entries below the threshold."""
    return [
        (
            code(section),
            code(entry.name),
            _ABLATIONS[entry.ablation],
            f"{entry.correct:,} of {entry.count:,}",
            cut(entry.correct, entry.count),
            Worst(section, entry, (entry,)).bound,
        )
        for section, entry in certificate.failures()[:MOST_FAILURES]
    ]


def edge_rows(circuit: Circuit, certificate: Certificate) -> list[tuple[object, ...]]:
    """A row for every edge of the circuit, with its effect where it was measured."""
    effects = {Edge.parse(effect.name): effect for effect in certificate.effect}
    rows = []
    for edge in circuit:
        effect = effects.get(edge)
        shares = ("", "")
        if effect is not None:
            shares = (cut(effect.changed, effect.count), cut(effect.predicted, effect.count))
        rows.append((code(edge.source), code(edge.target), edge.slot or "", edge.kind or "", *shares))
    return rows


def _name(entry: Entry) -> str:
    return code(entry.name) + (f" ({_ABLATIONS[entry.ablation]})" if entry.ablation else "")


def _range(numbers: Sequence[int]) -> str:
    least, most = min(numbers), max(numbers)
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"


def _cut(part: int, whole: int, digits: int) -> float:
    # Whole numbers first: dividing could round 0.9999999 up.
    return part * 10**digits // whole / 10**digits if whole else 0.0


# -- the Hub's formats -------------------------------------------------------------------------------------------------


def eval_results(certificate: Certificate, repository: str, dataset: str) -> list["EvalResult"]:
    """The `model-index` of a card's metadata: the worst entry of every section."""
    from huggingface_hub import EvalResult

    return [
        EvalResult(
            task_type="mechanistic-interpretability",
            task_name="Computing along a known circuit",
            dataset_type=dataset,
            dataset_name=f"Pairs of inputs of {certificate.case}",
            metric_type="accuracy",
            metric_name=f"{_NAMES[worst.section]}: share of {worst.unit} right, {worst.rank}",
            metric_value=worst.value,
            source_name=f"Certificate, grade {certificate.grade}",
            source_url=_source(repository),
        )
        for worst in worst_entries(certificate)
    ]


def eval_results_file(certificate: Certificate, repository: str, dataset: str) -> str:
    """The content of `.eval_results/certificate.yaml`, the Hub's newer format of the same results."""
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml
    from huggingface_hub.utils import yaml_dump

    entries = []
    for worst in worst_entries(certificate):
        entry = worst.entry
        which = "" if entry.accuracy == 1 else f" ({entry.name}{f', {entry.ablation}' if entry.ablation else ''})"
        right = f"{entry.correct} of {entry.count} {worst.unit} right, 99 % lower bound {worst.bound}"
        notes = (
            f"{worst.rank}{which}: {right}; grade {certificate.grade}; the certificate draws its own pairs of "
            "inputs of the case, not rows of the dataset"
        )
        entries.append(
            EvalResultEntry(
                dataset_id=dataset,
                task_id=worst.section,
                value=worst.value,
                source_url=_source(repository),
                source_name=CERTIFICATE_FILE,
                notes=notes,
            )
        )
    return yaml_dump(eval_result_entries_to_yaml(entries), sort_keys=False)


def _source(repository: str) -> str:
    return f"https://huggingface.co/{repository}/blob/main/{CERTIFICATE_FILE}"
