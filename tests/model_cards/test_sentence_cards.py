"""Cards of models of sentences: their figures sentence by sentence, what they say of each kind, their lines run."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import card_markdown as markdown
import pytest
import torch
import yaml

from interpbench_hub import load_model
from interpbench_hub.cases import get_case
from interpbench_hub.certificate import Entry
from interpbench_hub.checkpoint import Checkpoint, save_checkpoint
from interpbench_hub.ioi.case import IOI, IoiProgram
from interpbench_hub.ioi.words import COUNTERFACTUALS, NOBODY
from interpbench_hub.publishing.repositories import card_faults
from interpbench_hub.transformer import Transformer
from model_cards import sentences as sentence_cards
from model_cards.model_card import card_files, model_card
from model_cards.sentences import EXAMPLE, entries_of_kind, held_out, measure_sentences
from tests.conftest import PROVENANCE
from tests.small_ioi import KINDS, always_saying, certificate_of, checkpoint_of, small_config

N = 24


@pytest.fixture(scope="module")
def model() -> Transformer:
    """Untrained, but with a bias towards nobody, so that some of its answers are right; of half precision, as saved."""
    model = Transformer(small_config(), seed=5)
    model.parameters["unembed.b_U"].data[get_case("ioi").token_ids[NOBODY]] = 2.0
    model.flat.data.copy_(model.flat.data.half())
    return model


@pytest.fixture(scope="module")
def folder(model: Transformer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(checkpoint_of(model, PROVENANCE), tmp_path_factory.mktemp("ioi") / "ioi")


@pytest.fixture(scope="module")
def card(folder: Path) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sentence_cards, "N_SENTENCES", N)
        return model_card("ioi", folder)


def words_of(sentences: Any) -> list[list[str]]:
    rows = zip(sentences.tokens().tolist(), sentences.lengths.tolist(), strict=True)
    return [[str(IOI.vocab[token]) for token in row[:length]] for row, length in rows]


@torch.no_grad()
def test_figures_are_those_of_a_hooked_transformer_sentence_by_sentence(folder: Path, model: Transformer) -> None:
    hooked = load_model(folder)
    figures = measure_sentences(IOI, model, N, seed=3)
    clean, others = held_out(IOI, N, seed=3)
    differences, nats = [], []

    def is_right(words: list[str]) -> bool:
        logits = hooked(IOI.encode([words]))[0, -1]
        return IOI.vocab[int(logits.argmax())] == IoiProgram()(words)[-1]

    for words in words_of(clean):
        ids = IOI.encode([words])
        logits = hooked(ids)[0]
        # The name of the second clause stands before a verb, an article, an object and "to".
        subject = words[-5]
        answer = IoiProgram()(words)[-1]
        differences.append(float(logits[-1, IOI.token_ids[answer]] - logits[-1, IOI.token_ids[subject]]))
        nats += [-float(logits[at].log_softmax(-1)[ids[0, at + 1]]) for at in range(len(words))]
    torch.testing.assert_close(figures.differences, torch.tensor(differences), atol=1e-4, rtol=1e-4)
    assert figures.mean_difference == pytest.approx(sum(differences) / N, abs=1e-4)
    assert figures.n_above == sum(difference > 0 for difference in differences) and 0 < figures.n_above < N
    assert figures.cross_entropy == pytest.approx(sum(nats) / len(nats), rel=1e-4)
    assert figures.right == sum(map(is_right, words_of(clean)))
    assert figures.right_of_kind == {kind: sum(map(is_right, words_of(other))) for kind, other in others.items()}
    assert set(others) == set(COUNTERFACTUALS) and figures.right_of_kind["abc"] > 0


def test_figures_do_not_depend_on_how_many_are_run_at_once(model: Transformer, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = measure_sentences(IOI, model, N)
    monkeypatch.setattr(sentence_cards, "_CHUNK", 7)
    parts = measure_sentences(IOI, model, N)
    assert (parts.right, parts.right_of_kind) == (whole.right, whole.right_of_kind)
    assert parts.cross_entropy == pytest.approx(whole.cross_entropy, rel=1e-5)
    torch.testing.assert_close(parts.differences, whole.differences, atol=1e-4, rtol=1e-4)


def test_entries_of_a_kind_come_worst_first_and_without_those_that_say_nothing(model: Transformer) -> None:
    certificate = certificate_of(model)
    assert [len(entries_of_kind(certificate, kind)) for kind in KINDS] == [5] * len(COUNTERFACTUALS) + [3, 3]  # type: ignore[arg-type]
    edges = (Entry("e", "abc", 0, 0), Entry("f", "abc", 9, 8), Entry("g", "abc", 9, 2), Entry("h", "zero", 9, 0))
    found = entries_of_kind(replace(certificate, edge_interchange=edges), "abc")
    assert [entry.name for _, entry in found][:2] == ["g", "f"] and "e" not in {entry.name for _, entry in found}


def test_the_card_says_how_text_is_given_and_its_lines_run(card: str, folder: Path) -> None:
    section = card.split("## Sentences")[1].split("\n## ")[0]
    (block,) = markdown.code_blocks(section, "python")
    names: dict[str, Any] = {"model": load_model(folder)}
    exec(compile(block, "card", "exec"), names)
    said = names["model"].to_string(names["logits"][0, -1].argmax())
    assert block.rstrip().endswith(f"# {said}")
    assert torch.equal(names["model"].to_tokens(names["text"]), IOI.encode([EXAMPLE]))
    compile(markdown.code_blocks(card, "python")[0], "card", "exec")


def test_the_card_has_a_row_for_every_kind(card: str, model: Transformer) -> None:
    section = card.split("## Sentences")[1].split("\n## ")[0]
    rows = markdown.table(section, "replaced by")
    assert [row[0] for row in rows] == list(KINDS)
    figures = measure_sentences(IOI, model, N)
    for name, _, right, n_entries, n_below, worst, share in rows:
        expected = "" if name in ("zero", "mean") else f"{figures.right_of_kind[name] * 10_000 // N / 10_000:.4f}"  # type: ignore[index]
        assert right == expected
        assert (n_entries, n_below, worst, share) == ("3" if expected == "" else "5", "0", "–", "1.0000")
    above = f"{figures.n_above * 10_000 // N / 10_000:.4f}"
    assert f"above that of S in {above} of the sentences, by {figures.mean_difference:.1f} on average" in section
    assert f"On {N} sentences of templates" in section


def test_the_worst_entry_of_a_kind_is_named_and_kinds_are_told_apart(tmp_path: Path) -> None:
    model = always_saying(NOBODY)
    bad = (Entry("embed->a1.h2<q>", "abc", 512, 100), Entry("embed->a1.h2<q>", "name_swap", 512, 200))
    certificate = replace(certificate_of(model), edge_interchange=bad)
    checkpoint = checkpoint_of(model, PROVENANCE, certificate=certificate)
    text = model_card("ioi", save_checkpoint(checkpoint, tmp_path / "ioi"))
    rows = {row[0]: row[4:] for row in markdown.table(text, "replaced by")}
    assert rows["abc"] == ["1", "edge_interchange embed->a1.h2<q>", "0.1953"]
    assert rows["name_swap"] == ["1", "edge_interchange embed->a1.h2<q>", "0.3906"]
    assert rows["s2_to_io"] == ["0", "–", "1.0000"]
    failures = markdown.table(text, "entry", "node or edge")
    assert [row[2] for row in failures] == ["another input's value, abc", "another input's value, name_swap"]
    assert "**The certificate does not confirm" not in text and "Grade `edge`" in text
    # Always the same word: never right, but where nobody is left.
    assert [row[2] for row in markdown.table(text, "replaced by")] == ["0.0000", "0.0000", "1.0000", "0.0000", "", ""]


def test_the_card_is_about_sentences_and_no_program(card: str, folder: Path) -> None:
    assert "In RASP" not in card and "there is no RASP" in card
    data = yaml.safe_load(card.split("---\n")[1])
    assert "indirect-object-identification" in data["tags"] and "tracr" not in data["tags"]
    assert not re.search(r"\n\n\n|\{\{ |\{%", card)
    for written, shown in zip(
        markdown.raw_rows(markdown.body(card)), markdown.tables(markdown.body(card)), strict=True
    ):
        assert len({len(cells) for cells in (*written, *shown)}) == 1
    there = [path.name for path in folder.iterdir()] + ["circuit.svg", "circuit.png", "README.md"]
    assert card_faults("model", card.encode(), there) == []


def test_the_same_checkpoint_gives_the_same_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sentence_cards, "N_SENTENCES", 8)
    assert card_files("ioi", folder, picture=False) == card_files("ioi", folder, picture=False)


def test_a_card_of_a_program_has_no_sentences(checkpoint: Checkpoint, certified_folder: Path) -> None:
    text = model_card("case_3", certified_folder)
    assert "## Sentences" not in text and "In RASP" in text and "tracr" in text
