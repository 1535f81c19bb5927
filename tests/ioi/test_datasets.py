"""Datasets of sentences against the program run on their text, and the pairs that discovery methods get of them."""

import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from huggingface_hub import DatasetCard

from dataset_builders import CircuitDataset, build_dataset
from dataset_builders import sentences as sentences_module
from dataset_builders.counterfactuals import CounterfactualPairs
from dataset_builders.draws import draw_of
from dataset_builders.folders import case_digest, read_record, split_file
from dataset_builders.tables import features_of, tables_of
from interpbench_hub.cases import get_case
from interpbench_hub.cases.kinds import changes_output
from interpbench_hub.cases.pairs import SPLITS, Pairs
from interpbench_hub.discovery.data import PairData
from interpbench_hub.discovery.exhaustive import exhaustive_patching
from interpbench_hub.errors import CaseError, SettingError
from interpbench_hub.ioi import templates as templates_module
from interpbench_hub.ioi.case import CASES
from interpbench_hub.ioi.sentences import COUNTERFACTUALS
from interpbench_hub.ioi.templates import TEMPLATES, templates_of
from interpbench_hub.ioi.words import NAMES, NOBODY
from interpbench_hub.patching import EdgePatcher
from interpbench_hub.publishing.repositories import card_faults
from interpbench_hub.siit.sizes import transformer_config
from interpbench_hub.transformer import Transformer

