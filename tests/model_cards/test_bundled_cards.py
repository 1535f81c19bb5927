"""The cards of bundled models: every figure against the JSON files, the text against a Markdown parser."""

import ast
import json
import re
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import card_markdown as markdown
import pytest
import yaml

from interpbench_hub import __version__
from interpbench_hub.cases import get_case
from interpbench_hub.certificate import SECTIONS
from interpbench_hub.hub import list_models
from interpbench_hub.manifest import COLLECTION, load_manifest
from model_cards.model_card import model_card
from tests.certificate_files import entries_of

KNOWN_URLS = re.compile(
    r"https://huggingface\.co/(datasets/)?interpbench/[a-z0-9_]+(/blob/main/certificate\.json)?"
    r"|https://huggingface\.co/cybershiptrooper/InterpBench"
    r"|https://arxiv\.org/abs/2407\.14494"
    r"|https://creativecommons\.org/licenses/by/4\.0/"
)
CHECKPOINT_FILES = {"config.json", "model.safetensors", "circuit.json", "certificate.json"}


@cache
def card(model: str) -> str:
    return model_card(model)


def body(model: str) -> str:
    return markdown.body(card(model))


@cache
def raw(model: str, file: str) -> dict[str, Any]:
    return json.loads((COLLECTION / model / f"{file}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("model", list_models())
def test_the_metadata_is_what_the_hub_asks_for(model: str) -> None:
    data = yaml.safe_load(card(model).split("---\n")[1])
    assert data["license"] == "cc-by-4.0"
    assert data["library_name"] == "interpbench-hub"
    assert data["datasets"] == [f"interpbench/{raw(model, 'config')['case']}"]
    assert len(set(data["tags"])) == len(data["tags"])
    task = "indirect-object-identification" if raw(model, "config")["case"].startswith("ioi") else "tracr"
    assert {"mechanistic-interpretability", "circuit-analysis", "benchmark", task, "safetensors"} <= {*data["tags"]}
    assert all(re.fullmatch(r"[a-z0-9-]+", tag) for tag in data["tags"])
    (index,) = data["model-index"]
    assert index["name"] == model
    for result in index["results"]:
        assert set(result) == {"task", "dataset", "metrics", "source"}
        assert {type(metric["value"]) for metric in result["metrics"]} == {float}
        assert KNOWN_URLS.fullmatch(result["source"]["url"])


@pytest.mark.parametrize("model", list_models())
def test_results_are_the_worst_shares_of_the_certificate(model: str) -> None:
    certificate = raw(model, "certificate")
    data = yaml.safe_load(card(model).split("---\n")[1])
    (result,) = data["model-index"][0]["results"]
    sections = [section for section in SECTIONS if certificate[section]["rows"]]
    assert len(result["metrics"]) == len(sections)
    for section, metric in zip(sections, result["metrics"], strict=True):
        entries = entries_of(certificate[section])
        worst = min(Fraction(correct, count) for _, _, count, correct in entries)
        assert 0 <= worst - Fraction(str(metric["value"])) < Fraction(1, 10**6), section
        assert f"{len(entries):,}" in metric["name"] or len(entries) == 1


@pytest.mark.parametrize("model", list_models())
def test_every_table_is_well_formed(model: str) -> None:
    written, shown = markdown.raw_rows(body(model)), markdown.tables(body(model))
    assert len(written) == len(shown) >= 5
    for lines, rows in zip(written, shown, strict=True):
        assert len(lines) == len(rows) + 1  # the line under the header
        assert len({len(cells) for cells in (*lines, *rows)}) == 1, lines[0]


@pytest.mark.parametrize("model", list_models())
def test_the_tables_of_the_circuit_are_those_of_its_file(model: str) -> None:
    circuit, certificate = raw(model, "circuit"), raw(model, "certificate")
    effects = {name: (count, changed, predicted) for name, count, changed, predicted in certificate["effect"]["rows"]}
    rows = markdown.table(body(model), "source", "target")
    assert len(rows) == len(circuit["edges"])
    for row, edge in zip(rows, circuit["edges"], strict=True):
        assert row[:4] == [edge["source"], edge["target"], edge["slot"] or "", edge["kind"]]
        name = f"{row[0]}->{row[1]}" + (f"<{row[2]}>" if row[2] else "")
        if name not in effects:
            assert row[4:] == ["", ""]
            continue
        count, *both = effects[name]
        for cell, number in zip(row[4:], both, strict=True):
            assert 0 <= Fraction(number, count) - Fraction(cell) < Fraction(1, 10**4)
    nodes = markdown.table(body(model), "node", "variables")
    assert [(row[0], row[1], row[2]) for row in nodes] == [
        (node["name"], ", ".join(node["variables"]), node["meaning"]) for node in circuit["nodes"]
    ]


@pytest.mark.parametrize("model", list_models())
def test_counts_of_edges_add_up(model: str) -> None:
    circuit = raw(model, "circuit")
    counts = {row[0]: int(row[1]) for row in markdown.table(body(model), "edges", "number")}
    kinds = [edge["kind"] for edge in circuit["edges"]]
    assert {kind: counts[kind] for kind in ("varying", "constant", "inert")} == {
        kind: kinds.count(kind) for kind in ("varying", "constant", "inert")
    }
    # Embeddings and all earlier layers feed three slots of every head, every MLP (its layer's heads, too), the logits.
    layers, heads = circuit["n_layers"], circuit["n_heads"]
    before = [2 + layer * (heads + 1) for layer in range(layers + 1)]
    universe = sum(3 * heads * before[layer] + before[layer] + heads for layer in range(layers)) + before[layers]
    assert counts["all"] == universe
    assert counts["outside the circuit"] == universe - len(kinds)


@pytest.mark.parametrize("model", list_models())
def test_the_table_of_the_certificate_is_that_of_its_file(model: str) -> None:
    certificate = raw(model, "certificate")
    rows = markdown.table(body(model), "entry", "what is done: what must come out")
    assert [row[0] for row in rows] == [section for section in SECTIONS if certificate[section]["rows"]]
    lower_bounds = {(count, correct): bound for count, correct, bound in certificate["lower_bounds"]["rows"]}
    for name, _, n_entries, pairs, n_below, worst_name, share, bound in rows:
        entries = entries_of(certificate[name])
        shares = [Fraction(correct, count) for _, _, count, correct in entries]
        bounds = [lower_bounds[count, correct] for _, _, count, correct in entries]
        worst, least, worst_entry = min(zip(shares, bounds, entries, strict=True), key=lambda item: item[:2])
        assert int(n_entries.replace(",", "")) == len(entries)
        numbers = {int(number.replace(",", "")) for number in re.findall(r"[\d,]+", pairs)}
        assert numbers == {min(row[2] for row in entries), max(row[2] for row in entries)}
        assert int(n_below.replace(",", "")) == sum(share < Fraction("0.999") for share in shares)
        assert 0 <= worst - Fraction(share) < Fraction(1, 10**4)
        assert 0 <= least + 5e-7 - float(bound) < 1.01e-4
        assert worst_name == "–" if worst == 1 else worst_name.startswith(worst_entry[0])
    assert f"Grade **{certificate['grade']}**" in body(model)


@pytest.mark.parametrize("model", list_models())
def test_provenance_is_that_of_the_files_and_the_manifest(model: str) -> None:
    provenance, entry = raw(model, "config")["provenance"], load_manifest()["models"][model]
    rows = {row[0]: row[1] for row in markdown.table(body(model), "what", "value")}
    assert rows["recipe"].startswith(provenance["recipe"])
    steps, _, earlier = rows["steps"].partition(" (it was to end after ")
    assert (rows["seed"], steps) == (str(provenance["seed"]), f"{provenance['steps']:,}")
    earlier, _, started = earlier.partition(", with the weights ")
    ends = [int(end.replace(",", "")) for end in re.findall(r"\d[\d,]*\d", earlier)]
    assert ends == provenance.get("earlier_ends", [])
    source = f" of {provenance['started_from_case']}" if "started_from_case" in provenance else ""
    assert started.removesuffix(f"...{source} alone)") == (provenance.get("started_from") or "")[:12]
    assert rows["hardware"] == provenance["hardware"]
    assert rows["commit"] == (provenance["commit"] or "not known")
    assert rows["date"] == provenance["created"]
    assert rows["SHA-256 of model.safetensors"] == entry["files"]["model.safetensors"]
    assert f"{provenance['cpu_seconds']:,.1f} of processor time" in rows["seconds"]
    assert f"{provenance['wall_seconds']:,.1f} by the clock" in rows["seconds"]
    if entry["attempts"]:
        assert rows["attempts"].startswith(f"{len(entry['attempts'])} (seed {entry['attempts'][0]['seed']}: ")


@pytest.mark.parametrize("model", list_models())
def test_links_lead_to_files_of_the_repository_or_to_known_places(model: str) -> None:
    beside = {"README.md", "circuit.svg", "circuit.png", *CHECKPOINT_FILES}
    anchors = {f"#{heading.lower().replace(' ', '-')}" for heading in markdown.headings(body(model))}
    found = markdown.links(body(model))
    assert {"circuit.png", "circuit.svg", "certificate.json"} <= set(found)
    for link in found:
        assert link in beside | anchors or KNOWN_URLS.fullmatch(link), link


@pytest.mark.parametrize("model", list_models())
def test_the_example_is_an_input_with_the_programs_output(model: str) -> None:
    case = get_case(raw(model, "config")["case"])
    first = markdown.code_blocks(body(model), "python")[0]
    example = ast.literal_eval(re.findall(r"^tokens = (.*)$", first, re.MULTILINE)[0])
    written = ast.literal_eval(re.findall(r"case\.program\(tokens\)  # (.*)$", first, re.MULTILINE)[0])
    case.encode([example])
    assert written == [round(value, 4) if isinstance(value, float) else value for value in case.program(example)]
    assert str(case.program) in markdown.code_blocks(body(model), "")[0]


def test_the_code_of_a_card_runs(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = markdown.code_blocks(body("case_3"), "python")
    names: dict[str, Any] = {}
    exec(compile(blocks[0], "card", "exec"), names)
    assert names["outputs"] == pytest.approx(names["expected"], abs=0.05)
    assert {str(edge) for edge in names["positives"]} == {"embed->m0", "m0->a1.h0<v>", "a1.h0->logits"}
    assert len(names["negatives"]) == 131
    assert "grade path" in capsys.readouterr().out
    offline, pinned = blocks[1].splitlines()
    exec(compile(offline, "card", "exec"), names)
    assert pinned == f'model = load_model("interpbench/case_3", revision="v{__version__}")'
    assert 'load_dataset("interpbench/case_3", split="test")' in blocks[2]
    for block in blocks:
        compile(block, "card", "exec")


def test_long_vocabularies_and_classes_are_cut_short() -> None:
    assert "23 `23`, … and 76 more; BOS 100, PAD 101" in card("case_51")
    assert max(map(len, map(card, list_models()))) < 30_000


def test_the_software_is_cited_as_the_citation_file_says() -> None:
    citation = yaml.safe_load(Path("CITATION.cff").read_text(encoding="utf-8"))
    (entry,) = markdown.code_blocks(body("case_3"), "bibtex")
    assert f"title = {{{citation['title']}}}" in entry
    assert f"author = {{{{{citation['authors'][0]['name']}}}}}" in entry
    assert f"title = {{{citation['references'][0]['title']}}}" in entry
    assert all(author["family-names"] in entry for author in citation["references"][0]["authors"])
