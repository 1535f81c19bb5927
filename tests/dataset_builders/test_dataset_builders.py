"""Datasets: against the pure evaluator, read back from the files; splits, resuming, cards, the command line."""

import json
import os
import random
import subprocess
import sys
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
from dataset_builders.counterfactuals import CounterfactualPairs
from dataset_builders.folders import build_datasets, read_record, split_file
from interpbench_hub.cases import Case, get_case
from interpbench_hub.cases.kinds import changes_output
from interpbench_hub.cases.pairs import SPLITS, Pairs, is_split
from interpbench_hub.errors import CaseError, SettingError, UnknownNameError
from interpbench_hub.rasp import Map, Select, SelectorWidth, SequenceMap, SOp, evaluator, indices, tokens
from interpbench_hub.rasp.evaluator import evaluate
from interpbench_hub.rasp.printing import unique_names

# Regression without divided lengths; tuples; undefined outputs and a counted length; a sampler; whole numbers among
# fractions; fractions as tokens; a length at which no output differs.
CASES = ("case_3", "case_15", "case_74", "case_1", "case_97", "case_66", "case_119")
ROWS = (300, 80, 120)
Rows = list[dict[str, Any]]


@pytest.fixture(scope="module", autouse=True)
def small_chunks():
    """Chunks smaller than a split, so that a split has several."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(counterfactuals, "CHUNK", 150)
        yield


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("built")
    assert dict(build_datasets(CASES, out, rows=ROWS)) == dict.fromkeys(CASES, True)
    return out


def read(folder: Path, split: str) -> Rows:
    return pq.read_table(folder / split_file(split)).to_pylist()


def read_all(folder: Path) -> Rows:
    return [row for split in SPLITS for row in read(folder, split)]


def as_pairs(case: Case, rows: Rows) -> Pairs:
    width = case.max_len - 1
    ids, lengths = {}, torch.tensor([row["length"] - 1 for row in rows])
    for column in ("input_ids", "counterfactual_ids"):
        ids[column] = torch.tensor([row[column][1:] + [0] * (width + 1 - row["length"]) for row in rows])
    return Pairs(ids["input_ids"], lengths, ids["counterfactual_ids"], lengths)


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


@pytest.mark.parametrize("case_id", CASES)
def test_labels_are_what_the_pure_evaluator_gives(built: Path, case_id: str) -> None:
    case = get_case(case_id)
    for row in read_all(built / case_id):
        for prefix in ("", "counterfactual_"):
            expected = evaluate(case.program, row[f"{prefix}tokens"], causal=case.causal)
            assert close(row[f"{prefix}labels"], held(case, case.graph.output.name, expected)), row


@pytest.mark.parametrize("case_id", CASES)
def test_every_variable_is_what_evaluating_it_gives(built: Path, case_id: str) -> None:
    case = get_case(case_id)
    sops: dict[str, SOp] = {name: sop for sop, name in unique_names(evaluator.in_order(case.program)).items()}
    for row in read(built / case_id, "test"):
        assert set(row["variables"]) == {variable.name for variable in case.graph.variables}
        for name, values in row["variables"].items():
            # The head of a count is named after the count and given as it.
            sop = sops[name.removesuffix("_fraction") if case.graph[name].kind == "fraction" else name]
            expected = evaluate(sop, row["tokens"], causal=case.causal)
            assert close(values, held(case, name, expected)), (name, row)


@pytest.mark.parametrize("case_id", CASES)
def test_ids_are_those_of_the_case(built: Path, case_id: str) -> None:
    case = get_case(case_id)
    for row in read_all(built / case_id):
        for prefix, ids in (("", "input_ids"), ("counterfactual_", "counterfactual_ids")):
            assert case.encode([row[f"{prefix}tokens"]]).tolist() == [row[ids]]
            assert row["length"] == len(row[ids])
            if case.categorical:
                bos, *label_ids = row[f"{prefix}label_ids"]
                assert bos == -100
                values = [case.classes[place] for place in label_ids]
                assert held(case, case.graph.output.name, values) == row[f"{prefix}labels"]


def test_columns_have_the_types_of_the_program(built: Path) -> None:
    schema = pq.read_schema(built / "case_97" / split_file("test"))
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


@pytest.mark.parametrize("case_id", CASES)
def test_counterfactuals_are_other_inputs_of_the_same_length_that_matter(built: Path, case_id: str) -> None:
    case = get_case(case_id)
    for split, count in zip(SPLITS, ROWS, strict=True):
        rows = read(built / case_id, split)
        assert len(rows) == count
        assert {row["length"] for row in rows} == set(range(case.min_len, case.max_len + 1))
        assert all(len(row["tokens"]) == len(row["counterfactual_tokens"]) for row in rows)
        assert all(row["tokens"] != row["counterfactual_tokens"] for row in rows)
        assert sum(row["labels"] != row["counterfactual_labels"] for row in rows) >= count / 2


@pytest.mark.parametrize("case_id", CASES)
def test_every_varying_edge_is_exercised_unless_it_carries_the_length_alone(built: Path, case_id: str) -> None:
    case = get_case(case_id)
    edges = case.circuit.of_kind("varying")
    has_length = case_id in ("case_74", "case_97")
    for split in SPLITS:
        record = read_record(built / case_id / split_file(split))
        assert record is not None
        exercised = changes_output(case, as_pairs(case, read(built / case_id, split)), edges).sum(1).tolist()
        assert record["counts"]["exercised"] == dict(zip(map(str, edges), exercised, strict=True))
        not_exercised = {str(edge) for edge, count in zip(edges, exercised, strict=True) if not count}
        assert not_exercised == set(record["length_only"])
        assert bool(not_exercised) == has_length


def test_no_pair_of_equal_length_exercises_an_edge_that_carries_the_length_alone(built: Path) -> None:
    case = get_case("case_74")
    record = read_record(built / "case_74" / split_file("train"))
    assert record is not None
    rng = random.Random(0)
    rows = []
    for number in range(2000):
        n_tokens = case.min_len - 1 + number % 7
        clean, other = (case.encode([case.sample(rng, n_tokens)])[0].tolist() for _ in range(2))
        rows.append({"input_ids": clean, "counterfactual_ids": other, "length": n_tokens + 1})
    edges = [case.circuit[edge] for edge in record["length_only"]]
    assert len(edges) == 3
    assert not changes_output(case, as_pairs(case, rows), edges).any()


@pytest.mark.parametrize("case_id", CASES)
def test_no_input_of_a_divided_length_occurs_in_two_splits(built: Path, case_id: str) -> None:
    case = get_case(case_id)
    inputs: dict[str, set[tuple[int, ...]]] = {}
    for split in SPLITS:
        rows = read(built / case_id, split)
        both = [tuple(row[column]) for row in rows for column in ("input_ids", "counterfactual_ids")]
        inputs[split] = {ids for ids in both if is_split(case, len(ids) - 1)}
    assert not inputs["train"] & inputs["validation"]
    assert not inputs["train"] & inputs["test"]
    assert not inputs["validation"] & inputs["test"]
    divided = [n + 1 for n in range(case.min_len - 1, case.max_len) if is_split(case, n)]
    assert bool(inputs["test"]) == bool(divided)
    card = (built / case_id / "README.md").read_text()
    assert ("are **not** divided" in card) == (len(divided) < case.max_len - case.min_len + 1)
    if divided:
        assert f"Inputs of lengths {divided[0]} to {divided[-1]} are divided" in card


def test_a_length_at_which_no_output_differs_has_fewer_rows(built: Path) -> None:
    lengths = [row["length"] for row in read(built / "case_119", "train")]
    assert lengths.count(4) == ROWS[0] // 5


def test_the_same_seed_makes_the_same_bytes_and_another_seed_other_rows(built: Path, tmp_path: Path) -> None:
    again = build_dataset("case_74", tmp_path / "again", rows=ROWS)
    for path in sorted((built / "case_74").iterdir()):
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
assert set(load_dataset(out, "case_3")) == {"train", "validation", "test"}
json.dump(found["all"], sys.stdout)
"""


