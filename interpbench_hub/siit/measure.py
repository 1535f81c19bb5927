"""Measuring a certificate: every node and every edge of a model, one at a time and all at once, on held-out pairs."""

from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from interpbench_hub.cases.case import Case
from interpbench_hub.cases.kinds import changes_output
from interpbench_hub.cases.pairs import Pairs, Split, all_inputs, count_pairs, is_split, pair_places
from interpbench_hub.certificate import (
    ABLATIONS,
    THRESHOLD,
    Ablation,
    Certificate,
    Counterfactual,
    Effect,
    Entry,
    Section,
    in_order,
)
from interpbench_hub.patching import EdgePatcher
from interpbench_hub.siit.interventions import EdgeSpace
from interpbench_hub.siit.pair_run import OutputReader, PairRun, to_ids
from interpbench_hub.transformer import Transformer

MAX_EXHAUSTIVE_PAIRS = 100_000
"""Aggregate entries cover all pairs of inputs where there are at most this many."""
AGGREGATE_PAIRS = 10_000
"""Pairs behind an aggregate entry otherwise."""
SINGLE_PAIRS = 2_048
"""Pairs behind the entry of a single node or edge."""
MEAN_INPUTS = 4_096
"""Inputs behind the means that replace in a mean ablation."""
_CHUNK = 2_048

Progress = Callable[[int, int], None]
"""Called with the work done and the work in all."""
EntryKey = tuple[Section, str, Ablation | None]
"""What tells an entry from all others: its section, the name of its node or edge, what replaces it."""


@dataclass
class Tally:
    """Correct and counted pairs of every entry, in the order in which they were first met."""

    counts: dict[EntryKey, list[int]] = field(default_factory=dict)

    def add(self, section: Section, name: str, ablation: Ablation | None, correct: Tensor, counted: Tensor) -> None:
        entry = self.counts.setdefault((section, name, ablation), [0, 0])
        entry[0] += int(counted.sum())
        entry[1] += int((correct & counted).sum())

    def items(self) -> Iterator[tuple[EntryKey, Entry]]:
        """Every entry with its key."""
        for key, counts in self.counts.items():
            yield key, Entry(key[1], key[2], *counts)

    def undecided(self, ablation: Ablation, times: float) -> set[EntryKey]:
        """Entries of single nodes and edges that fall short under an ablation, but would pass with no more errors in
        `times` as many pairs."""
        return {
            key
            for key, entry in self.items()
            if key[0] != "complement" and entry.ablation == ablation and entry.count and not entry.passes
            if entry.count - entry.correct <= (1 - THRESHOLD) * times * entry.count
        }

    def entries(self, section: Section) -> tuple[Entry, ...]:
        """Entries of a section, but for exchanges that one kind of counterfactual leaves without any answer to count.

        What no kind at all says anything about keeps its empty entries, which pass nothing.
        """
        entries = [entry for key, entry in self.items() if key[0] == section]
        counted = {entry.name for entry in entries if entry.count}
        return in_order(entry for entry in entries if entry.count or entry.name not in counted)


