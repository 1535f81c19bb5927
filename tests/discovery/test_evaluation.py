"""Evaluations: which rows are made and kept, what goes wrong in them, methods by name, and what tables say."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import interpbench_hub
from interpbench_hub.circuit import Circuit, Edge
from interpbench_hub.discovery import results
from interpbench_hub.discovery.comparison import bootstrap_interval, paired_wilcoxon, vargha_delaney
from interpbench_hub.discovery.data import PairData
from interpbench_hub.discovery.evaluation import chosen_models, evaluate
from interpbench_hub.discovery.exhaustive import exhaustive_patching
from interpbench_hub.discovery.labels import labels_of
from interpbench_hub.discovery.methods import METHODS, get_method, is_importable, takes_transformer
from interpbench_hub.discovery.metrics import auroc
from interpbench_hub.discovery.model import to_transformer
from interpbench_hub.discovery.nulls import central_scores
from interpbench_hub.discovery.pool import Died, run_jobs
from interpbench_hub.discovery.results import COLUMNS, Journal, compare, read_results, summarise, to_frame
from interpbench_hub.discovery.scores import EdgeScores
from interpbench_hub.discovery.subject import score_file
from interpbench_hub.errors import BusyError, SettingError, UnknownNameError
from interpbench_hub.loader import load_circuit, load_model
from interpbench_hub.manifest import load_manifest
from interpbench_hub.siit.lock import folder_lock


def quick(**changed: Any) -> dict[str, Any]:
    """Options of an evaluation that takes no time; keywords change or add some."""
    return {"workers": 1, "n_pairs": 8, "faithfulness_pairs": 0} | changed


def records(table: Any) -> list[dict[str, Any]]:
    return table.to_dict("records")


# -- methods -----------------------------------------------------------------------------------------------------------


def test_what_comes_along_can_be_called_with_what_an_evaluation_gives():
    for name, entry in METHODS.items():
        assert get_method(name) is entry is get_method(entry.path) is get_method(entry.function)
        assert entry.takes_transformer and entry.accepts("granularity") and is_importable(entry)
        assert not {"granularity", "ablation", "seed"} & set(entry.options)
        assert entry.title and len(entry.sha256 or "") == 64
        assert entry.paper or "null" in entry.title


def test_methods_are_imported_when_they_are_used():
    code = "import sys, interpbench_hub.discovery.methods; print({'torch', 'pandas', 'scipy'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


def test_a_method_that_cannot_be_had_is_an_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(UnknownNameError, match=r"unknown method 'eaap'; nearest: eap.*package\.module:function"):
        get_method("eaap")
    with pytest.raises(SettingError, match="method 'no_such:thing' cannot be imported"):
        get_method("no_such:thing")
    with pytest.raises(SettingError, match="method 'os:sep' is a str"):
        get_method("os:sep")
    with pytest.raises(SettingError, match="method 3 is neither a name"):
        get_method(3)  # type: ignore[arg-type]
    (tmp_path / "here_only.py").write_text("def mine(model, universe, data, *, scale=1):\n    'Mine.'\n")
    entry = get_method("here_only:mine")
    assert (entry.title, entry.options, entry.takes_transformer) == ("Mine.", {"scale": 1}, False)
    with pytest.raises(SettingError, match="has no option 'size'; its options are scale"):
        entry.check_options({"size": 1})
    with pytest.raises(SettingError, match="has no option 'seed'"):
        entry.check_options({"seed": 1})


def test_methods_of_others_get_what_they_say():
    seen = {}

    def hooked(model, universe, data):
        seen["hooked"] = type(model).__name__
        return {str(edge): 0.5 for edge in universe}

    @takes_transformer
    def ours(model, universe, data, *, granularity, seed, **options):
        seen["ours"] = (type(model).__name__, granularity, seed, options)
        return dict.fromkeys(universe, 1)

    table: Any = evaluate([hooked, ours], "case_3", out=None, seed=4, ablation="zero", **quick())
    assert table["error"].isna().all(), list(table["error"])
    assert seen == {"hooked": "HookedTransformer", "ours": ("Transformer", "qkv-edge", 4, {"ablation": "zero"})}
    assert list(table["edge_auroc"]) == [0.5, 0.5]
    table = evaluate(hooked, "case_3", granularity="edge", out=None, **quick())
    assert records(table)[0]["n_edges"] == len(load_circuit("case_3").to_head_level().universe)


# -- rows --------------------------------------------------------------------------------------------------------------


def test_a_row_says_what_running_the_method_by_hand_gives():
    table = evaluate("exhaustive", "case_3", out=None, workers=1, n_pairs=32, seed=3, faithfulness_pairs=16)
    (row,) = records(table)
    assert list(table.columns) == list(COLUMNS)
    circuit, data = load_circuit("case_3"), PairData.of("case_3", n_pairs=32, seed=3)
    scores = exhaustive_patching(to_transformer(load_model("case_3")), circuit.universe, data)
    edges, is_positive = labels_of(circuit)
    assert row["edge_auroc"] == auroc([scores[edge] for edge in edges], is_positive) == 1
    expected = {
        "method": "exhaustive",
        "model": "case_3",
        "case": "case_3",
        "tier": "single-head",
        "recipe": "edge-siit",
        "grade": load_manifest()["models"]["case_3"]["grade"],
        "granularity": "qkv-edge",
        "ablation": "resample",
        "n_pairs": 32,
        "faithfulness_pairs": 16,
        "seed": 3,
        "options": "{}",
        "n_edges": len(circuit.universe),
        "n_positives": len(circuit.of_kind("varying")),
        "n_negatives": len(circuit.negatives),
        "agreement_at_size": 1.0,
        "backward_passes": 0.0,
        "package_version": interpbench_hub.__version__,
        "torch_version": torch.__version__,
    }
    assert {name: row[name] for name in expected} == expected
    # Each edge but those of the position, whose value never changes, alone or not at all, and the two plain runs.
    assert 2 < row["forward_passes"] <= len(circuit.universe) + 2


@pytest.mark.parametrize("granularity", ["qkv-edge", "edge", "node"])
def test_every_granularity_has_its_metrics(granularity):
    (row,) = records(evaluate("exhaustive", "case_3", granularity=granularity, out=None, **quick(n_pairs=64)))
    assert row["granularity"] == granularity and row["node_auroc"] == 1
    # Nodes lifted to edges cannot tell a node's edges apart.
    assert row["edge_auroc"] == 1 if granularity != "node" else 0.5 < row["edge_auroc"] < 1
    assert row["cpr"] != row["cpr"]


def test_models_are_named_or_all_that_are_certified():
    models = load_manifest()["models"]
    every = chosen_models()
    assert every and all(models[name]["grade"] in ("edge", "path") for name in every)
    assert not [name for name in every if name.endswith(("_siit", "_natural"))]
    assert chosen_models(["case_3_siit", "case_3", "case_3"]) == ["case_3_siit", "case_3"]
    tier = chosen_models("single-head")
    assert "case_3" in tier and set(tier) < set(every)
    with pytest.raises(SettingError, match="no model is given"):
        chosen_models([])


def test_a_twin_is_scored_against_the_circuit_it_was_to_have():
    (row,) = records(evaluate("central", "case_3_natural", out=None, **quick()))
    assert (row["case"], row["recipe"]) == ("case_3", "behaviour") and row["edge_auroc"] > 0.5


# -- what is kept ------------------------------------------------------------------------------------------------------


@pytest.fixture
def calls(monkeypatch) -> list[int]:
    """Counts how often `counted` is run; the code of a method defined here stays as it is."""
    found: list[int] = []
    monkeypatch.setattr(sys.modules[__name__], "_CALLS", found)
    return found


_CALLS: list[int] = []


def counted(model: Any, universe: Any, data: PairData, *, fail: str = "", size: float = 1.0) -> EdgeScores:
    """The null of centrality, which counts its calls."""
    _CALLS.append(len(data))
    if fail and Path(fail).exists():
        raise ValueError("no such\nluck")
    if size < 0 and len(_CALLS) > 1:
        raise KeyboardInterrupt
    return central_scores(None, universe)


counted.takes_transformer = True  # type: ignore[attr-defined]


def test_rows_that_are_there_are_not_made_again(tmp_path, calls):
    events: list[dict[str, Any]] = []
    first = evaluate(counted, ["case_3", "case_8"], out=tmp_path, report=events.append, **quick())
    assert len(calls) == 2 and [event["event"] for event in events] == ["jobs", "row", "row"]
    assert events[0] == {"event": "jobs", "total": 2, "kept": 0}
    events.clear()
    again = evaluate(counted, ["case_8", "case_3", "case_4"], out=tmp_path, report=events.append, **quick())
    assert len(calls) == 3 and events[0] == {"event": "jobs", "total": 3, "kept": 2}
    assert list(again["model"]) == ["case_8", "case_3", "case_4"]
    assert records(again)[1]["created"] == records(first)[0]["created"]
    evaluate(counted, "case_3", out=tmp_path, restart=True, **quick())
    assert len(calls) == 4
    assert len(read_results(tmp_path)) == 3
    assert read_results(tmp_path / "results.parquet").equals(read_results(tmp_path))


@pytest.mark.parametrize("change", [{"n_pairs": 9}, {"seed": 1}, {"ablation": "zero"}, {"size": 2}, {"split": "train"}])
def test_other_settings_make_other_rows(change, tmp_path, calls):
    before = evaluate(counted, "case_3", out=tmp_path, **quick())
    after = evaluate(counted, "case_3", out=tmp_path, **quick(**change))
    assert len(calls) == 2 and len(after) == 1
    table = read_results(tmp_path)
    assert list(table["settings"]) == [records(before)[0]["settings"], records(after)[0]["settings"]]
    # They are told apart wherever they are summed up.
    labels = {line.label for line in summarise(table)}
    assert len(labels) == 2 and all("counted@" in label for label in labels)


def test_an_error_is_a_row_and_is_tried_again(tmp_path, calls):
    cause = tmp_path / "cause"
    cause.touch()
    options = quick(out=tmp_path / "out", fail=str(cause))
    (row,) = records(evaluate(counted, "case_3", **options))
    assert row["error"].startswith("ValueError: no such luck (test_evaluation.py:")
    assert row["edge_auroc"] != row["edge_auroc"] and row["torch_version"]
    cause.unlink()
    (row,) = records(evaluate(counted, "case_3", **options))
    assert row["edge_auroc"] > 0.5 and row["error"] != row["error"] and len(calls) == 2
    assert len(read_results(tmp_path / "out")) == 1


def test_a_method_that_scores_something_else_is_an_error():
    def none(model, universe, data):
        return None

    def few(model, universe, data):
        return {"m0->logits": 1}

    def heads(model, universe, data):
        return EdgeScores.of(load_circuit("case_3").to_head_level(), {}, missing=0)

    found = list(evaluate([none, few, heads], "case_3", out=None, **quick())["error"])  # type: ignore[arg-type]
    assert "returned a NoneType; a method returns EdgeScores" in found[0]
    assert "no score for a0.h0->a1.h0<k>" in found[1]
    assert "evaluate at granularity edge" in found[2]


def test_an_interruption_loses_nothing(tmp_path, calls):
    with pytest.raises(KeyboardInterrupt):
        evaluate(counted, ["case_3", "case_8", "case_4"], out=tmp_path, size=-1, **quick())
    assert len(read_results(tmp_path / "results.parquet")) == 1


def test_half_a_line_of_a_journal_is_made_anew(tmp_path, calls):
    evaluate(counted, ["case_3", "case_8"], out=tmp_path, **quick())
    path = tmp_path / "journal.jsonl"
    content = path.read_bytes()
    path.write_bytes(content[:-20])
    assert len(read_results(tmp_path)) == 1
    evaluate(counted, ["case_3", "case_8"], out=tmp_path, **quick())
    assert len(calls) == 3 and len(path.read_bytes().splitlines()) == 2
    assert [json.loads(line)["model"] for line in path.read_text().splitlines()]
    path.write_text("{}\n")
    with pytest.raises(SettingError, match=r"journal\.jsonl: a line is no row of results"):
        evaluate(counted, "case_3", out=tmp_path, **quick())


def test_one_evaluation_at_a_time_writes_to_a_folder(tmp_path):
    with folder_lock(tmp_path), pytest.raises(BusyError):
        evaluate("central", "case_3", out=tmp_path, **quick())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"granularity": "head"}, "granularity 'head' is not one of qkv-edge, edge, node"),
        ({"ablation": "noise"}, "ablation 'noise' is not one of resample, zero, mean"),
        ({"split": "all"}, "split 'all' is not one of"),
        ({"n_pairs": 0}, "n_pairs is 0; it is a whole number of at least 1"),
        ({"faithfulness_pairs": -1}, "faithfulness_pairs is -1"),
        ({"seed": 0.5}, "seed is 0.5"),
        ({"workers": 0}, "workers is 0"),
        ({"metric": "kl"}, "method central has no option 'metric'; its options are none"),
    ],
)
def test_settings_are_checked_before_anything_runs(change, message, tmp_path):
    with pytest.raises(SettingError, match=message):
        evaluate("central", "case_3", **quick(out=tmp_path / "new", **change))
    assert not (tmp_path / "new").exists()


def test_which_methods_can_be_given(tmp_path):
    with pytest.raises(SettingError, match="no method is given"):
        evaluate([], "case_3", out=None, **quick())
    with pytest.raises(SettingError, match="a method is given twice among central, central"):
        evaluate(["central", central_scores], "case_3", out=None, **quick())
    with pytest.raises(SettingError, match="workers is 2, but a method is a function that other processes cannot"):
        evaluate(lambda model, universe, data: {}, "case_3", out=None, **quick(workers=2))
    with pytest.raises(UnknownNameError, match="unknown model 'case_x'"):
        evaluate("central", "case_x", out=None, **quick())


def test_without_pandas_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(SettingError, match=r"need pandas and pyarrow.*pip install 'interpbench-hub\[data\]'"):
        evaluate("central", "case_3", out=None, **quick())


# -- processes ---------------------------------------------------------------------------------------------------------


def squares(job: int):
    """Yields the job's square, then its process; negative jobs kill it after the first."""
    yield job**2
    if job < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    yield os.getpid()


