"""Datasets: against the pure evaluator, read back from the files; splits, resuming, cards, the command line."""

import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from typer.testing import CliRunner

from dataset_builders import CircuitDataset, build_dataset, columns, counterfactuals
from dataset_builders.__main__ import app
from dataset_builders.columns import features, value_type
from dataset_builders.counterfactuals import CounterfactualPairs, edges_of_length
from dataset_builders.files import remove_partial_files, write_whole
from dataset_builders.folders import build_datasets, read_record, split_file
from interpbench_hub.cases import Case, get_case, list_cases
from interpbench_hub.cases.kinds import changes_output
from interpbench_hub.cases.pairs import SPLITS, Pairs, Split, in_split, is_split
from interpbench_hub.circuit import Edge
from interpbench_hub.errors import CaseError, SettingError, UnknownNameError
from interpbench_hub.rasp import Map, Select, SelectorWidth, SequenceMap, SOp, evaluator, indices, tokens
from interpbench_hub.rasp.evaluator import evaluate
from interpbench_hub.rasp.printing import unique_names

# Regression without divided lengths; tuples; undefined outputs and a counted length; a sampler; whole numbers among
# fractions and a counted length; fractions as tokens.
CASES = ("case_3", "case_15", "case_74", "case_1", "case_97", "case_66")
LENGTH_CASES = ("case_74", "case_97")
"""Those with edges that carry the length alone."""
ROWS = (120, 50, 110)
CHUNK = 100
"""Smaller than a split, so that a split has several."""
Rows = list[dict[str, Any]]
Built = Callable[[str], Path]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counterfactuals, "CHUNK", CHUNK)


