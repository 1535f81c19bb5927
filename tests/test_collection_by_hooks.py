"""Certificates of the bundled collection checked from outside: TransformerLens' hooks, fresh inputs, plain programs.

Nothing here runs the package's forward passes, its high-level models, its pair sampler or its measuring: inputs come
from a case's sampler, answers from its program (under interchange from the slow model of the definition), interchange
from hooks on the HookedTransformer that users load. Models and edges are drawn from a fixed seed.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
from scipy.stats import binomtest, fisher_exact
from torch import Tensor
from transformer_lens import HookedTransformer

from interpbench_hub.cases import Case
from interpbench_hub.certificate import ABLATIONS, THRESHOLD, TOLERANCE, Certificate
from interpbench_hub.circuit import Circuit, Edge, Node
from interpbench_hub.ioi.case import CASES as SENTENCES
from interpbench_hub.loader import load_case, load_certificate, load_circuit, load_model
from interpbench_hub.manifest import load_manifest
from tests.hooked import Senders, all_edges_of, interchange, interchange_node, senders_of
from tests.slow_model import AMBIGUOUS, SlowModel

pytestmark = pytest.mark.slow

SEED = 2024
N_MODELS, N_TWINS = 4, 2
N_PAIRS = 512
N_PAIRS_SLOW = 96
"""Pairs put to the slow model, which takes one at a time."""
N_INPUTS_OF_MEANS = 2048
N_EDGES, N_NODES, N_EFFECTS, N_FAILURES = 12, 3, 6, 8

SIGNIFICANCE = 1e-4
"""Chance of calling a share too low that is not. A few hundred shares are looked at, nearly all of them exactly 1."""
RECORDED = 1e-6
"""The same for two counts that should have one share behind them."""
SLACK = 0.05
"""Difference of two shares that is let pass: certificates draw from held-out inputs and know other means."""


def drawn(grades: Sequence[str], count: int) -> list[str]:
    # Sentences have no program to ask about an interchange; `tests/ioi` has their checks.
    names = sorted(
        name
        for name, entry in load_manifest()["models"].items()
        if entry["grade"] in grades and name not in {case.id for case in SENTENCES}
    )
    return random.Random(SEED).sample(names, min(count, len(names)))


# -- a model under test ------------------------------------------------------------------------------------------------


@dataclass
class Batch:
    """Pairs whose bases have one length."""

    bases: list[list]
    sources: list[list]
    expected: list[list]
    """The program's outputs on the bases."""
    ids: Tensor
    replacements: dict[str, Senders]
    """What replaces in each ablation: [row, pos, d_model] for every node, cut to the bases' length."""

    def __len__(self) -> int:
        return len(self.bases)