def test_a_process_that_dies_costs_its_own_job():
    found: list[tuple[int, Any]] = []
    running = run_jobs(squares, [1, -2, 3, 4, 5], 2)
    again = None
    while True:
        try:
            job, message = running.send(again)
        except StopIteration:
            break
        # What the dead process had left to do may be handed in anew.
        again = [6] if isinstance(message, Died) else None
        found.append((job, message))
    assert [(job, message) for job, message in found if isinstance(message, Died)] == [(-2, Died(-9))]
    assert sorted(message for job, message in found if message == job**2) == [1, 4, 9, 16, 25, 36]
    processes = [message for job, message in found if isinstance(message, int) and message != job**2]
    assert len(processes) == 5 and os.getpid() not in processes
    assert not multiprocessing.active_children()


def test_closing_ends_all_processes_at_once():
    running = run_jobs(_slow, range(3), 2)
    next(running)
    start = time.monotonic()
    running.close()
    assert time.monotonic() - start < 10 and not multiprocessing.active_children()


def _slow(job: int):
    yield job
    time.sleep(60)


def test_processes_make_the_rows_that_one_process_makes(tmp_path):
    (tmp_path / "deadly.py").write_text(
        "import os, signal\ndef dies(model, universe, data):\n    os.kill(os.getpid(), signal.SIGKILL)\n"
        "dies.takes_transformer = True\n"
    )
    code = (
        "from interpbench_hub import evaluate\n"
        "if __name__ == '__main__':\n"
        "    for workers in (1, 2):\n"
        "        methods = ['random', *(['deadly:dies'] if workers == 2 else []), 'central']\n"
        "        evaluate(methods, ['case_3', 'case_8'], workers=workers, out=str(workers), n_pairs=8,\n"
        "                 faithfulness_pairs=4)\n"
    )
    (tmp_path / "script.py").write_text(code)
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    one, two = (read_results(tmp_path / name) for name in "12")
    died = two[two["method"] == "deadly:dies"]
    assert len(died) == 2 and all("its process died (exit code -9)" in error for error in died["error"])
    same = ["method", "model", "settings", *results.METRICS, "forward_passes"]
    alive = two[two["method"] != "deadly:dies"]
    one, alive = ({(row["method"], row["model"]): str(row) for row in records(table[same])} for table in (one, alive))
    assert len(one) == 4 and one == alive


