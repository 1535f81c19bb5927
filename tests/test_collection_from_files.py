"""Certificates of the bundled collection worked out again from the files of a checkpoint, by `tests.numpy_model`.

Of the package, only the case is used, for inputs (its sampler) and right answers (its program), and `load_model` for
comparisons. Models and edges are drawn from a fixed seed.
"""

import json
import random
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import beta, binomtest

import interpbench_hub
from interpbench_hub import Edge, get_case, load_model
from interpbench_hub.checkpoint import save_checkpoint, weights_sha256
from tests.certificate_files import entries_of
from tests.hooked import all_edges_of, interchange, senders_of
from tests.numpy_model import Array, NumpyModel, Senders

COLLECTION = Path(interpbench_hub.__file__).parent / "collection"
MANIFEST = COLLECTION / "manifest.json"
SECTIONS = ("behaviour", "node_interchange", "edge_interchange", "node_strict", "edge_strict", "complement")
ABLATIONS = ("resample", "zero", "mean")
SENTENCE_KINDS = ("resample", "name_swap", "s2_to_io", "abc")

SEED = 1407
N_MODELS, N_PAIRS, N_EDGES, N_NODES, N_EFFECTS, N_INPUTS_OF_MEANS = 5, 256, 16, 3, 4, 1024
THRESHOLD = 0.999
SIGNIFICANCE = 1e-4
"""Chance of calling a share too low, or another than recorded, that is not."""
SLACK = 0.05
"""Difference from a recorded share that is let pass: certificates draw from held-out inputs."""


def names(*grades: str) -> list[str]:
    if not MANIFEST.exists():
        return []
    models = json.loads(MANIFEST.read_text(encoding="utf-8"))["models"]
    return sorted(name for name, entry in models.items() if not grades or entry["grade"] in grades)


def drawn(*grades: str) -> list[str]:
    # Those with a tokenizer are of sentences, which `tests/ioi` checks.
    found = [name for name in names(*grades) if not (MANIFEST.parent / name / "tokenizer.json").exists()]
    return random.Random(SEED).sample(found, min(N_MODELS, len(found)))


# -- the model in numpy itself -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", [None, "LN"])
@pytest.mark.parametrize(("direction", "activation"), [("causal", "gelu"), ("bidirectional", "gelu_new")])
@torch.no_grad()
def test_the_numpy_model_is_hooked_transformer_under_any_interchange(
    tmp_path, make_checkpoint, make_certificate, norm, direction, activation
):
    shape = {"normalization_type": norm, "attention_dir": direction, "act_fn": activation}
    folder = save_checkpoint(make_checkpoint(seed=3, **shape), tmp_path / "random")
    certificate = make_certificate(weights_sha256=weights_sha256(folder))
    (folder / "certificate.json").write_text(json.dumps(certificate.to_dict()), encoding="utf-8")
    model, hooked = NumpyModel(folder), load_model(folder, dtype="float64")
    rng = random.Random(SEED)
    base, source = (np.array([[rng.randrange(6) for _ in range(7)] for _ in range(3)]) for _ in range(2))
    replacement = model.run(source)[1]
    assert set(model.universe) == {str(edge) for edge in all_edges_of(hooked)}
    for count in (0, 1, 20, len(model.universe)):
        edges = rng.sample(model.universe, count)
        expected = interchange(
            hooked,
            torch.from_numpy(base),
            [Edge.parse(edge) for edge in edges],
            senders_of(hooked, torch.from_numpy(source)),
        )
        np.testing.assert_allclose(model.run(base, edges, replacement)[0], expected.numpy(), rtol=1e-9, atol=1e-9)