class Subject:
    """A model, what is claimed of it, and pairs of inputs to check it on."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.case: Case = load_case(name)
        self.circuit: Circuit = load_circuit(name)
        self.certificate: Certificate = load_certificate(name)
        self.model: HookedTransformer = load_model(name)
        self.rng = random.Random(f"{SEED} {name}")
        self.batches = self._draw()

    def _draw(self) -> list[Batch]:
        """Every length of bases equally often; half of the sources as long as their base, the others any length up."""
        shortest, longest = self.case.min_len - 1, self.case.max_len - 1
        by_length: dict[int, list[tuple[list, list]]] = {}
        for _ in range(N_PAIRS):
            length = self.rng.randint(shortest, longest)
            source_length = length if self.rng.random() < 0.5 else self.rng.randint(length, longest)
            pair = self.case.sample(self.rng, length), self.case.sample(self.rng, source_length)
            by_length.setdefault(length, []).append(pair)
        means = self._means()
        batches = []
        for length, pairs in sorted(by_length.items()):
            bases, sources = [base for base, _ in pairs], [source for _, source in pairs]
            # A source is run at its own length and read where its base has positions.
            alone = [senders_of(self.model, self.case.encode([source])) for source in sources]
            resample = {node: torch.cat([run[node][:, : length + 1] for run in alone]) for node in means}
            batches.append(
                Batch(
                    bases,
                    sources,
                    [self.case.program(base) for base in bases],
                    self.case.encode(bases),
                    {
                        "resample": resample,
                        "zero": {node: torch.zeros_like(written) for node, written in resample.items()},
                        "mean": {node: means[node][: length + 1].expand_as(resample[node]) for node in means},
                    },
                )
            )
        return batches

    def _means(self) -> Senders:
        """Mean of what every node writes at each position, over inputs of every length alike: [pos, d_model]."""
        lengths = range(self.case.min_len - 1, self.case.max_len)
        total: dict[Node, Tensor] = {}
        count = torch.zeros(self.case.max_len, 1)
        for length in lengths:
            inputs = [self.case.sample(self.rng, length) for _ in range(N_INPUTS_OF_MEANS // len(lengths))]
            count[: length + 1] += len(inputs)
            for node, written in senders_of(self.model, self.case.encode(inputs)).items():
                whole = total.setdefault(node, torch.zeros(self.case.max_len, written.shape[-1]))
                whole[: length + 1] += written.sum(0)
        return {node: whole / count for node, whole in total.items()}

    @property
    def negatives(self) -> list[Edge]:
        return [edge for edge in all_edges_of(self.model) if edge not in self.circuit]

    @property
    def outside_nodes(self) -> list[Node]:
        """Nodes that write and that no edge of the circuit touches."""
        touched = {node for edge in self.circuit for node in (edge.source, edge.target)}
        return [node for node in {edge.source for edge in all_edges_of(self.model)} if node not in touched]

    # -- what comes out under an intervention --------------------------------------------------------------------------

    def plain(self, batch: Batch) -> list[list]:
        return self.case.decode(self.model(batch.ids))

    def with_edges(self, batch: Batch, edges: Sequence[Edge], ablation: str) -> list[list]:
        return self.case.decode(interchange(self.model, batch.ids, edges, batch.replacements[ablation]))

    def with_node(self, batch: Batch, node: Node, ablation: str) -> list[list]:
        return self.case.decode(interchange_node(self.model, batch.ids, node, batch.replacements[ablation][node]))

    def n_correct(self, section: str, name: str, ablation: str | None) -> int:
        """Pairs whose output is the program's under the intervention that an entry of the certificate names."""
        correct = 0
        for batch in self.batches:
            match section, ablation:
                case "behaviour", _:
                    outputs = self.plain(batch)
                case "complement", str():
                    outputs = self.with_edges(batch, self.negatives, ablation)
                case "edge_strict", str():
                    outputs = self.with_edges(batch, [Edge.parse(name)], ablation)
                case "node_strict", str():
                    outputs = self.with_node(batch, Node(name), ablation)
                case _:
                    raise AssertionError((section, ablation))
            correct += sum(self.is_right(*pair) for pair in zip(outputs, batch.expected, strict=True))
        return correct

    def is_right(self, output: list, expected: list) -> bool:
        """Whether an output is the expected one wherever something is expected."""
        return all(
            self.is_same(one, other) for one, other in zip(output, expected, strict=True) if other is not AMBIGUOUS
        )

    def is_same(self, one: object, other: object) -> bool:
        if self.case.categorical:
            return one == other
        # A number has no way to say undefined.
        return other is None or (
            isinstance(one, float) and isinstance(other, int | float) and abs(one - other) < TOLERANCE
        )


@cache
def subject(name: str) -> Subject:
    with torch.no_grad():
        return Subject(name)


def sample(rng: random.Random, pool: Sequence, count: int) -> list:
    return rng.sample(pool, min(count, len(pool)))


def assert_at_threshold(found: Mapping[tuple, int]) -> None:
    """No share of correct pairs is significantly below what a grade asks for."""
    chances = {what: binomtest(correct, N_PAIRS, THRESHOLD, "less").pvalue for what, correct in found.items()}
    low = {what: f"{found[what]} of {N_PAIRS}" for what, chance in chances.items() if chance < SIGNIFICANCE}
    assert not low


# -- models of grade path and edge -------------------------------------------------------------------------------------