@pytest.mark.slow
def test_a_killed_evaluation_goes_on_where_it_stopped(tmp_path):
    (tmp_path / "slowly.py").write_text(
        "import time\ndef waits(model, universe, data):\n    time.sleep(1.5)\n    return dict.fromkeys(universe, 1)\n"
        "waits.takes_transformer = True\n"
    )
    code = "from interpbench_hub.cli import main; main()"
    options = ["--pairs", "8", "--faithfulness-pairs", "0", "--workers", "2"]
    command = [sys.executable, "-c", code, "evaluate", "slowly:waits", "--tier", "elementwise", *options]
    running = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL, start_new_session=True)
    journal = Journal(tmp_path / "results")
    deadline = time.monotonic() + 60
    while len(journal.rows()) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    os.killpg(running.pid, signal.SIGINT)
    assert running.wait(20) == 130
    kept = read_results(tmp_path / "results" / "results.parquet")
    assert 2 <= len(kept) < len(chosen_models("elementwise"))


# -- tables ------------------------------------------------------------------------------------------------------------


def table_of(values: dict[str, list[float | None]], metric: str = "edge_auroc") -> Any:
    tiers = ("deep", "single-head")
    return to_frame(
        {
            "method": method,
            "settings": method,
            "model": f"case_{place}",
            "weights_sha256": "0",
            "tier": tiers[place % 2],
            metric: value,
        }
        for method, column in values.items()
        for place, value in enumerate(column)
    )