CASE = get_case("ioi")
ROWS = (300, 60, 120)
ALIKE = ("name_swap", "s2_to_io", "abc")
"""Kinds whose sentence has the template of the clean one."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return build_dataset("ioi", tmp_path_factory.mktemp("built"), rows=ROWS)


def read(folder: Path, split: str) -> list[dict]:
    return pq.read_table(folder / split_file(split)).to_pylist()


def read_all(folder: Path) -> list[dict]:
    return [row for split in SPLITS for row in read(folder, split)]


def words_of(text: str) -> list[str]:
    return re.findall(r"\w+|[^\w\s]", text)


def parts(data: PairData) -> list[list]:
    return [part.tolist() for part in (data.clean, data.corrupted, data.lengths, data.corrupted_lengths, data.counted)]


# -- rows --------------------------------------------------------------------------------------------------------------


def test_ids_lengths_and_labels_follow_from_the_text(folder):
    for row in read_all(folder):
        for sentence in (row, *(row[kind] for kind in COUNTERFACTUALS)):
            words = words_of(sentence["text"])
            assert [sentence["input_ids"]] == CASE.encode([words]).tolist()
            assert sentence["length"] == len(sentence["input_ids"])
            assert sentence["label"] == CASE.program(words)[-1]
        *before, label = row["label_ids"]
        assert CASE.classes[label] == row["label"] and set(before) == {-100}
        assert len(row["label_ids"]) == row["length"]


def test_roles_and_templates_are_those_of_the_text(folder):
    for split in SPLITS:
        for row in read(folder, split):
            tokens = ["<bos>", *words_of(row["text"])]
            io, s1, s2, end = (row["positions"][role] for role in ("io", "s1", "s2", "end"))
            assert row["io"] == row["label"] == tokens[io] != row["s"]
            assert [at for at, token in enumerate(tokens) if token == row["s"]] == [s1, s2]
            assert (tokens[end], end, row["order"]) == ("to", row["length"] - 1, "ABBA" if io < s1 else "BABA")
            template = TEMPLATES[row["template"]]
            assert all(word.startswith("[") or word == token for word, token in zip(template, tokens[1:], strict=True))
            assert row["template"] in templates_of(split)


def test_counterfactuals_are_of_their_kinds(folder):
    for row in read_all(folder):
        clean = words_of(row["text"])
        others = {kind: words_of(row[kind]["text"]) for kind in COUNTERFACTUALS}
        swapped = {row["io"]: row["s"], row["s"]: row["io"]}
        assert others["name_swap"] == [swapped.get(word, word) for word in clean]
        s2 = row["positions"]["s2"] - 1
        for kind in ("s2_to_io", "abc"):
            assert [at for at, (one, other) in enumerate(zip(clean, others[kind], strict=True)) if one != other] == [s2]
        assert others["s2_to_io"][s2] == row["io"] and others["abc"][s2] in set(NAMES) - {row["io"], row["s"]}
        assert row["resample"]["length"] >= row["length"] and others["resample"] != clean
        labels = {kind: row[kind]["label"] for kind in ALIKE}
        assert labels == {"name_swap": row["s"], "s2_to_io": row["s"], "abc": NOBODY}


def test_variables_are_those_of_the_causal_model_on_the_text(folder):
    for row in read(folder, "test"):
        n_words, end = row["length"] - 1, row["positions"]["end"] - 1
        # One sentence at a time, nothing padded.
        values = CASE.high_level.run(CASE.encode([words_of(row["text"])])[:, 1:], torch.tensor([n_words]))
        for variable in CASE.graph.variables:
            # A code beyond the values is no value: undefined, or ambiguous.
            known = dict(enumerate(variable.values))
            expected = [known.get(code) for code in values[variable.name][0].tolist()]
            assert row["variables"][variable.name] == expected, variable.name
        ends = {name: column[end] for name, column in row["variables"].items()}
        assert (ends["s_inhibition"], ends["name_mover"], ends["answer"]) == (row["s"], row["io"], row["io"])
        assert row["variables"]["answer"][:end] == [None] * end


def test_splits_share_no_sentence_no_template_and_no_pair_of_names(folder):
    texts, templates, names = {}, {}, {}
    for split in SPLITS:
        rows = read(folder, split)
        texts[split] = {
            text for row in rows for text in (row["text"], *(row[kind]["text"] for kind in COUNTERFACTUALS))
        }
        templates[split] = {row["template"] for row in rows}
        names[split] = {frozenset((row["io"], row["s"])) for row in rows}
    for held in (texts, templates, names):
        for one, other in itertools.combinations(SPLITS, 2):
            assert held[one] and not held[one] & held[other]


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_name_in_every_role_and_every_template_in_both_orders(split):
    # The rows that a dataset of the usual size has, without what takes long about them.
    n_rows = {"train": 10_000, "test": 1000}[split]
    seen, templates = set(), set()
    for chunk in draw_of(CASE, split)._drawn(n_rows):  # type: ignore[union-attr]
        is_abba = (chunk.clean.io == chunk.clean.first).tolist()
        for role, names in (("io", chunk.clean.io.tolist()), ("s", chunk.clean.again.tolist())):
            seen |= {
                (role, name, abba if split == "train" else None) for name, abba in zip(names, is_abba, strict=True)
            }
        templates |= set(zip(chunk.clean.template.tolist(), is_abba, strict=True))
    orders = (True, False) if split == "train" else (None,)
    assert seen == set(itertools.product(("io", "s"), range(len(NAMES)), orders))
    assert templates == set(itertools.product(templates_of(split), (True, False)))


# -- building and loading ----------------------------------------------------------------------------------------------


def test_counts_are_those_of_the_rows(folder):
    edges = CASE.circuit.of_kind("varying")
    for split, n_rows in zip(SPLITS, ROWS, strict=True):
        rows, record = read(folder, split), read_record(folder / split_file(split))
        assert record is not None
        counts = record["counts"]
        assert counts["rows"] == n_rows and counts["distinct_inputs"] == len({row["text"] for row in rows})
        templates = {
            str(number): [
                sum((row["template"], row["order"]) == (number, order) for row in rows) for order in ("ABBA", "BABA")
            ]
            for number in sorted({row["template"] for row in rows})
        }
        assert counts["rows_of_template"] == templates
        for kind in COUNTERFACTUALS:
            found = counts["kinds"][kind]
            assert found["label_changes"] == sum(row["label"] != row[kind]["label"] for row in rows)
            assert found["longer"] == sum(row["length"] < row[kind]["length"] for row in rows)
            data = PairData.from_dataset(rows, counterfactual=kind)
            tokens = [ids[:, 1:].masked_fill(ids[:, 1:] >= CASE.bos_id, 0) for ids in (data.clean, data.corrupted)]
            pairs = Pairs(tokens[0], data.lengths - 1, tokens[1], data.corrupted_lengths - 1)
            exercised = changes_output(CASE, pairs, edges).sum(1).tolist()
            assert found["exercised"] == dict(zip(map(str, edges), exercised, strict=True))
        assert counts["exercised"] == dict.fromkeys(map(str, edges), n_rows)
        assert (counts["label_changes"], counts["longer"], record["length_only"]) == (n_rows, 0, [])


def test_edges_are_counted_on_the_first_rows_alone(monkeypatch):
    monkeypatch.setattr(sentences_module, "EXERCISED", 7)
    monkeypatch.setattr(sentences_module, "CHUNK", 5)
    drawn = draw_of(CASE, "test")
    assert [table.num_rows for table in tables_of(drawn, 12)] == [5, 5, 2]
    assert set(drawn.counts.to_dict()["exercised"].values()) == {7}
    assert drawn.counts.to_dict()["rows"] == 12


def test_the_same_seed_makes_the_same_bytes_another_other_rows_and_fewer_rows_are_the_first(folder, tmp_path):
    again = build_dataset("ioi", tmp_path / "again", rows=ROWS)
    for path in sorted(folder.iterdir()):
        assert (again / path.name).read_bytes() == path.read_bytes()
    fewer = build_dataset("ioi", tmp_path / "fewer", rows=(10, 10, 10))
    assert read(fewer, "test") == read(folder, "test")[:10]
    other = build_dataset("ioi", tmp_path / "other", rows=(10, 10, 10), seed=1)
    assert read(other, "test") != read(fewer, "test")


def test_other_templates_make_another_dataset(monkeypatch):
    before = case_digest(CASE)
    assert before != case_digest(get_case("ioi_full")) and before == case_digest(CASE)
    monkeypatch.setattr(templates_module, "TEMPLATES", (*TEMPLATES[:-1], TEMPLATES[0]))
    assert case_digest(CASE) != before


def test_sentences_are_not_mixed_word_by_word():
    with pytest.raises(CaseError, match="case ioi: its inputs are sentences; draw them with"):
        CounterfactualPairs(CASE, "test")


_LOAD = """
import json, socket, sys
def refuse(*args): raise AssertionError("went online")
socket.socket.connect = refuse
from datasets import load_dataset
out = sys.argv[1]
rows = load_dataset(out, "ioi", split="test")
assert rows.to_list() == list(load_dataset(out + "/ioi", split="test", streaming=True))
assert set(load_dataset(out + "/ioi")) == {"train", "validation", "test"}
json.dump(rows.to_list(), sys.stdout)
"""


def test_load_dataset_reads_the_folder_offline(folder, tmp_path):
    quiet = {
        "USE_TORCH": "0",
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path),
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    }
    command = [sys.executable, "-c", _LOAD, str(folder.parent)]
    done = subprocess.run(command, env={**os.environ, **quiet}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == read(folder, "test")


def test_the_builder_makes_the_rows_of_the_files(folder, tmp_path):
    builder = CircuitDataset(config_name="ioi", rows=ROWS, cache_dir=str(tmp_path))
    assert builder.info.features == features_of(CASE)
    builder.download_and_prepare()
    rows = builder.as_dataset("validation")
    assert rows.to_list() == read(folder, "validation")  # type: ignore[union-attr]
    assert rows.features["name_swap"]["input_ids"].feature.dtype == "int64"  # type: ignore[union-attr]


def test_the_card_says_what_the_rows_are(folder):
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert str(DatasetCard(card)) == card and "{{" not in card and "{%" not in card and "\n\n\n" not in card
    assert card_faults("dataset", card.encode(), [path.name for path in folder.iterdir()]) == []
    data = yaml.safe_load(card.split("---\n")[1])
    assert [config["config_name"] for config in data["configs"]] == ["ioi"]
    columns = re.findall(r"^\| `?([a-z_0-9]+)`?", card.split("## Columns")[1].split("###")[0], flags=re.MULTILINE)
    named = set(re.findall(r"`([a-z_0-9]+)`", card.split("## Columns")[1].split("###")[0]))
    assert columns and set(features_of(CASE)) <= named
    orders = [
        [sum(row["order"] == order for row in read(folder, split)) for order in ("ABBA", "BABA")] for split in SPLITS
    ]
    for split, n_rows, n_templates, (abba, baba) in zip(SPLITS, ROWS, (48, 8, 8), orders, strict=True):
        distinct = len({row["text"] for row in read(folder, split)})
        assert f"\n| {split} | {n_rows} | {distinct} | {n_templates} | {abba} | {baba} |\n" in card
    assert (
        "\n| `name_swap` | 100.0 % / 100.0 % / 100.0 % | 0.0 % / 0.0 % / 0.0 % | " + " / ".join(["8 of 8"] * 3) in card
    )
    assert f"`{NOBODY}`: no name is said twice" in card
    assert "| [ioi](ioi/README.md) |" in (folder.parent / "README.md").read_text(encoding="utf-8")


# -- pairs for discovery -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [None, *COUNTERFACTUALS])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_pairs_are_those_of_the_dataset_and_count_at_the_end_alone(case, kind):
    from datasets import Dataset

    data = PairData.of(case, n_pairs=40, counterfactual=kind)
    (table,) = tables_of(draw_of(case, "test"), 40)
    for rows in (Dataset(table), table.to_pylist()):
        assert parts(PairData.from_dataset(rows, counterfactual=kind)) == parts(data)
    assert torch.equal(data.real, data.counted) and data.categorical
    assert torch.equal(data.real, torch.arange(data.clean.shape[1]) == data.lengths[:, None] - 1)
    texts = [row[kind or "name_swap"]["input_ids"] for row in table.to_pylist()]
    assert [ids[:n] for ids, n in zip(data.corrupted.tolist(), data.corrupted_lengths.tolist(), strict=True)] == texts


def test_pairs_of_another_split_or_seed_are_others():
    first = parts(PairData.of("ioi", n_pairs=20))
    assert first == parts(PairData.of(CASE, n_pairs=30).rows(slice(0, 20)).trimmed())
    assert first != parts(PairData.of("ioi", n_pairs=20, seed=1))
    assert first != parts(PairData.of("ioi", n_pairs=20, split="train"))


def test_kinds_that_there_are_not_are_refused():
    with pytest.raises(
        SettingError, match="'swap' is no kind of case ioi; they are name_swap, s2_to_io, abc, resample"
    ):
        PairData.of("ioi", counterfactual="swap")
    with pytest.raises(SettingError, match="'abc' is no kind of case case_3: its rows have one each, so leave it out"):
        PairData.of("case_3", counterfactual="abc")
    (table,) = tables_of(draw_of(CASE, "test"), 3)
    with pytest.raises(
        SettingError, match="'swap' is no column of the rows; those of these rows are name_swap, s2_to_io"
    ):
        PairData.from_dataset(table.to_pylist(), counterfactual="swap")
    (table,) = tables_of(draw_of(get_case("case_3"), "test"), 30)
    with pytest.raises(SettingError, match="'abc' is no column of the rows; these rows have one each, so leave it out"):
        PairData.from_dataset(table.to_pylist(), counterfactual="abc")
    with pytest.raises(SettingError, match="rows have no column length; pairs are made from input_ids, abc, length"):
        PairData.from_dataset([{"input_ids": [1], "abc": {"input_ids": [1]}}], counterfactual="abc")


@pytest.mark.parametrize("name", ["case_3", "case_7", "case_15", "induction", "bigram_share"])
def test_all_real_positions_of_programs_count(name):
    data = PairData.of(name, n_pairs=40)
    places = torch.arange(data.clean.shape[1])
    assert torch.equal(data.real, (places > 0) & (places < data.lengths[:, None]))


def test_counted_positions_go_where_their_pairs_go():
    data = PairData.of("ioi", n_pairs=30, counterfactual="resample")
    batches = list(data.batches(8))
    assert [batch.real.sum().item() for batch in batches] == [8, 8, 8, 6]
    for part in (*batches, *data.by_length(), data.rows(torch.tensor([3, 1])), data.to("cpu"), data.trimmed()):
        assert torch.equal(part.real, torch.arange(part.clean.shape[1]) == part.lengths[:, None] - 1)


def test_what_counts_nowhere_or_beyond_the_end_is_refused():
    ids, lengths = torch.tensor([[7, 0, 1, 8], [7, 1, 8, 8]]), torch.tensor([3, 2])

    def made(*rows: list[int]) -> PairData:
        return PairData(ids, ids, lengths, lengths, True, torch.tensor(rows).bool())

    assert made([0, 0, 1, 0], [0, 1, 0, 0]).real.nonzero().tolist() == [[0, 2], [1, 1]]
    for rows, pair, count in (
        (([0, 0, 0, 0], [0, 1, 0, 0]), 0, r"\[\]"),
        (([0, 1, 1, 0], [0, 1, 1, 0]), 1, r"\[1, 2\]"),
        (([1, 1, 1, 0], [0, 1, 0, 0]), 0, r"\[0, 1, 2\]"),
    ):
        with pytest.raises(SettingError, match=f"of pair {pair} positions {count} count; at least one does"):
            made(*rows)
    with pytest.raises(SettingError, match=r"counted is torch.bool of shape \(1, 4\); it is a BoolTensor"):
        made([0, 1, 0, 0])
    with pytest.raises(SettingError, match=r"counted is torch.int64 of shape \(2, 4\)"):
        PairData(ids, ids, lengths, lengths, True, torch.ones(2, 4, dtype=torch.long))


def test_outputs_are_compared_at_the_end_alone():
    data = PairData.of("ioi", n_pairs=6)
    generator = torch.Generator().manual_seed(0)
    logits, reference = (torch.randn(6, data.clean.shape[1], 5, generator=generator) for _ in range(2))
    found = data.difference(logits, reference)
    for row, length in enumerate(data.lengths.tolist()):
        p, q = (part[row, length - 1].softmax(-1) for part in (reference, logits))
        assert float(found[row]) == pytest.approx(float((p * (p / q).log()).sum()), rel=1e-4)


@torch.no_grad()
def test_a_method_scores_by_the_end_of_sentences():
    model = Transformer(transformer_config(CASE), seed=0)
    data = PairData.of("ioi", n_pairs=4, counterfactual="resample")
    names = ("embed->m5", "embed->a4.h3<v>", "a5.h0->logits")
    edges = [edge for edge in CASE.circuit.universe if str(edge) in names]
    scores = exhaustive_patching(model, edges, data)
    totals = dict.fromkeys(edges, 0.0)
    for row in range(len(data)):
        # One sentence at a time, nothing padded.
        length = int(data.lengths[row])
        base = model.run(data.clean[row : row + 1, :length])
        source = model.run(data.corrupted[row : row + 1, : int(data.corrupted_lengths[row])])
        for edge in edges:
            replacement = source.senders[model.config.edge_places[edge][1]][:, :length]
            patched = EdgePatcher(model, base).logits(edge, replacement)
            p, q = (logits[0, -1].double().log_softmax(-1) for logits in (base.logits, patched))
            totals[edge] += float((p.exp() * (p - q)).sum())
    assert len(edges) == 3
    for edge, total in totals.items():
        assert scores[edge] == pytest.approx(total / len(data), rel=1e-2, abs=1e-7) and total > 0
