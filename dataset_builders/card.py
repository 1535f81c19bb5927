"""The cards of datasets: README.md of one case's folder, and of a folder of many with YAML that makes them configs.

Owns the figures and tables; the text is in the templates of `model_cards`. What is said about rows comes from the
records in the files (`folders`), what is said about a case from the case itself.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from dataset_builders.bundled import ids_of_case
from dataset_builders.columns import IGNORED, features, value_type
from dataset_builders.counterfactuals import PLAIN, ROUNDS
from dataset_builders.folders import GENERATED, split_file
from dataset_builders.metadata import card_data, render_card
from dataset_builders.sentences import EXERCISED
from interpbench_hub.cases.pairs import MIN_SPACE_TO_SPLIT, SPLITS, is_split
from interpbench_hub.circuit import LOGITS
from interpbench_hub.constants import BOS, NAMESPACE, UNDEFINED
from interpbench_hub.ioi.case import IoiCase
from interpbench_hub.ioi.sentences import COUNTERFACTUALS
from interpbench_hub.ioi.templates import AGAIN, FIRST, OBJECT, PLACE, SECOND, TEMPLATES
from interpbench_hub.ioi.words import NAMES, NOBODY, OBJECTS, PLACES
from interpbench_hub.manifest import natural_order
from interpbench_hub.tokenizer import text_of
from model_cards.rendering import plain

if TYPE_CHECKING:
    from interpbench_hub.cases.case import Case

Records = dict[str, dict[str, Any]]
"""What the files of one case say, by split."""
Row = tuple[object, ...]

_TAGS = ("counterfactuals",)
_SHARED = {
    "generated": GENERATED,
    "bos": BOS,
    "undefined": UNDEFINED,
    "ignored": IGNORED,
    "rounds": ROUNDS,
    "plain": PLAIN,
    "min_inputs": f"{MIN_SPACE_TO_SPLIT:,}",
}


def case_card(case: "Case", records: Records, *, namespace: str = NAMESPACE) -> str:
    """The card of one case's folder, which is the dataset `<namespace>/<case id>` on the Hub."""
    if isinstance(case, IoiCase):
        return _sentence_card(case, records, namespace)
    lengths = range(case.min_len, case.max_len + 1)
    divided = [length for length in lengths if is_split(case, length - 1)]
    exercised = {split: records[split]["counts"]["exercised"] for split in SPLITS}
    missed = {split: [edge for edge, count in exercised[split].items() if not count] for split in SPLITS}
    title = f"{case.id}: clean and counterfactual inputs"
    files = {split: split_file(split) for split in SPLITS}
    return render_card(
        "dataset_card.md.jinja",
        card_data(title, _TAGS, _n_rows(records), {case.id: files}),
        **_SHARED,
        case=case,
        namespace=namespace,
        models=ids_of_case(case.id),
        seed=records["train"]["seed"],
        split_rows=[_split_row(split, records[split]["counts"]) for split in SPLITS],
        divided=_inputs_of(divided),
        shared=_inputs_of([length for length in lengths if length not in divided]),
        length_rows=[_length_row(case, length, records) for length in lengths],
        type_rows=_type_rows(case),
        class_names=_class_names(case),
        exercised_rows=[
            (f"`{edge}`", *(f"{exercised[split][edge]:,}" for split in SPLITS)) for edge in exercised["train"]
        ],
        missed=[(split, _listed(edges)) for split, edges in missed.items() if edges],
        longer=_longer(records),
    )


def _sentence_card(case: IoiCase, records: Records, namespace: str) -> str:
    """The card of a case of sentences."""
    files = {split: split_file(split) for split in SPLITS}
    counts = {split: records[split]["counts"] for split in SPLITS}
    lengths = sorted({int(length) for split in SPLITS for length in counts[split]["rows_of_length"]})
    slots: dict[str, str] = {FIRST: NAMES[0], SECOND: NAMES[1], AGAIN: NAMES[1], PLACE: PLACES[0], OBJECT: OBJECTS[0]}
    return render_card(
        "sentence_card.md.jinja",
        card_data(f"{case.id}: sentences and their counterfactuals", _TAGS, _n_rows(records), {case.id: files}),
        **_SHARED,
        case=case,
        namespace=namespace,
        models=ids_of_case(case.id),
        seed=records["train"]["seed"],
        example=text_of([slots.get(word, word) for word in TEMPLATES[0]]),
        nobody=NOBODY,
        kinds=list(COUNTERFACTUALS),
        counted=EXERCISED,
        split_rows=[_sentence_row(split, counts[split]) for split in SPLITS],
        length_rows=[
            (length, *(f"{counts[split]['rows_of_length'].get(str(length), 0):,}" for split in SPLITS))
            for length in lengths
        ],
        type_rows=_variable_rows(case),
        kind_rows=[_kind_row(kind, [counts[split] for split in SPLITS]) for kind in COUNTERFACTUALS],
        exercised_rows=[
            (f"`{edge}`", *(_exercised_share(counts["test"], kind, edge) for kind in COUNTERFACTUALS))
            for edge in counts["test"]["exercised"]
        ],
    )


def folder_card(found: Sequence[Records], *, namespace: str = NAMESPACE) -> str:
    """The card of a folder that holds the folders of cases."""
    found = sorted(found, key=lambda records: natural_order(records["train"]["case"]))
    ids = [records["train"]["case"] for records in found]
    total = sum(map(_n_rows, found))
    configs = {case_id: {split: f"{case_id}/{split_file(split)}" for split in SPLITS} for case_id in ids}
    return render_card(
        "dataset_folder_card.md.jinja",
        card_data("InterpBench Hub: inputs and counterfactuals", _TAGS, total, configs),
        **_SHARED,
        namespace=namespace,
        example=ids[0],
        longer=sum(_n_longer(records) > 0 for records in found),
        seeds=", ".join(map(str, sorted({records["train"]["seed"] for records in found}))),
        total=f"{total:,}",
        case_rows=list(map(_case_row, found)),
    )