# -- what the files say of themselves ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", names())
def test_a_certificate_covers_every_edge_outside_the_circuit_under_every_ablation(name):
    model = NumpyModel(COLLECTION / name)
    certificate = model.certificate
    assert certificate["weights_sha256"] == model.weights_sha256
    assert set(model.circuit_edges) < set(model.universe)

    def entries(section: str) -> set[tuple]:
        rows = entries_of(certificate[section])
        assert len({row[:2] for row in rows}) == len(rows)
        return {row[:2] for row in rows}

    kinds = SENTENCE_KINDS if name in ("ioi", "ioi_full") else ("resample",)
    ablations = {*ABLATIONS, *kinds}
    assert entries("behaviour") == {("all", None)}
    assert entries("complement") == {("all", ablation) for ablation in ablations}
    assert entries("edge_strict") == {(edge, ablation) for edge in model.outside_edges for ablation in ablations}
    assert entries("node_strict") == {(node, ablation) for node in model.outside_nodes for ablation in ablations}
    # Under some kinds of sentences an exchange has no answer to count.
    assert entries("edge_interchange") <= {(edge, kind) for edge in model.circuit_edges for kind in kinds}
    assert entries("edge_interchange") >= {(edge, kind) for edge in model.circuit_edges for kind in kinds[:2]}
    edges = zip(model.circuit_edges, model.circuit["edges"], strict=True)
    effects = {name: edge["effect"] for name, edge in edges if edge["kind"] == "varying"}
    assert effects == {edge: round(changed / count, 6) for edge, count, changed, _ in certificate["effect"]["rows"]}


@pytest.mark.parametrize("name", names())
def test_bounds_and_grade_follow_from_the_counts(name):
    model = NumpyModel(COLLECTION / name)
    certificate = model.certificate
    shares: dict[str, list[float]] = {section: [] for section in (*SECTIONS, "node_strict resample")}
    bounded = certificate["lower_bounds"]["rows"]
    counts, corrects, bounds = np.array(bounded).T
    # Clopper and Pearson's one-sided lower bound at 99 %; it is 0, and their formula void, where none is correct.
    expected = np.where(corrects > 0, beta.ppf(0.01, np.maximum(corrects, 1), counts - corrects + 1), 0.0)
    np.testing.assert_allclose(bounds, expected, rtol=0, atol=1e-6)
    for section in SECTIONS:
        rows = entries_of(certificate[section])
        assert {row[2:] for row in rows} <= {(count, correct) for count, correct, _ in bounded}
        for _, ablation, count, correct in rows:
            shares[section].append(correct / count if count else 0.0)
            if (section, ablation) == ("node_strict", "resample"):
                shares["node_strict resample"].append(shares[section][-1])
    passes = {section: all(share >= THRESHOLD for share in shares[section]) for section in shares}
    has_effects = all(changed > 0 for _, _, changed, _ in certificate["effect"]["rows"])
    grade = "none"
    if passes["behaviour"] and passes["node_interchange"] and passes["node_strict resample"]:
        grade = "node"
        if passes["node_strict"] and passes["edge_strict"] and passes["complement"] and has_effects:
            grade = "path" if passes["edge_interchange"] else "edge"
    assert certificate["grade"] == grade


# -- what the weights do -----------------------------------------------------------------------------------------------


