"""The cards of datasets and of the collection: metadata, tables, links, what is said when figures differ."""

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import DatasetCard, DatasetCardData

from dataset_builders import build_dataset, counterfactuals, folders
from dataset_builders.card import Records, case_card, folder_card
from dataset_builders.folders import build_datasets, dataset_files, read_record, split_file
from dataset_builders.landing import CONFIGS, landing_card
from dataset_builders.metadata import card_data
from interpbench_hub import __version__
from interpbench_hub.cases import Case, get_case
from interpbench_hub.cases.pairs import SPLITS
from interpbench_hub.errors import SettingError
from interpbench_hub.manifest import COLLECTION, load_manifest
from interpbench_hub.rasp import Map, tokens

# Regression; edges of the length alone; whole numbers among fractions; no attention.
CASES = ("case_3", "case_74", "case_97", "case_8")
ROWS = (60, 30, 30)
MAX_BYTES = 60_000
"""Beyond this, the Hub's pages load slowly."""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(counterfactuals, "CHUNK", 60)
        out = tmp_path_factory.mktemp("built")
        for case_id in CASES:
            build_dataset(case_id, out, rows=ROWS)
        yield out


@pytest.fixture(scope="module")
def landing() -> str:
    return landing_card()


def records_of(folder: Path) -> Records:
    records = {split: read_record(folder / split_file(split)) for split in SPLITS}
    return {split: record for split, record in records.items() if record is not None}


def metadata(card: str) -> dict[str, Any]:
    _, head, _ = card.split("---\n", 2)
    return yaml.safe_load(head)


def tables(card: str) -> list[list[list[str]]]:
    """The cells of every table of a card, row by row."""
    text = re.sub(r"```.*?```", "", card, flags=re.DOTALL)
    blocks = re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE)
    return [[re.split(r"(?<!\\)\|", line)[1:-1] for line in block.splitlines()] for block in blocks]


def assert_well_formed(card: str) -> None:
    assert card.startswith("---\n")
    assert card.endswith("\n")
    assert not card.endswith("\n\n")
    assert "\n\n\n" not in card.split("```")[0]
    assert card.count("```") % 2 == 0
    assert "{{" not in card.split("```bibtex")[0]
    assert "{%" not in card
    assert len(tables(card)) >= 2
    for rows in tables(card):
        assert len({len(row) for row in rows}) == 1, rows
        assert set(map(str.strip, rows[1])) == {"---"}
        assert all(line.startswith("|") for line in card.splitlines() if line.endswith(" |"))
        assert len(rows) > 2
    data = metadata(card)
    assert DatasetCardData(**data).to_dict() == data
    assert str(DatasetCard(card)) == card
    assert data["license"] == "cc-by-4.0"
    assert "mechanistic-interpretability" in data["tags"]


# -- datasets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case_id", CASES)
def test_the_card_of_a_case_is_well_formed(built: Path, case_id: str) -> None:
    card = (built / case_id / "README.md").read_text(encoding="utf-8")
    assert_well_formed(card)
    assert metadata(card) == {
        "license": "cc-by-4.0",
        "pretty_name": f"{case_id}: clean and counterfactual inputs",
        "tags": [
            "mechanistic-interpretability",
            "circuit-analysis",
            "transformers",
            "benchmark",
            "counterfactuals",
        ],
        "size_categories": ["n<1K"],
        "configs": [
            {
                "config_name": case_id,
                "data_files": [{"split": split, "path": split_file(split)} for split in SPLITS],
            }
        ],
    }
    assert f'load_dataset("interpbench/{case_id}", split="test")' in card
    is_bundled = case_id in load_manifest()["models"]
    link = f"Model: [interpbench/{case_id}](https://huggingface.co/interpbench/{case_id})\n"
    assert (link in card) == is_bundled


def test_the_card_of_a_folder_is_well_formed(built: Path) -> None:
    card = (built / "README.md").read_text(encoding="utf-8")
    assert_well_formed(card)
    assert [config["config_name"] for config in metadata(card)["configs"]] == ["case_3", "case_8", "case_74", "case_97"]
    assert not any("default" in config for config in metadata(card)["configs"])
    assert f"Seed 0; {4 * sum(ROWS)} rows in all." in card
    assert len(tables(card)[-1]) == 2 + len(CASES)


