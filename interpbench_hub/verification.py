"""Verifying a model: its files, its circuit, and a part of its certificate measured anew on fresh pairs.

Measuring is `siit.measure`; here the little that is measured meets what the certificate says. A difference counts
when chance explains it less than once in a thousand verifications of true certificates.
"""

import random
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from interpbench_hub.certificate import ABLATIONS, SECTIONS, Ablation, Certificate, Effect, Entry, Section
from interpbench_hub.checkpoint import Checkpoint, load_checkpoint
from interpbench_hub.constants import CERTIFICATE_FILE, CIRCUIT_FILE, MODEL_FILES
from interpbench_hub.errors import SettingError
from interpbench_hub.hub import HubOptions, resolve

if TYPE_CHECKING:
    from interpbench_hub.cases import Case
    from interpbench_hub.siit.measure import Measurement

N_PAIRS = 500
N_EDGES = 20
FALSE_ALARM = 1e-3
"""Chance that the verification of a true certificate finds anything."""

Count = tuple[int, int]
"""Pairs of which something holds, and pairs in all."""


@dataclass(frozen=True)
class Verification:
    """What came of verifying one model."""

    name: str
    folder: Path
    certificate: Certificate
    measured: dict[Section, tuple[Entry, ...]]
    """What was measured just now."""
    problems: tuple[str, ...]
    """Whatever does not agree, a sentence each; empty if the model is what its files say."""

    @property
    def agrees(self) -> bool:
        return not self.problems

    def worst(self, section: Section) -> float | None:
        """Least share of right pairs among the entries of a section that were measured; None if there are none.

        An exchange that the high-level model gives no answer to, on any pair, is no measurement.
        """
        return min((entry.accuracy for entry in self.measured[section] if entry.count), default=None)


def verify(
    name_or_path: str | Path,
    *,
    n_pairs: int = N_PAIRS,
    n_edges: int | None = N_EDGES,
    seed: int = 0,
    **hub: Unpack[HubOptions],
) -> Verification:
    """Verify a model against its certificate, its circuit and, where it is bundled or pinned, the manifest.

    Args:
        name_or_path: A name or folder, as `load_model` takes.
        n_pairs: Fresh pairs behind each entry measured. With 500, a single edge that is said to be always right is
            found out when it is wrong for 2 % of pairs or more.
        n_edges: Edges outside the circuit that are replaced one by one, drawn at random; all if None.
        seed: What pairs and edges are drawn from.
        **hub: `revision`, `cache_dir`, `token`, `local_files_only`, `force_download` as in `load_model`.

    Raises:
        CheckpointError: A file is missing, damaged or has another checksum than it should; nothing is measured then.
        UnknownNameError, DownloadError: As for `load_model`.
    """
    if n_pairs < 1 or (n_edges is not None and n_edges < 0):
        raise SettingError(f"{n_pairs} pairs and {n_edges} edges; there is one pair at least, and neither is negative")
    from interpbench_hub.loader import load_case

    folder = resolve(name_or_path, files=(*MODEL_FILES, CERTIFICATE_FILE), **hub)
    checkpoint, case = load_checkpoint(folder), load_case(folder)
    certificate = checkpoint.certificate
    assert certificate is not None, "resolve has found the file"
    problems = list(circuit_problems(case, checkpoint))
    if (case.circuit.n_layers, case.circuit.n_heads) != (checkpoint.circuit.n_layers, checkpoint.circuit.n_heads):
        # Nothing can be measured along a circuit of another size.
        return Verification(str(name_or_path), folder, certificate, dict.fromkeys(SECTIONS, ()), tuple(problems))
    is_exhaustive = _covers_all_pairs(case, certificate)
    measurement = sample(case, checkpoint, n_pairs=n_pairs, n_edges=n_edges, seed=seed, is_exhaustive=is_exhaustive)
    measured: dict[Section, tuple[Entry, ...]] = {section: measurement.tally.entries(section) for section in SECTIONS}
    effects = tuple(Effect(name, *counts) for name, counts in measurement.effects.items())
    problems += scope_problems(case, certificate, measurement)
    problems += entry_problems(certificate, measured, effects)
    return Verification(str(name_or_path), folder, certificate, measured, tuple(problems))


