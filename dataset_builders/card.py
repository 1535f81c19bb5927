"""The cards: README.md of one case's folder and of a folder of many, with the YAML that makes cases configs.

Owns the text. What it says about rows comes from the records in the files (`folders`), what it says about a case from
the case itself.
"""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dataset_builders.columns import IGNORED, features, value_type
from dataset_builders.counterfactuals import PLAIN, ROUNDS
from dataset_builders.folders import GENERATED, split_file
from interpbench_hub.cases.pairs import MIN_SPACE_TO_SPLIT, SPLITS, is_split
from interpbench_hub.constants import BOS, UNDEFINED

if TYPE_CHECKING:
    from interpbench_hub.cases.case import Case

Records = dict[str, dict[str, Any]]
"""What the files of one case say, by split."""

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"), (10**7, "1M<n<10M"))
_TAGS = ("mechanistic-interpretability", "circuit-analysis", "transformers", "benchmark", "counterfactuals")

_COLUMNS = f"""\
| column | holds |
| --- | --- |
| `tokens` | the clean input, without `{BOS}` |
| `input_ids` | its token ids, `{BOS}` first: what a model of the case is given |
| `labels` | the program's output at each token; null where it is undefined |
| `label_ids` | the output's class ids, aligned with `input_ids`: {IGNORED} at `{BOS}`, which has no output, the id of \
the class `{UNDEFINED}` where the output is undefined; no such column where outputs are numbers (regression) |
| `counterfactual_tokens`, `counterfactual_ids`, `counterfactual_labels`, `counterfactual_label_ids` | the same for \
another input |
| `length` | number of positions, `{BOS}` counted: the length of `input_ids` |
| `counterfactual_length` | the same for the counterfactual: the length of `counterfactual_ids` |
| `variables` | for the clean input, the value of every variable of the program at each token, by name; a variable \
`…_fraction` is what the attention head of a count carries, given as the count |

Tokens, labels and variables have the type that the program gives them: strings, whole numbers, fractions or truth
values. Whole numbers among fractions are fractions; tuples and mixtures of other types are strings that hold Python
literals."""

_COUNTERFACTUALS = f"""\
It is an independent input, or the clean one with one token, a quarter or half of the tokens taken from such an input.
Of up to {ROUNDS} such candidates that one is kept which changes the output and, if possible, does so through an edge of
the circuit that is drawn for the row; one row in {PLAIN} keeps its first candidate, whatever it does. Lengths have
equally many rows, but a quarter as many where no two inputs of a split have different outputs. An edge is *exercised*
by a pair if the output changes when the edge alone carries the counterfactual's value (a path interchange on the
program)."""

_USING_LONGER = f"""\
Such a counterfactual is an independent input, or the clean one with tokens changed and others appended. To patch with
it, take what the counterfactual's first `length` positions hold, `{BOS}`
counted; whether the output differs was counted at these positions, too. To leave these rows out:

```python
dataset = dataset.filter(lambda row: row["length"] == row["counterfactual_length"])
```"""


def case_card(case: "Case", records: Records) -> str:
    """The card of one case's folder."""
    total = sum(records[split]["counts"]["rows"] for split in SPLITS)
    seed = records["train"]["seed"]
    sections = [
        _yaml([(case.id, "")], total, f"{case.id}: clean and counterfactual inputs"),
        GENERATED,
        f"# {case.id}\n\n{case.description}\n\n```\n{case.program}\n```",
        _loading(case.id),
        f"## Rows\n\n{_counts(records)}\n\nSeed {seed}: the same seed makes the same rows.",
        f"## How the splits are separated\n\n{_separation(case)}\n\n{_length_table(case, records)}",
        f"## Columns\n\n{_COLUMNS}",
        f"### Types in this case\n\n{_types(case)}",
        f"## Counterfactuals\n\n{_counterfactuals(_longer_rows(records))}",
        _edge_table(case, records),
        *([f"### Longer counterfactuals\n\n{_longer(records)}"] if _longer_rows(records) else []),
        "## Licence\n\nCC BY 4.0.",
    ]
    return "\n\n".join(sections) + "\n"