def test_every_size_has_its_category() -> None:
    for n_rows, size in ((999, "n<1K"), (1_000, "1K<n<10K"), (10**6, "1M<n<10M"), (10**7, "n>10M")):
        assert card_data("Title", (), n_rows, {})["size_categories"] == [size]


def test_a_card_says_which_edges_no_pair_exercises(built: Path) -> None:
    case, records = get_case("case_8"), copy.deepcopy(records_of(built / "case_8"))
    first, second = records["test"]["counts"]["exercised"]
    for split, edges in (("validation", [first]), ("test", [first, second])):
        records[split]["counts"]["exercised"] |= dict.fromkeys(edges, 0)
    card = case_card(case, records)
    assert_well_formed(card)
    assert f"\n\nNo pair found for validation exercises `{first}`.\n\n" in card
    assert f"\n\nNo pair found for test exercises `{first}` and `{second}`.\n\n" in card
    assert "for train" not in card
    for split in SPLITS:
        records[split]["counts"]["exercised"] = {}
    card = case_card(case, records)
    assert "\n\nThe circuit of this case has no edge along which the output can be changed.\n\n" in card
    assert "0 of 0" in folder_card([records])


def test_what_markdown_would_take_for_more_than_text_is_escaped(tmp_path: Path) -> None:
    copied = Map(lambda x: x, tokens).named("copied", "the token | itself")
    case = Case("pipes", "Says | where *stars* are.", copied, ("a|b", "c`d", 1), 3, 4)
    card = (build_dataset(case, tmp_path, rows=(8, 4, 4)) / "README.md").read_text(encoding="utf-8")
    for text in (card, (tmp_path / "README.md").read_text(encoding="utf-8")):
        assert_well_formed(text)
        assert "where \\*stars\\* are." in text
    assert "the token \\| itself" in card
    assert "``'c`d'``" in card
    assert "Says \\| where" in (tmp_path / "README.md").read_text(encoding="utf-8")
    # There is no such model.
    assert "Model:" not in card


