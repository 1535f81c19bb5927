"""Sentences and their counterfactuals: against templates filled word by word, and what the splits promise."""

import itertools
from collections import Counter

import pytest
import torch

from interpbench_hub.cases.pairs import SPLITS
from interpbench_hub.errors import SettingError
from interpbench_hub.ioi.case import IOI as CASE
from interpbench_hub.ioi.sentences import COUNTERFACTUALS, SentencePairs, Sentences, SentenceSampler, names_in_split
from interpbench_hub.ioi.templates import AGAIN, FIRST, OBJECT, PLACE, SECOND, TAIL, TEMPLATES, VOCAB, templates_of
from interpbench_hub.ioi.words import NAMES, NOBODY, OBJECTS, PLACES

N_SENTENCES = 4000


def sampler(split, seed: int = 0) -> SentenceSampler:
    return SentenceSampler(split, torch.Generator().manual_seed(seed))


def filled(sentences: Sentences, row: int) -> list[str]:
    """The words of one sentence, slot by slot."""
    slots = {FIRST: sentences.first, SECOND: sentences.second, AGAIN: sentences.again}
    slots |= {PLACE: sentences.place, OBJECT: sentences.object}
    return [VOCAB[slots[word][row]] if word in slots else word for word in TEMPLATES[sentences.template[row]]]


def words_of(sentences: Sentences) -> list[list[str]]:
    tokens, lengths = sentences.tokens().tolist(), sentences.lengths.tolist()
    return [[VOCAB[token] for token in row[:length]] for row, length in zip(tokens, lengths, strict=True)]


@pytest.fixture(scope="module", params=SPLITS)
def split(request):
    return request.param


@pytest.fixture(scope="module")
def drawn(split) -> Sentences:
    return sampler(split).draw(N_SENTENCES)


def test_there_are_enough_templates_and_words():
    assert len(TEMPLATES) >= 60 and len(set(TEMPLATES)) == len(TEMPLATES)
    assert len(NAMES) == 100 and len(PLACES) == 8 and len(OBJECTS) == 8
    assert len(set(VOCAB)) == len(VOCAB) and VOCAB[: len(NAMES)] == NAMES and NOBODY in VOCAB
    for template in TEMPLATES:
        assert [template.count(slot) for slot in (FIRST, SECOND, AGAIN)] == [1, 1, 1]
        assert template.index(FIRST) < template.index(SECOND) < template.index(AGAIN) == len(template) - 1 - TAIL


def test_sentences_are_their_templates_filled(drawn):
    tokens, lengths = drawn.tokens(), drawn.lengths
    for row, words in enumerate(words_of(drawn)):
        assert words == filled(drawn, row)
        assert not tokens[row, lengths[row] :].any()


def test_roles_stand_where_their_names_are(drawn):
    positions = drawn.positions()
    for row, words in enumerate(words_of(drawn)):
        io, s1, s2, end = (int(positions[role][row]) for role in ("io", "s1", "s2", "end"))
        names = [word for word in words if word in NAMES]
        (subject,) = (name for name, count in Counter(names).items() if count == 2)
        (other,) = set(names) - {subject}
        assert words[io] == other == NAMES[drawn.io[row]]
        assert [at for at, word in enumerate(words) if word == subject] == [s1, s2]
        assert words[end] == "to" and end == len(words) - 1 and s2 == end - TAIL


def test_every_template_in_both_orders_and_every_name_in_every_role(split, drawn):
    is_abba = (drawn.io == drawn.first).tolist()
    assert set(zip(drawn.template.tolist(), is_abba, strict=True)) == set(
        itertools.product(templates_of(split), (True, False))
    )
    for role in (drawn.io, drawn.again):
        assert set(zip(role.tolist(), is_abba, strict=True)) == set(itertools.product(range(len(NAMES)), (True, False)))
    for slot, words in ((drawn.place, PLACES), (drawn.object, OBJECTS)):
        assert {VOCAB[token] for token in slot.tolist()} == set(words)


