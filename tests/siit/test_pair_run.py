"""Pairs run through both models, by themselves and by length, and outputs against targets."""

import pytest
import torch
import torch.nn.functional as F

from interpbench_hub.cases import Case, get_case
from interpbench_hub.cases.pairs import Pairs, PairSampler
from interpbench_hub.siit.pair_run import OutputReader, PairRun, to_ids
from interpbench_hub.siit.sizes import transformer_config
from interpbench_hub.transformer import Transformer


def untrained(case: Case) -> Transformer:
    return Transformer(transformer_config(case))


# -- outputs against targets -------------------------------------------------------------------------------------------


def test_ids_have_bos_in_front_and_padding_behind():
    case = get_case("case_3")
    tokens = torch.tensor([[3, 1, 2, 2], [0, 3, 0, 0]])
    ids = to_ids(case, tokens, torch.tensor([4, 2]))
    assert ids.tolist() == [[4, 3, 1, 2, 2], [4, 0, 3, 5, 5]]
    assert torch.equal(ids[:1], case.encode([["x", "b", "c", "c"]]))


def test_classes_are_right_where_the_largest_logit_is_the_target():
    case = get_case("case_13")
    reader = OutputReader(case)
    n_classes, ambiguous = len(case.classes), case.high_level.output_ambiguous
    assert case.classes[-1] is None and ambiguous == n_classes
    codes = torch.tensor([[0, 1, n_classes - 1], [0, 1, n_classes - 1], [2, ambiguous, 0], [ambiguous] * 3])
    there = torch.tensor([[1, 1, 1], [1, 1, 1], [1, 1, 0], [1, 1, 1]], dtype=torch.bool)
    logits = torch.zeros(4, 4, n_classes)
    for row, classes in enumerate(([0, 1, n_classes - 1], [0, 2, n_classes - 1], [2, 0, 1], [0, 0, 0])):
        logits[row, torch.arange(1, 4), torch.tensor(classes)] = 3.0
    correct, counted = reader.correct(logits, codes, there)
    # Padding and ambiguous positions do not count; a row of nothing else is no evidence at all.
    assert counted.tolist() == [True, True, True, False]
    assert correct.tolist()[:3] == [True, False, True]
    right, wrong = (F.cross_entropy(logits[0, 1:2], torch.tensor([place])) for place in (0, 1))
    expected = torch.stack([right, (2 * right + wrong) / 3, right, torch.tensor(0.0)])
    torch.testing.assert_close(reader.loss(logits, codes, there), expected)


def test_numbers_are_right_within_the_tolerance():
    case = get_case("case_3")
    reader, values = OutputReader(case), case.graph.output.values
    codes = torch.tensor([[0, 2, 1]] * 4 + [[0, case.high_level.output_ambiguous, 1]])
    there = torch.tensor([[True, True, True]] * 3 + [[True, True, False]] * 2)
    logits = torch.tensor([[float(values[code]) for code in (0, 2, 1)]] * 5)
    logits += torch.tensor([[0.0, 0.0, 0.0], [0.04, -0.04, 0.0], [0.0, 0.06, 0.0], [0.0, 0.0, 9.0], [0.04, 9.0, 9.0]])
    logits = F.pad(logits, (1, 0), value=7.0)[:, :, None]
    correct, counted = reader.correct(logits, codes, there)
    assert correct.tolist() == [True, True, False, True, True] and bool(counted.all())
    expected = torch.tensor([0.0, 2 * 0.0016 / 3, 0.0036 / 3, 0.0, 0.0016]) * 10
    torch.testing.assert_close(reader.loss(logits, codes, there), expected, atol=1e-5, rtol=1e-3)


def test_outputs_differ_only_where_there_is_input():
    there = torch.tensor([[True, True, False]])
    reader = OutputReader(get_case("case_13"))
    logits = F.one_hot(torch.tensor([[0, 1, 2, 3]]), 4).float()
    for position, differs in ((0, False), (1, True), (2, True), (3, False)):
        other = logits.clone()
        other[0, position] = logits[0, (position + 1) % 4]
        assert reader.differs(other, logits, there).tolist() == [differs]
    reader = OutputReader(get_case("case_3"))
    numbers = torch.tensor([0.5, 0.25, 0.5, 1.0]).view(1, 4, 1)
    for change, position, differs in (
        (0.06, 1, True),
        (-0.06, 2, True),
        (0.04, 1, False),
        (9.0, 0, False),
        (9, 3, False),
    ):
        other = numbers.clone()
        other[0, position, 0] += change
        assert reader.differs(other, numbers, there).tolist() == [differs]