def sample(
    case: "Case",
    checkpoint: Checkpoint,
    *,
    n_pairs: int,
    n_edges: int | None = None,
    seed: int = 0,
    is_exhaustive: bool = False,
) -> "Measurement":
    """A certificate's entries measured on a few fresh pairs: all of them, but for single edges outside the circuit.

    Of those, `n_edges` are drawn at random; all if None. With `is_exhaustive` behaviour and complement are measured on
    all pairs of inputs.
    """
    from interpbench_hub.siit.machine import torch_threads
    from interpbench_hub.siit.measure import Measurement
    from interpbench_hub.transformer import Transformer

    with torch_threads(1):
        model = Transformer(checkpoint.config.transformer)
        model.load_state_dict(checkpoint.weights)
        measurement = Measurement(case, model, seed=seed)
        places = measurement.space.negatives.tolist()
        if n_edges is not None:
            places = random.Random(seed).sample(places, min(n_edges, len(places)))
        edges = [str(measurement.space.edges[place]) for place in places]
        for measurement.counterfactual in case.counterfactuals:
            pairs = list(measurement.sampled(n_pairs, "verification"))
            if is_exhaustive:
                measurement.exhaustive_aggregates()
            else:
                measurement.aggregates(pairs)
            measurement.interchange(pairs)
            measurement.effect(pairs)
            measurement.node_strict(pairs)
            measurement.edge_strict(
                pairs, only={("edge_strict", edge, ablation) for edge in edges for ablation in measurement.ablations}
            )
    return measurement


def _covers_all_pairs(case: "Case", certificate: Certificate) -> bool:
    """Whether a certificate speaks of every pair, each as often as any other, and there are few enough of them."""
    from interpbench_hub.cases.pairs import count_pairs
    from interpbench_hub.siit.measure import MAX_EXHAUSTIVE_PAIRS

    return certificate.is_exhaustive and count_pairs(case) <= MAX_EXHAUSTIVE_PAIRS


# -- what must be there ------------------------------------------------------------------------------------------------


def circuit_problems(case: "Case", checkpoint: Checkpoint) -> Iterator[str]:
    """How a checkpoint's circuit departs from the one its case prescribes, and its effects from the certificate's."""
    found, right = checkpoint.circuit, case.circuit
    if (found.n_layers, found.n_heads) != (right.n_layers, right.n_heads):
        yield (
            f"{CIRCUIT_FILE} is about {found.n_layers} layers of {found.n_heads} heads, {case.id} prescribes "
            f"{right.n_layers} of {right.n_heads}"
        )
        return
    there, wanted = {str(edge): edge for edge in found}, {str(edge): edge for edge in right}
    if lacking := [name for name in wanted if name not in there]:
        yield f"{CIRCUIT_FILE} lacks {', '.join(lacking)}, which {case.id} prescribes"
    if extra := [name for name in there if name not in wanted]:
        yield f"{CIRCUIT_FILE} has {', '.join(extra)}, which {case.id} does not prescribe"
    for name in wanted:
        if name in there and there[name].kind != wanted[name].kind:
            yield f"{CIRCUIT_FILE} says {name} is {there[name].kind}; by {case.id} it is {wanted[name].kind}"
    if found.roles != right.roles:
        yield f"{CIRCUIT_FILE} names other variables or meanings of nodes than {case.id}"
    shares = {effect.name: effect.share for effect in checkpoint.certificate.effect} if checkpoint.certificate else {}
    for name, edge in there.items():
        if _rounded(edge.effect) != _rounded(shares.get(name)):
            yield f"{CIRCUIT_FILE} says {name} has effect {edge.effect}, {CERTIFICATE_FILE} {shares.get(name)}"


def _rounded(share: float | None) -> float | None:
    """As circuits write it."""
    return None if share is None else round(share, 6)


