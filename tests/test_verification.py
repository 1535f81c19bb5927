"""Verification: what agrees stays unremarked, and each way of claiming what is not so is found and named."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from interpbench_hub import verification
from interpbench_hub.cases import get_case
from interpbench_hub.certificate import ABLATIONS, SECTIONS, Certificate, Entry
from interpbench_hub.checkpoint import Checkpoint, CheckpointConfig, Output, Vocab, save_checkpoint, weights_digest
from interpbench_hub.circuit import Circuit, Edge
from interpbench_hub.constants import CERTIFICATE_FILE, WEIGHTS_FILE
from interpbench_hub.errors import CheckpointError, SettingError
from interpbench_hub.manifest import load_manifest
from interpbench_hub.rasp.compiler import compile_to_transformer
from interpbench_hub.siit import measure as measuring
from interpbench_hub.siit.runs import measured_circuit
from interpbench_hub.transformer import Transformer, TransformerConfig
from interpbench_hub.verification import agree, sample, verify

CASE = "case_13"
"""One head, few edges, too many inputs to try all pairs."""


@pytest.fixture(scope="module")
def noisy() -> tuple[Transformer, Certificate]:
    """The compiled program with noise on every weight, and its true certificate, most entries of which fall short."""
    case = get_case(CASE)
    hooked = compile_to_transformer(case, alignment=case.alignment)
    shape = TransformerConfig(**{name: getattr(hooked.cfg, name) for name in TransformerConfig.__dataclass_fields__})
    model = Transformer(shape)
    model.load_state_dict({name: parameter.detach() for name, parameter in hooked.named_parameters()})
    with torch.no_grad():
        model.flat.add_(0.05 * torch.randn(model.n_parameters, generator=torch.Generator().manual_seed(0)))
    digest = weights_digest(model.state_dict())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measuring, "SINGLE_PAIRS", 200)
        patch.setattr(measuring, "AGGREGATE_PAIRS", 1000)
        return model, measuring.measure(case, model, weights_sha256=digest, seed=3)


@pytest.fixture
def save(noisy, checkpoint, tmp_path) -> Callable[..., Path]:
    """Saves the noisy model with its certificate and circuit, some of it changed; returns the folder."""
    case, (model, true) = get_case(CASE), noisy

    def make(
        certificate: Certificate = true, circuit: Circuit | None = None, weights: dict[str, Any] | None = None
    ) -> Path:
        weights = weights or model.state_dict()
        config = CheckpointConfig(
            case=CASE,
            transformer=model.config,
            vocab=Vocab(case.vocab, case.bos_id, case.pad_id),
            output=Output("categorical", case.classes),
            min_len=case.min_len,
            max_len=case.max_len,
            provenance=checkpoint.config.provenance,
        )
        certificate = replace(certificate, weights_sha256=weights_digest(weights))
        circuit = circuit or measured_circuit(case, certificate)
        return save_checkpoint(Checkpoint(config, weights, circuit, certificate), tmp_path / "model")

    return make


check = partial(verify, n_pairs=300, n_edges=6)


def test_a_true_certificate_agrees_however_bad_the_model_is(save, noisy):
    # Rates between none and all: where chance has the most to say.
    shares = [entry.accuracy for _, entry in noisy[1].entries()]
    assert sum(0.1 < share < 0.95 for share in shares) > len(shares) / 2
    for seed in range(3):
        result = check(save(), seed=seed, n_edges=None if seed == 0 else 6)
        assert result.problems == () and result.agrees
        assert result.certificate.grade == "none"


def test_bundled_models_agree():
    for name in ("case_8", "case_4"):
        result = check(name)
        assert result.agrees, result.problems
        assert all(result.worst(section) == 1 for section in SECTIONS)


@pytest.mark.slow
@pytest.mark.parametrize("name", load_manifest()["models"])
def test_every_bundled_model_agrees(name):
    assert verify(name).problems == ()


def test_every_entry_is_measured_but_for_single_edges_which_are_drawn(save, noisy):
    certificate = noisy[1]
    result = check(save(), n_edges=4, seed=1)
    for section in set(SECTIONS) - {"edge_strict"}:
        names = {(entry.name, entry.ablation) for entry in getattr(certificate, section)}
        assert {(entry.name, entry.ablation) for entry in result.measured[section]} == names
    drawn = [(entry.name, entry.ablation) for entry in result.measured["edge_strict"]]
    assert len(drawn) == len(set(drawn)) == 4 * len(ABLATIONS)
    assert {name for name, _ in drawn} < {entry.name for entry in certificate.edge_strict}
    assert result.measured == check(save(), n_edges=4, seed=1).measured
    assert drawn != [(entry.name, entry.ablation) for entry in check(save(), n_edges=4).measured["edge_strict"]]
    assert {entry.count for entry in result.measured["behaviour"]} == {300}
    assert check(save(), n_edges=0).worst("edge_strict") is None


# -- files -------------------------------------------------------------------------------------------------------------


def test_a_flipped_byte_in_the_weights_is_found(save):
    folder = save()
    path = folder / WEIGHTS_FILE
    data = bytearray(path.read_bytes())
    data[-7] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"certificate\.json: measured on weights with SHA-256"):
        check(folder)


def test_a_model_without_a_certificate_cannot_be_verified(save):
    folder = save()
    (folder / CERTIFICATE_FILE).unlink()
    with pytest.raises(CheckpointError, match=r"certificate\.json: the file is missing"):
        check(folder)


@pytest.mark.parametrize(("n_pairs", "n_edges"), [(0, 3), (5, -1)])
def test_numbers_that_cannot_be_are_refused(n_pairs, n_edges):
    with pytest.raises(SettingError, match="there is one pair at least, and neither is negative"):
        verify("case_8", n_pairs=n_pairs, n_edges=n_edges)


# -- claims ------------------------------------------------------------------------------------------------------------


def changed(certificate: Certificate, section: str, place: int, **fields: Any) -> Certificate:
    """The certificate with one entry changed."""
    entries = list(getattr(certificate, section))
    entries[place] = replace(entries[place], **fields)
    return replace(certificate, **{section: tuple(entries)})


def middling(entries: tuple[Entry, ...]) -> int:
    """Place of the entry nearest to one half."""
    return min(range(len(entries)), key=lambda place: abs(entries[place].accuracy - 0.5))


@pytest.mark.parametrize("section", ["behaviour", "node_interchange", "edge_interchange", "node_strict", "complement"])
def test_an_entry_that_claims_more_than_is_true_is_named(save, noisy, section):
    entries = getattr(noisy[1], section)
    place = middling(entries)
    assert entries[place].accuracy < 0.97
    folder = save(changed(noisy[1], section, place, correct=entries[place].count))
    (problem,) = check(folder).problems
    what = f"{section} {entries[place].name}" + (f" ({entries[place].ablation})" if entries[place].ablation else "")
    assert problem.startswith(f"{what}: ")
    assert problem.endswith(f"right, certificate.json says {entries[place].count} of {entries[place].count}")


def test_a_single_edge_that_claims_more_or_less_than_is_true_is_named(save, noisy):
    entries = noisy[1].edge_strict
    place = middling(entries)
    for correct in (0, entries[place].count):
        folder = save(changed(noisy[1], "edge_strict", place, correct=correct))
        (problem,) = check(folder, n_edges=None).problems
        assert problem.startswith(f"edge_strict {entries[place].name} ({entries[place].ablation}): ")


@pytest.mark.parametrize(("field", "verb"), [("changed", "changed"), ("predicted", "predicted to change")])
def test_an_effect_that_is_not_so_is_named(save, noisy, field, verb):
    effect = noisy[1].effect[0]
    other = effect.count if getattr(effect, field) < effect.count / 2 else 0
    (problem,) = check(save(changed(noisy[1], "effect", 0, **{field: other}))).problems
    assert problem.startswith(f"effect {effect.name}: ") and f" {verb}, certificate.json says {other} of" in problem


def test_weights_that_were_exchanged_together_with_their_checksum_are_found(save, noisy):
    perfect = {
        section: tuple(replace(entry, correct=entry.count) for entry in getattr(noisy[1], section))
        for section in SECTIONS
    }
    other = Transformer(noisy[0].config, seed=5).state_dict()
    problems = check(save(replace(noisy[1], **perfect), weights=other)).problems
    assert {problem.split()[0] for problem in problems} >= {"behaviour", "edge_interchange", "effect"}


@pytest.mark.parametrize("section", [*SECTIONS, "effect"])
def test_an_entry_that_is_left_out_is_named(save, noisy, section):
    entries = getattr(noisy[1], section)
    gone = entries[-1]
    circuit = measured_circuit(get_case(CASE), noisy[1])
    (problem,) = check(save(replace(noisy[1], **{section: entries[:-1]}), circuit)).problems[-1:]
    assert problem.startswith(f"certificate.json lacks {section} of {gone.name}")


def test_entries_of_nothing_are_named(save, noisy):
    extra = replace(noisy[1], node_strict=(*noisy[1].node_strict, Entry("m7", "zero", 9, 9)))
    (problem,) = check(save(extra)).problems
    assert problem == "certificate.json has node_strict of m7 (zero), which this circuit gives no reason for"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"case": "case_3"}, "is about case_3, the model about case_13"),
        ({"is_exhaustive": True}, "says that 1000 pairs are all there are; there are"),
        ({"is_held_out": False}, "says is_held_out False; for case_13 it is True"),
    ],
)
def test_a_scope_that_is_not_the_certificates_is_named(save, noisy, fields, message):
    (problem,) = check(save(replace(noisy[1], **fields))).problems
    assert message in problem


def test_what_a_certificate_says_of_all_pairs_is_measured_on_all_pairs(save, noisy, monkeypatch):
    from interpbench_hub.cases import pairs

    calls = []
    monkeypatch.setattr(measuring.Measurement, "exhaustive_aggregates", lambda self: calls.append(self))
    certificate = replace(noisy[1], is_exhaustive=True)
    check(save(certificate))
    assert not calls
    monkeypatch.setattr(measuring, "MAX_EXHAUSTIVE_PAIRS", pairs.count_pairs(get_case(CASE)))
    check(save(certificate))
    assert len(calls) == 1


# -- circuits ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def right(noisy) -> Circuit:
    return measured_circuit(get_case(CASE), noisy[1])


def with_edges(circuit: Circuit, edges: list[Edge]) -> Circuit:
    return Circuit(circuit.n_layers, circuit.n_heads, edges, circuit.roles, case=circuit.case)


def test_an_edge_that_was_taken_out_of_the_circuit_is_named(save, right):
    for gone in (right.edges[0], right.of_kind("varying")[-1]):
        problems = check(save(circuit=with_edges(right, [edge for edge in right if edge != gone]))).problems
        assert problems == (f"circuit.json lacks {gone}, which case_13 prescribes",)


def test_an_edge_that_was_put_into_the_circuit_is_named(save, right):
    extra = right.negatives[3]
    problems = check(save(circuit=with_edges(right, [*right, replace(extra, kind="inert")]))).problems
    assert problems == (f"circuit.json has {extra}, which case_13 does not prescribe",)


def test_an_edge_of_another_kind_or_effect_is_named(save, right):
    edge = right.of_kind("varying")[0]
    others = [other for other in right if other != edge]
    (problem,) = check(save(circuit=with_edges(right, [*others, replace(edge, kind="inert")]))).problems
    assert problem == f"circuit.json says {edge} is inert; by case_13 it is varying"
    (problem,) = check(save(circuit=with_edges(right, [*others, replace(edge, effect=0.123)]))).problems
    assert problem.startswith(f"circuit.json says {edge} has effect 0.123, certificate.json 0.")


def test_nodes_with_other_variables_are_found(save, right):
    circuit = Circuit(right.n_layers, right.n_heads, right.edges, {}, case=right.case)
    assert check(save(circuit=circuit)).problems == (
        "circuit.json names other variables or meanings of nodes than case_13",
    )


def test_a_circuit_of_another_size_ends_the_verification(save, checkpoint, make_certificate):
    # A whole checkpoint of case_3 by its own files, but of a transformer that case_3 has no circuit in.
    from interpbench_hub.siit.sizes import transformer_config

    shape = replace(transformer_config(get_case("case_3")), n_layers=3)
    config = replace(checkpoint.config, max_len=shape.n_ctx)
    weights = Transformer(shape).state_dict()
    circuit = Circuit(3, shape.n_heads, checkpoint.circuit.edges, case="case_3")
    certificate = make_certificate(weights_sha256=weights_digest(weights))
    folder = save_checkpoint(Checkpoint(replace(config, transformer=shape), weights, circuit, certificate), save())
    result = verify(folder)
    assert result.problems == ("circuit.json is about 3 layers of 4 heads, case_3 prescribes 2 of 4",)
    assert all(result.worst(section) is None for section in SECTIONS)


# -- chance ------------------------------------------------------------------------------------------------------------


def fisher(found: tuple[int, int], claimed: tuple[int, int]) -> float:
    """Two-sided by doubling: the chance that the pairs right in all fall into the two counts as unevenly as here."""
    total, right = found[1] + claimed[1], found[0] + claimed[0]

    def chance(k: int) -> float:
        return math.comb(right, k) * math.comb(total - right, found[1] - k) / math.comb(total, found[1])

    possible = range(max(0, found[1] - (total - right)), min(found[1], right) + 1)
    lower = sum(chance(k) for k in possible if k <= found[0])
    upper = sum(chance(k) for k in possible if k >= found[0])
    return 2 * min(lower, upper)


@pytest.mark.parametrize("false_alarm", [0.3, 0.05, 1e-3])
def test_counts_agree_as_fishers_exact_test_says(false_alarm):
    for found, claimed in product(range(0, 13, 2), range(0, 31, 3)):
        expected = fisher((found, 12), (claimed, 30)) >= false_alarm
        assert agree((found, 12), (claimed, 30), false_alarm) is expected or found * 30 == claimed * 12


@pytest.mark.parametrize("rate", [0.02, 0.5, 0.9])
def test_counts_of_one_rate_seldom_disagree(rate):
    def chance(k: int, n: int) -> float:
        return math.comb(n, k) * rate**k * (1 - rate) ** (n - k)

    alarm = sum(
        chance(found, 15) * chance(claimed, 40)
        for found, claimed in product(range(16), range(41))
        if not agree((found, 15), (claimed, 40), 0.05)
    )
    assert alarm <= 0.05


def test_nothing_counted_says_nothing():
    assert agree((0, 0), (5, 5), 0.5) and agree((5, 5), (0, 0), 0.5)


def test_the_power_is_what_the_documentation_says():
    assert not agree((490, 500), (2048, 2048), verification.FALSE_ALARM / 300)


# -- the measuring itself ----------------------------------------------------------------------------------------------


def test_a_sample_is_what_a_certificate_measures_on_the_same_pairs(save, noisy, monkeypatch):
    from interpbench_hub.checkpoint import load_checkpoint

    case, model = get_case(CASE), noisy[0]
    drawn = sample(case, load_checkpoint(save()), n_pairs=64, seed=4)
    monkeypatch.setattr(measuring, "SINGLE_PAIRS", 64)
    monkeypatch.setattr(measuring, "AGGREGATE_PAIRS", 64)
    sampled = measuring.Measurement.sampled
    monkeypatch.setattr(
        measuring.Measurement, "sampled", lambda self, n_pairs, what: sampled(self, n_pairs, "verification")
    )
    certificate = measuring.measure(case, model, weights_sha256="0" * 64, seed=4)
    for section in SECTIONS:
        assert drawn.tally.entries(section) == getattr(certificate, section)
    assert {effect.name: [effect.count, effect.changed, effect.predicted] for effect in certificate.effect} == {
        **drawn.effects
    }