class Measurement:
    """One model of one case under measurement: each method adds the entries of its part on the pairs it is given.

    `only` restricts what single nodes and edges are measured to some entries.
    """

    def __init__(self, case: Case, model: Transformer, *, seed: int = 0, split: Split = "test"):
        self.case, self.model, self.seed = case, model, seed
        self.split: Split = split
        self.counterfactual: Counterfactual | None = None
        """What sources are to their bases: entries bear its name. None for all the case has, called `resample`."""
        self.device = model.device
        self.high_level = case.high_level if self.device.type == "cpu" else case.high_level.to(self.device)
        self.space = EdgeSpace(case, model.config, self.device)
        self.reader = OutputReader(case, self.device)
        self.tally = Tally()
        self.effects: dict[str, list[int]] = {}
        self._means: Tensor | None = None

    # -- pairs ---------------------------------------------------------------------------------------------------------

    def sampled(self, n_pairs: int, what: str) -> Iterator[Pairs]:
        """Pairs of the split, in chunks."""
        seed = f"certificate {self.seed} {what}"
        sampler = self.case.pair_sampler(seed=seed, split=self.split, counterfactual=self.counterfactual)
        for draw, at in enumerate(range(0, n_pairs, _CHUNK)):
            pairs = sampler.draw(min(_CHUNK, n_pairs - at), draw)
            yield Pairs(*(part.to(self.device) for part in pairs))

    @torch.no_grad()
    def means(self) -> Tensor:
        """Mean of what each sender writes at each position over many inputs: [sender, 1, pos, d_model]."""
        if self._means is None:
            sampler = self.case.pair_sampler(seed=f"certificate {self.seed} means", split=self.split)
            total, count = torch.zeros((), device=self.device), torch.zeros((), device=self.device)
            for draw, at in enumerate(range(0, MEAN_INPUTS, _CHUNK)):
                inputs = sampler.inputs(min(_CHUNK, MEAN_INPUTS - at), draw)
                tokens, lengths = (part.to(self.device) for part in inputs)
                run = self.model.run(to_ids(self.case, tokens, lengths), lengths + 1)
                real = (torch.arange(run.logits.shape[1], device=self.device) <= lengths[:, None])[None, :, :, None]
                total = total + (run.senders * real).sum(1, keepdim=True, dtype=torch.float64)
                count = count + real.sum(1, keepdim=True)
            self._means = (total / count.clamp(min=1)).to(self.model.flat.dtype)
        return self._means

    def _runs(self, batches: Iterable[Pairs]) -> Iterator[PairRun]:
        """The batches run through both models, bases of each length by themselves: no time goes into padding."""
        for pairs in batches:
            run = PairRun.of(self.case, self.high_level, self.model, pairs)
            if run.n_pairs < _CHUNK:
                # Small groups cost more in calls than padding does in arithmetic.
                yield run
            else:
                yield from run.by_base_length()

    @property
    def resampling(self) -> Counterfactual:
        """What entries call a value of the source."""
        return self.counterfactual or "resample"

    @property
    def ablations(self) -> tuple[Ablation, ...]:
        """What replaces outside the circuit."""
        return (self.resampling, *(ablation for ablation in ABLATIONS if ablation != "resample"))

    def _replacement(self, run: PairRun, ablation: Ablation) -> Tensor:
        match ablation:
            case "zero":
                return torch.zeros_like(run.base.senders)
            case "mean":
                return self.means()[:, :, : run.base.senders.shape[2]].expand_as(run.base.senders)
            case _:
                return run.source.senders

    # -- what is measured ----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def aggregates(self, batches: Iterable[Pairs]) -> None:
        """Behaviour on the bases, and everything outside the circuit replaced at once."""
        for pairs in batches:
            run = PairRun.of(self.case, self.high_level, self.model, pairs)
            self._behaviour(run)
            for ablation in self.ablations:
                self._complement(run, ablation)

    @torch.no_grad()
    def exhaustive_aggregates(self) -> int:
        """`aggregates` over all pairs of inputs; returns their number.

        Every input is run once. Behaviour and ablations that do not look at the source are counted once an input.
        """
        tokens, lengths = (part.to(self.device) for part in all_inputs(self.case))
        inputs = PairRun.of(self.case, self.high_level, self.model, Pairs(tokens, lengths, tokens, lengths))
        self._behaviour(inputs)
        self._complement(inputs, "zero")
        self._complement(inputs, "mean")
        mask = self.space.to_mask(~self.space.in_circuit[None])
        places = pair_places(lengths)
        for base, source in zip(places[0].split(_CHUNK), places[1].split(_CHUNK), strict=True):
            logits = self.model.interchange(
                inputs.base.senders[:, base],
                inputs.base.senders[:, source],
                mask,
                inputs.base_lengths[base],
            )
            correct = self.reader.correct(logits, inputs.base_codes[base], inputs.base_there[base])
            self.tally.add("complement", "all", "resample", *correct)
        return len(places[0])

    def _behaviour(self, run: PairRun) -> None:
        correct = self.reader.correct(run.base.logits, run.base_codes, run.base_there)
        self.tally.add("behaviour", "all", None, *correct)

    def _complement(self, run: PairRun, ablation: Ablation) -> None:
        mask = self.space.to_mask(~self.space.in_circuit[None])
        replacement = self._replacement(run, ablation)
        logits = self.model.interchange(run.base.senders, replacement, mask, run.base_lengths)
        correct = self.reader.correct(logits, run.base_codes, run.base_there)
        self.tally.add("complement", "all", ablation, *correct)

    @torch.no_grad()
    def interchange(self, batches: Iterable[Pairs], *, only: Container[EntryKey] | None = None) -> None:
        """Each circuit node and each circuit edge exchanged, against the high-level model."""
        ablation = self.resampling
        for run in self._runs(batches):
            patcher = EdgePatcher(self.model, run.base, run.base_padding)
            for node in self.space.circuit_nodes:
                key: EntryKey = ("node_interchange", node.name, ablation)
                if only is None or key in only:
                    edges = self.space.out_of(node)
                    codes = run.interchange_codes(self.space.to_circuit(edges[None]).expand(run.n_pairs, -1))
                    logits = patcher.node_logits(node, run.source.senders[self.space.config.senders.index(node)])
                    self.tally.add(*key, *self.reader.correct(logits, codes, run.base_there))
            for place in self.space.circuit_places.tolist():
                edge = self.space.edges[place]
                key = ("edge_interchange", str(edge), ablation)
                if only is None or key in only:
                    alone = torch.zeros_like(self.space.in_circuit)
                    alone[place] = True
                    codes = run.interchange_codes(self.space.to_circuit(alone[None]).expand(run.n_pairs, -1))
                    logits = patcher.logits(edge, run.source.senders[self.space.sender[place]])
                    self.tally.add(*key, *self.reader.correct(logits, codes, run.base_there))

    @torch.no_grad()
    def node_strict(self, batches: Iterable[Pairs], *, only: Container[EntryKey] | None = None) -> None:
        """Each node outside the circuit replaced, which should change nothing."""
        for run in self._runs(batches):
            patcher = EdgePatcher(self.model, run.base, run.base_padding)
            for ablation in self.ablations:
                replacement = self._replacement(run, ablation)
                for node in self.space.outside_nodes:
                    key: EntryKey = ("node_strict", node.name, ablation)
                    if only is None or key in only:
                        logits = patcher.node_logits(node, replacement[self.space.config.senders.index(node)])
                        self.tally.add(*key, *self.reader.correct(logits, run.base_codes, run.base_there))

    @torch.no_grad()
    def edge_strict(
        self,
        batches: Iterable[Pairs],
        progress: Progress | None = None,
        total: int = 0,
        *,
        only: Container[EntryKey] | None = None,
    ) -> None:
        """Each edge outside the circuit replaced, which should change nothing."""
        places, done = self.space.negatives.tolist(), 0
        for run in self._runs(batches):
            target = run.base_codes, run.base_there
            replacements: dict[Ablation, Tensor] = {
                ablation: self._replacement(run, ablation) for ablation in self.ablations
            }
            patcher = EdgePatcher(self.model, run.base, run.base_padding)
            for place in places:
                edge, sender = self.space.edges[place], self.space.sender[place]
                for ablation, replacement in replacements.items():
                    key: EntryKey = ("edge_strict", str(edge), ablation)
                    if only is None or key in only:
                        logits = patcher.logits(edge, replacement[sender])
                        self.tally.add(*key, *self.reader.correct(logits, *target))
                done += run.n_pairs
                if progress:
                    progress(done, total * len(places))

    @torch.no_grad()
    def edge_strict_sample(self, batches: Iterable[Pairs]) -> None:
        """`edge_strict` on a sample: one edge and one ablation, drawn at random, for each pair."""
        negatives = self.space.negatives
        generator, ablations = torch.Generator().manual_seed(self.seed), self.ablations
        for pairs in batches if len(negatives) else ():
            run = PairRun.of(self.case, self.high_level, self.model, pairs)
            places = negatives[torch.randint(len(negatives), (run.n_pairs,), generator=generator)]
            edges = torch.zeros(run.n_pairs, self.space.n_edges, dtype=torch.bool, device=self.device)
            edges[torch.arange(run.n_pairs), places] = True
            kinds = torch.randint(len(ablations), (run.n_pairs,), generator=generator)
            replacement = torch.zeros_like(run.base.senders)
            for kind, ablation in enumerate(ablations):
                rows = torch.where(kinds == kind)[0].to(self.device)
                replacement[:, rows] = self._replacement(run, ablation)[:, rows]
            logits = self.model.interchange(run.base.senders, replacement, self.space.to_mask(edges), run.base_lengths)
            correct, counts = self.reader.correct(logits, run.base_codes, run.base_there)
            for row, (place, kind) in enumerate(zip(places.tolist(), kinds.tolist(), strict=True)):
                name = str(self.space.edges[place])
                self.tally.add("edge_strict", name, ablations[kind], correct[row], counts[row])

    @torch.no_grad()
    def effect(self, batches: Iterable[Pairs]) -> None:
        """How often resampling a varying edge alone changes the model's output, and how often it should."""
        varying = self.case.circuit.of_kind("varying")
        for pairs in batches:
            predicted = changes_output(self.case, Pairs(*(part.cpu() for part in pairs)), varying).sum(1).tolist()
            changed = [0] * len(varying)
            for run in self._runs([pairs]):
                patcher = EdgePatcher(self.model, run.base, run.base_padding)
                for row, edge in enumerate(varying):
                    logits = patcher.logits(edge, run.source.senders[self.space.config.edge_places[edge][1]])
                    changed[row] += int(self.reader.differs(logits, run.base.logits, run.base_there).sum())
            for edge, *counts in zip(varying, changed, predicted, strict=True):
                entry = self.effects.setdefault(str(edge), [0, 0, 0])
                for place, more in enumerate((pairs.n_pairs, *counts)):
                    entry[place] += more


