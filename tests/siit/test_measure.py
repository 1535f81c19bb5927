"""Certificates: every entry against a slow count by hooks and hand-written programs, and models known to be right."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from interpbench_hub.cases import Case, get_case
from interpbench_hub.cases.pairs import PairSampler, all_inputs, count_pairs, in_split, is_split
from interpbench_hub.certificate import ABLATIONS, Ablation, Certificate, clopper_pearson_lower
from interpbench_hub.circuit import LOGITS, POS_EMBED, Edge, Node
from interpbench_hub.loader import to_hooked_transformer
from interpbench_hub.rasp.compiler import compile_to_transformer
from interpbench_hub.siit import measure as measuring
from interpbench_hub.siit.interventions import EdgeSpace
from interpbench_hub.siit.measure import EntryKey, Measurement, measure
from interpbench_hub.siit.pair_run import to_ids
from interpbench_hub.siit.quick_check import quick_check
from interpbench_hub.siit.sizes import transformer_config
from interpbench_hub.transformer import Transformer, TransformerConfig
from tests.hooked import interchange_by_row, senders_of

SHA = "0" * 64


def compiled(case: Case) -> Transformer:
    """The case's program with weights set by hand, each variable at the place the alignment gives it."""
    hooked = compile_to_transformer(case, alignment=case.alignment)
    shape = {name: getattr(hooked.cfg, name) for name in TransformerConfig.__dataclass_fields__}
    model = Transformer(TransformerConfig(**shape))
    model.load_state_dict({name: parameter.detach() for name, parameter in hooked.named_parameters()})
    return model


def disturbed(case: Case, scale: float) -> Transformer:
    """A compiled program with noise on every weight, right on some pairs and wrong on others."""
    model = compiled(case)
    with torch.no_grad():
        model.flat.add_(scale * torch.randn(model.n_parameters, generator=torch.Generator().manual_seed(0)))
    return model


def untrained(case: Case) -> Transformer:
    return Transformer(transformer_config(case))


@pytest.fixture
def few_pairs(monkeypatch) -> None:
    """Certificates on few pairs, all pairs only where there are hardly any."""
    monkeypatch.setattr(measuring, "SINGLE_PAIRS", 64)
    monkeypatch.setattr(measuring, "AGGREGATE_PAIRS", 96)
    monkeypatch.setattr(measuring, "MAX_EXHAUSTIVE_PAIRS", 200)
    monkeypatch.setattr(measuring, "MEAN_INPUTS", 1024)


@cache
def tiny_case() -> Case:
    """The program of case_3 on so few inputs that all pairs are soon tried."""
    return Case("tiny_fraction", "The fraction of x so far.", get_case("case_3").program, ("a", "x"), 3, 4, causal=True)


# -- the same counts, slowly -------------------------------------------------------------------------------------------

Program = Callable[[list[Any], list[Any], set[str]], list[Any]]
"""A program's output on a base when some edges, by name, carry what they carry on a source."""


def head_of(case_id: str) -> Node:
    (head,) = (node for node in get_case(case_id).alignment.variables_of if node.is_head)
    return head


def fraction_of_x(base: list[Any], source: list[Any], edges: set[str]) -> list[Any]:
    """case_3: m0 tells whether the token is x, the head averages over all positions so far."""
    head, n = head_of("case_3"), len(base)

    def averaged(is_x: list[bool]) -> list[float]:
        return [sum(is_x[: at + 1]) / (at + 1) for at in range(len(is_x))]

    source_is_x = [token == "x" for token in source]
    is_x = source_is_x[:n] if "embed->m0" in edges else [token == "x" for token in base]
    seen = source_is_x[:n] if f"m0->{head}<v>" in edges else is_x
    return averaged(source_is_x)[:n] if f"{head}->logits" in edges else averaged(seen)