# -- figures -----------------------------------------------------------------------------------------------------------


def _n_rows(records: Records) -> int:
    return sum(records[split]["counts"]["rows"] for split in SPLITS)


def _n_longer(records: Records) -> int:
    """Rows of all splits whose counterfactual is longer than the clean input."""
    return sum(records[split]["counts"]["longer"] for split in SPLITS)


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %"


def _inputs_of(lengths: Sequence[int]) -> str:
    """How a sentence about the inputs of these lengths begins; empty if there are none."""
    # More tokens, more inputs: those that are divided are a range, and so are the others.
    if len(lengths) > 1:
        return f"Inputs of lengths {lengths[0]} to {lengths[-1]} are"
    return f"Inputs of length {lengths[0]} are" if lengths else ""


def _longer(records: Records) -> dict[str, str] | None:
    """What is to be said of counterfactuals that are longer than the clean input; None if none is."""
    longer = _n_longer(records)
    if not longer:
        return None
    edges = records["train"]["length_only"]
    return {
        "share": _share(longer, _n_rows(records)),
        "by_split": ", ".join(f"{records[split]['counts']['longer']:,} of {split}" for split in SPLITS),
        "edges": _listed(edges),
        "them": "this edge" if len(edges) == 1 else "these edges",
    }


def _listed(edges: Sequence[str]) -> str:
    names = [f"`{edge}`" for edge in edges]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


# -- rows of tables ----------------------------------------------------------------------------------------------------


def _split_row(split: str, counts: dict[str, Any]) -> Row:
    changes = f"{counts['label_changes']:,} ({_share(counts['label_changes'], counts['rows'])})"
    return split, f"{counts['rows']:,}", f"{counts['distinct_inputs']:,}", changes


def _length_row(case: "Case", length: int, records: Records) -> Row:
    possible = len(case.vocab) ** (length - 1)
    return (
        length,
        f"{possible:,}" if possible < 10**12 else f"{possible:.1e}",
        "yes" if is_split(case, length - 1) else "no",
        *(f"{records[split]['counts']['rows_of_length'].get(str(length), 0):,}" for split in SPLITS),
    )


def _type_rows(case: "Case") -> list[Row]:
    return [
        ("`tokens`", _type_name(case.vocab), "", ""),
        ("`labels`", _type_name(case.graph.output.classes), "", "the program's output"),
        *_variable_rows(case),
    ]


def _variable_rows(case: "Case") -> list[Row]:
    # An output without a node is the logits' own.
    node_of = case.alignment.node_of
    return [
        (
            f"`variables.{variable.name}`",
            _type_name(variable.classes),
            node_of.get(variable.name, LOGITS),
            plain(variable.meaning),
        )
        for variable in case.graph.variables
    ]


def _sentence_row(split: str, counts: dict[str, Any]) -> Row:
    templates = counts["rows_of_template"].values()
    orders = (f"{sum(rows):,}" for rows in zip(*templates, strict=True))
    return split, f"{counts['rows']:,}", f"{counts['distinct_inputs']:,}", len(templates), *orders


def _kind_row(kind: str, counts: Sequence[dict[str, Any]]) -> Row:
    given = [count["kinds"][kind] for count in counts]
    exercised = [[_n_exercised(count, least) for count in given] for least in (lambda rows: 1, lambda rows: rows)]
    return (
        f"`{kind}`",
        " / ".join(_share(count["label_changes"], count["rows"]) for count in given),
        " / ".join(_share(count["longer"], count["rows"]) for count in given),
        *(" / ".join(figures) for figures in exercised),
    )


def _n_exercised(counts: dict[str, Any], least: Callable[[int], int]) -> str:
    """How many edges are exercised by a number of rows or more that depends on how many were looked at."""
    looked_at = min(counts["rows"], EXERCISED)
    found = counts["exercised"].values()
    return f"{sum(count >= least(looked_at) for count in found)} of {len(found)}"


def _exercised_share(counts: dict[str, Any], kind: str, edge: str) -> str:
    return _share(counts["kinds"][kind]["exercised"][edge], min(counts["rows"], EXERCISED))


def _type_name(values: Sequence[object]) -> str:
    kind = value_type(values)
    return "string, a Python literal" if kind == "literal" else kind


def _class_names(case: "Case") -> list[str]:
    """The classes by their ids; none where outputs are numbers."""
    if "label_ids" not in features(case):
        return []
    return [UNDEFINED if value is None else repr(value) for value in case.classes]


def _case_row(records: Records) -> Row:
    first = records["train"]
    counts = [records[split]["counts"] for split in SPLITS]
    edges = first["counts"]["exercised"]
    exercised = sum(all(count["exercised"][edge] for count in counts) for edge in edges)
    return (
        f"[{first['case']}]({first['case']}/README.md)",
        plain(first["description"]),
        "–".join(map(str, first["lengths"])),
        " / ".join(f"{count['rows']:,}" for count in counts),
        " / ".join(_share(count["label_changes"], count["rows"]) for count in counts),
        f"{exercised} of {len(edges)}",
        " / ".join(f"{count['longer']:,}" for count in counts) if _n_longer(records) else "0",
    )
