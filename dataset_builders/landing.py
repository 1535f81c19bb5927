"""The landing card: README.md of the circuits dataset, which introduces the collection and lists its models.

Owns what the card counts and lists; its text is the template `landing_card.md.jinja`.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dataset_builders.bundled import BundledModel, bundled_models
from dataset_builders.metadata import card_data, render_card
from dataset_builders.results import REPOSITORY as RESULTS_REPOSITORY
from dataset_builders.results import SHORT_HEADER, load_rows, part, short_leaderboard
from interpbench_hub.certificate import CONFIDENCE, GRADES, THRESHOLD
from interpbench_hub.constants import BOS, NAMESPACE
from interpbench_hub.manifest import version_tag
from model_cards.rendering import plain

REPOSITORY = "circuits"
"""Name of the circuits dataset in its namespace."""
GENERATED = "<!-- Written by `python -m dataset_builders circuits`, which writes it anew. -->"
"""Stands in the card, so that no other README is overwritten."""
CONFIGS = {
    "edges": ("an edge of a circuit", "model, case, source, target, slot, kind, effect, predicted_effect, edge"),
    "nodes": ("a node of a circuit", "model, case, node, variables (of the program, in the node), meaning"),
    "negatives": ("an edge outside a circuit", "model, case, source, target, slot, edge"),
    "models": ("a model", "case, tier, grade, recipe, sizes, counts of edges, times, worst entries, weights_sha256, …"),
}
"""The configs, the default one first: what a row of it is, and its columns."""
SPLIT = "train"
"""The one split of each config, under the name that `datasets` and the Hub expect where there is only one."""

_TIERS = {
    "elementwise": "no attention",
    "single-head": "one head in the circuit",
    "multi-head": "several",
    "deep": "three or more that read one another in a row",
}
_TAGS = ("known-circuit", "siit", "tracr")
_MAIN_RECIPE = "edge-siit"


def landing_card(collection: Path | None = None, *, namespace: str = NAMESPACE) -> str:
    """The landing card of a collection, by default of the bundled one."""
    return card_of(bundled_models(collection), namespace=namespace)


def table_file(config: str) -> str:
    """Where the table of a config is in the repository."""
    return f"{config}/{SPLIT}-00000-of-00001.parquet"


def card_of(models: Sequence[BundledModel], *, namespace: str) -> str:
    """The landing card of these models."""
    from interpbench_hub import __version__
    from interpbench_hub.cases import list_cases

    n_rows = {
        "edges": sum(len(model.circuit) for model in models),
        "nodes": sum(len(model.circuit.roles) for model in models),
        "negatives": sum(len(model.circuit.negatives) for model in models),
        "models": len(models),
    }
    configs = {config: {SPLIT: table_file(config)} for config in CONFIGS}
    title = "InterpBench Hub: circuits certified edge by edge"
    example = _example(models)
    cases = {case.id for case in list_cases()}
    return render_card(
        "landing_card.md.jinja",
        card_data(title, _TAGS, sum(n_rows.values()), configs, default="edges"),
        generated=GENERATED,
        namespace=namespace,
        is_own_namespace=namespace == NAMESPACE,
        repository=REPOSITORY,
        version=__version__,
        tag=version_tag(),
        bos=BOS,
        confidence=f"{100 * CONFIDENCE:g} %",
        threshold=f"{100 * THRESHOLD:g} %",
        models_file=table_file("models"),
        example=example,
        example_input=[
            example.case.vocab[place % len(example.case.vocab)] for place in range(example.case.min_len - 1)
        ],
        n_models=len(models),
        config_rows=[
            (f"`{config}`", f"{n_rows[config]:,}", what, columns) for config, (what, columns) in CONFIGS.items()
        ],
        tier_rows=[(f"`{tier}`", what, *_grades(models, tier)) for tier, what in _TIERS.items()],
        leaderboard_rows=short_leaderboard(_results(models)),
        leaderboard_header=SHORT_HEADER,
        results_repository=RESULTS_REPOSITORY,
        model_rows=[_model_row(model, namespace) for model in models],
        other_recipes=sorted({f"`{_suffix(model)}`" for model in models if _suffix(model)}),
        n_cases=len(cases),
        n_untrained=len(cases - {model.case.id for model in models}),
    )


def _example(models: Sequence[BundledModel]) -> BundledModel:
    """The model that the card loads: one whose grade is best, with few edges but a head among its nodes."""
    by_grade = sorted(models, key=lambda model: (GRADES.index(model.grade), len(model.circuit)))
    with_head = [model for model in by_grade if any(node.is_head for node in model.circuit.nodes)]
    return next((model for model in models if model.id == "case_3"), (with_head or by_grade)[0])


def _results(models: Sequence[BundledModel]) -> list[dict[str, Any]]:
    """How methods with their defaults do on the certified ones of these models."""
    weights = {model.weights_sha256 for model in models}
    return [row for row in part(load_rows(), "methods") if row["weights_sha256"] in weights]


def _suffix(model: BundledModel) -> str:
    return "" if model.config.provenance.recipe == _MAIN_RECIPE else model.id.removeprefix(model.case.id)


def _grades(models: Sequence[BundledModel], tier: str) -> tuple[int, str]:
    """How many models of a tier there are, and of each grade."""
    grades = Counter(model.grade for model in models if model.case.tier == tier)
    return grades.total(), ", ".join(f"{grades[grade]} `{grade}`" for grade in GRADES if grades[grade])


def _model_row(model: BundledModel, namespace: str) -> tuple[object, ...]:
    repository, circuit = f"{namespace}/{model.case.id}", model.circuit
    recipe = model.config.provenance.recipe
    is_twin = recipe != _MAIN_RECIPE
    return (
        f"[{model.id}](https://huggingface.co/{namespace}/{model.id})",
        f"as {model.case.id}, trained by the recipe `{recipe}`" if is_twin else plain(model.case.description),
        model.case.tier,
        f"`{model.grade}`",
        f"{len(circuit)} ({len(circuit.of_kind('varying'))})",
        f"[inputs](https://huggingface.co/datasets/{repository})",
    )
