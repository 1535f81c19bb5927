"""The tables of a case's dataset, whatever it holds: `columns` has those of pairs, `sentence_columns` of sentences."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pyarrow as pa
from datasets import Features

from dataset_builders import columns
from dataset_builders.draws import Draw
from dataset_builders.sentence_columns import sentence_features, sentence_tables
from dataset_builders.sentences import CounterfactualSentences
from interpbench_hub.ioi.case import IoiCase

if TYPE_CHECKING:
    from interpbench_hub.cases.case import Case


def features_of(case: "Case") -> Features:
    """Names and types of the columns of a case's dataset."""
    return sentence_features(case) if isinstance(case, IoiCase) else columns.features(case)


def tables_of(drawn: Draw, n_rows: int) -> Iterator[pa.Table]:
    """The rows of a split in chunks; `drawn.counts` tells afterwards what they turned out to be."""
    if isinstance(drawn, CounterfactualSentences):
        return sentence_tables(drawn.case, drawn, n_rows)
    return columns.tables(drawn.case, drawn, n_rows)
