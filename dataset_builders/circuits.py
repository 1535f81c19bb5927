"""The circuits dataset: every circuit of the collection, edge by edge, as tables that need nothing but parquet.

Owns the columns and how the files are written. What the tables say comes from the files of the collection (`bundled`).
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataset_builders.files import remove_partial_files, usable_folder, write_whole
from interpbench_hub.constants import CARD_FILE, NAMESPACE
from interpbench_hub.errors import SettingError

if TYPE_CHECKING:
    import pyarrow as pa

    from dataset_builders.bundled import BundledModel
    from interpbench_hub.certificate import Certificate
    from interpbench_hub.circuit import Edge

Row = dict[str, Any]

_TEXT, _INT, _FLOAT, _BOOL, _TEXTS = "string", "int64", "float64", "bool", "list<string>"
_EDGE = {"model": _TEXT, "case": _TEXT, "source": _TEXT, "target": _TEXT, "slot": _TEXT}
_COLUMNS: dict[str, dict[str, str]] = {
    "edges": {**_EDGE, "kind": _TEXT, "effect": _FLOAT, "predicted_effect": _FLOAT, "edge": _TEXT},
    "nodes": {"model": _TEXT, "case": _TEXT, "node": _TEXT, "variables": _TEXTS, "meaning": _TEXT},
    "negatives": {**_EDGE, "edge": _TEXT},
    "models": {
        **dict.fromkeys(("model", "case", "description", "tier", "grade", "recipe"), _TEXT),
        **dict.fromkeys(("seed", "steps", "n_layers", "n_heads", "d_model", "d_head", "d_mlp", "n_parameters"), _INT),
        **dict.fromkeys(("n_edges", "n_varying", "n_constant", "n_inert", "n_negatives", "min_len", "max_len"), _INT),
        "output": _TEXT,
        **dict.fromkeys(("training_cpu_seconds", "certificate_cpu_seconds"), _FLOAT),
        **dict.fromkeys(("n_pairs", "n_pairs_single"), _INT),
        **dict.fromkeys(("is_exhaustive", "is_held_out"), _BOOL),
        **dict.fromkeys(("worst_behaviour", "worst_node_interchange", "worst_edge_interchange"), _FLOAT),
        **dict.fromkeys(("worst_node_strict", "worst_edge_strict", "worst_complement", "worst_accuracy"), _FLOAT),
        "worst_entry": _TEXT,
        "weights_sha256": _TEXT,
        "published_2024": _BOOL,
    },
}
"""Names and types of the columns of each config."""


def circuits_files(collection: Path | None = None, *, namespace: str = NAMESPACE) -> dict[str, bytes]:
    """The files of the repository `<namespace>/circuits`, by their paths in it: a table for each config, and the card.

    Args:
        collection: A folder of checkpoint folders with its manifest; the bundled one if not given.
        namespace: User or organisation on the Hub that the card links to.

    The same collection gives the same bytes, as long as the version of pyarrow is the same.

    >>> sorted(circuits_files())[:2]
    ['README.md', 'edges/train-00000-of-00001.parquet']
    """
    from dataset_builders.bundled import bundled_models
    from dataset_builders.landing import card_of, table_file

    models = bundled_models(collection)
    if not models:
        raise SettingError("there is no model in the collection, so there are no circuits; bundle one first")
    card = card_of(models, namespace=namespace)
    tables = {table_file(config): _parquet(config, rows) for config, rows in _rows(models).items()}
    return {CARD_FILE: card.encode(), **tables}


def write_circuits(out: str | Path, collection: Path | None = None, *, namespace: str = NAMESPACE) -> Path:
    """Writes these files into a folder, which `datasets.load_dataset` loads; returns the folder.

    A folder that has them already gets new ones; one with another README is refused. Interrupted, it lacks its card.
    """
    from dataset_builders.landing import GENERATED

    files = circuits_files(collection, namespace=namespace)
    folder = usable_folder(out, GENERATED, "circuits")
    # Taken away first and written last: a folder with a card is whole.
    (folder / CARD_FILE).unlink(missing_ok=True)
    remove_partial_files(folder)
    card = files.pop(CARD_FILE)
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        remove_partial_files(path.parent)
        write_whole(path, content)
    write_whole(folder / CARD_FILE, card)
    return folder


# -- rows --------------------------------------------------------------------------------------------------------------


def _rows(models: "Sequence[BundledModel]") -> dict[str, list[Row]]:
    """The rows of each config, model by model, edges and nodes in the order of a forward pass."""
    rows: dict[str, list[Row]] = {config: [] for config in _COLUMNS}
    for model in models:
        names = {"model": model.id, "case": model.case.id}
        predicted = {} if model.certificate is None else {e.name: e.predicted_share for e in model.certificate.effect}
        for edge in model.circuit:
            # To the digits that circuit.json gives effects in.
            share = round(predicted[str(edge)], 6) if str(edge) in predicted else None
            known = {"kind": edge.kind, "effect": edge.effect, "predicted_effect": share}
            rows["edges"].append(names | _named(edge) | known)
        for node, role in model.circuit.roles.items():
            says = {"node": node.name, "variables": list(role.variables), "meaning": role.meaning}
            rows["nodes"].append(names | says)
        rows["negatives"] += [names | _named(edge) for edge in model.circuit.negatives]
        rows["models"].append(names | _about(model))
    return rows


def _named(edge: "Edge") -> Row:
    return {"source": edge.source.name, "target": edge.target.name, "slot": edge.slot, "edge": str(edge)}


def _about(model: "BundledModel") -> Row:
    """A model's row, but for its id and its case's."""
    case, config, circuit = model.case, model.config, model.circuit
    shape, made = config.transformer, config.provenance
    return {
        "description": case.description,
        "tier": case.tier,
        "grade": model.grade,
        "recipe": made.recipe,
        "seed": made.seed,
        "steps": made.steps,
        "n_layers": shape.n_layers,
        "n_heads": shape.n_heads,
        "d_model": shape.d_model,
        "d_head": shape.d_head,
        "d_mlp": shape.d_mlp,
        "n_parameters": sum(map(math.prod, shape.parameter_shapes.values())),
        "n_edges": len(circuit),
        "n_varying": len(circuit.of_kind("varying")),
        "n_constant": len(circuit.of_kind("constant")),
        "n_inert": len(circuit.of_kind("inert")),
        "n_negatives": len(circuit.negatives),
        "min_len": config.min_len,
        "max_len": config.max_len,
        "output": str(len(config.output.classes) or "regression"),
        "training_cpu_seconds": model.attempt.get("training_cpu_seconds"),
        "certificate_cpu_seconds": model.attempt.get("certificate_cpu_seconds"),
        **_measured(model.certificate),
        "weights_sha256": model.weights_sha256,
        "published_2024": case.was_published_2024,
    }


def _measured(certificate: "Certificate | None") -> Row:
    """What the certificate says of the model; nothing if there is none."""
    from interpbench_hub.certificate import SECTIONS

    if certificate is None:
        return {}
    worst = {section: certificate.worst(section) for section in SECTIONS}
    # Of equals, the first section's, and the one on fewest pairs in it.
    section, least = min(certificate.entries(), key=lambda entry: (entry[1].accuracy, entry[1].lower_bound))
    ablation = f" ({least.ablation})" if least.ablation else ""
    return {
        "n_pairs": certificate.n_pairs,
        "n_pairs_single": certificate.n_pairs_single,
        "is_exhaustive": certificate.is_exhaustive,
        "is_held_out": certificate.is_held_out,
        **{f"worst_{section}": None if entry is None else entry.accuracy for section, entry in worst.items()},
        "worst_accuracy": least.accuracy,
        "worst_entry": None if least.accuracy == 1 else f"{section} {least.name}{ablation}",
    }


# -- parquet -----------------------------------------------------------------------------------------------------------


def _parquet(config: str, rows: list[Row]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([(name, _type(kind)) for name, kind in _COLUMNS[config].items()])
    # A key that a row lacks is null; one that is no column would be dropped.
    unknown = {key for row in rows for key in row} - set(schema.names)
    assert not unknown, unknown
    sink = pa.BufferOutputStream()
    pq.write_table(
        pa.Table.from_pylist(rows, schema), sink, compression="zstd", write_page_index=True, row_group_size=100_000
    )
    return sink.getvalue().to_pybytes()


def _type(kind: str) -> "pa.DataType":
    import pyarrow as pa

    return pa.list_(pa.string()) if kind == _TEXTS else pa.type_for_alias(kind)