def test_load_dataset_reads_the_folder_offline_also_when_streaming(built: Path, tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path),
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    }
    command = [sys.executable, "-c", _LOAD, str(built)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == read(built / "case_74", "test")


def test_the_builder_makes_the_rows_of_the_files(built: Path, tmp_path: Path) -> None:
    builder = CircuitDataset(config_name="case_3", rows=ROWS, cache_dir=str(tmp_path))
    assert builder.info.features == features(get_case("case_3"))
    builder.download_and_prepare()
    for split in SPLITS:
        rows = builder.as_dataset(split)
        assert isinstance(rows, datasets.Dataset)
        assert rows.to_list() == read(built / "case_3", split)
    streamed = builder.as_streaming_dataset("validation")
    assert list(streamed) == read(built / "case_3", "validation")
    with pytest.raises(UnknownNameError, match="unknown case 'case_300'"):
        CircuitDataset(config_name="case_300", cache_dir=str(tmp_path))


def test_the_cards_make_every_finished_case_a_config(built: Path) -> None:
    def configs(card: Path) -> dict[str, list[str]]:
        data = yaml.safe_load(card.read_text().split("---")[1])
        return {config["config_name"]: [file["path"] for file in config["data_files"]] for config in data["configs"]}

    whole = configs(built / "README.md")
    assert list(whole) == sorted(CASES, key=lambda name: int(name[5:]))
    assert whole["case_3"] == [f"case_3/{split_file(split)}" for split in SPLITS]
    assert configs(built / "case_3" / "README.md") == {"case_3": [split_file(split) for split in SPLITS]}
    card = (built / "case_74" / "README.md").read_text()
    assert str(get_case("case_74").program) in card
    assert "follows from the length of the input alone" in card


# -- building ----------------------------------------------------------------------------------------------------------


def test_an_interrupted_build_leaves_no_half_file_and_is_taken_up_again(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = iter(range(10))
    make = columns._table

    def failing(*args: Any) -> Any:
        # The second chunk of the test split, train having three and validation one.
        if next(calls) == 5:
            raise KeyboardInterrupt
        return make(*args)

    with monkeypatch.context() as patch:
        patch.setattr(counterfactuals, "CHUNK", 100)
        patch.setattr(columns, "_table", failing)
        with pytest.raises(KeyboardInterrupt):
            build_dataset("case_3", tmp_path, rows=ROWS)
    folder = tmp_path / "case_3"
    assert sorted(path.name for path in folder.iterdir()) == [split_file("train"), split_file("validation")]
    assert not (tmp_path / "README.md").exists()
    (folder / f".{split_file('test')}.1.partial").write_bytes(b"of a process that was killed")
    first = (folder / split_file("train")).stat().st_mtime_ns
    assert build_dataset("case_3", tmp_path, rows=ROWS) == folder
    assert (folder / split_file("train")).stat().st_mtime_ns == first
    assert sorted(path.name for path in folder.iterdir()) == sorted(["README.md", *map(split_file, SPLITS)])
    assert (folder / split_file("test")).read_bytes() == (built / "case_3" / split_file("test")).read_bytes()


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
    # New processes know nothing of this module's smaller chunks.
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


def test_the_command_line_starts_without_torch_and_datasets() -> None:
    blocked = "import sys; sys.modules.update(dict.fromkeys(['torch', 'datasets', 'pyarrow', 'numpy']))"
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