def trend(base: list[Any], source: list[Any], edges: set[str]) -> list[Any]:
    """case_13: the head fetches the next token, m0 compares it with the position's own."""
    head, n = head_of("case_13"), len(base)

    def next_of(tokens: list[Any]) -> list[Any]:
        return [*tokens[1:], None]

    def compared(own: list[Any], following: list[Any]) -> list[Any]:
        names = {-1: "decreasing", 0: "constant", 1: "increasing"}
        pairs = zip(own, following, strict=True)
        return [None if after is None else names[(after > now) - (after < now)] for now, after in pairs]

    following = next_of(source[:n] if f"embed->{head}<v>" in edges else base)
    own = source[:n] if "embed->m0" in edges else base
    read = next_of(source)[:n] if f"{head}->m0" in edges else following
    return compared(source, next_of(source))[:n] if "m0->logits" in edges else compared(own, read)


class Slow(NamedTuple):
    """One entry to be: its key, the edges replaced, by what, and the output there should be."""

    section: str
    name: str
    ablation: Ablation | None
    edges: list[Edge]
    target: list[Any]


def slow_entries(case: Case, program: Program, base: list[Any], source: list[Any]) -> list[Slow]:
    """Every entry of a certificate for one pair of inputs."""
    circuit, plain = case.circuit, program(base, source, set())
    assert plain == case.program(base)
    outside = [edge for edge in circuit.universe if edge not in circuit]
    entries = [Slow("behaviour", "all", None, [], plain)]
    touched = {node for edge in circuit for node in (edge.source, edge.target)}
    for node in circuit.node_universe:
        leaving = [edge for edge in circuit.universe if edge.source == node]
        if node in case.alignment.variables_of and node != POS_EMBED:
            target = program(base, source, {str(edge) for edge in leaving})
            entries.append(Slow("node_interchange", str(node), "resample", leaving, target))
        elif node not in touched:
            entries += [Slow("node_strict", str(node), ablation, leaving, plain) for ablation in ABLATIONS]
    for edge in circuit:
        target = program(base, source, {str(edge)})
        entries.append(Slow("edge_interchange", str(edge), "resample", [edge], target))
    for edge in outside:
        entries += [Slow("edge_strict", str(edge), ablation, [edge], plain) for ablation in ABLATIONS]
    return entries + [Slow("complement", "all", ablation, outside, plain) for ablation in ABLATIONS]


def is_right(case: Case, logits: Tensor, target: list[Any], slack: float = 0.0) -> bool:
    """Whether one row's output is the target; by a margin if `slack` is negative, or nearly if it is positive."""
    if case.categorical:
        wanted = torch.tensor([case.classes.index(value) for value in target])
        own = logits[1:].gather(1, wanted[:, None])[:, 0]
        others = logits[1:].scatter(1, wanted[:, None], -torch.inf).amax(1)
        return bool((own + slack > others).all())
    errors = (logits[1:, 0] - torch.tensor(target)).abs()
    return bool((errors < 0.05 + slack).all())


def outputs_differ(case: Case, logits: Tensor, other: Tensor) -> bool:
    found, before = case.decode(logits[None])[0], case.decode(other[None])[0]
    if case.categorical:
        return found != before
    return any(abs(one - two) >= 0.05 for one, two in zip(found, before, strict=True))