@pytest.mark.parametrize("held_out", ["validation", "test"])
def test_names_and_ends_of_held_out_templates_stand_where_training_has_them(held_out):
    """Positions are learnt one by one: what never stood somewhere in training cannot be expected to work there."""

    def places(split) -> set[tuple[str, int]]:
        found = [(slot, TEMPLATES[n].index(slot)) for n in templates_of(split) for slot in (FIRST, SECOND, AGAIN)]
        return {*found, *(("end", len(TEMPLATES[n]) - 1) for n in templates_of(split))}

    assert places(held_out) <= places("train")


def test_splits_share_no_template_and_no_pair_of_names():
    templates, pairs = {}, {}
    for split in SPLITS:
        base = sampler(split).draw(N_SENTENCES)
        some = [base, *(sampler(split, 1).counterfactual(base, kind) for kind in ("name_swap", "s2_to_io", "resample"))]
        templates[split] = {number for sentences in some for number in sentences.template.tolist()}
        pairs[split] = {
            frozenset(pair)
            for sentences in some
            for pair in zip(sentences.first.tolist(), sentences.second.tolist(), strict=True)
        }
        assert templates[split] == set(templates_of(split))
        assert all(len(pair) == 2 for pair in pairs[split])
    for one, other in itertools.combinations(SPLITS, 2):
        assert not templates[one] & templates[other]
        assert not pairs[one] & pairs[other]
    assert sum(len(templates_of(split)) for split in SPLITS) == len(TEMPLATES) == len(templates_of(None))


def test_every_pair_of_names_belongs_to_one_split_whichever_comes_first():
    one, other = (torch.tensor(part) for part in zip(*itertools.permutations(range(len(NAMES)), 2), strict=True))
    belongs = torch.stack([names_in_split(one, other, split) for split in SPLITS])
    assert bool((belongs.sum(0) == 1).all())
    assert torch.equal(belongs, torch.stack([names_in_split(other, one, split) for split in SPLITS]))
    assert belongs.float().mean(1).tolist() == pytest.approx([0.7, 0.1, 0.2], abs=0.02)
    assert bool(names_in_split(one, other, None).all())


# -- counterfactuals ---------------------------------------------------------------------------------------------------


def by_hand(kind: str, words: list[str], given: list[str]) -> list[str]:
    """The counterfactual of a sentence made from its words; for `abc` the third name is that of the one given."""
    names = [word for word in words if word in NAMES]
    subject = names[2]
    other = next(name for name in names if name != subject)
    last = max(at for at, word in enumerate(words) if word == subject)
    if kind == "name_swap":
        return [{subject: other, other: subject}.get(word, word) for word in words]
    changed = list(words)
    changed[last] = other if kind == "s2_to_io" else given[last]
    return changed


@pytest.mark.parametrize("kind", ["name_swap", "s2_to_io", "abc"])
def test_counterfactuals_are_made_as_by_hand(split, drawn, kind):
    base = drawn.rows(slice(0, 1000))
    found = sampler(split, 2).counterfactual(base, kind)
    for clean, other in zip(words_of(base), words_of(found), strict=True):
        assert other == by_hand(kind, clean, other) != clean
        answer, changed = (CASE.program(words)[-1] for words in (clean, other))
        subject = next(word for word in reversed(clean) if word in NAMES)
        if kind == "abc":
            assert len({word for word in other if word in NAMES}) == 3 and changed == NOBODY
        else:
            assert changed == subject != answer


def test_third_names_are_any_but_the_two(drawn):
    found = sampler(None, 3).counterfactual(drawn, "abc").again
    assert bool(((found != drawn.first) & (found != drawn.second)).all())
    assert set(found.tolist()) == set(range(len(NAMES)))