def folder_card(found: Sequence[Records]) -> str:
    """The card of a folder that holds the folders of cases."""
    found = sorted(found, key=lambda records: _natural(records["train"]["case"]))
    ids = [records["train"]["case"] for records in found]
    total = sum(records[split]["counts"]["rows"] for records in found for split in SPLITS)
    seeds = sorted({records["train"]["seed"] for records in found})
    what = (
        "Inputs of programs that small transformers with known circuits compute: each with the program's output, the "
        "value of every variable of the program, and a counterfactual input to patch with. One config a case."
    )
    separation = (
        f"Where a length has at least {MIN_SPACE_TO_SPLIT:,} possible inputs, these are divided among the splits: no "
        "input of one split, clean or counterfactual, occurs in another. A length with fewer possible inputs is not "
        "divided: every split may hold all of them, so its rows test nothing unseen. The card in each case's folder "
        "says which lengths are which and how many rows each has."
    )
    with_longer = [records for records in found if _longer_rows(records)]
    longer = (
        f"In {len(with_longer)} of the {len(found)} cases some edges carry what follows from the length of the input, "
        "not from its tokens, so that no pair of equal length can exercise them: there a few rows, counted in the "
        f"table below, have a counterfactual that is longer than the clean input.\n{_USING_LONGER}"
    )
    sections = [
        _yaml([(case_id, f"{case_id}/") for case_id in ids], total, "InterpBench Hub: inputs and counterfactuals"),
        GENERATED,
        f"# Inputs and counterfactuals of programs with known circuits\n\n{what}",
        _loading(ids[0]),
        f"## How the splits are separated\n\n{separation}",
        f"## Columns\n\n{_COLUMNS}",
        f"## Counterfactuals\n\n{_counterfactuals(len(with_longer))} The card of each case counts the pairs for every "
        "edge.",
        *([f"### Longer counterfactuals\n\n{longer}"] if with_longer else []),
        f"## Cases\n\nSeed {', '.join(map(str, seeds))}; {total:,} rows in all.\n\n{_case_table(found)}",
        "## Licence\n\nCC BY 4.0.",
    ]
    return "\n\n".join(sections) + "\n"


# -- parts of both -----------------------------------------------------------------------------------------------------


def _yaml(configs: Sequence[tuple[str, str]], total: int, title: str) -> str:
    size = next((name for most, name in _SIZES if total < most), "n>10M")
    # JSON strings are YAML strings, whatever they hold.
    lines = ["---", "license: cc-by-4.0", f"pretty_name: {json.dumps(title)}", "tags:", *(f"- {tag}" for tag in _TAGS)]
    lines += ["size_categories:", f"- {size}", "configs:"]
    for name, folder in configs:
        lines += [f"- config_name: {json.dumps(name)}", "  data_files:"]
        for split in SPLITS:
            lines += [f"  - split: {split}", f"    path: {json.dumps(folder + split_file(split))}"]
    return "\n".join([*lines, "---"])