@pytest.mark.parametrize(("case_id", "program", "noise"), [("case_3", fraction_of_x, 0.003), ("case_13", trend, 0.06)])
@torch.no_grad()
def test_every_count_is_that_of_hooks_and_a_program_written_by_hand(case_id, program, noise):
    case = get_case(case_id)
    model = disturbed(case, noise)
    pairs = PairSampler(case, seed="slow", related=0.5).draw(8)
    measurement = Measurement(case, model)
    for method in ("aggregates", "interchange", "effect", "node_strict", "edge_strict"):
        getattr(measurement, method)([pairs])

    hooked, means = to_hooked_transformer(model.config, model.state_dict()), measurement.means()
    # Rounding may decide what lies at the very edge of being right, so the slow count is a narrow range.
    correct: dict[tuple[str, str, Ablation | None], list[int]] = {}
    effects: dict[str, list[int]] = {}
    for base_codes, n_base, source_codes, n_source in zip(*pairs, strict=True):
        base = [case.vocab[code] for code in base_codes[:n_base]]
        source = [case.vocab[code] for code in source_codes[:n_source]]
        entries = slow_entries(case, program, base, source)
        from_source = senders_of(hooked, case.encode([source]))
        values: dict[Ablation, dict[Node, Tensor]] = {
            "resample": {node: value[0, : len(base) + 1] for node, value in from_source.items()},
            "zero": {node: torch.zeros(len(base) + 1, model.config.d_model) for node in from_source},
            "mean": {node: means[at, 0, : len(base) + 1] for at, node in enumerate(model.config.senders)},
        }
        replacement = {
            node: torch.stack([values[entry.ablation or "zero"][node] for entry in entries]) for node in from_source
        }
        tokens = case.encode([base]).expand(len(entries), -1)
        logits = interchange_by_row(hooked, tokens, [entry.edges for entry in entries], replacement)
        for row, entry in zip(logits, entries, strict=True):
            counted = correct.setdefault((entry.section, entry.name, entry.ablation), [0, 0, 0])
            for place, slack in enumerate((-1e-4, 0.0, 1e-4)):
                counted[place] += is_right(case, row, entry.target, slack)
            if entry.section == "edge_interchange" and case.circuit[entry.name].kind == "varying":
                effect = effects.setdefault(entry.name, [0, 0, 0])
                effect[0] += 1
                effect[1] += outputs_differ(case, row, logits[0])
                effect[2] += entry.target != entries[0].target
    assert measurement.tally.counts.keys() == correct.keys()
    for (section, name, ablation), (count, right) in measurement.tally.counts.items():
        low, near, high = correct[section, name, ablation]
        assert count == pairs.n_pairs and low <= right <= high, (section, name, ablation, near)
    assert measurement.effects == effects
    assert sum(high - low for low, _, high in correct.values()) < 0.01 * len(correct) * pairs.n_pairs
    # Neither all right nor all wrong, or the counts would say little.
    for section in ("edge_interchange", "edge_strict", "node_strict"):
        assert len({near for (of, _, _), (_, near, _) in correct.items() if of == section}) > 1, section


@pytest.mark.parametrize(("case_id", "noise"), [("case_3", 0.003), ("case_13", 0.06)])
def test_measuring_by_length_gives_the_counts_of_the_padded_batch(case_id, noise, monkeypatch):
    case = get_case(case_id)
    model, pairs = disturbed(case, noise), PairSampler(case, seed="lengths", related=0.5).draw(48)
    tallies = []
    for chunk in (1, 1000):
        monkeypatch.setattr(measuring, "_CHUNK", chunk)
        measurement = Measurement(case, model)
        # The means are to be the same.
        measurement._means = 0.1 * torch.ones(len(model.config.senders), 1, case.max_len, model.config.d_model)
        assert len(list(measurement._runs([pairs]))) == (len(pairs.base_lengths.unique()) if chunk == 1 else 1)
        for method in ("interchange", "node_strict", "edge_strict"):
            getattr(measurement, method)([pairs])
        tallies.append(measurement.tally.counts)
    grouped, padded = tallies
    assert grouped.keys() == padded.keys()
    assert all(grouped[key][0] == padded[key][0] for key in padded)
    # Rounding may decide what lies at the very edge of being right.
    assert sum(abs(grouped[key][1] - padded[key][1]) for key in padded) <= 2
    assert any(0 < right < count for count, right in padded.values())


def test_some_edges_can_be_measured_under_some_ablations_alone():
    case = get_case("case_3")
    model, pairs = disturbed(case, 0.003), PairSampler(case, seed="some").draw(12)
    whole, part = Measurement(case, model), Measurement(case, model)
    whole.edge_strict([pairs])
    first, second = whole.space.negatives.tolist()[3:5]
    edges = whole.space.edges
    keys: list[EntryKey] = [
        ("edge_strict", str(edges[first]), "resample"),
        ("edge_strict", str(edges[first]), "zero"),
        ("edge_strict", str(edges[second]), "mean"),
    ]
    part.edge_strict([pairs], only=set(keys))
    assert list(part.tally.counts) == keys
    assert all(whole.tally.counts[key] == counts for key, counts in part.tally.counts.items())


