"""Cards of models that are not in the collection: comparison twins, lower grades, tokens that Markdown is made of."""

import ast
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import card_markdown as markdown
import pytest
from huggingface_hub import ModelCard

from interpbench_hub.cases import Case, get_case, register_case
from interpbench_hub.cases.registry import unregister_case
from interpbench_hub.certificate import Certificate, Effect, Entry
from interpbench_hub.checkpoint import (
    Checkpoint,
    CheckpointConfig,
    Output,
    Vocab,
    save_checkpoint,
    weights_digest,
)
from interpbench_hub.rasp import Map, tokens
from interpbench_hub.transformer import Transformer, TransformerConfig
from model_cards.model_card import model_card
from model_cards.subject import Subject

Make = Callable[..., Any]

BAD_EDGES = tuple(Entry(f"embed->m{number + 1}", "resample", 2000, 60 * number) for number in range(20))


def saved(folder: Path, checkpoint: Checkpoint, certificate: Certificate, recipe: str) -> Path:
    config = replace(checkpoint.config, provenance=replace(checkpoint.config.provenance, recipe=recipe))
    certificate = replace(certificate, weights_sha256=weights_digest(checkpoint.weights), case=config.case)
    return save_checkpoint(Checkpoint(config, checkpoint.weights, checkpoint.circuit, certificate), folder)


@pytest.mark.parametrize(
    ("model", "recipe", "purpose"),
    [
        ("case_3_siit", "siit", "constrains whole nodes and no single edges"),
        ("case_3_natural", "behaviour", "trained on the program's outputs alone"),
    ],
)
def test_models_to_compare_with_say_so(
    tmp_path: Path, checkpoint: Checkpoint, make_certificate: Make, model: str, recipe: str, purpose: str
) -> None:
    folder = saved(tmp_path / "twin", checkpoint, make_certificate(edge_strict=BAD_EDGES), recipe)
    text = model_card(model, folder)
    opening = text.split("## Use")[0]
    assert "For comparison with [interpbench/case_3](https://huggingface.co/interpbench/case_3)" in opening
    assert purpose in opening
    assert "The circuit listed below is the program's" in opening
    assert "not certified for this model" in opening
    assert f'load_model("interpbench/{model}")' in text
    assert "not certified for this model" in text.split("## Circuit")[1].split("## Certificate")[0]
    tags = ModelCard(text).data.to_dict()["tags"]
    assert "known-circuit" not in tags
    assert ("siit" in tags) == (recipe == "siit")
    assert ModelCard(text).data.to_dict()["datasets"] == ["interpbench/case_3"]


def test_what_falls_short_is_listed_worst_first(tmp_path: Path, checkpoint: Checkpoint, make_certificate: Make) -> None:
    certificate = make_certificate(edge_strict=BAD_EDGES, effect=(Effect("embed->m0", 2000, 0, 905),))
    text = model_card("case_3", saved(tmp_path / "low", checkpoint, certificate, "edge-siit"))
    assert "**The certificate does not confirm the circuit edge by edge**" in text
    assert "Grade `node`" in text
    assert "20 of 29 entries are below 0.999" in text
    rows = markdown.table(text, "entry", "node or edge")
    assert rows[0] == ["edge_strict", "embed->m1", "another input's value", "0 of 2,000", "0.0000", "0.0000"]
    assert len(rows) == 12
    assert "… and 8 more" in text
    assert "change no output when resampled: `embed->m0`." in text
    assert "known-circuit" not in ModelCard(text).data.to_dict()["tags"]
    assert "What falls short" in markdown.headings(markdown.body(text))
    assert "#what-falls-short" in markdown.links(markdown.body(text))


def test_grade_edge_counts_as_certified(tmp_path: Path, checkpoint: Checkpoint, make_certificate: Make) -> None:
    entries = (Entry("embed->m0", "resample", 2000, 1990),)
    text = model_card(
        "case_3", saved(tmp_path / "e", checkpoint, make_certificate(edge_interchange=entries), "edge-siit")
    )
    assert "Grade `edge`" in text
    assert "known-circuit" in ModelCard(text).data.to_dict()["tags"]
    assert "1 of 12 entries is below 0.999:" in text


# -- odd cases ---------------------------------------------------------------------------------------------------------

ODD = ("a|b", "`", "``x", "\n", "'\"", "\\|", "*", "<b>", "x" * 40)


@pytest.fixture
def odd_folder(tmp_path: Path, make_certificate: Make) -> Iterator[Path]:
    """A checkpoint of a case whose tokens, variables' meanings and description hold what Markdown is made of."""
    doubled = Map(lambda x: "|`|" if x == "a|b" else x, tokens).named("out", "`x` | *the* <b>token</b> [itself](x)")
    case = register_case(
        Case("odd_tokens", "Copies | `every` *token*\nof <b>.", doubled, ODD, notes="See [1] | _here_.")
    )
    shape = TransformerConfig(
        n_layers=case.circuit.n_layers,
        n_heads=case.circuit.n_heads,
        d_model=8,
        d_head=2,
        d_mlp=8,
        d_vocab=case.d_vocab,
        d_vocab_out=case.d_vocab_out,
        n_ctx=case.max_len,
        attention_dir="bidirectional",
    )
    odd = {"hardware": "A | B `C`", "commit": None, "earlier_ends": (12, 2000)}
    odd |= {"started_from": "0a" * 32, "started_from_case": "case_98"}
    provenance = replace(Subject.load("case_3").config.provenance, **odd)
    config = CheckpointConfig(
        case.id,
        shape,
        Vocab(ODD, case.bos_id, case.pad_id),
        Output("categorical", case.classes),
        case.min_len,
        case.max_len,
        provenance,
    )
    checkpoint = Checkpoint(config, Transformer(shape, seed=0).state_dict(), case.circuit)
    yield saved(tmp_path / "odd", checkpoint, make_certificate(), "edge-siit")
    unregister_case(case.id)


def test_tokens_of_all_kinds_break_no_table_and_are_shown_as_they_are(odd_folder: Path) -> None:
    text = markdown.body(model_card("odd_tokens", odd_folder))
    for written, shown in zip(markdown.raw_rows(text), markdown.tables(text), strict=True):
        assert len({len(cells) for cells in (*written, *shown)}) == 1
    assert markdown.table(text, "node")[-1][2] == "`x` | *the* <b>token</b> [itself](x)"
    rows = markdown.table(text, "what", "value")
    assert ["hardware", "A | B `C`"] in rows
    steps = dict(rows)["steps"]
    assert steps.endswith(
        " (it was to end after 12, then 2,000, and was given more, with the weights 0a0a0a0a0a0a... of case_98 alone)"
    )
    case = get_case("odd_tokens")
    line = next(line for line in text.splitlines() if line.startswith("- Token ids"))
    assert (
        markdown.inline(line[2:])
        == "Token ids: "
        + ", ".join(f"{place} {token!r}" for place, token in enumerate(ODD))
        + f"; BOS {case.bos_id}, PAD {case.pad_id}."
    )
    example = re.findall(r"^tokens = (.*)$", markdown.code_blocks(text, "python")[0], re.MULTILINE)[0]
    assert ast.literal_eval(example) == case.sample(random.Random(case.id), 6)
    assert markdown.inline(text.split("\n\n")[2]) == "Copies | `every` *token* of <b>."