@pytest.fixture(scope="session", params=CASES)
def case_id(request: pytest.FixtureRequest) -> str:
    """Of session scope, so that the tests of one case come together: few test processes build the same case."""
    return request.param


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Gives the folder of a case, built when first asked for; its parent is the folder of all that were built."""
    out = tmp_path_factory.mktemp("built")

    @cache
    def build(case_id: str) -> Path:
        return build_dataset(case_id, out, rows=ROWS)

    return build


def read(folder: Path, split: str) -> Rows:
    return pq.read_table(folder / split_file(split)).to_pylist()


def read_all(folder: Path) -> Rows:
    return [row for split in SPLITS for row in read(folder, split)]


def as_pairs(case: Case, rows: Rows) -> Pairs:
    parts = []
    for ids, length in (("input_ids", "length"), ("counterfactual_ids", "counterfactual_length")):
        parts.append(torch.tensor([row[ids][1:] + [0] * (case.max_len - row[length]) for row in rows]))
        parts.append(torch.tensor([row[length] - 1 for row in rows]))
    return Pairs(*parts)


def is_equally_long(row: dict[str, Any]) -> bool:
    return row["length"] == row["counterfactual_length"]


def exercised_by(case: Case, rows: Rows) -> dict[str, int]:
    edges = case.circuit.of_kind("varying")
    counts = changes_output(case, as_pairs(case, rows), edges).sum(1).tolist()
    return dict(zip(map(str, edges), counts, strict=True))


def held(case: Case, name: str, values: list[Any]) -> list[Any]:
    """What the column of a variable holds for these values."""
    kind = value_type(case.graph[name].classes)
    return [None if value is None else repr(value) if kind == "literal" else value for value in values]


def close(given: list[Any], expected: list[Any]) -> bool:
    # Means are told apart to twelve digits.
    return len(given) == len(expected) and all(
        abs(one - other) < 1e-9 if isinstance(other, float) else one == other
        for one, other in zip(given, expected, strict=True)
    )


# -- content -----------------------------------------------------------------------------------------------------------


def test_labels_are_what_the_pure_evaluator_gives(built: Built, case_id: str) -> None:
    case = get_case(case_id)
    for row in read_all(built(case_id)):
        for prefix in ("", "counterfactual_"):
            expected = evaluate(case.program, row[f"{prefix}tokens"], causal=case.causal)
            assert close(row[f"{prefix}labels"], held(case, case.graph.output.name, expected)), row


def test_every_variable_is_what_evaluating_it_gives(built: Built, case_id: str) -> None:
    case = get_case(case_id)
    sops: dict[str, SOp] = {name: sop for sop, name in unique_names(evaluator.in_order(case.program)).items()}
    for row in read(built(case_id), "test"):
        assert set(row["variables"]) == {variable.name for variable in case.graph.variables}
        for name, values in row["variables"].items():
            # The head of a count is named after the count and given as it.
            sop = sops[name.removesuffix("_fraction") if case.graph[name].kind == "fraction" else name]
            expected = evaluate(sop, row["tokens"], causal=case.causal)
            assert close(values, held(case, name, expected)), (name, row)


def test_ids_are_those_of_the_case(built: Built, case_id: str) -> None:
    case = get_case(case_id)
    for row in read_all(built(case_id)):
        for prefix, ids in (("", "input_ids"), ("counterfactual_", "counterfactual_ids")):
            assert case.encode([row[f"{prefix}tokens"]]).tolist() == [row[ids]]
            assert row[f"{prefix}length"] == len(row[ids])
            if case.categorical:
                bos, *label_ids = row[f"{prefix}label_ids"]
                assert bos == -100
                values = [case.classes[place] for place in label_ids]
                assert held(case, case.graph.output.name, values) == row[f"{prefix}labels"]


def test_columns_have_the_types_of_the_program(built: Built) -> None:
    schema = pq.read_schema(built("case_97") / split_file("test"))
    assert schema.names == [
        "tokens",
        "input_ids",
        "labels",
        "label_ids",
        "counterfactual_tokens",
        "counterfactual_ids",
        "counterfactual_labels",
        "counterfactual_label_ids",
        "length",
        "counterfactual_length",
        "variables",
    ]
    assert features(get_case("case_97"))["labels"].feature.dtype == "float64"
    assert datasets.Features.from_arrow_schema(schema) == features(get_case("case_97"))
    # Numbers are no classes.
    assert "label_ids" not in features(get_case("case_3"))
    assert features(get_case("case_3"))["tokens"].feature.dtype == "string"
    assert features(get_case("case_66"))["tokens"].feature.dtype == "float64"
    assert features(get_case("case_1"))["labels"].feature.dtype == "bool"
    assert features(get_case("case_15"))["variables"]["token_twice"].feature.dtype == "string"


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (("a", None), "string"),
        ((True, None), "bool"),
        ((1, 2), "int64"),
        ((True, 2), "int64"),
        ((1, 0.5), "float64"),
        ((1, "a"), "literal"),
        (((1, 2),), "literal"),
        ((2**70, 1), "literal"),
    ],
)
def test_a_column_type_holds_all_its_values(values: tuple[object, ...], kind: str) -> None:
    assert value_type(values) == kind


# -- pairs -------------------------------------------------------------------------------------------------------------


def test_counterfactuals_are_other_inputs_that_matter(built: Built, case_id: str) -> None:
    case = get_case(case_id)
    for split, count in zip(SPLITS, ROWS, strict=True):
        rows = read(built(case_id), split)
        assert len(rows) == count
        assert {row["length"] for row in rows} == set(range(case.min_len, case.max_len + 1))
        assert all(row["tokens"] != row["counterfactual_tokens"] for row in rows)
        changes = sum(row["labels"] != row["counterfactual_labels"][: row["length"] - 1] for row in rows)
        assert changes >= count / 2
        record = read_record(built(case_id) / split_file(split))
        assert record is not None
        assert record["counts"]["label_changes"] == changes


def test_counterfactuals_are_as_long_as_clean_inputs_but_for_a_few_where_edges_carry_the_length(
    built: Built, case_id: str
) -> None:
    counts = []
    for split in SPLITS:
        rows = read(built(case_id), split)
        longer = [row for row in rows if not is_equally_long(row)]
        assert all(row["length"] < row["counterfactual_length"] <= get_case(case_id).max_len for row in longer)
        assert bool(longer) == (case_id in LENGTH_CASES)
        assert len(longer) <= 0.1 * len(rows)
        counts.append(len(longer))
    card = (built(case_id) / "README.md").read_text()
    if case_id in LENGTH_CASES:
        train, validation, test = counts
        share = f"{100 * sum(counts) / sum(ROWS):.1f} %"
        assert f"{share} of the rows ({train} of train, {validation} of validation, {test} of test) have" in card
        assert f"| {train} / {validation} / {test} |" in (built(case_id).parent / "README.md").read_text()
    else:
        assert "longer" not in card


def test_every_varying_edge_is_exercised_in_every_split(built: Built, case_id: str) -> None:
    case = get_case(case_id)
    for split in SPLITS:
        record = read_record(built(case_id) / split_file(split))
        assert record is not None
        rows = read(built(case_id), split)
        exercised = exercised_by(case, rows)
        assert record["counts"]["exercised"] == exercised
        assert all(exercised.values())
        # Only what carries the length needs the longer counterfactuals.
        by_equal_length = exercised_by(case, [row for row in rows if is_equally_long(row)])
        assert [edge for edge, count in by_equal_length.items() if not count] == record["length_only"]
        assert bool(record["length_only"]) == (case_id in LENGTH_CASES)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("case_id", ["case_88", "case_128"])
def test_few_rows_exercise_every_varying_edge_of_other_cases_with_a_counted_length(case_id: str, split: Split) -> None:
    case = get_case(case_id)
    pairs = CounterfactualPairs(case, split)
    for chunk in pairs.chunks(CHUNK):
        assert bool(in_split(case, chunk.source, chunk.source_lengths, split).all())
        assert bool((chunk.source_lengths >= chunk.base_lengths).all())
    assert pairs.length_only
    assert all(pairs.counts.exercised.values())


@pytest.mark.slow
def test_every_varying_edge_of_every_case_is_exercised_in_every_split(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counterfactuals, "CHUNK", 400)
    for case in list_cases():
        for split in SPLITS if not case.is_language else ():
            pairs = CounterfactualPairs(case, split)
            for chunk in pairs.chunks(400):
                is_longer = chunk.source_lengths > chunk.base_lengths
                assert bool(is_longer.any()) == bool(pairs.length_only), case.id
            assert all(pairs.counts.exercised.values()), (case.id, split, pairs.counts.exercised)


def test_no_pair_of_equal_length_exercises_an_edge_that_carries_the_length_alone() -> None:
    case = get_case("case_74")
    rng = random.Random(0)
    rows = []
    for number in range(1000):
        n_tokens = case.min_len - 1 + number % 7
        clean, other = (case.encode([case.sample(rng, n_tokens)])[0].tolist() for _ in range(2))
        lengths = {"length": n_tokens + 1, "counterfactual_length": n_tokens + 1}
        rows.append({"input_ids": clean, "counterfactual_ids": other, **lengths})
    edges = [edge for edge in case.circuit.of_kind("varying") if edge in edges_of_length(case)]
    assert len(edges) == 3
    assert not changes_output(case, as_pairs(case, rows), edges).any()


def test_a_map_that_forgets_the_tokens_carries_none() -> None:
    everywhere = Select(indices, indices, lambda key, query: True)
    length = SelectorWidth(everywhere).named("length", "how many tokens there are")
    forgotten = Map(lambda token: 1, tokens).named("one", "one")
    kept = SequenceMap(lambda one, n: one + n % 2, forgotten, length).named("parity", "whether the length is odd")
    program = SequenceMap(lambda token, odd: token * odd, tokens, kept)
    case = Case("forgetful", "Doubles the tokens if there is an odd number of them.", program, (1, 3), 3, 6)
    node_of = case.alignment.node_of
    assert Edge(node_of["parity"], node_of[case.graph.output.name]) in edges_of_length(case)
    assert Edge(node_of["tokens"], node_of[case.graph.output.name]) not in edges_of_length(case)
    pairs = CounterfactualPairs(case, "test")
    assert all(chunk.n_pairs == 60 for chunk in pairs.chunks(60))
    assert all(pairs.counts.exercised.values())
    assert 0 < pairs.counts.longer <= 10


def test_rows_with_longer_counterfactuals_are_left_out_as_the_card_says(built: Built) -> None:
    card = (built("case_74") / "README.md").read_text()
    given = re.search(r"dataset\.filter\((lambda row: .*)\)\n", card)
    assert given is not None
    dataset = datasets.Dataset(pq.read_table(built("case_74") / split_file("test")))
    kept = dataset.filter(eval(given[1])).to_list()
    assert kept == [row for row in read(built("case_74"), "test") if is_equally_long(row)]
    assert 0 < len(kept) < ROWS[2]


def test_no_input_of_a_divided_length_occurs_in_two_splits(built: Built, case_id: str) -> None:
    case = get_case(case_id)
    inputs: dict[str, set[tuple[int, ...]]] = {}
    for split in SPLITS:
        rows = read(built(case_id), split)
        both = [tuple(row[column]) for row in rows for column in ("input_ids", "counterfactual_ids")]
        inputs[split] = {ids for ids in both if is_split(case, len(ids) - 1)}
    assert not inputs["train"] & inputs["validation"]
    assert not inputs["train"] & inputs["test"]
    assert not inputs["validation"] & inputs["test"]
    divided = [n + 1 for n in range(case.min_len - 1, case.max_len) if is_split(case, n)]
    assert bool(inputs["test"]) == bool(divided)
    card = (built(case_id) / "README.md").read_text()
    assert ("are **not** divided" in card) == (len(divided) < case.max_len - case.min_len + 1)
    if divided:
        assert f"Inputs of lengths {divided[0]} to {divided[-1]} are divided" in card


def test_a_length_at_which_no_output_differs_has_fewer_rows(tmp_path: Path) -> None:
    program = SequenceMap(lambda token, place: token if place > 2 else 0, tokens, indices)
    case = Case("dull", "Keeps the fourth token.", program, (0, 1), 4, 5)
    rows = read(build_dataset(case, tmp_path, rows=(50, 10, 10)), "train")
    assert [row["length"] for row in rows].count(4) == 10
    assert all(row["labels"] == row["counterfactual_labels"] for row in rows if row["length"] == 4)


def test_the_same_seed_makes_the_same_bytes_and_another_seed_other_rows(built: Built, tmp_path: Path) -> None:
    again = build_dataset("case_74", tmp_path / "again", rows=ROWS)
    for path in sorted(built("case_74").iterdir()):
        assert (again / path.name).read_bytes() == path.read_bytes()
    other = build_dataset("case_74", tmp_path / "other", rows=ROWS, seed=1)
    assert read(other, "test") != read(again, "test")


def test_a_sampler_that_draws_one_input_only_is_an_error(tmp_path: Path) -> None:
    case = Case("stuck", "Copies.", Map(lambda x: x, tokens), ("a", "b"), 4, 5, sampler=lambda rng, n: ["a"] * n)
    with pytest.raises(CaseError, match=r"case stuck: no counterfactual of length 4 found in the split 'train'"):
        build_dataset(case, tmp_path, rows=(4, 4, 4))
    assert list((tmp_path / "stuck").iterdir()) == []


def test_a_case_that_is_not_registered_can_be_built(tmp_path: Path) -> None:
    placed = SequenceMap(lambda x, y: (x, y) if y else "first", tokens, indices).named("placed", "token and place")
    same = SelectorWidth(Select(tokens, tokens, lambda key, query: key == query)).named("count", "how often")
    program = SequenceMap(lambda x, y: None if y == 1 else x, placed, same).named("repeated", "those that repeat")
    case = Case("mixed", "Says | where what repeats.", program, ("a|b", 1, 0.5), 3, 4)
    folder = build_dataset(case, tmp_path, rows=(40, 20, 20))
    rows = read(folder, "train")
    assert {token for row in rows for token in row["tokens"]} == {"'a|b'", "1", "0.5"}
    assert {label for row in rows for label in row["labels"]} >= {None, "'first'", "('a|b', 1)"}
    card = (folder / "README.md").read_text()
    assert "`<undefined>`." in card
    assert "Says \\| where" in (tmp_path / "README.md").read_text()


# -- loading -----------------------------------------------------------------------------------------------------------

_LOAD = """
import json, socket, sys
def refuse(*args): raise AssertionError("went online")
socket.socket.connect = refuse
from datasets import load_dataset
out = sys.argv[1]
found = {}
for name, folder in (("all", out), ("one", out + "/case_74")):
    rows = load_dataset(folder, "case_74", split="test")
    streamed = load_dataset(folder, "case_74", split="test", streaming=True)
    assert list(streamed) == rows.to_list()
    assert streamed.features == rows.features
    found[name] = rows.to_list()