@pytest.mark.parametrize("case_id", ["case_3", "case_13"])
def test_a_sample_of_edges_is_what_measuring_each_of_them_finds(case_id, monkeypatch):
    case = get_case(case_id)
    # Noise from which every edge matters.
    model, pairs = disturbed(case, 0.2), PairSampler(case, seed="sample", related=0.5).draw(60)
    sampling, alone = (Measurement(case, model, seed=3) for _ in range(2))
    added: list[tuple[Any, ...]] = []
    judged: dict[Measurement, list[Tensor]] = {sampling: [], alone: []}

    def noting(measurement: Measurement) -> Callable[..., tuple[Tensor, Tensor]]:
        correct = measurement.reader.correct

        def noted(logits: Tensor, *target: Tensor) -> tuple[Tensor, Tensor]:
            judged[measurement].append(logits)
            return correct(logits, *target)

        return noted

    for measurement in judged:
        monkeypatch.setattr(measurement.reader, "correct", noting(measurement))
    monkeypatch.setattr(sampling.tally, "add", lambda *entry: added.append(entry))
    sampling.edge_strict_sample([pairs])
    (found,) = judged[sampling]
    moved = 0
    for row, (section, name, ablation, correct, counted) in enumerate(added):
        alone.tally.counts.clear()
        judged[alone].clear()
        one = pairs[row : row + 1]
        alone.edge_strict([one], only={(section, name, ablation)})
        assert alone.tally.counts == {(section, name, ablation): [int(counted), int(correct & counted)]}
        (expected,) = judged[alone]
        n = int(one.base_lengths) + 1
        torch.testing.assert_close(found[row, :n], expected[0, :n], rtol=1e-3, atol=1e-3)
        plain = model(to_ids(case, one.base, one.base_lengths), one.base_lengths + 1)
        moved += not torch.allclose(plain[0, :n], expected[0, :n], atol=1e-2)
    # Resampling the position, for one, changes nothing.
    assert len(added) == 60 and moved > 15
    assert {ablation for _, _, ablation, _, _ in added} == set(ABLATIONS)
    assert len({name for _, name, _, _, _ in added}) > 30
    assert {name for _, name, _, _, _ in added} <= {str(edge) for edge in case.circuit.negatives}


# -- models known to be right or wrong ---------------------------------------------------------------------------------


@pytest.mark.parametrize("case_id", ["case_3", "case_4", "case_7", "case_13"])
def test_a_compiled_program_is_certified_as_path(case_id, few_pairs):
    case = get_case(case_id)
    certificate = measure(case, compiled(case), weights_sha256=SHA)
    assert certificate.grade == "path" and not certificate.failures()
    assert all(entry.correct == entry.count > 0 for _, entry in certificate.entries())
    # Such a model shows just the effects that the program predicts.
    assert all(effect.changed == effect.predicted > 0 for effect in certificate.effect)


def smuggling() -> Transformer:
    """Case 3 compiled, with is_x also read by the logits directly, and taken off again by an MLP of no business."""
    model = compiled(get_case("case_3"))
    p = model.parameters
    with torch.no_grad():
        (is_x,) = p["blocks.0.mlp.W_out"].abs().sum(0).nonzero()[:, 0].tolist()
        (fraction,) = p["unembed.W_U"].abs().sum(1).nonzero()[:, 0].tolist()
        assert not bool(p["blocks.1.mlp.W_in"].any())
        p["unembed.W_U"][is_x, 0] = 0.5
        p["blocks.1.mlp.W_in"][is_x, 0] = 1.0
        p["blocks.1.mlp.W_out"][0, fraction] = -0.5
    return model


def test_a_path_outside_the_circuit_is_found_at_each_of_its_edges(few_pairs):
    certificate = measure(get_case("case_3"), smuggling(), weights_sha256=SHA)
    assert certificate.grade == "none"
    by_section: dict[str, set[tuple[str, str | None]]] = {}
    for section, entry in certificate.failures():
        by_section.setdefault(section, set()).add((entry.name, entry.ablation))
    edges = ("m0->logits", "m0->m1", "m1->logits")
    assert by_section == {
        "node_strict": {("m1", ablation) for ablation in ABLATIONS},
        "edge_strict": {(edge, ablation) for edge in edges for ablation in ABLATIONS},
    }