def test_cards_of_finished_builds_are_brought_up_to_date_and_rows_are_left(
    built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, card = built / "case_8" / split_file("train"), built / "case_8" / "README.md"
    before, text = path.stat().st_mtime_ns, card.read_text(encoding="utf-8")
    card.write_text(text.replace("Copies", "Once copied"), encoding="utf-8")
    (built / "README.md").write_text("<!-- Written by dataset_builders; a build writes it anew. -->")

    def never(*args: Any) -> None:
        raise AssertionError("wrote rows")

    monkeypatch.setattr(folders, "_write_split", never)
    assert list(build_datasets(["case_8"], built, rows=ROWS)) == [("case_8", False)]
    assert card.read_text(encoding="utf-8") == text
    assert metadata((built / "README.md").read_text(encoding="utf-8"))["configs"]
    written = card.stat().st_mtime_ns
    assert list(build_datasets(["case_8"], built, rows=ROWS)) == [("case_8", False)]
    assert card.stat().st_mtime_ns == written
    assert path.stat().st_mtime_ns == before


def test_the_files_of_a_repository_are_the_folder_s_with_a_card_for_the_namespace(built: Path, tmp_path: Path) -> None:
    folder = built / "case_3"
    assert dataset_files(folder) == {path.name: path.read_bytes() for path in folder.iterdir()}
    card = dataset_files(folder, namespace="someone")["README.md"].decode()
    assert 'load_dataset("someone/case_3", split="test")' in card
    assert "[someone/case_3](https://huggingface.co/someone/case_3)" in card
    assert "interpbench/" not in card
    with pytest.raises(SettingError, match="holds no finished dataset of a case"):
        dataset_files(tmp_path)


# -- the collection ----------------------------------------------------------------------------------------------------


def test_the_landing_card_is_well_formed_and_small_enough(landing: str) -> None:
    assert_well_formed(landing)
    assert len(landing.encode()) < MAX_BYTES
    configs = metadata(landing)["configs"]
    assert [config["config_name"] for config in configs] == list(CONFIGS) == ["edges", "nodes", "negatives", "models"]
    assert [config["config_name"] for config in configs if config.get("default")] == ["edges"]
    for config in configs:
        path = f"{config['config_name']}/train-00000-of-00001.parquet"
        assert config["data_files"] == [{"split": "train", "path": path}]


def test_the_landing_card_lists_every_model(landing: str) -> None:
    rows = tables(landing)[-1][2:]
    models = load_manifest()["models"]
    assert len(rows) == len(models)
    for cells, (model, entry) in zip(rows, models.items(), strict=True):
        circuit = json.loads((COLLECTION / model / "circuit.json").read_text())
        n_varying = sum(edge["kind"] == "varying" for edge in circuit["edges"])
        link, _, tier, grade, edges, inputs = map(str.strip, cells)
        assert link == f"[{model}](https://huggingface.co/interpbench/{model})"
        assert inputs == f"[inputs](https://huggingface.co/datasets/interpbench/{circuit['case']})"
        assert (tier, grade) == (get_case(circuit["case"]).tier, f"`{entry['grade']}`")
        assert edges == f"{len(circuit['edges'])} ({n_varying})"
    by_tier = tables(landing)[-2][2:]
    assert sum(int(cells[2]) for cells in by_tier) == len(models)
    of_grades = [int(count) for cells in by_tier for count in re.findall(r"(\d+) `", cells[3])]
    assert sum(of_grades) == len(models)


def test_the_landing_card_s_code_names_what_there_is(landing: str) -> None:
    blocks = re.findall(r"```python\n(.*?)```", landing, flags=re.DOTALL)
    assert len(blocks) == 5
    for block in blocks:
        compile(block, "landing card", "exec")
    names = set(re.findall(r'"interpbench/(\w+)"', landing))
    assert names - {"circuits"} <= set(load_manifest()["models"])
    assert f'revision="v{__version__}"' in landing
    assert set(re.findall(r"from interpbench_hub import (.*)", landing)) == {
        "get_case, load_model",
        "load_certificate, load_circuit",
    }
    (names_of_columns,) = re.findall(r"\| an edge of a circuit \| (.*) \|", landing)
    assert names_of_columns.split(", ")[-2:] == ["predicted_effect", "edge"]


@pytest.mark.slow
def test_the_landing_card_s_lines_for_models_and_circuits_run(landing: str) -> None:
    blocks = re.findall(r"```python\n(.*?)```", landing, flags=re.DOTALL)
    names: dict[str, Any] = {}
    for block in blocks[:2]:
        exec(compile(block, "landing card", "exec"), names)
    assert names["logits"].shape[0] == 1
    assert len(names["circuit"]) > 0
    assert names["certificate"].grade in landing


def test_the_landing_card_cites_both_works(landing: str) -> None:
    block = landing.split("```bibtex\n")[1].split("```")[0]
    assert block.count("{") == block.count("}")
    assert re.findall(r"^@(\w+)\{(\w+),$", block, flags=re.MULTILINE) == [
        ("software", "interpbench_hub"),
        ("article", "gupta2024interpbench"),
    ]
    assert f"version = {{{__version__}}}," in block
    assert "2407.14494" in block


def test_a_landing_card_of_another_namespace_names_no_other(landing: str) -> None:
    other = landing_card(namespace="someone")
    assert "the model that comes with the package" in landing and "comes with the package" not in other
    assert "interpbench/" not in other
    bundled = re.compile(r"Without it, .*?(?=`weights_sha256`)", re.DOTALL)
    both = [" ".join(bundled.sub("", card).split()) for card in (other.replace("someone", "interpbench"), landing)]
    assert both[0] == both[1]


def test_landing_cards_are_marked_as_generated(landing: str) -> None:
    assert landing.split("---\n")[2].strip().startswith("<!-- Written by `python -m dataset_builders circuits`")