certified = pytest.mark.parametrize("name", drawn(("path", "edge"), N_MODELS))


@certified
@torch.no_grad()
def test_a_model_computes_its_program(name):
    assert_at_threshold({(name,): subject(name).n_correct("behaviour", "all", None)})


@certified
@torch.no_grad()
def test_single_edges_and_nodes_outside_a_circuit_can_be_replaced(name):
    this = subject(name)
    rng = random.Random(f"{SEED} outside {name}")
    wanted = [("edge_strict", str(edge)) for edge in sample(rng, this.negatives, N_EDGES)]
    wanted += [("node_strict", node.name) for node in sample(rng, sorted(this.outside_nodes), N_NODES)]
    entries = [(section, name, ablation) for section, name in wanted for ablation in ABLATIONS]
    assert_at_threshold({entry: this.n_correct(*entry) for entry in entries})


@certified
@torch.no_grad()
def test_all_that_is_outside_a_circuit_can_be_replaced_at_once(name):
    this = subject(name)
    assert_at_threshold({(ablation,): this.n_correct("complement", "all", ablation) for ablation in ABLATIONS})


@certified
@torch.no_grad()
def test_resampling_a_circuit_edge_changes_outputs_as_often_as_recorded(name):
    this = subject(name)
    base_outputs = [this.plain(batch) for batch in this.batches]
    varying = [str(edge) for edge in this.circuit.of_kind("varying")]
    assert varying == [effect.name for effect in this.certificate.effect]
    for effect in sample(random.Random(f"{SEED} effect {name}"), this.certificate.effect, N_EFFECTS):
        changed = 0
        for batch, before in zip(this.batches, base_outputs, strict=True):
            after = this.with_edges(batch, [Edge.parse(effect.name)], "resample")
            changed += sum(not this.is_right(*pair) for pair in zip(after, before, strict=True))
        assert_reproduced(f"effect of {effect.name}", changed, effect.changed, effect.count)


@pytest.mark.parametrize("name", drawn(("path",), N_MODELS))
@torch.no_grad()
def test_resampling_a_circuit_edge_gives_what_the_definition_says(name):
    this = subject(name)
    slow = SlowModel.of(this.case)
    per_batch = max(2, N_PAIRS_SLOW // len(this.batches))
    for edge in sample(random.Random(f"{SEED} path {name}"), this.circuit.edges, N_EFFECTS):
        right = count = 0
        for batch in this.batches:
            outputs = this.with_edges(batch, [edge], "resample")
            for base, source, output in list(zip(batch.bases, batch.sources, outputs, strict=True))[:per_batch]:
                count += 1
                right += this.is_right(output, slow.output(base, source, [str(edge)]))
        assert binomtest(right, count, THRESHOLD, "less").pvalue >= SIGNIFICANCE, (edge, right, count)


# -- models that fall short, such as those trained node by node or for their behaviour alone ---------------------------


@pytest.mark.parametrize("name", drawn(("node", "none"), N_TWINS))
@torch.no_grad()
def test_what_a_certificate_says_falls_short_does(name):
    this = subject(name)
    failures = [item for item in this.certificate.failures() if not item[0].endswith("interchange")]
    # The worst, and some of the others.
    chosen = failures[: N_FAILURES // 2]
    chosen += sample(random.Random(f"{SEED} failures {name}"), failures[N_FAILURES // 2 :], N_FAILURES // 2)
    for section, entry in chosen:
        correct = this.n_correct(section, entry.name, entry.ablation)
        assert_reproduced(f"{section} {entry.name} {entry.ablation}", correct, entry.correct, entry.count)


def assert_reproduced(what: str, ours: int, recorded: int, count: int) -> None:
    """Our count among `N_PAIRS` and the certificate's among its own can have one share behind them, nearly."""
    share, recorded_share = ours / N_PAIRS, recorded / count
    result: Any = fisher_exact([[ours, N_PAIRS - ours], [recorded, count - recorded]])
    assert abs(share - recorded_share) <= SLACK or result.pvalue >= RECORDED, (
        f"{what}: {share:.4f}, not {recorded_share:.4f}"
    )