def test_resampled_sentences_are_others_of_the_split_and_at_least_as_long(split, drawn):
    found = sampler(split, 4).counterfactual(drawn, "resample")
    assert bool((found.lengths >= drawn.lengths).all())
    assert set(found.template.tolist()) <= set(templates_of(split))
    assert bool(names_in_split(found.first, found.second, split).all())
    same = (found.template == drawn.template) & (found.first == drawn.first) & (found.second == drawn.second)
    assert float(same.float().mean()) < 0.01


def test_a_sentence_longer_than_all_templates_is_refused():
    with pytest.raises(
        SettingError, match="a sentence of at least 99 tokens is asked for; the longest of split 'test'"
    ):
        sampler("test").draw(2, torch.tensor([5, 99]))


# -- pairs -------------------------------------------------------------------------------------------------------------


def test_pairs_are_of_the_kinds_asked_for_in_equal_shares_and_the_same_again():
    pairs = SentencePairs(CASE, "seed", "train")
    base, source = pairs.sentences(2000)
    swapped = (base.first == source.second) & (base.second == source.first) & (base.template == source.template)
    shared = (base.first == source.first) & (base.second == source.second) & (base.template == source.template)
    assert float(swapped.float().mean()) == pytest.approx(1 / len(COUNTERFACTUALS), abs=0.05)
    assert float(shared.float().mean()) == pytest.approx(2 / len(COUNTERFACTUALS), abs=0.05)
    first, again, next_ = pairs.draw(64), SentencePairs(CASE, "seed", "train").draw(64), pairs.draw(64, 1)
    assert all(torch.equal(one, other) for one, other in zip(tuple(first), tuple(again), strict=True))
    assert not torch.equal(first.base, next_.base)
    assert bool((first.source_lengths >= first.base_lengths).all())
    only = SentencePairs(CASE, "seed", "test", ("s2_to_io",)).sentences(200)
    assert bool((only[1].again == only[0].io).all())


def test_inputs_are_sentences_of_the_split():
    tokens, lengths = SentencePairs(CASE, "seed", "validation").inputs(300)
    allowed = {TEMPLATES[number] for number in templates_of("validation")}
    slots = {name: None for name in NAMES} | {word: PLACE for word in PLACES} | {word: OBJECT for word in OBJECTS}
    for row, length in zip(tokens.tolist(), lengths.tolist(), strict=True):
        words = [VOCAB[token] for token in row[:length]]
        names = iter((FIRST, SECOND, AGAIN))
        template = tuple(slots.get(word, word) or next(names) for word in words)
        assert template in allowed


def test_a_share_of_pairs_has_other_words_but_the_same_names():
    plain, garbled = (SentencePairs(CASE, "words", "train", garbled=share).draw(400) for share in (0.0, 0.25))
    assert torch.equal(plain.base_lengths, garbled.base_lengths)
    assert torch.equal(plain.source_lengths, garbled.source_lengths)
    n_names = len(NAMES)
    there = torch.arange(plain.base.shape[1]) < plain.base_lengths[:, None]
    for before, after in ((plain.base, garbled.base), (plain.source, garbled.source)):
        assert torch.equal(before[before < n_names], after[before < n_names])
        assert bool((after[before >= n_names] >= n_names).all())
    changed = (plain.base != garbled.base).any(1)
    assert float(changed.float().mean()) == pytest.approx(0.25, abs=0.08)
    assert torch.equal(changed, (plain.source != garbled.source).any(1))
    words = there & (plain.base >= n_names)
    share = (plain.base != garbled.base)[changed].float().sum() / words[changed].float().sum()
    assert float(share) == pytest.approx(0.5, abs=0.06)
    # Where source and base have the same word in the same place, they still do.
    alike = plain.base == plain.source
    assert bool((garbled.base == garbled.source)[alike].all())


def test_training_pairs_have_other_words_and_pairs_to_measure_on_have_not():
    related = CASE.pair_sampler(seed="related", split="train", related=0.5)
    assert related.garbled == 0.5
    assert CASE.pair_sampler(seed="related", split="train").garbled == 0
