"""The benchmark of IOI: its references against counting by hand, its table on small models, where the table goes."""

import math
from collections import Counter
from pathlib import Path

import pytest
import torch

from benchmarks import ioi
from benchmarks.ioi import bigram_cross_entropy, grammar_cross_entropy, main, replaced, sentence_probability
from interpbench_hub.checkpoint import save_checkpoint
from interpbench_hub.discovery.data import PairData
from interpbench_hub.discovery.exhaustive import exhaustive_patching
from interpbench_hub.ioi.case import IOI
from interpbench_hub.ioi.sentences import SentenceSampler
from interpbench_hub.ioi.templates import TEMPLATES, VOCAB
from interpbench_hub.ioi.words import COUNTERFACTUALS, NOBODY
from interpbench_hub.manifest import COLLECTION
from interpbench_hub.transformer import Transformer
from model_cards.sentences import EXAMPLE
from tests.conftest import PROVENANCE
from tests.small_ioi import always_saying, checkpoint_of, small_config

# -- references --------------------------------------------------------------------------------------------------------


def test_probabilities_of_a_sentence_are_those_worked_out_by_hand():
    then = sum(template[0] == "Then" for template in TEMPLATES) / len(TEMPLATES)
    assert sentence_probability(["Then"]) == pytest.approx(then)
    assert sentence_probability(["Then", ",", "Mary", "and", "John"]) == pytest.approx(then / 100 / 99)
    assert sentence_probability(["Then", ",", "Mary", "and", "Mary"]) == 0
    one = TEMPLATES[0]
    assert " ".join(one) == "Then , [first] and [second] went to the [place] . [again] gave a [object] to"
    sentence = list(EXAMPLE)
    assert sentence_probability(sentence, [one]) == pytest.approx(1 / 100 / 99 / 8 / 2 / 8)
    assert sentence_probability(sentence, [one, one[:3]]) == pytest.approx(1 / 100 / 99 / 8 / 2 / 8 / 2)
    assert sentence_probability([*sentence, "Mary"], [one]) == 0


@pytest.mark.parametrize("seed", range(3))
def test_probabilities_of_all_words_that_can_follow_add_up(seed):
    words = _sentences(1, seed)[0]
    for n_words in range(len(words)):
        before = sentence_probability(words[:n_words])
        # Sentences that are over by then are followed by nothing.
        over = sum(sentence_probability(words[:n_words], [t]) for t in TEMPLATES if len(t) == n_words) / len(TEMPLATES)
        after = sum(sentence_probability([*words[:n_words], word]) for word in VOCAB)
        assert after == pytest.approx(before - over, rel=1e-9)


def _sentences(n_sentences: int, seed: int, split=None) -> list[list[str]]:
    drawn = SentenceSampler(split, torch.Generator().manual_seed(seed)).draw(n_sentences)
    rows = zip(drawn.tokens().tolist(), drawn.lengths.tolist(), strict=True)
    return [[str(IOI.vocab[token]) for token in row[:length]] for row, length in rows]


def test_sentences_come_as_often_as_the_grammar_says():
    starts = Counter(tuple(words[:2]) for words in _sentences(20_000, 0))
    for start in [("Then", ","), ("When", "Mary"), ("At", "the")]:
        expected = sentence_probability(start)
        assert starts[start] / 20_000 == pytest.approx(expected, abs=5 * math.sqrt(expected / 20_000))


def test_the_grammars_cross_entropy_is_the_mean_over_words_of_what_each_tells():
    sentences = _sentences(30, 1)
    nats = [
        -math.log(sentence_probability(words[: at + 1]) / sentence_probability(words[:at]))
        for words in sentences
        for at in range(len(words))
    ]
    assert grammar_cross_entropy(sentences) == pytest.approx(sum(nats) / len(nats))


def test_pairs_of_words_are_counted_with_one_more_of_each():
    training = torch.tensor([[5, 0, 1, 0], [5, 0, 0, 9]])
    counts = Counter({(5, 0): 2, (0, 1): 1, (1, 0): 1, (0, 0): 1})
    ids, lengths = torch.tensor([[5, 0, 1], [5, 3, 9]]), torch.tensor([3, 2])
    # Ten ids, the largest of which is padding.
    nats = [
        -math.log((counts[one, two] + 1) / (sum(counts[one, any_] for any_ in range(10)) + 10))
        for one, two in ((5, 0), (0, 1), (5, 3))
    ]
    found = bigram_cross_entropy(ids, lengths, training, torch.tensor([4, 3]))
    assert found == pytest.approx(sum(nats) / 3)


# -- the table ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path) -> Path:
    return save_checkpoint(checkpoint_of(Transformer(small_config(), seed=2), PROVENANCE), tmp_path / "model")


def test_a_model_is_measured_and_printed(folder, capsys, monkeypatch):
    monkeypatch.setattr(ioi, "TRAINING_SENTENCES", 50)
    # Patching has tests of its own; here the right edges come first.
    asked: list[PairData] = []

    def scores(model, universe, data):
        asked.append(data)
        return {edge: float(edge in set(IOI.circuit.of_kind("varying"))) for edge in universe}

    monkeypatch.setattr(ioi, "exhaustive_patching", scores)
    main(["--models", str(folder), "--sentences", "30", "--pairs", "5"])
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    table = {row[0]: row[1] for row in rows[2:]}
    assert rows[0] == ["", str(folder)]
    assert table["edges: varying, of the circuit, of the model"] == "8, 17, 1187"
    assert table["grade"] == "path" and table["worst entry, `abc`"] == table["worst entry, `mean`"] == "1.0000"
    assert all(f"right answers to their `{kind}`" in table for kind in COUNTERFACTUALS)
    model, grammar, pairs = map(float, table["nats a word: model, grammar, pairs of words"].split(", "))
    assert grammar < pairs < model
    assert table["AUROC of exhaustive patching, `name_swap`, 5 pairs"].startswith("1.0000, ")
    assert table["training"].startswith("0 steps, 0 min of processor time (0 by the clock)")
    (data,) = asked
    expected = PairData.of("ioi", n_pairs=5, counterfactual="name_swap")
    assert torch.equal(data.clean, expected.clean) and torch.equal(data.corrupted, expected.corrupted)


def test_patching_is_that_of_the_package():
    assert ioi.exhaustive_patching is exhaustive_patching


def test_what_always_says_the_same_is_right_where_nobody_is_left():
    found = ioi.answers(IOI, always_saying(NOBODY), 20)
    assert found["right answers, of 20 held-out sentences"] == found["right answers to their `name_swap`"] == "0.0000"
    assert found["right answers to their `abc`"] == "1.0000"
    assert (found["logit of IO above that of S"], found["logit of IO less that of S, mean"]) == ("0.0000", "0.00")


def test_models_of_other_cases_are_refused():
    with pytest.raises(SystemExit, match="is a model of case_3; give models of ioi, ioi_full"):
        main(["--models", str(COLLECTION / "case_3")])


def test_the_table_goes_between_the_markers(tmp_path):
    path = tmp_path / "README.md"
    path.write_text(f"before\n\n{ioi.BEGIN}\nold\n{ioi.END}\nafter\n")
    text = replaced(path, "new")
    assert text == f"before\n\n{ioi.BEGIN}\n\nnew\n\n{ioi.END}\nafter\n"
    path.write_text(text)
    assert replaced(path, "new") == text
    path.write_text("no markers")
    with pytest.raises(SystemExit, match="lacks the lines"):
        replaced(path, "new")


def test_both_readmes_have_a_place_for_the_table():
    for path in ioi.READMES:
        assert "x y z" in replaced(path, "x y z")
