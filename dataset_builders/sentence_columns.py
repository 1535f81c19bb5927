"""The columns of a dataset of sentences: a row is one, with a group of columns for each kind of counterfactual.

Owns which they are. Text is written as people write it, and as the models' tokenizer reads it: no space before a
punctuation mark.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import torch
from datasets import Features, List, Value
from torch import Tensor

from dataset_builders.columns import IGNORED, RaggedRows, feature, value_array
from dataset_builders.sentences import Chunk, CounterfactualSentences, answers
from interpbench_hub.ioi.sentences import COUNTERFACTUALS, Sentences
from interpbench_hub.tokenizer import text_of

if TYPE_CHECKING:
    from interpbench_hub.ioi.case import IoiCase

ROLES = ("io", "s1", "s2", "end")
ORDERS = ("ABBA", "BABA")
"""Which of the two names comes first: the indirect object, or the subject."""


def sentence_features(case: "IoiCase") -> Features:
    """Names and types of the columns."""
    text, number, ids = Value("string"), Value("int64"), List(Value("int64"))
    whole = {"text": text, "input_ids": ids, "length": number, "label": text}
    return Features(
        {
            **whole,
            "label_ids": ids,
            "template": number,
            "order": text,
            "io": text,
            "s": text,
            "positions": dict.fromkeys(ROLES, number),
            **{kind: dict(whole) for kind in COUNTERFACTUALS},
            "variables": {variable.name: List(feature(variable.classes)) for variable in case.graph.variables},
        }
    )


def sentence_tables(case: "IoiCase", drawn: CounterfactualSentences, n_rows: int) -> Iterator[pa.Table]:
    """The rows of a split in chunks; `drawn.counts` tells afterwards what they turned out to be."""
    schema = sentence_features(case).arrow_schema
    for chunk in drawn.chunks(n_rows):
        columns = _columns(case, chunk)
        yield pa.Table.from_arrays([columns[name] for name in schema.names], schema=schema)


def _columns(case: "IoiCase", chunk: Chunk) -> dict[str, pa.Array]:
    clean, words = chunk.clean, value_array(case.vocab)
    columns: dict[str, Any] = _whole(case, clean)
    # Only the end has a label: what the other words go on with is the language's business.
    is_end = torch.arange(clean.tokens().shape[1]) == clean.lengths[:, None] - 1
    labels = torch.where(is_end, answers(case, clean)[:, None], IGNORED)
    columns["label_ids"] = RaggedRows(clean.lengths).ids(labels, at_bos=IGNORED)
    columns["template"] = _numbers(clean.template)
    columns["order"] = pa.array(ORDERS).take(_numbers((clean.io != clean.first).long()))
    columns["io"], columns["s"] = words.take(_numbers(clean.io)), words.take(_numbers(clean.again))
    positions = clean.positions()
    columns["positions"] = _group({role: _numbers(positions[role] + 1) for role in ROLES})
    columns |= {kind: _group(_whole(case, other)) for kind, other in chunk.others.items()}
    rows, values = RaggedRows(clean.lengths), case.high_level.run(clean.tokens(), clean.lengths)
    # What has no value (the answer before the end) is as undefined as what has none by its definition.
    columns["variables"] = _group(
        {v.name: rows.values(values[v.name], (*v.values, None, None)) for v in case.graph.variables}
    )
    return columns


def _whole(case: "IoiCase", sentences: Sentences) -> dict[str, pa.Array]:
    """What there is of every sentence, clean or not."""
    tokens, lengths = sentences.tokens(), sentences.lengths
    words = [[case.vocab[token] for token in row] for row in tokens.tolist()]
    return {
        "text": pa.array([text_of(row[:length]) for row, length in zip(words, lengths.tolist(), strict=True)]),
        "input_ids": RaggedRows(lengths).ids(tokens, at_bos=case.bos_id),
        "length": _numbers(lengths + 1),
        "label": value_array(case.vocab).take(_numbers(answers(case, sentences))),
    }


def _numbers(numbers: Tensor) -> pa.Array:
    return pa.array(numbers.numpy(), pa.int64())


def _group(columns: dict[str, Any]) -> pa.StructArray:
    return pa.StructArray.from_arrays(list(columns.values()), list(columns))