def scope_problems(case: "Case", certificate: Certificate, measurement: "Measurement") -> Iterator[str]:
    """Entries that a certificate of this case must have and lacks, or has and cannot have."""
    from interpbench_hub.cases.pairs import count_pairs, is_split

    space = measurement.space
    outside = [str(space.edges[place]) for place in space.negatives.tolist()]
    kinds = case.counterfactuals
    ablations: tuple[Ablation, ...] = (*kinds, *(ablation for ablation in ABLATIONS if ablation != "resample"))
    wanted: dict[Section, list[tuple[str, Ablation | None]]] = {
        "behaviour": [("all", None)],
        "node_interchange": [(node.name, kind) for node in space.circuit_nodes for kind in kinds],
        "edge_interchange": [
            (str(space.edges[place]), kind) for place in space.circuit_places.tolist() for kind in kinds
        ],
        "node_strict": [(node.name, ablation) for node in space.outside_nodes for ablation in ablations],
        "edge_strict": [(name, ablation) for name in outside for ablation in ablations],
        "complement": [("all", ablation) for ablation in ablations],
    }
    # An exchange that leaves no sentence with an answer has nothing to show, so an entry of it may be left out.
    void = {key for key, (count, _) in measurement.tally.counts.items() if not count} if len(kinds) > 1 else set()
    for section in SECTIONS:
        there = [(entry.name, entry.ablation) for _, entry in certificate.entries(section)]
        optional = {(name, ablation) for of, name, ablation in void if of == section}
        yield from _scope_problems(section, there, wanted[section], optional)
    effects = [(effect.name, None) for effect in certificate.effect]
    yield from _scope_problems("effect", effects, [(str(edge), None) for edge in case.circuit.of_kind("varying")])
    if certificate.case != case.id:
        yield f"{CERTIFICATE_FILE} is about {certificate.case}, the model about {case.id}"
    n_pairs = count_pairs(case)
    if certificate.is_exhaustive and certificate.n_pairs != n_pairs:
        yield f"{CERTIFICATE_FILE} says that {certificate.n_pairs} pairs are all there are; there are {n_pairs}"
    is_held_out = any(is_split(case, n_tokens) for n_tokens in range(case.min_len - 1, case.max_len))
    if certificate.is_held_out != is_held_out:
        yield f"{CERTIFICATE_FILE} says is_held_out {certificate.is_held_out}; for {case.id} it is {is_held_out}"


def _scope_problems(
    section: str,
    there: Sequence[tuple[str, str | None]],
    wanted: Sequence[tuple[str, str | None]],
    optional: AbstractSet[tuple[str, str | None]] = frozenset(),
) -> Iterator[str]:
    if lacking := set(wanted) - set(there) - optional:
        yield f"{CERTIFICATE_FILE} lacks {_listing(section, lacking)}"
    if extra := set(there) - set(wanted):
        yield f"{CERTIFICATE_FILE} has {_listing(section, extra)}, which this circuit gives no reason for"


def _listing(section: str, entries: set[tuple[str, str | None]]) -> str:
    names = sorted(f"{name}{f' ({ablation})' if ablation else ''}" for name, ablation in entries)
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"{section} of {', '.join(names[:5])}{more}"


# -- what must come out ------------------------------------------------------------------------------------------------


def entry_problems(
    certificate: Certificate, measured: dict[Section, tuple[Entry, ...]], effects: tuple[Effect, ...]
) -> Iterator[str]:
    """Entries of which what was measured and what a certificate says cannot both be true, but for chance."""
    comparisons: list[tuple[str, str, Count, Count]] = []
    for section in SECTIONS:
        claims = {(entry.name, entry.ablation): entry for _, entry in certificate.entries(section)}
        for entry in measured[section]:
            claim = claims.get((entry.name, entry.ablation))
            if claim is not None:
                what = f"{section} {entry.name}" + (f" ({entry.ablation})" if entry.ablation else "")
                comparisons.append((what, "right", (entry.correct, entry.count), (claim.correct, claim.count)))
    claimed_effects = {effect.name: effect for effect in certificate.effect}
    for effect in effects:
        if claim := claimed_effects.get(effect.name):
            what = f"effect {effect.name}"
            comparisons += [
                (what, "changed", (effect.changed, effect.count), (claim.changed, claim.count)),
                (what, "predicted to change", (effect.predicted, effect.count), (claim.predicted, claim.count)),
            ]
    for what, verb, found, claimed in comparisons:
        if not agree(found, claimed, FALSE_ALARM / len(comparisons)):
            yield f"{what}: {found[0]} of {found[1]} {verb}, {CERTIFICATE_FILE} says {claimed[0]} of {claimed[1]}"


def agree(found: Count, claimed: Count, false_alarm: float) -> bool:
    """Whether two counts may come from one rate: Fisher's exact test (Fisher 1934), two-sided by doubling.

    >>> agree((490, 500), (2048, 2048), 1e-6), agree((495, 500), (2048, 2048), 1e-6)
    (False, True)
    """
    if not found[1] or not claimed[1] or found[0] * claimed[1] == claimed[0] * found[1]:
        return True
    from scipy.stats import hypergeom

    chance = hypergeom(found[1] + claimed[1], found[0] + claimed[0], found[1])
    return bool(2 * min(chance.cdf(found[0]), chance.sf(found[0] - 1)) >= false_alarm)
