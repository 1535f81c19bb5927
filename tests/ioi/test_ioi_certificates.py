"""Certificates of sentences: each kind of counterfactual by itself, against the causal model sentence by sentence."""

from collections import Counter
from dataclasses import replace
from functools import cache, partial

import pytest

from interpbench_hub import certificate as certifying
from interpbench_hub.cases import get_case
from interpbench_hub.certificate import Certificate, Counterfactual, Entry
from interpbench_hub.circuit import POS_EMBED
from interpbench_hub.ioi.case import CASES, IoiCase
from interpbench_hub.ioi.words import COUNTERFACTUALS, NOBODY
from interpbench_hub.siit import measure as measuring
from interpbench_hub.siit.measure import Measurement, measure
from interpbench_hub.verification import Verification, scope_problems
from tests.ioi.slow_sentences import UNCLEAR, reads_of, slow_values
from tests.small_ioi import KINDS, always_saying, certificate_of

N_SINGLES, N_AGGREGATE = 6, 9
"""Pairs of each kind."""


@cache
def certificate(case_id: str) -> Certificate:
    """Of a model that always says that nobody is left: right where an exchange leaves the causal model with nobody."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measuring, "SINGLE_PAIRS", N_SINGLES * len(COUNTERFACTUALS))
        patch.setattr(measuring, "AGGREGATE_PAIRS", N_AGGREGATE)
        patch.setattr(measuring, "MEAN_INPUTS", 8)
        if case_id == "ioi_full":
            # Single edges outside are the bulk, and the same for both.
            few = partial(_few_edges, measuring.Measurement.edge_strict)
            patch.setattr(measuring.Measurement, "edge_strict", lambda self, *rest: few(self, *rest))
        return measure(get_case(case_id), always_saying(NOBODY, case_id), weights_sha256="0" * 64)


def _few_edges(edge_strict, measurement, batches, progress=None, total=0, *, only=None):
    assert only is None
    few = [measurement.space.edges[place] for place in measurement.space.negatives.tolist()[:2]]
    return edge_strict(measurement, batches, only={("edge_strict", str(edge), "zero") for edge in few})


def counts(entries: tuple[Entry, ...]) -> dict[tuple[str, str | None], tuple[int, int]]:
    return {(entry.name, entry.ablation): (entry.count, entry.correct) for entry in entries if entry.count}


def exchanges_of(case: IoiCase) -> dict[str, dict[str, set]]:
    """What the causal model exchanges for every edge and node of the circuit, by section and name."""
    edges = {str(edge): reads_of(case, edge) for edge in case.circuit}
    nodes = {
        str(node): set().union(*(reads_of(case, edge) for edge in case.circuit if edge.source == node))
        for node in case.alignment.variables_of
        if node != POS_EMBED
    }
    return {"edge_interchange": edges, "node_interchange": nodes}


def answers(
    case: IoiCase, kind: Counterfactual, what: str, n_pairs: int
) -> dict[tuple[str, str], list[tuple[str, str]]]:
    """The causal model's answers, sentence by sentence: for every exchange the plain one and the one under it."""
    sampler = case.pair_sampler(seed=f"certificate 0 {what}", split="test", counterfactual=kind)
    sections = exchanges_of(case)
    found: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for base_codes, n_base, source_codes, n_source in zip(*sampler.draw(n_pairs), strict=True):
        base = [case.vocab[code] for code in base_codes[:n_base]]
        source = slow_values(case, [case.vocab[code] for code in source_codes[:n_source]])
        plain = slow_values(case, base)["answer"][-1]
        for section, exchanges in sections.items():
            for name, reads in exchanges.items():
                answer = slow_values(case, base, source, reads)["answer"][-1]
                found.setdefault((section, name), []).append((plain, answer))
    return found


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_exchanges_are_counted_by_kind_as_the_causal_model_of_single_sentences_says(case):
    expected: dict[str, dict] = {"edge_interchange": {}, "node_interchange": {}}
    predicted: Counter = Counter()
    for kind in COUNTERFACTUALS:
        for (section, name), said in answers(case, kind, "singles", N_SINGLES).items():
            answered = [answer for _, answer in said if answer != UNCLEAR]
            if answered:
                expected[section][name, kind] = (len(answered), answered.count(NOBODY))
            if section == "edge_interchange":
                predicted[name] += sum(answer not in (UNCLEAR, plain) for plain, answer in said)
    found = certificate(case.id)
    for section, entries in expected.items():
        assert counts(getattr(found, section)) == entries
    # Some are always right, some never; in the smaller circuit some on a part of the pairs.
    shares = {entry.accuracy for entry in found.edge_interchange if entry.count}
    assert {0.0, 1.0} <= shares and (len(shares) > 2 or case.id == "ioi_full")
    for effect in found.effect:
        n_pairs = len(COUNTERFACTUALS) * N_SINGLES
        assert (effect.count, effect.changed, effect.predicted) == (n_pairs, 0, predicted[effect.name])