def test_a_quick_check_sees_what_a_certificate_sees():
    case = get_case("case_3")
    check = quick_check(case, compiled(case), n_pairs=64, n_edge_rows=256, seed=0)
    assert check.worst == 1 and check.failures == ()
    check = quick_check(case, smuggling(), n_pairs=64, n_edge_rows=2048, seed=0)
    assert check.behaviour == check.node_interchange == check.edge_interchange == check.complement == 1
    assert check.worst == min(check.node_strict, check.edge_strict) < 1
    assert check.node_strict <= check.node_strict_resample < 1
    found = {(section, entry.name) for section, entry in check.failures}
    edges = {("edge_strict", name) for name in ("m0->logits", "m0->m1", "m1->logits")}
    assert found == edges | {("node_strict", "m1")}
    shares = [entry.accuracy for _, entry in check.failures]
    assert shares == sorted(shares) and all(share < 1 for share in shares)
    # A share over all edges hides three of them, if nobody suspects one.
    assert check.edge_strict > 0.9
    # Its finds are looked at one by one where anybody is suspected, and the worst of them counts.
    followed = quick_check(case, smuggling(), n_pairs=64, n_edge_rows=2048, seed=0, suspects=())
    each = Measurement(case, smuggling(), seed=0, split="validation")
    each.edge_strict(each.sampled(measuring.SINGLE_PAIRS, "suspects"))
    found_by = {(entry.name, entry.ablation) for section, entry in check.failures if section == "edge_strict"}
    worst = min(e.accuracy for e in each.tally.entries("edge_strict") if (e.name, e.ablation) in found_by)
    assert followed == replace(check, edge_strict=worst) and worst < 0.9
    # So are suspects that a sample misses; what they show is no part of the sample.
    missed = quick_check(case, smuggling(), n_pairs=64, n_edge_rows=8, seed=0)
    assert missed.edge_strict == 1
    for name, is_guilty in (("m0->logits", True), ("embed->m1", False)):
        suspects: list[tuple[int, Ablation]] = [(EdgeSpace(case, smuggling().config).index[Edge.parse(name)], "zero")]
        suspicious = quick_check(case, smuggling(), n_pairs=64, n_edge_rows=8, seed=0, suspects=suspects)
        assert (suspicious.edge_strict < 0.9) == is_guilty
        assert suspicious == replace(missed, edge_strict=suspicious.edge_strict)


def test_a_quick_check_runs_nothing_for_single_edges_where_none_is_suspected_or_found_at_fault(monkeypatch):
    case = get_case("case_13")

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("no edge is to be looked at by itself")

    monkeypatch.setattr(Measurement, "edge_strict", never)
    assert quick_check(case, compiled(case), n_pairs=64, n_edge_rows=256, seed=0, suspects=()).worst == 1
    with pytest.raises(AssertionError, match="by itself"):
        quick_check(case, compiled(case), n_pairs=64, n_edge_rows=256, seed=0, suspects=[(0, "zero")])


def test_a_quick_check_looks_at_inputs_that_training_never_draws_and_certificates_do_not_either(monkeypatch):
    case = get_case("case_20")
    assert is_split(case, case.max_len - 1)
    seen = []
    real = measuring.PairRun.of

    def spied(case: Case, high_level: Any, model: Transformer, pairs: Any) -> Any:
        seen.append(pairs)
        return real(case, high_level, model, pairs)

    monkeypatch.setattr(measuring.PairRun, "of", spied)
    quick_check(case, Transformer(transformer_config(case)), n_pairs=32, n_edge_rows=64, seed=0, suspects=())
    assert len(seen) > 2
    for pairs in seen:
        assert bool(in_split(case, pairs.base, pairs.base_lengths, "validation").all())
        assert bool(in_split(case, pairs.source, pairs.source_lengths, "validation").all())


# -- what a certificate covers -----------------------------------------------------------------------------------------


def named(entries: Iterable[Any]) -> list[tuple[str, str | None]]:
    return [(entry.name, entry.ablation) for entry in entries]


