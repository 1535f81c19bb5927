"""The bundled collection in one table a recipe: what each model is, what it took, and its worst measured entry.

    python benchmarks/collection.py [--write] [--collection FOLDER]

Reads the checkpoints' files only. `--write` puts the tables between the two markers of `benchmarks/README.md`.
"""

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from interpbench_hub.certificate import GRADES, Certificate
from interpbench_hub.checkpoint import CheckpointConfig, load_certificate_file, load_config
from interpbench_hub.constants import CERTIFICATE_FILE
from interpbench_hub.loader import load_case
from interpbench_hub.manifest import COLLECTION, load_manifest

README = Path(__file__).with_name("README.md")
BEGIN = "<!-- begin: the table of benchmarks/collection.py -->"
END = "<!-- end: the table of benchmarks/collection.py -->"
COLUMNS = (
    "model",
    "tier",
    "layers",
    "heads",
    "d_model",
    "parameters",
    "steps",
    "training s",
    "certificate s",
    "seeds",
    "grade",
    "worst entry",
)
TITLES = {
    "edge-siit": "Edge-SIIT",
    "siit": "SIIT, node by node",
    "behaviour": "Behaviour alone",
}


@dataclass(frozen=True)
class Model:
    """What the table says of one model."""

    name: str
    tier: str
    config: CheckpointConfig
    certificate: Certificate | None
    attempts: list[dict[str, Any]]
    """Finished attempts, one of them chosen; none where nobody counted."""

    @property
    def n_parameters(self) -> int:
        return sum(map(prod, self.config.transformer.parameter_shapes.values()))

    @property
    def seconds(self) -> tuple[float, float]:
        """Processor seconds of training (checks included) and of certificates.

        Where nobody kept them apart, all are training's.
        """
        for attempt in self.attempts:
            if attempt["chosen"]:
                return attempt["training_cpu_seconds"], attempt["certificate_cpu_seconds"]
        return self.config.provenance.cpu_seconds, 0.0

    @property
    def grade(self) -> str:
        return self.certificate.grade if self.certificate else "not measured"

    @property
    def worst(self) -> str:
        """The least accurate entry of all; nothing where every pair is right."""
        entries = list(self.certificate.entries()) if self.certificate else []
        section, entry = min(entries, key=lambda item: item[1].accuracy, default=(None, None))
        if entry is None or entry.accuracy == 1:
            return ""
        ablation = f" ({entry.ablation})" if entry.ablation else ""
        return f"{section} `{entry.name}`{ablation} {entry.accuracy:.4f}"

    @property
    def row(self) -> tuple[str, ...]:
        shape, steps = self.config.transformer, self.config.provenance.steps
        training, certificates = (f"{part:.0f}" for part in self.seconds)
        sizes = map(str, (shape.n_layers, shape.n_heads, shape.d_model))
        made = (training, certificates if self.attempts else "in training", str(len(self.attempts) or ""))
        return (self.name, self.tier, *sizes, f"{self.n_parameters:,}", str(steps), *made, self.grade, self.worst)


def load_models(collection: Path) -> list[Model]:
    models = []
    for name, entry in load_manifest(collection)["models"].items():
        folder = collection / name
        has_certificate = (folder / CERTIFICATE_FILE).exists()
        certificate = load_certificate_file(folder) if has_certificate else None
        models.append(Model(name, load_case(folder).tier, load_config(folder), certificate, entry.get("attempts", [])))
    return models


def markdown_table(models: Sequence[Model]) -> str:
    """One table of models, with medians and totals below."""
    parameters, steps, training, certificates = (
        [model.n_parameters for model in models],
        [model.config.provenance.steps for model in models],
        [model.seconds[0] for model in models],
        [model.seconds[1] for model in models],
    )
    grades = [model.grade for model in models]
    counts = ", ".join(f"{grades.count(grade)} {grade}" for grade in (*GRADES, "not measured") if grade in grades)
    columns = (steps, training, certificates)
    median = (f"{statistics.median(parameters):,.0f}", *(f"{statistics.median(column):.0f}" for column in columns))
    total = (f"{sum(parameters):,}", *(f"{sum(column):.0f}" for column in columns))
    rows = [
        COLUMNS,
        ("---",) * len(COLUMNS),
        *(model.row for model in models),
        ("**median**", "", "", "", "", *median, "", "", ""),
        (f"**all {len(models)}**", "", "", "", "", *total, "", counts, ""),
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def report(models: Sequence[Model]) -> str:
    """A table for each recipe, best known first."""
    recipes = dict.fromkeys((*TITLES, *(model.config.provenance.recipe for model in models)))
    parts = []
    for recipe in recipes:
        made = [model for model in models if model.config.provenance.recipe == recipe]
        if made:
            parts.append(f"**{TITLES.get(recipe, recipe)}**\n\n{markdown_table(made)}")
    machines = sorted({model.config.provenance.hardware for model in models})
    parts.append(
        "Processor seconds of one thread: training with its checks, and certificates apart (those that fell short "
        "included; `in training` where nobody kept them apart). `seeds` is the number of finished attempts of which "
        f"the model is the best. Made on: {'; '.join(machines) or 'nothing yet'}."
    )
    return "\n\n".join(parts)


def replaced(text: str, content: str) -> str:
    """`text` with `content` between the two markers."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{README}: lacks the lines {BEGIN!r} and {END!r}; put them where the table belongs")
    return f"{before}{BEGIN}\n\n{content}\n\n{END}{after}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--collection", type=Path, default=COLLECTION)
    parser.add_argument("--write", action="store_true", help="put the tables into benchmarks/README.md")
    given = parser.parse_args()
    content = report(load_models(given.collection))
    print(content)
    if given.write:
        README.write_text(replaced(README.read_text(encoding="utf-8"), content), encoding="utf-8")


if __name__ == "__main__":
    main()