def test_each_kind_has_its_pairs_and_what_looks_at_no_source_is_counted_on_the_bases_of_all():
    case, found, n_kinds = get_case("ioi"), certificate("ioi"), len(COUNTERFACTUALS)
    assert counts(found.behaviour) == {("all", None): (n_kinds * N_AGGREGATE, 0)}

    def by_kind(n_pairs: int) -> dict[str, tuple[int, int]]:
        return {kind: (n_pairs if kind in COUNTERFACTUALS else n_kinds * n_pairs, 0) for kind in KINDS}

    assert counts(found.complement) == {("all", kind): count for kind, count in by_kind(N_AGGREGATE).items()}
    names = [str(edge) for edge in case.circuit.negatives]
    assert counts(found.edge_strict) == {
        (name, kind): count for name in names for kind, count in by_kind(N_SINGLES).items()
    }
    touched = {node for edge in case.circuit for node in (edge.source, edge.target)}
    strangers = [str(node) for node in case.circuit.node_universe if node not in touched]
    assert counts(found.node_strict) == {
        (name, kind): count for name in strangers for kind, count in by_kind(N_SINGLES).items()
    }
    assert (found.n_pairs, found.n_pairs_single) == (N_AGGREGATE, n_kinds * N_SINGLES)
    assert (found.is_exhaustive, found.is_held_out) == (False, True)


def test_what_falls_short_by_few_errors_on_a_kinds_share_is_measured_on_all_pairs_of_that_kind(monkeypatch):
    (case,) = (case for case in CASES if case.id == "ioi")
    n_kinds, share, threshold = len(COUNTERFACTUALS), 12, 0.9
    monkeypatch.setattr(measuring, "SINGLE_PAIRS", n_kinds * share)
    monkeypatch.setattr(measuring, "AGGREGATE_PAIRS", 4)
    monkeypatch.setattr(measuring, "MEAN_INPUTS", 8)
    for module in (measuring, certifying):
        monkeypatch.setattr(module, "THRESHOLD", threshold)
    few = partial(_few_edges, measuring.Measurement.edge_strict)
    monkeypatch.setattr(
        measuring.Measurement, "edge_strict", lambda self, *rest, only=None: None if only else few(self, *rest)
    )
    found = measure(case, always_saying(NOBODY), weights_sha256="0" * 64)
    again: Counter[bool] = Counter()
    for kind in COUNTERFACTUALS:
        first = answers(case, kind, "singles", share)
        more = answers(case, kind, "more singles", (n_kinds - 1) * share)
        for (section, name), said in first.items():
            said = [answer for _, answer in said if answer != UNCLEAR]
            errors, allowed = len(said) - said.count(NOBODY), (1 - threshold) * len(said)
            is_undecided = allowed < errors <= n_kinds * allowed
            again[is_undecided] += 1
            if is_undecided:
                said += [answer for _, answer in more[section, name] if answer != UNCLEAR]
            expected = {(name, kind): (len(said), said.count(NOBODY))} if said else {}
            entries = counts(getattr(found, section))
            assert {key: count for key, count in entries.items() if key == (name, kind)} == expected
    assert min(again.values()) >= 2