def assert_covers_everything(certificate: Certificate, case: Case) -> None:
    circuit = case.circuit
    touched = {node for edge in circuit for node in (edge.source, edge.target)}
    carriers = [node for node in case.alignment.variables_of if node != POS_EMBED]
    strangers = [node for node in circuit.node_universe if node not in touched | {LOGITS}]
    assert named(certificate.behaviour) == [("all", None)]
    assert sorted(named(certificate.node_interchange)) == sorted((str(node), "resample") for node in carriers)
    assert named(certificate.edge_interchange) == [(str(edge), "resample") for edge in circuit]
    outside_nodes = [(str(node), ablation) for node in strangers for ablation in ABLATIONS]
    assert sorted(named(certificate.node_strict)) == sorted(outside_nodes)
    outside = [(str(edge), ablation) for edge in circuit.negatives for ablation in ABLATIONS]
    assert named(certificate.edge_strict) == outside
    assert sorted(named(certificate.complement), key=str) == sorted([("all", kind) for kind in ABLATIONS], key=str)
    assert [effect.name for effect in certificate.effect] == [str(edge) for edge in circuit.of_kind("varying")]


@pytest.mark.parametrize("case_id", ["case_3", "case_8", "case_13"])
def test_an_untrained_model_gets_an_entry_for_every_node_and_edge_and_no_grade(case_id, few_pairs):
    case = get_case(case_id)
    certificate = measure(case, untrained(case), weights_sha256=SHA, seed=5)
    assert_covers_everything(certificate, case)
    assert (certificate.case, certificate.weights_sha256, certificate.seed) == (case_id, SHA, 5)
    assert (certificate.n_pairs, certificate.n_pairs_single) == (96, 64)
    assert not certificate.is_exhaustive and certificate.is_held_out == (case_id != "case_3")
    assert certificate.grade == "none" and certificate.behaviour[0].accuracy < 0.5
    for section, entry in certificate.entries():
        expected = 96 if section in ("behaviour", "complement") else 64
        # A pair without any target does not count; only interchanges can leave one ambiguous all over.
        assert entry.count == expected or (section.endswith("interchange") and 0 < entry.count < expected)
        assert 0 <= entry.correct <= entry.count
        assert entry.lower_bound == clopper_pearson_lower(entry.correct, entry.count) <= entry.accuracy
    for effect in certificate.effect:
        assert effect.count == 64 and 0 <= effect.changed <= 64 and 0 < effect.predicted <= 64


def test_all_pairs_are_tried_where_there_are_few(few_pairs):
    case = tiny_case()
    assert count_pairs(case) == 4 * 4 + 4 * 8 + 8 * 8 <= measuring.MAX_EXHAUSTIVE_PAIRS
    certificate = measure(case, compiled(case), weights_sha256=SHA)
    assert_covers_everything(certificate, case)
    assert certificate.grade == "path" and certificate.is_exhaustive
    assert certificate.n_pairs == count_pairs(case)
    assert certificate.behaviour[0].count == case.n_inputs == 12
    assert {entry.ablation: entry.count for entry in certificate.complement} == {
        "resample": count_pairs(case),
        "zero": 12,
        "mean": 12,
    }


@torch.no_grad()
def test_exhaustive_counts_are_those_of_the_same_pairs_one_by_one():
    case = tiny_case()
    model = disturbed(case, 0.004)
    measurement = Measurement(case, model)
    assert measurement.exhaustive_aggregates() == count_pairs(case)
    rows = zip(*(part.tolist() for part in all_inputs(case)), strict=True)
    inputs = [[case.vocab[code] for code in codes[:n]] for codes, n in rows]
    outside = [edge for edge in case.circuit.universe if edge not in case.circuit]
    right = {"behaviour": 0, "resample": 0}
    for base in inputs:
        target = case.program(base)
        run = model.run(case.encode([base]))
        right["behaviour"] += is_right(case, run.logits[0], target)
        for source in inputs:
            if len(source) >= len(base):
                other = model.run(case.encode([source])).senders[:, :, : len(base) + 1]
                mask = model.config.mask_of(outside)[None]
                logits = model.interchange(run.senders, other, mask)
                right["resample"] += is_right(case, logits[0], target)
    counts = measurement.tally.counts
    assert counts["behaviour", "all", None] == [12, right["behaviour"]]
    assert counts["complement", "all", "resample"] == [count_pairs(case), right["resample"]]
    assert 0 < right["resample"] < count_pairs(case)


