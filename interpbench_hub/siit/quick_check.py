"""A quick look at a model in training, to tell whether a certificate is worth measuring."""

from collections.abc import Sequence
from dataclasses import dataclass

from interpbench_hub.cases.case import Case
from interpbench_hub.certificate import Ablation, Entry, Section
from interpbench_hub.siit.measure import SINGLE_PAIRS, EntryKey, Measurement, Tally
from interpbench_hub.transformer import Transformer


@dataclass(frozen=True)
class QuickCheck:
    """Accuracies on a few pairs, as looked at while training: the worst of each kind."""

    behaviour: float
    node_interchange: float
    edge_interchange: float
    node_strict: float
    node_strict_resample: float
    edge_strict: float
    """Share of right outputs over a sample of single edges, or of the worst suspect if that is less."""
    complement: float
    failures: tuple[tuple[Section, Entry], ...] = ()
    """Every entry below 1, worst first."""

    @property
    def worst(self) -> float:
        return min(
            self.behaviour,
            self.node_interchange,
            self.edge_interchange,
            self.node_strict,
            self.edge_strict,
            self.complement,
        )


def quick_check(
    case: Case,
    model: Transformer,
    *,
    n_pairs: int,
    n_edge_rows: int,
    seed: int,
    suspects: Sequence[tuple[int, Ablation]] | None = None,
) -> QuickCheck:
    """A cheap look at all kinds of entries on pairs of the validation split; `n_edge_rows` replace a single edge.

    With `suspects`, single edges by place and ablation, these and all edges that one of those rows finds at fault are
    looked at one by one, on as many pairs as a certificate does: a share over all edges hides a single one.
    """
    measurement = Measurement(case, model, seed=seed, split="validation")
    pairs = list(measurement.sampled(n_pairs, "quick"))
    measurement.aggregates(pairs)
    measurement.interchange(pairs)
    measurement.node_strict(pairs)
    measurement.edge_strict_sample(measurement.sampled(n_edge_rows, "quick edges"))
    tally = measurement.tally

    def worst(section: Section, *ablations: Ablation) -> float:
        entries = (entry for entry in tally.entries(section) if not ablations or entry.ablation in ablations)
        return min((entry.accuracy for entry in entries), default=1.0)

    edges = tally.entries("edge_strict")
    n_counted = sum(entry.count for entry in edges)
    failing = {key: entry for key, entry in tally.items() if entry.correct < entry.count}
    universe = measurement.space.edges
    only: set[EntryKey] = set()
    if suspects is not None:
        only = {("edge_strict", str(universe[place]), ablation) for place, ablation in suspects}
        only |= {key for key in failing if key[0] == "edge_strict"}
    measurement.tally = Tally()
    if only:
        measurement.edge_strict(measurement.sampled(SINGLE_PAIRS, "suspects"), only=only)
    worst_suspect = min((entry.accuracy for entry in measurement.tally.entries("edge_strict")), default=1.0)
    return QuickCheck(
        behaviour=worst("behaviour"),
        node_interchange=worst("node_interchange"),
        edge_interchange=worst("edge_interchange"),
        node_strict=worst("node_strict"),
        node_strict_resample=worst("node_strict", "resample"),
        edge_strict=min(worst_suspect, sum(entry.correct for entry in edges) / n_counted if n_counted else 1.0),
        complement=worst("complement"),
        failures=tuple(
            sorted(((key[0], entry) for key, entry in failing.items()), key=lambda found: found[1].accuracy)
        ),
    )