def test_summaries_are_medians_by_tier_with_their_intervals():
    values: list[float | None] = [0.1, 0.9, 0.3, None, 0.5, 0.7]
    lines = summarise(table_of({"eap": values, "acdc": [None] * 6}))
    assert [(line.label, line.tier, line.n) for line in lines[:3]] == [
        ("eap", "deep", 3),
        ("eap", "single-head", 2),
        ("eap", None, 5),
    ]
    assert lines[0].median == 0.3 and lines[1].median == pytest.approx(0.8)
    assert lines[2].interval == bootstrap_interval([0.1, 0.9, 0.3, 0.5, 0.7])
    assert lines[-1].n == 0 and lines[-1].median is lines[-1].interval is None
    with pytest.raises(UnknownNameError, match="unknown metric 'edge_aurok'; nearest: edge_auroc"):
        summarise(table_of({"eap": values}), "edge_aurok")


@pytest.mark.parametrize("metric", ["edge_auroc", "cmd", "cpu_seconds"])
def test_two_methods_are_compared_on_the_models_that_both_have(metric):
    generator = np.random.default_rng(0)
    first, second = generator.random((2, 12)).tolist()
    table = table_of({"eap": [*first, None, 0.2], "acdc": [*second, 0.5, None]}, metric)
    found = compare(table, "eap", "acdc", metric)
    assert (found.n, found.n_differ) == (12, 12)
    assert found.medians == pytest.approx((np.median(first), np.median(second)))
    assert found.test == paired_wilcoxon(first, second)
    better = vargha_delaney(first, second)
    assert better is not None
    assert found.a12 == pytest.approx(better if metric == "edge_auroc" else 1 - better)
    assert compare(table, "eap", "acdc", metric, tier="deep").n == 6
    assert compare(table, "eap", "acdc", metric, tier="multi-head").medians is None
    with pytest.raises(UnknownNameError, match="unknown method of these results 'aep'; nearest: eap"):
        compare(table, "aep", "acdc")


