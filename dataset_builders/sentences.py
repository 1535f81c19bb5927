"""The sentences of one split of a case of sentences, each with a counterfactual of every kind.

Owns how they are drawn and what is counted of them; what a kind of counterfactual is, and which templates and pairs of
names belong to a split, is `interpbench_hub.ioi.sentences`' affair. Knows nothing of columns or files.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dataset_builders.counterfactuals import CHUNK, Counts
from interpbench_hub.cases.kinds import changes_output
from interpbench_hub.cases.pairs import Pairs, Split, seeded
from interpbench_hub.circuit import Edge
from interpbench_hub.errors import SettingError
from interpbench_hub.ioi.sentences import COUNTERFACTUALS, Counterfactual, Sentences, SentenceSampler

if TYPE_CHECKING:
    from interpbench_hub.ioi.case import IoiCase

EXERCISED = 500
"""Rows of each split on which the edges are counted that a counterfactual exercises."""


@dataclass(frozen=True)
class Chunk:
    """Some rows: sentences, and for each kind the counterfactual of every one."""

    clean: Sentences
    others: dict[Counterfactual, Sentences]

    def pairs(self, kind: Counterfactual) -> Pairs:
        """The sentences as bases, with their counterfactuals of a kind as sources."""
        other = self.others[kind]
        return Pairs(self.clean.tokens(), self.clean.lengths, other.tokens(), other.lengths)

    def rows(self, rows: slice) -> "Chunk":
        return Chunk(self.clean.rows(rows), {kind: other.rows(rows) for kind, other in self.others.items()})


class CounterfactualSentences:
    """The sentences of one split of a case's dataset, the same for the same seed.

    Fewer rows are the first of more. `counts` grows as chunks are drawn.
    """

    def __init__(self, case: "IoiCase", split: Split, *, seed: int = 0) -> None:
        self.case = case
        self.split: Split = split
        self.seed = seed
        self.counts = SentenceCounts()

    def chunks(self, n_rows: int) -> Iterator[Chunk]:
        """`n_rows` rows, at most `CHUNK` at a time; every row counts."""
        self.counts = SentenceCounts()
        edges = self.case.circuit.of_kind("varying")
        for chunk in self._drawn(n_rows):
            self.counts.add_chunk(self.case, chunk, edges)
            yield chunk

    def pairs(self, n_rows: int, kind: str | None = None) -> Iterator[Pairs]:
        """The same rows as pairs of a sentence and its counterfactual of one kind, the first kind for None."""
        chosen = self.kind_of(kind)
        return (chunk.pairs(chosen) for chunk in self._drawn(n_rows))

    def kind_of(self, kind: str | None) -> Counterfactual:
        """The kind of this name; raises `SettingError` if there is none."""
        if kind is None:
            return COUNTERFACTUALS[0]
        if kind not in COUNTERFACTUALS:
            raise SettingError(
                f"counterfactual {kind!r} is no kind of case {self.case.id}; they are {', '.join(COUNTERFACTUALS)}"
            )
        return kind  # type: ignore[return-value]

    def record(self) -> dict[str, Any]:
        """What is to be kept about the rows, as JSON holds it."""
        return {"counts": self.counts.to_dict(), "length_only": []}

    def _drawn(self, n_rows: int) -> Iterator[Chunk]:
        for first in range(0, n_rows, CHUNK):
            # A whole chunk, whatever is needed of it: what the generator gives depends on how many are drawn.
            seed = seeded("dataset", self.case.id, self.seed, self.split, first)
            sampler = SentenceSampler(self.split, torch.Generator().manual_seed(seed))
            clean = sampler.draw(CHUNK)
            others: dict[Counterfactual, Sentences] = {
                kind: sampler.counterfactual(clean, kind) for kind in COUNTERFACTUALS
            }
            yield Chunk(clean, others).rows(slice(0, n_rows - first))


class SentenceCounts:
    """What the rows of a split turned out to be: `Counts` of each kind's pairs, and the templates' rows.

    Which edges are exercised is counted on the first `EXERCISED` rows alone: it takes a pass for every edge and kind.
    """

    def __init__(self) -> None:
        self.of_kind: dict[Counterfactual, Counts] = {kind: Counts() for kind in COUNTERFACTUALS}
        self.rows_of_template: dict[int, list[int]] = {}
        """By number: rows with the IO first (ABBA), and with S first (BABA)."""

    def add_chunk(self, case: "IoiCase", chunk: Chunk, edges: list[Edge]) -> None:
        clean = answers(case, chunk.clean)
        for kind, counts in self.of_kind.items():
            pairs, differs = chunk.pairs(kind), answers(case, chunk.others[kind]) != clean
            first = pairs[: max(EXERCISED - counts.rows, 0)]
            counts.add(pairs, differs, changes_output(case, first, edges), edges)
        is_abba = chunk.clean.io == chunk.clean.first
        for template, abba in zip(chunk.clean.template.tolist(), is_abba.tolist(), strict=True):
            self.rows_of_template.setdefault(template, [0, 0])[0 if abba else 1] += 1

    def to_dict(self) -> dict[str, Any]:
        """The first kind's counts, as a case with one counterfactual a row has them, and with them each kind's."""
        by_kind = {kind: counts.to_dict() for kind, counts in self.of_kind.items()}
        templates = {str(number): self.rows_of_template[number] for number in sorted(self.rows_of_template)}
        return {**by_kind[COUNTERFACTUALS[0]], "kinds": by_kind, "rows_of_template": templates}


def answers(case: "IoiCase", sentences: Sentences) -> Tensor:
    """What sentences go on with: codes of the output [sentence], which are token ids."""
    codes = case.high_level.run(sentences.tokens(), sentences.lengths)[case.graph.output.name]
    return codes.gather(1, sentences.lengths[:, None] - 1)[:, 0]