def test_pairs_are_held_out_where_lengths_are_split():
    case = get_case("case_13")
    assert is_split(case, 9) and not is_split(case, 3)
    for split in ("test", "train"):
        for pairs in Measurement(case, untrained(case), split=split).sampled(1500, "what"):
            assert bool(in_split(case, pairs.base, pairs.base_lengths, split).all())
            assert bool(in_split(case, pairs.source, pairs.source_lengths, split).all())


def test_as_many_pairs_are_drawn_as_asked_for(monkeypatch):
    monkeypatch.setattr(measuring, "_CHUNK", 1024)
    measurement = Measurement(get_case("case_3"), untrained(get_case("case_3")))
    assert [pairs.n_pairs for pairs in measurement.sampled(2500, "what")] == [1024, 1024, 452]
    assert sum(pairs.n_pairs for pairs in measurement.sampled(7, "what")) == 7


def test_the_seed_decides_the_pairs(few_pairs):
    case = get_case("case_3")
    model = disturbed(case, 0.003)
    first, again, other = (measure(case, model, weights_sha256=SHA, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first.edge_interchange != other.edge_interchange or first.edge_strict != other.edge_strict

    def bases(seed: int, what: str) -> Tensor:
        (pairs,) = Measurement(case, model, seed=seed).sampled(50, what)
        return pairs.base

    assert torch.equal(bases(1, "singles"), bases(1, "singles"))
    assert not torch.equal(bases(1, "singles"), bases(2, "singles"))
    assert not torch.equal(bases(1, "singles"), bases(1, "aggregates"))


def test_progress_runs_up_to_the_end(few_pairs):
    case, seen = get_case("case_3"), []
    measure(case, untrained(case), weights_sha256=SHA, progress=lambda done, total: seen.append((done, total)))
    totals = {total for _, total in seen}
    done = [done for done, _ in seen]
    assert len(totals) == 1 and done == sorted(done)
    assert done[0] > 0 and done[-1] == totals.pop()


@torch.no_grad()
def test_means_are_over_as_many_inputs_as_they_say(monkeypatch):
    monkeypatch.setattr(measuring, "MEAN_INPUTS", 100)
    monkeypatch.setattr(measuring, "_CHUNK", 64)
    case = get_case("case_13")
    model, drawn = untrained(case), []
    inputs = PairSampler.inputs

    def noting(*arguments: Any) -> tuple[Tensor, Tensor]:
        drawn.append(inputs(*arguments))
        return drawn[-1]

    monkeypatch.setattr(PairSampler, "inputs", noting)
    found = Measurement(case, model).means()
    tokens, lengths = (torch.cat(parts) for parts in zip(*drawn, strict=True))
    assert len(tokens) == 100
    run = model.run(to_ids(case, tokens, lengths), lengths + 1)
    for position in range(case.max_len):
        expected = run.senders[:, lengths >= position, position].mean(1)
        torch.testing.assert_close(found[:, 0, position], expected, rtol=1e-4, atol=1e-6)


@torch.no_grad()
def test_means_are_those_over_inputs_of_every_length_at_each_real_position():
    case = get_case("case_3")
    model = untrained(case)
    means = Measurement(case, model).means()
    assert means.shape == (len(model.config.senders), 1, case.max_len, model.config.d_model)
    tokens, lengths = all_inputs(case)
    run = model.run(to_ids(case, tokens, lengths), lengths + 1)
    of_length = {n: run.senders[:, lengths == n] for n in (3, 4)}
    # Both lengths are drawn equally often; only the longer inputs have a last position.
    exact = (of_length[3].mean(1) + of_length[4].mean(1)) / 2
    exact[:, 4] = of_length[4].mean(1)[:, 4]
    error = of_length[4].std(1) / (measuring.MEAN_INPUTS / 2) ** 0.5
    assert bool(((means[:, 0] - exact).abs() <= 6 * error + 1e-5).all())