@torch.no_grad()
def test_a_batch_of_pairs_runs_as_each_pair_does_alone():
    case = get_case("case_13")
    model = untrained(case)
    pairs = PairSampler(case, seed=1).draw(12)
    run = PairRun.of(case, case.high_level, model, pairs)
    assert torch.equal(run.base_lengths, pairs.base_lengths + 1)
    lengths = [*pairs.source_lengths.tolist(), *pairs.base_lengths.tolist()]
    assert run.there.tolist() == [[place < n for place in range(case.max_len - 1)] for n in lengths]
    assert torch.equal(run.base_there, run.there[12:])
    for row in range(12):
        for tokens, lengths, found in (
            (pairs.base, pairs.base_lengths, run.base),
            (pairs.source, pairs.source_lengths, run.source),
        ):
            n = int(lengths[row])
            alone = model.run(case.encode([[case.vocab[code] for code in tokens[row, :n]]]))
            torch.testing.assert_close(found.senders[:, row, : n + 1], alone.senders[:, 0], atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(found.logits[row, : n + 1], alone.logits[0], atol=1e-5, rtol=1e-4)
        base = [case.vocab[code] for code in pairs.base[row, : pairs.base_lengths[row]]]
        outputs = [case.classes[code] for code in run.base_codes[row, : len(base)]]
        assert outputs == case.program(base)


def test_targets_of_repeated_rows_are_those_of_their_pairs():
    case = get_case("case_3")
    pairs = PairSampler(case, seed=2).draw(10)
    run = PairRun.of(case, case.high_level, untrained(case), pairs)
    edges = torch.rand(30, len(case.circuit), generator=torch.Generator().manual_seed(0)) < 0.5
    found = run.interchange_codes(edges)
    for row in range(30):
        one = Pairs(*(part[row % 10 : row % 10 + 1] for part in pairs))
        alone = PairRun.of(case, case.high_level, untrained(case), one).interchange_codes(edges[row : row + 1])
        n = int(one.base_lengths[0])
        assert torch.equal(found[row, :n], alone[0, :n])


# -- by length ---------------------------------------------------------------------------------------------------------


def padded_run(case_id: str, n_pairs: int = 30) -> tuple[Case, Transformer, PairRun]:
    case = get_case(case_id)
    model = untrained(case)
    pairs = PairSampler(case, seed=3, related=0.5).draw(n_pairs)
    with torch.no_grad():
        return case, model, PairRun.of(case, case.high_level, model, pairs)


@pytest.mark.parametrize("case_id", ["case_3", "case_13", "case_21"])
@torch.no_grad()
def test_groups_hold_every_pair_once_cut_to_its_bases_length(case_id):
    case, model, run = padded_run(case_id)
    lengths, groups = run.pairs.base_lengths, list(run.by_base_length())
    assert [int(group.base_lengths[0]) - 1 for group in groups] == sorted(set(lengths.tolist()))
    for group in groups:
        n = int(group.base_lengths[0]) - 1
        places = torch.where(lengths == n)[0]
        assert group.n_pairs == len(places) and group.base_padding is None
        assert torch.equal(group.pairs.base, run.pairs.base[places, :n])
        assert torch.equal(group.base_codes, run.base_codes[places, :n])
        assert bool(group.there.all()) and group.there.shape == (2 * group.n_pairs, n)
        assert bool((group.lengths == n + 1).all())
        for name, codes in group.source_values.items():
            assert torch.equal(codes, run.source_values[name][places, :n])
        for found, padded in ((group.source, run.source), (group.base, run.base)):
            assert torch.equal(found.senders, padded.senders[:, places, : n + 1])
            assert torch.equal(found.logits, padded.logits[places, : n + 1])
        # What a base computes by itself is what it computes beside longer ones.
        alone = model.run(to_ids(case, group.pairs.base, lengths[places]))
        torch.testing.assert_close(group.base.senders, alone.senders, atol=1e-5, rtol=1e-4)
    assert sum(group.n_pairs for group in groups) == run.n_pairs


@pytest.mark.parametrize("case_id", ["case_3", "case_13", "case_21"])
def test_targets_of_groups_are_those_of_the_padded_batch(case_id):
    case, _, run = padded_run(case_id)
    edges = torch.rand(run.n_pairs, len(case.circuit), generator=torch.Generator().manual_seed(0)) < 0.4
    whole = run.interchange_codes(edges)
    for group in run.by_base_length():
        n = int(group.base_lengths[0]) - 1
        places = torch.where(run.pairs.base_lengths == n)[0]
        assert torch.equal(group.interchange_codes(edges[places]), whole[places, :n])


def test_a_batch_without_padding_says_so():
    _, _, run = padded_run("case_13")
    assert torch.equal(run.base_padding if run.base_padding is not None else torch.zeros(0), run.base_lengths)
    (longest,) = (group for group in run.by_base_length() if int(group.base_lengths[0]) == get_case("case_13").max_len)
    assert longest.base_padding is None