def test_results_of_several_places_are_read_as_one(tmp_path, calls):
    evaluate(counted, "case_3", out=tmp_path / "one", **quick())
    evaluate(counted, ["case_3", "case_8"], out=tmp_path / "two", **quick())
    table = read_results(tmp_path / "one", tmp_path / "two" / "results.parquet")
    # Of the row that both have the second counts.
    assert sorted(table["model"]) == ["case_3", "case_8"]
    assert table.equals(read_results(tmp_path / "two"))
    assert table["n_pairs"].dtype == np.int64 and table["edge_auroc"].dtype == np.float64
    (tmp_path / "other.parquet").write_bytes(b"PAR1")
    with pytest.raises(SettingError, match=r"other\.parquet: no table of results"):
        read_results(tmp_path / "other.parquet")
    with pytest.raises(SettingError, match="no results are given"):
        read_results()


def test_the_documented_columns_are_those_of_the_table():
    text = (Path(__file__).parents[2] / "docs" / "evaluating.md").read_text()
    documented = [line.split("|")[1:4] for line in text.splitlines() if line.startswith("| `")]
    documented = {cells[0].strip(" `"): (cells[1].strip(), cells[2].strip()) for cells in documented}
    assert {name: documented.get(name) for name in COLUMNS} == COLUMNS