assert found["all"] == found["one"]
# A repository has one case, whose name may be left out.
assert load_dataset(out + "/case_74", split="test").to_list() == found["one"]
assert list(load_dataset(out + "/case_74", split="test", streaming=True)) == found["one"]
assert set(load_dataset(out + "/case_74")) == {"train", "validation", "test"}
assert set(load_dataset(out, "case_3")) == {"train", "validation", "test"}
json.dump(found["all"], sys.stdout)
"""


def test_load_dataset_reads_the_folder_offline_also_when_streaming(built: Built, tmp_path: Path) -> None:
    environment = {
        **os.environ,
        # Datasets would import it before streaming, which takes longer than the rest.
        "USE_TORCH": "0",
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path),
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    }
    built("case_3")
    command = [sys.executable, "-c", _LOAD, str(built("case_74").parent)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == read(built("case_74"), "test")


def test_the_builder_makes_the_rows_of_the_files(built: Built, tmp_path: Path) -> None:
    builder = CircuitDataset(config_name="case_3", rows=ROWS, cache_dir=str(tmp_path))
    assert builder.info.features == features(get_case("case_3"))
    builder.download_and_prepare()
    for split in SPLITS:
        rows = builder.as_dataset(split)
        assert isinstance(rows, datasets.Dataset)
        assert rows.to_list() == read(built("case_3"), split)
    streamed = builder.as_streaming_dataset("validation")
    assert list(streamed) == read(built("case_3"), "validation")
    with pytest.raises(UnknownNameError, match="unknown case 'case_300'"):
        CircuitDataset(config_name="case_300", cache_dir=str(tmp_path))


def test_the_cards_make_every_finished_case_a_config(built: Built) -> None:
    def configs(card: Path) -> dict[str, list[str]]:
        data = yaml.safe_load(card.read_text().split("---")[1])
        return {config["config_name"]: [file["path"] for file in config["data_files"]] for config in data["configs"]}

    folders = [built(name) for name in ("case_15", "case_74", "case_3")]
    whole = configs(folders[0].parent / "README.md")
    assert set(whole) >= {"case_3", "case_15", "case_74"}
    assert list(whole) == sorted(whole, key=lambda name: int(name[5:]))
    assert whole["case_3"] == [f"case_3/{split_file(split)}" for split in SPLITS]
    assert configs(built("case_3") / "README.md") == {"case_3": [split_file(split) for split in SPLITS]}
    card = (built("case_74") / "README.md").read_text()
    assert str(get_case("case_74").program) in card
    assert "along `a0.h1->m0`, `m0->m1` and `m1->a2.h0<q>` follows from the length of the input" in card


# -- building ----------------------------------------------------------------------------------------------------------


def test_an_interrupted_build_leaves_no_half_file_and_is_taken_up_again(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = iter(range(10))
    make = columns._table

    def failing(*args: Any) -> Any:
        # The second chunk of the test split, train having two and validation one.
        if next(calls) == 4:
            raise KeyboardInterrupt
        return make(*args)

    with monkeypatch.context() as patch:
        patch.setattr(columns, "_table", failing)
        with pytest.raises(KeyboardInterrupt):
            build_dataset("case_3", tmp_path, rows=ROWS)
    folder = tmp_path / "case_3"
    assert sorted(path.name for path in folder.iterdir()) == [split_file("train"), split_file("validation")]
    assert not (tmp_path / "README.md").exists()
    stale = folder / f".{split_file('test')}.1.partial"
    stale.write_bytes(b"of a process that was killed")
    os.utime(stale, (0, 0))
    first = (folder / split_file("train")).stat().st_mtime_ns
    assert build_dataset("case_3", tmp_path, rows=ROWS) == folder
    assert (folder / split_file("train")).stat().st_mtime_ns == first
    assert sorted(path.name for path in folder.iterdir()) == sorted(["README.md", *map(split_file, SPLITS)])
    assert (folder / split_file("test")).read_bytes() == (built("case_3") / split_file("test")).read_bytes()


def test_those_who_write_the_same_file_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    def write(number: int) -> None:
        write_whole(tmp_path / "README.md", f"{number}\n" * 1000)
        remove_partial_files(tmp_path)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(200)))
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]
    assert len(set((tmp_path / "README.md").read_text().split())) == 1


def test_what_is_finished_is_skipped_and_what_is_damaged_or_of_other_settings_is_built_again(tmp_path: Path) -> None:
    rows = (20, 10, 10)
    assert list(build_datasets(["case_3"], tmp_path, rows=rows)) == [("case_3", True)]
    assert list(build_datasets(["case_3"], tmp_path, rows=rows)) == [("case_3", False)]
    path = tmp_path / "case_3" / split_file("test")
    whole = path.read_bytes()
    path.write_bytes(whole[:1000])
    assert list(build_datasets(["case_3"], tmp_path, rows=rows)) == [("case_3", True)]
    assert path.read_bytes() == whole
    assert list(build_datasets(["case_3"], tmp_path, rows=rows, seed=3)) == [("case_3", True)]
    assert path.read_bytes() != whole
    assert "Seed 3:" in (tmp_path / "case_3" / "README.md").read_text()


@pytest.mark.slow
def test_processes_write_what_one_process_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # New processes know nothing of the smaller chunks here.
    monkeypatch.setattr(counterfactuals, "CHUNK", 2_500)
    ids = ["case_3", "case_8", "case_74"]
    one, many = tmp_path / "one", tmp_path / "many"
    assert len(list(build_datasets(ids, one, rows=(60, 20, 20)))) == 3
    assert dict(build_datasets(ids, many, rows=(60, 20, 20), workers=2)) == dict.fromkeys(ids, True)
    for path in one.rglob("*.*"):
        assert (many / path.relative_to(one)).read_bytes() == path.read_bytes()


def test_what_cannot_be_built_is_said(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="unknown case 'case_300'; nearest: case_30"):
        build_dataset("case_300", tmp_path)
    for rows in ((-1, 10, 10), (0, 10, 10), (10, 10), (1.5, 10, 10), (True, 1, 1)):
        with pytest.raises(SettingError, match=r"rows \(.*are not three positive numbers"):
            build_dataset("case_3", tmp_path, rows=rows)  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="seed -1 is not a whole number"):
        build_dataset("case_3", tmp_path, seed=-1)
    with pytest.raises(SettingError, match="workers 0 is less than 1"):
        list(build_datasets(["case_3"], tmp_path, workers=0))
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingError, match=r"out '.*file' is a file"):
        build_dataset("case_3", tmp_path / "file")
    (tmp_path / "README.md").write_text("# Mine")
    with pytest.raises(SettingError, match=r"README.md' was not written by a build of datasets"):
        build_dataset("case_3", tmp_path)
    assert (tmp_path / "README.md").read_text() == "# Mine"


# -- the command line --------------------------------------------------------------------------------------------------


def test_the_command_builds_cases_and_skips_them_the_next_time(tmp_path: Path) -> None:
    command = ["build", "case_3", "case_8", "--out", str(tmp_path), "--rows", "20", "10", "10", "--seed", "2"]
    first, second = (CliRunner().invoke(app, command) for _ in range(2))
    assert first.exit_code == 0
    assert "built 2, skipped 0 that were finished" in first.output
    assert "built 0, skipped 2 that were finished" in second.output
    record = read_record(tmp_path / "case_8" / split_file("train"))
    assert record is not None
    assert (record["seed"], record["rows"]) == (2, [20, 10, 10])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["case_300"], "unknown case 'case_300'"),
        ([], "give the ids of cases to build, or --all"),
        (["case_3", "--all"], "and not both"),
        (["case_3", "--rows", "-5", "1", "1"], "are not three positive numbers"),
    ],
)
def test_the_command_says_what_is_wrong(tmp_path: Path, arguments: list[str], message: str) -> None:
    done = CliRunner().invoke(app, ["build", *arguments, "--out", str(tmp_path)])
    assert done.exit_code == 1
    assert message in done.stderr


def test_the_command_line_starts_without_what_is_heavy() -> None:
    heavy = ["torch", "datasets", "pyarrow", "numpy", "huggingface_hub", "jinja2"]
    blocked = f"import sys; sys.modules.update(dict.fromkeys({heavy}))"
    code = f"{blocked}; sys.argv = ['dataset_builders', '--help']; from dataset_builders.__main__ import app; app()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "build" in done.stdout


def test_counts_start_anew_with_every_drawing() -> None:
    pairs = CounterfactualPairs(get_case("case_8"), "test", seed=0)
    first = [list(pairs.chunks(30)), pairs.counts.to_dict()]
    second = [list(pairs.chunks(30)), pairs.counts.to_dict()]
    assert first[1] == second[1]
    assert first[1]["rows"] == 30
    assert torch.equal(first[0][0].base, second[0][0].base)
