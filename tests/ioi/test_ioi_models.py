"""Models of IOI: the bundled ones, and the commands and functions that take any case or model."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from interpbench_hub import compile_to_transformer, load_certificate, load_circuit, load_model
from interpbench_hub.cases import get_case
from interpbench_hub.checkpoint import load_config, load_weights, save_checkpoint
from interpbench_hub.errors import SettingError
from interpbench_hub.ioi.words import NOBODY
from interpbench_hub.manifest import COLLECTION, load_manifest
from tests.commands import call
from tests.conftest import PROVENANCE
from tests.small_ioi import always_saying, checkpoint_of

IDS = ("ioi", "ioi_full")
README = Path(__file__).resolve().parents[2] / "README.md"


def needs_bundled(*ids: str) -> None:
    missing = [name for name in ids if name not in load_manifest()["models"]]
    if missing:
        pytest.skip(f"not bundled: {', '.join(missing)}")


# -- bundled -----------------------------------------------------------------------------------------------------------


def test_the_two_models_have_weights_of_their_own():
    needs_bundled(*IDS)
    one, other = (load_weights(COLLECTION / name, load_config(COLLECTION / name)) for name in IDS)
    assert one.keys() == other.keys()
    # Widths differ, so that matrices are compared where both have numbers.
    weights = [name for name in one if name.rsplit(".", 1)[-1].startswith("W_")]
    shared = {
        name: tuple(slice(min(sizes)) for sizes in zip(one[name].shape, other[name].shape, strict=True))
        for name in weights
    }
    assert [name for name, part in shared.items() if torch.equal(one[name][part], other[name][part])] == []


@pytest.mark.parametrize("name", IDS)
def test_a_bundled_model_is_certified_for_every_counterfactual(name):
    needs_bundled(name)
    certificate = load_certificate(name)
    assert certificate.grade == load_manifest()["models"][name]["grade"] == "path"
    # Aggregates have an entry for each; where a kind says nothing about a single edge, it has none.
    assert {entry.ablation for entry in certificate.complement} >= set(get_case(name).counterfactuals)
    assert {entry.ablation for entry in certificate.edge_interchange} == set(get_case(name).counterfactuals)


@pytest.mark.parametrize("name", IDS)
def test_a_bundled_model_has_the_circuit_of_its_case(name):
    needs_bundled(name)
    assert {str(edge) for edge in load_circuit(name)} == {str(edge) for edge in get_case(name).circuit}


def test_the_readmes_lines_on_text_run():
    needs_bundled("ioi")
    section = README.read_text(encoding="utf-8").split("## Indirect object identification")[1].split("\n## ")[0]
    (block,) = re.findall(r"```py(?:thon)?\n(.*?)```", section, re.DOTALL)
    names: dict[str, object] = {"load_model": load_model}
    exec(compile(block, "README.md", "exec"), names)
    assert names["answer"] == re.findall(r"# (\w+)$", block.strip())[0]


# -- commands and functions for any case -------------------------------------------------------------------------------


@pytest.mark.parametrize("program", [*IDS, get_case("ioi")])
def test_there_is_no_program_to_compile(program):
    name = getattr(program, "id", program)
    every: list[dict[str, Any]] = [{}, {"vocab": ("a", "b")}, {"alignment": get_case("ioi").alignment}]
    for options in every:
        with pytest.raises(SettingError, match=f"case {name} has no RASP program to compile: .*load_model"):
            compile_to_transformer(program, **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    model = always_saying(NOBODY)
    return save_checkpoint(checkpoint_of(model, PROVENANCE), tmp_path_factory.mktemp("models") / "ioi")


@pytest.mark.parametrize("name", IDS)
def test_cases_are_shown_and_listed(name):
    code, text = call("show", name)
    assert code == 0
    case = get_case(name)
    for part in (case.description, str(case.program), "a3.", "s_inhibition", "varying"):
        assert part in text
    n_edges = len(case.circuit)
    code, text = call("list", "--json", "--tier", "deep", "--min-edges", n_edges, "--max-edges", n_edges)
    row = next(row for row in json.loads(text) if row["id"] == name)
    assert (code, row["edges"], row["heads"], row["task"]) == (0, n_edges, case.n_attention_heads, case.description)


def test_a_model_is_shown_with_its_certificate(folder):
    code, text = call("show", folder)
    assert code == 0
    for part in ("ioi: grade path", "node_interchange", "6 layers of 4 heads", f"files in {folder}"):
        assert part in text


def test_a_models_card_is_printed(folder, monkeypatch):
    monkeypatch.setattr("model_cards.sentences.N_SENTENCES", 4)
    code, text = call("card", folder)
    assert code == 0 and "\n# ioi\n" in text and "## Sentences" in text