# -- scores made elsewhere ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("naming", ["interpbench", "acdc", "eap-ig", "auto-circuit"])
def test_scores_made_elsewhere_are_scored(naming, tmp_path):
    circuit = load_circuit("case_3")
    scores = EdgeScores.of(circuit, {edge: -1.0 for edge in circuit.of_kind("varying")}, missing=0)
    path = scores.write(tmp_path / "scores.json", naming)
    assert score_file(path, "case_3", n_pairs=0)["edge_auroc"] == (
        0 if naming in ("interpbench", "acdc") else None
    ) or naming in ("eap-ig", "auto-circuit")
    assert score_file(path, "case_3", n_pairs=0)["edge_auroc_no_embedding"] == 0
    found = score_file(path, "case_3", n_pairs=16, absolute=True)
    assert found["edge_auroc_no_embedding"] == 1
    if naming in ("interpbench", "acdc"):
        # Others have one input for both of our embeddings, which gets the larger of two scores.
        assert found["edge_auroc"] == found["completeness"] == found["agreement_at_size"] == 1


def test_scores_of_another_model_are_refused(tmp_path):
    path = EdgeScores(Circuit(1, 1, []).universe, range(13)).write(tmp_path / "scores.json")
    with pytest.raises(SettingError, match="no score for"):
        score_file(path, "case_3")
    with pytest.raises(SettingError, match="n_pairs is -1; it is a whole number of at least 0"):
        score_file(path, "case_3", n_pairs=-1)
    deep = EdgeScores([Edge.parse("m7->logits")], [1.0]).write(tmp_path / "deep.json")
    with pytest.raises(SettingError, match="is that of an edge of this universe"):
        score_file(deep, "case_3")