def measure(
    case: Case, model: Transformer, *, weights_sha256: str, seed: int = 0, progress: Progress | None = None
) -> Certificate:
    """The certificate of a model: all entries of the design's section 6, on pairs that training never draws.

    Aggregate entries cover all pairs of inputs where there are at most `MAX_EXHAUSTIVE_PAIRS`, else
    `AGGREGATE_PAIRS` of them; single nodes and edges `SINGLE_PAIRS` each. Where a case has several counterfactuals,
    each has aggregate entries of its own, and they share the pairs behind single nodes and edges: an entry that falls
    short on its share, but by no more errors than `SINGLE_PAIRS` pairs allow, is measured on that many.
    """
    from interpbench_hub import __version__

    measurement = Measurement(case, model, seed=seed)
    is_exhaustive = count_pairs(case) <= MAX_EXHAUSTIVE_PAIRS
    n_pairs = AGGREGATE_PAIRS
    kinds = case.counterfactuals
    n_singles, n_edges = SINGLE_PAIRS // len(kinds), len(measurement.space.negatives)
    for place, measurement.counterfactual in enumerate(kinds):
        if is_exhaustive:
            n_pairs = measurement.exhaustive_aggregates()
        else:
            measurement.aggregates(measurement.sampled(n_pairs, "aggregates"))
        singles = list(measurement.sampled(n_singles, "singles"))
        measurement.interchange(singles)
        measurement.effect(singles)
        measurement.node_strict(singles)
        before = place * n_singles * n_edges
        measurement.edge_strict(singles, _after(before, len(kinds), progress), n_singles)
        if undecided := measurement.tally.undecided(measurement.resampling, SINGLE_PAIRS / n_singles):
            more = list(measurement.sampled(SINGLE_PAIRS - n_singles, "more singles"))
            measurement.interchange(more, only=undecided)
            measurement.node_strict(more, only=undecided)
            measurement.edge_strict(more, only=undecided)
    tally = measurement.tally
    return Certificate(
        case=case.id,
        weights_sha256=weights_sha256,
        seed=seed,
        n_pairs=n_pairs,
        n_pairs_single=SINGLE_PAIRS,
        is_exhaustive=is_exhaustive,
        is_held_out=any(is_split(case, n_tokens) for n_tokens in range(case.min_len - 1, case.max_len)),
        package_version=__version__,
        behaviour=tally.entries("behaviour"),
        node_interchange=tally.entries("node_interchange"),
        edge_interchange=tally.entries("edge_interchange"),
        node_strict=tally.entries("node_strict"),
        edge_strict=tally.entries("edge_strict"),
        complement=tally.entries("complement"),
        effect=tuple(Effect(name, *counts) for name, counts in measurement.effects.items()),
    )


def _after(before: int, times: int, progress: Progress | None) -> Progress | None:
    """Progress of one of several equal parts, told as that of the whole."""
    return progress and (lambda done, total: progress(before + done, total * times))