def test_pairs_of_a_kind_are_of_that_kind_and_of_the_split():
    case = get_case("ioi")
    measurement = Measurement(case, always_saying(NOBODY))
    for measurement.counterfactual in COUNTERFACTUALS:
        assert measurement.ablations == (measurement.counterfactual, "zero", "mean")
        (pairs,) = measurement.sampled(40, "singles")
        expected = case.pair_sampler(
            seed="certificate 0 singles", split="test", counterfactual=measurement.counterfactual
        ).draw(40)
        assert all(bool((one == other).all()) for one, other in zip(tuple(pairs), tuple(expected), strict=True))


# -- what must be there ------------------------------------------------------------------------------------------------


def problems(found: Certificate) -> list[str]:
    case = get_case("ioi")
    measurement = Measurement(case, always_saying(NOBODY))
    for measurement.counterfactual in case.counterfactuals:
        measurement.interchange([next(measurement.sampled(20, "verification"))])
    return list(scope_problems(case, found, measurement))


def test_a_certificate_has_the_scope_that_verification_asks_for():
    assert problems(certificate("ioi")) == []


@pytest.mark.parametrize(
    "section", ["node_interchange", "edge_interchange", "node_strict", "edge_strict", "complement"]
)
@pytest.mark.parametrize("kind", ["abc", "name_swap"])
def test_a_kind_that_is_left_out_is_named(section, kind):
    whole = certificate("ioi")
    kept = tuple(entry for entry in getattr(whole, section) if entry.ablation != kind)
    (problem,) = problems(replace(whole, **{section: kept}))
    assert problem.startswith(f"certificate.json lacks {section} of ") and f"({kind})" in problem


def test_a_kind_that_the_case_does_not_have_is_named():
    whole = certificate("ioi")
    other = (*whole.complement, Entry("all", None, 9, 9))
    (problem,) = problems(replace(whole, complement=other))
    assert problem.startswith("certificate.json has complement of all, which")


def test_exchanges_that_leave_no_sentence_with_an_answer_may_be_left_out_and_are_no_measurement(tmp_path):
    whole = certificate("ioi")
    void = [entry for entry in whole.edge_interchange if not entry.count]
    kept = tuple(entry for entry in whole.edge_interchange if entry.count)
    assert problems(replace(whole, edge_interchange=kept)) == []
    entries = (Entry("embed->a1.h2<v>", "abc", 0, 0), Entry("embed->a1.h2<v>", "name_swap", 8, 7))
    measured = {"edge_interchange": entries, "node_interchange": entries[:1]}
    result = Verification("ioi", tmp_path, whole, measured, ())  # type: ignore[arg-type]
    assert (result.worst("edge_interchange"), result.worst("node_interchange")) == (7 / 8, None)
    assert all(entry.name == str(get_case("ioi").circuit.edges[4]) for entry in void)


# -- grades ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_grade_needs_every_kind(kind):
    whole = certificate_of(always_saying(NOBODY))
    assert whole.grade == "path"

    def grade_without(section: str) -> str:
        entries = tuple(
            replace(entry, correct=entry.count // 2) if entry.ablation == kind else entry
            for entry in getattr(whole, section)
        )
        return replace(whole, **{section: entries}).grade

    is_exchange = kind in COUNTERFACTUALS
    assert grade_without("node_interchange") == ("none" if is_exchange else "path")
    assert grade_without("edge_interchange") == ("edge" if is_exchange else "path")
    # Grade node asks for nodes outside to be resampled, by every kind, but not to be ablated otherwise.
    assert grade_without("node_strict") == ("none" if is_exchange else "node")
    assert grade_without("edge_strict") == grade_without("complement") == "node"