class Subject:
    """A model in numpy, and pairs of inputs to check it on, by the length of their bases."""

    def __init__(self, name: str) -> None:
        self.model = NumpyModel(COLLECTION / name)
        self.case = get_case(self.model.config["case"])
        self.rng = random.Random(f"{SEED} {name}")
        # Lengths in the files count BOS.
        lengths = range(self.model.config["min_len"] - 1, self.model.config["max_len"])
        means = self._means(lengths)
        self.bases: dict[int, list[list]] = {}
        self.replacements: dict[int, dict[str, Senders]] = {}
        self.base_written: dict[int, Senders] = {}
        for length in lengths:
            count = -(-N_PAIRS // len(lengths))
            self.bases[length] = [self.case.sample(self.rng, length) for _ in range(count)]
            # Half of the sources are as long as their base, the others any length up.
            sizes = [length if place % 2 else self.rng.randint(length, lengths[-1]) for place in range(count)]
            sources = [self._written([self.case.sample(self.rng, size)]) for size in sizes]
            senders = self.model.senders
            resample = {node: np.concatenate([one[node][:, : length + 1] for one in sources]) for node in senders}
            self.replacements[length] = {
                "resample": resample,
                "zero": {node: np.zeros_like(resample[node]) for node in senders},
                "mean": {node: np.broadcast_to(means[node][: length + 1], resample[node].shape) for node in senders},
            }
        self.expected = {length: [self.case.program(base) for base in bases] for length, bases in self.bases.items()}
        self.n_pairs = sum(map(len, self.bases.values()))

    def _written(self, sequences: list[list]) -> dict[str, Array]:
        return self.model.run(self.model.encode(sequences))[1]

    def _means(self, lengths: range) -> dict[str, Array]:
        """Mean of what every node writes at each position, over inputs of every length alike: [pos, d_model]."""
        d_model, width = self.model.config["transformer"]["d_model"], lengths[-1] + 1
        total = {node: np.zeros((width, d_model)) for node in self.model.senders}
        count = np.zeros((width, 1))
        for length in lengths:
            inputs = [self.case.sample(self.rng, length) for _ in range(N_INPUTS_OF_MEANS // len(lengths))]
            count[: length + 1] += len(inputs)
            for node, written in self._written(inputs).items():
                total[node][: length + 1] += written.sum(0)
        return {node: whole / count for node, whole in total.items()}

    def outputs(self, length: int, edges: list[str], ablation: str = "resample") -> list[list]:
        """Outputs on the bases of a length when some edges are replaced."""
        ids = self.model.encode(self.bases[length])
        return self.model.decode(self.model.run(ids, edges, self.replacements[length][ablation])[0])

    def n_correct(self, edges: list[str], ablation: str = "resample") -> int:
        """Pairs whose output is the program's when some edges are replaced."""
        correct = 0
        for length, expected in self.expected.items():
            correct += sum(map(self.is_same, self.outputs(length, edges, ablation), expected))
        return correct

    def is_same(self, output: list, expected: list) -> bool:
        return all(map(self.model.is_same, output, expected))


@cache
def subject(name: str) -> Subject:
    return Subject(name)


def sample(pool: list, count: int, *seed: object) -> list:
    """Some of the pool, the same whatever tests ran before."""
    return random.Random(f"{SEED} {seed}").sample(pool, min(count, len(pool)))


@pytest.mark.slow
@pytest.mark.parametrize("name", drawn())
def test_logits_are_those_of_hooked_transformer(name):
    this, hooked = subject(name), load_model(name, dtype="float64")
    for bases in this.bases.values():
        ids = this.model.encode(bases)
        with torch.no_grad():
            expected = hooked(torch.from_numpy(ids)).numpy()
        np.testing.assert_allclose(this.model.run(ids)[0], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", drawn("path", "edge"))
def test_behaviour_and_strictness_hold_by_the_files_alone(name):
    this, model = subject(name), subject(name).model
    found = {"behaviour": this.n_correct([])}
    for ablation in ABLATIONS:
        found[f"complement {ablation}"] = this.n_correct(model.outside_edges, ablation)
        for edge in sample(model.outside_edges, N_EDGES, name, ablation):
            found[f"{edge} {ablation}"] = this.n_correct([edge], ablation)
        for node in sample(model.outside_nodes, N_NODES, name, ablation):
            found[f"{node} {ablation}"] = this.n_correct(model.leaving(node), ablation)
    chances = {what: binomtest(n, this.n_pairs, THRESHOLD, "less").pvalue for what, n in found.items()}
    assert not {what: f"{found[what]} of {this.n_pairs}" for what in found if chances[what] < SIGNIFICANCE}


@pytest.mark.slow
@pytest.mark.parametrize("name", drawn())
def test_effects_are_those_recorded_by_the_files_alone(name):
    this = subject(name)
    before = {length: this.outputs(length, []) for length in this.bases}
    for edge, count, changed, _ in sample(this.model.certificate["effect"]["rows"], N_EFFECTS, name):
        ours = sum(
            not this.is_same(after, base)
            for length in this.bases
            for after, base in zip(this.outputs(length, [edge]), before[length], strict=True)
        )
        share, recorded = ours / this.n_pairs, changed / count
        # What is recorded comes from eight times as many pairs: its own error hides in the slack.
        chance = binomtest(ours, this.n_pairs, recorded).pvalue
        assert abs(share - recorded) <= SLACK or chance >= SIGNIFICANCE, f"{edge}: {share:.4f}, not {recorded:.4f}"
