"""The columns of a dataset of pairs: their types, and how token and value codes become them.

Owns which type each column has and what stands for undefined. Knows nothing of how inputs are chosen or where tables
are written. `sentence_columns` are those of sentences.
"""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from datasets import Features, List, Value

from dataset_builders.counterfactuals import CounterfactualPairs
from interpbench_hub.cases.pairs import Pairs

if TYPE_CHECKING:
    from interpbench_hub.cases.case import Case

IGNORED = -100
"""Label id of the BOS position, which has no output: the id that PyTorch's cross entropy leaves out."""
_INT64 = range(-(2**63), 2**63)


def value_type(values: Iterable[object]) -> str:
    """Type of a column that holds these values: `string`, `bool`, `int64`, `float64`, or `literal`.

    Whole numbers among fractions are fractions, and truth values among numbers are numbers (True equals 1); anything
    else that is mixed, and tuples, are strings that hold Python literals.
    """
    given = [value for value in values if value is not None]
    kinds = {type(value) for value in given}
    if kinds == {str}:
        return "string"
    if kinds == {bool}:
        return "bool"
    if kinds <= {bool, int}:
        return "int64" if all(value in _INT64 for value in given) else "literal"
    if kinds <= {bool, int, float}:
        return "float64"
    return "literal"


def features(case: "Case") -> Features:
    """Names and types of a case's columns."""
    ids, tokens = List(Value("int64")), List(feature(case.vocab))
    labels = List(feature(case.graph.output.classes))
    columns: dict[str, Any] = {"tokens": tokens, "input_ids": ids, "labels": labels}
    if case.categorical:
        columns["label_ids"] = ids
    columns |= {"counterfactual_tokens": tokens, "counterfactual_ids": ids, "counterfactual_labels": labels}
    if case.categorical:
        columns["counterfactual_label_ids"] = ids
    columns |= {"length": Value("int64"), "counterfactual_length": Value("int64")}
    columns["variables"] = {variable.name: List(feature(variable.classes)) for variable in case.graph.variables}
    return Features(columns)


def tables(case: "Case", pairs: CounterfactualPairs, n_rows: int) -> Iterator[pa.Table]:
    """The rows of a split in chunks; `pairs.counts` tells afterwards what they turned out to be."""
    schema = features(case).arrow_schema
    for chunk in pairs.chunks(n_rows):
        yield _table(case, chunk, schema)


def _table(case: "Case", pairs: Pairs, schema: pa.Schema) -> pa.Table:
    output = case.graph.output.name
    clean = case.high_level.run(pairs.base, pairs.base_lengths)
    other = case.high_level.run(pairs.source, pairs.source_lengths)[output]
    columns: dict[str, pa.Array] = {}
    for prefix, tokens, lengths, codes in (
        ("", pairs.base, pairs.base_lengths, clean[output]),
        ("counterfactual_", pairs.source, pairs.source_lengths, other),
    ):
        rows = RaggedRows(lengths)
        columns[f"{prefix}tokens"] = rows.values(tokens, case.vocab)
        columns[f"{prefix}ids" if prefix else "input_ids"] = rows.ids(tokens, at_bos=case.bos_id)
        columns[f"{prefix}labels"] = rows.values(codes, case.graph.output.classes)
        if case.categorical:
            # The class ids of the model's logits are the codes: values in order, then undefined.
            columns[f"{prefix}label_ids"] = rows.ids(codes, at_bos=IGNORED)
        columns[f"{prefix}length"] = pa.array(rows.lengths + 1, pa.int64())
    rows = RaggedRows(pairs.base_lengths)
    variables = {v.name: rows.values(clean[v.name], v.classes) for v in case.graph.variables}
    columns["variables"] = pa.StructArray.from_arrays(list(variables.values()), list(variables))
    return pa.Table.from_arrays([columns[name] for name in schema.names], schema=schema)


class RaggedRows:
    """Turns padded tensors of codes [row, pos] into arrays of lists without the padding; BOS counts in no length."""

    def __init__(self, lengths: torch.Tensor) -> None:
        self.lengths = lengths.numpy()

    def values(self, codes: torch.Tensor, values: tuple[Any, ...]) -> pa.ListArray:
        """Lists of the values the codes stand for, one at each token."""
        there = np.arange(codes.shape[1]) < self.lengths[:, None]
        return pa.ListArray.from_arrays(self._offsets(0), value_array(values).take(pa.array(codes.numpy()[there])))

    def ids(self, codes: torch.Tensor, *, at_bos: int) -> pa.ListArray:
        """Lists of the codes themselves, `at_bos` put first."""
        width = codes.shape[1] + 1
        with_bos = np.full((len(codes), width), at_bos, dtype=np.int64)
        with_bos[:, 1:] = codes.numpy()
        there = np.arange(width) < self.lengths[:, None] + 1
        return pa.ListArray.from_arrays(self._offsets(1), pa.array(with_bos[there]))

    def _offsets(self, more: int) -> pa.Array:
        return pa.array(np.concatenate([[0], (self.lengths + more).cumsum()]), pa.int32())


def feature(values: Iterable[object]) -> Value:
    """Type of a column that holds these values, as `datasets` has it."""
    kind = value_type(values)
    return Value("string" if kind == "literal" else kind)


def value_array(values: tuple[Any, ...]) -> pa.Array:
    """The values by code, as the column holds them."""
    kind = value_type(values)
    convert = {"string": str, "bool": bool, "int64": int, "float64": float, "literal": repr}[kind]
    held = [None if value is None else convert(value) for value in values]
    return pa.array(held, pa.string() if kind == "literal" else pa.type_for_alias(kind))