def _loading(case_id: str) -> str:
    return (
        "```python\nfrom datasets import load_dataset\n\n"
        'folder = "."  # where this card lies, or the repository\'s name on the Hub\n'
        f'dataset = load_dataset(folder, "{case_id}", split="test")\n```'
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %"


def _counterfactuals(longer: int) -> str:
    where = ", but for a few rows in which it is longer (see below)" if longer else ""
    return f"Every row can be patched: the counterfactual has the length of the clean input{where}.\n{_COUNTERFACTUALS}"


def _longer_rows(records: Records) -> int:
    """Rows of all splits whose counterfactual is longer than the clean input."""
    return sum(records[split]["counts"]["longer"] for split in SPLITS)


def _natural(case_id: str) -> list[tuple[int, int, str]]:
    """Sort key by which case_3 comes before case_12."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in case_id.split("_")]


def _case_table(found: Sequence[Records]) -> str:
    rows = []
    for records in found:
        first = records["train"]
        counts = [records[split]["counts"] for split in SPLITS]
        exercised = sum(all(count["exercised"][edge] for count in counts) for edge in first["counts"]["exercised"])
        rows.append(
            (
                f"[{first['case']}]({first['case']}/README.md)",
                first["description"],
                "–".join(map(str, first["lengths"])),
                " / ".join(f"{count['rows']:,}" for count in counts),
                " / ".join(_share(count["label_changes"], count["rows"]) for count in counts),
                f"{exercised} of {len(first['counts']['exercised'])}",
                " / ".join(f"{count['longer']:,}" for count in counts) if _longer_rows(records) else "0",
            )
        )
    header = ["case", "task", "lengths", "rows", "output changes", "varying edges exercised in every split"]
    header.append("longer counterfactuals")
    note = "Three numbers are those of train / validation / test; lengths count BOS.\n\n"
    return note + _table(header, rows)


# -- parts of a case's card ----------------------------------------------------------------------------------------


def _counts(records: Records) -> str:
    rows = []
    for split in SPLITS:
        counts = records[split]["counts"]
        changes = f"{counts['label_changes']:,} ({_share(counts['label_changes'], counts['rows'])})"
        rows.append((split, f"{counts['rows']:,}", f"{counts['distinct_inputs']:,}", changes))
    return _table(["split", "rows", "different clean inputs", "pairs whose output differs"], rows)


def _separation(case: "Case") -> str:
    divided = [length for length in range(case.min_len, case.max_len + 1) if is_split(case, length - 1)]
    shared = [length for length in range(case.min_len, case.max_len + 1) if length not in divided]
    sentences = []
    if divided:
        sentences.append(
            f"{_lengths(divided)} divided among the splits: no input of one split, clean or counterfactual, occurs in "
            "another."
        )
    if shared:
        sentences.append(
            f"{_lengths(shared)} **not** divided, for want of inputs (fewer than {MIN_SPACE_TO_SPLIT:,} are possible): "
            "every split may hold all of them, as clean and as counterfactual input, so these rows test nothing unseen."
        )
    return " ".join(sentences)


def _lengths(lengths: Sequence[int]) -> str:
    # More tokens, more inputs: either group is a range.
    if len(lengths) == 1:
        return f"Inputs of length {lengths[0]} are"
    return f"Inputs of lengths {lengths[0]} to {lengths[-1]} are"


def _length_table(case: "Case", records: Records) -> str:
    rows = []
    for length in range(case.min_len, case.max_len + 1):
        possible = len(case.vocab) ** (length - 1)
        rows.append(
            (
                length,
                f"{possible:,}" if possible < 10**12 else f"{possible:.1e}",
                "yes" if is_split(case, length - 1) else "no",
                *(f"{records[split]['counts']['rows_of_length'].get(str(length), 0):,}" for split in SPLITS),
            )
        )
    return _table(
        ["length, BOS counted", "possible inputs", "divided", *(f"rows of {split}" for split in SPLITS)], rows
    )


def _types(case: "Case") -> str:
    columns = features(case)
    node_of = case.alignment.node_of
    rows: list[tuple[object, ...]] = [("`tokens`", _type_name(case.vocab), "", "")]
    rows.append(("`labels`", _type_name(case.graph.output.classes), "", "the program's output"))
    rows += [
        (f"`variables.{variable.name}`", _type_name(variable.classes), node_of[variable.name], variable.meaning)
        for variable in case.graph.variables
    ]
    text = _table(["column", "type", "node", "meaning"], rows)
    if "label_ids" in columns:
        names = [f"`{UNDEFINED if value is None else repr(value)}`" for value in case.classes]
        text += "\n\nClass ids: " + ", ".join(f"{place} {name}" for place, name in enumerate(names)) + "."
    return text


def _type_name(values: Sequence[object]) -> str:
    kind = value_type(values)
    return "string, a Python literal" if kind == "literal" else kind


def _edge_table(case: "Case", records: Records) -> str:
    by_split = [records[split]["counts"]["exercised"] for split in SPLITS]
    if not by_split[0]:
        return "The circuit of this case has no edge along which the output can be changed."
    rows = [(f"`{edge}`", *(f"{counts[edge]:,}" for counts in by_split)) for edge in by_split[0]]
    text = _table(["varying edge", *(f"exercised in {split}" for split in SPLITS)], rows)
    for split, counts in zip(SPLITS, by_split, strict=True):
        if missed := [edge for edge, count in counts.items() if not count]:
            text += f"\n\nNo pair found for {split} exercises {_listed(missed)}."
    return text


def _longer(records: Records) -> str:
    longer, total = _longer_rows(records), sum(records[split]["counts"]["rows"] for split in SPLITS)
    by_split = ", ".join(f"{records[split]['counts']['longer']:,} of {split}" for split in SPLITS)
    edges = records["train"]["length_only"]
    them = "this edge" if len(edges) == 1 else "these edges"
    return (
        f"{_share(longer, total)} of the rows ({by_split}) have a counterfactual that is longer than the clean input. "
        f"What is carried along {_listed(edges)} follows from the length of the input, not from its tokens, so that no "
        f"pair of equal length can exercise {them}.\n{_USING_LONGER}"
    )


def _listed(edges: Sequence[str]) -> str:
    names = [f"`{edge}`" for edge in edges]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
