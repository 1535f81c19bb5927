"""Commands that judge methods: evaluate, methods, score, compare."""

import json
from typing import Any

import pytest

from interpbench_hub.discovery import evaluation
from interpbench_hub.discovery.methods import METHODS
from interpbench_hub.discovery.results import METRICS, read_results
from interpbench_hub.discovery.scores import EdgeScores
from interpbench_hub.errors import SettingError, UnknownNameError
from interpbench_hub.loader import load_circuit
from tests.commands import call

QUICK = ("--workers", 1, "--pairs", 8, "--faithfulness-pairs", 4)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Results go into the current folder, and methods may lie there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))


def test_evaluate_prints_medians_and_compare_compares(tmp_path):
    (tmp_path / "mine.py").write_text(
        "def edges(model, universe, data, *, sign=1):\n    return {str(edge): sign for edge in universe}\n"
    )
    models = ("--cases", "case_3,interpbench/case_8", "--case", "case_4")
    code, text = call("evaluate", "central", "mine:edges", *models, *QUICK)
    assert code == 0, text
    table: Any = read_results("results")
    assert len(table) == 6 and table["error"].isna().all()
    assert "medians over models" in text and "6 rows; all columns in results/results.parquet" in text
    lines = [line.split() for line in text.splitlines()]
    central = table[table["method"] == "central"]["edge_auroc"]
    assert ["central", "all", "3", f"{central.median():.3g}"] in [line[:4] for line in lines]
    assert ["mine:edges", "all", "3", "0.5"] in [line[:4] for line in lines]
    assert [f"{central.min():.2g}", "–", f"{central.max():.2g}"] in [line[:3] for line in lines]

    code, text = call("compare", "central", "mine:edges", "--metric", "edge_auroc", "--metric", "cpu_seconds")
    assert code == 0
    first, second = text.splitlines()
    assert first.startswith(
        f"edge_auroc: central {central.median():.4g}, mine:edges 0.5 (medians of 3 models); 3 differ"
    )
    assert "too few for a test; A12 = " in first and second.startswith("cpu_seconds: ")
    code, text = call("compare", "central", "mine:edges", "--tier", "single-head", "--from", "results/results.parquet")
    assert code == 0 and "medians of 1 models" in text
    with pytest.raises(SettingError, match="no model of tier deep has node_auroc for both"):
        call("compare", "central", "mine:edges", "--tier", "deep", "--metric", "node_auroc")


def test_options_reach_the_method_and_errors_the_exit_status():
    code, text = call(
        "evaluate", "eap", "--case", "case_3", "--option", "metric=kl", "--metric", "edge_auprc", *QUICK, "--seed", 2
    )
    assert code == 0, text
    (row,) = read_results("results").to_dict("records")
    assert (row["options"], row["seed"], row["n_pairs"]) == ('{"metric": "kl"}', 2, 8)
    assert "edge auprc" in text and "node auroc" not in text
    code, text = call("evaluate", "eap", "--case", "case_3", "--option", "metric=nonsense", *QUICK, "--out", "other")
    assert code == 1
    assert "eap on case_3: " in text and "'nonsense'" in text and "1 rows, 1 with an error" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name models by --cases or --tier, or give --all"),
        (["--all", "--case", "case_3"], "name models by --cases or --tier, or give --all"),
        (["--case", "case_3", "--option", "metric"], "is not of the form name=value"),
    ],
)
def test_what_evaluate_is_not_called_with(arguments, message):
    code, text = call("evaluate", "central", *arguments)
    assert code == 2 and message in " ".join(text.split())


def test_an_unknown_metric_is_found_out_first(tmp_path):
    with pytest.raises(UnknownNameError, match="unknown metric 'auroc'; nearest: "):
        call("evaluate", "central", "--case", "case_3", "--metric", "auroc")
    assert not (tmp_path / "results").exists()


def test_ctrl_c_says_how_to_go_on(monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluation, "evaluate", interrupted)
    code, text = call("evaluate", "central", "--all")
    assert (code, text.strip()) == (130, "interrupted; the rows so far are in results, the same command goes on")


def test_methods_are_listed_with_their_options():
    code, text = call("methods")
    assert code == 0 and all(name in text for name in METHODS)
    code, text = call("methods", "--json")
    listed = {row["name"]: row for row in json.loads(text)}
    assert listed["eap-ig-inputs"]["options"]["steps"] == 5 and listed["acdc"]["paper"] == "arXiv:2304.14997"


def test_score_prints_every_metric_of_a_file(tmp_path):
    circuit = load_circuit("case_3")
    scores = EdgeScores.of(circuit, {edge: 1.0 for edge in circuit.of_kind("varying")}, missing=0)
    path = scores.write(tmp_path / "scores.json")
    code, text = call("score", path, "interpbench/case_3", "--pairs", 16)
    assert code == 0
    found = {line.split()[0]: line.split()[1] for line in text.splitlines()[1:] if line and line[0] != " "}
    assert set(METRICS) <= set(found)
    assert found["edge_auroc"] == found["completeness"] == "1" and found["hamming_at_size"] == "0"
    code, text = call("score", path, "case_3", "--pairs", 0, "--json")
    assert code == 0 and json.loads(text)["edge_auroc"] == 1 and "cpr" not in json.loads(text)
    some = tmp_path / "some.json"
    some.write_text('{"m0->logits": -3, "embed->m0": 1}')
    with pytest.raises(SettingError, match="no score for"):
        call("score", some, "case_3")
    code, text = call("score", some, "case_3", "--missing", 0, "--absolute", "--pairs", 0, "--json")
    assert code == 0 and 0.5 < json.loads(text)["edge_auroc"] < 1
