"""A batch of pairs run through both models, and the comparison of the low-level output with high-level targets."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from interpbench_hub.cases.case import Case
from interpbench_hub.cases.pairs import Pairs, real_positions
from interpbench_hub.certificate import TOLERANCE
from interpbench_hub.rasp.causal_model import CausalModel, Values
from interpbench_hub.transformer import Run, Transformer

REGRESSION_WEIGHT = 10.0
"""Factor of the squared error, which brings it to the scale of a cross-entropy."""


class OutputReader:
    """Compares logits with high-level output codes, position by position."""

    def __init__(self, case: Case, device: torch.device | str = "cpu") -> None:
        output = case.graph.output
        self.categorical = case.categorical
        self.ambiguous = output.ambiguous
        self.n_classes = case.d_vocab_out
        numbers = [] if case.categorical else [float(value) for value in output.values]
        self._numbers = torch.tensor(numbers, device=device)

    def counts(self, codes: Tensor, there: Tensor) -> Tensor:
        """Positions [row, pos] that have a target: real ones whose high-level output is not ambiguous."""
        return there & (codes != self.ambiguous)

    def loss(self, logits: Tensor, codes: Tensor, there: Tensor) -> Tensor:
        """Mean loss a row over positions with a target: [row]. Logits include the BOS position, codes do not."""
        counts = self.counts(codes, there)
        if self.categorical:
            # Ambiguous codes are out of range; they are masked below.
            target = codes.clamp(max=self.n_classes - 1)
            each = F.cross_entropy(logits[:, 1:].flatten(0, 1), target.flatten(), reduction="none").view(codes.shape)
        else:
            each = REGRESSION_WEIGHT * (logits[:, 1:, 0] - self._value(codes)) ** 2
        return (each * counts).sum(1) / counts.sum(1).clamp(min=1)

    def correct(self, logits: Tensor, codes: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
        """Whether every position with a target is right, and whether there is one at all: BoolTensors [row]."""
        counts = self.counts(codes, there)
        if self.categorical:
            right = logits[:, 1:].argmax(-1) == codes
        else:
            right = (logits[:, 1:, 0] - self._value(codes)).abs() < TOLERANCE
        return (right | ~counts).all(1), counts.any(1)

    def differs(self, logits: Tensor, other: Tensor, there: Tensor) -> Tensor:
        """Whether two outputs of the model differ somewhere: BoolTensor [row]."""
        if self.categorical:
            apart = logits[:, 1:].argmax(-1) != other[:, 1:].argmax(-1)
        else:
            apart = (logits[:, 1:, 0] - other[:, 1:, 0]).abs() >= TOLERANCE
        return (apart & there).any(1)

    def _value(self, codes: Tensor) -> Tensor:
        return self._numbers[codes.clamp(max=len(self._numbers) - 1)]


def to_ids(case: Case, tokens: Tensor, lengths: Tensor) -> Tensor:
    """Token ids [row, 1 + pos] with BOS in front and PAD after each row's end."""
    beyond = torch.arange(tokens.shape[1], device=tokens.device) >= lengths[:, None]
    return F.pad(tokens.masked_fill(beyond, case.pad_id), (1, 0), value=case.bos_id)


@dataclass
class PairRun:
    """Sources and bases of a batch of pairs after one plain pass through the high- and the low-level model."""

    high_level: CausalModel
    pairs: Pairs
    values: Values
    """Codes of every variable: sources, then bases."""
    lengths: Tensor
    """Positions of each row, BOS included: sources, then bases."""
    there: Tensor
    """Real positions [row, pos], BOS left out."""
    run: Run

    @classmethod
    def of(cls, case: Case, high_level: CausalModel, model: Transformer, pairs: Pairs) -> "PairRun":
        """Run both models on a batch of pairs."""
        tokens = torch.cat([pairs.source, pairs.base])
        token_lengths = torch.cat([pairs.source_lengths, pairs.base_lengths])
        there = real_positions(tokens, token_lengths)
        run = model.run(to_ids(case, tokens, token_lengths), token_lengths + 1)
        return cls(high_level, pairs, high_level.run(tokens, token_lengths), token_lengths + 1, there, run)

    def by_base_length(self) -> Iterator["PairRun"]:
        """The pairs of each base length by themselves, cut to that length: what lies beyond it counts for nothing."""
        for n_tokens in torch.unique(self.pairs.base_lengths).tolist():
            places = torch.where(self.pairs.base_lengths == n_tokens)[0]
            rows = torch.cat([places, self.n_pairs + places])
            base, base_lengths, source, source_lengths = self.pairs[places]
            yield PairRun(
                self.high_level,
                Pairs(base[:, :n_tokens], base_lengths, source[:, :n_tokens], source_lengths),
                {name: codes[rows, :n_tokens] for name, codes in self.values.items()},
                self.lengths[rows].clamp(max=n_tokens + 1),
                self.there[rows, :n_tokens],
                Run(self.run.senders[:, rows, : n_tokens + 1], self.run.logits[rows, : n_tokens + 1]),
            )

    @property
    def n_pairs(self) -> int:
        return self.pairs.n_pairs

    @property
    def codes(self) -> Tensor:
        """Output codes of every row."""
        return self.values[self.high_level.graph.output.name]

    @cached_property
    def source(self) -> Run:
        return self.run.rows(slice(0, self.n_pairs))

    @cached_property
    def base(self) -> Run:
        return self.run.rows(slice(self.n_pairs, None))

    @property
    def base_lengths(self) -> Tensor:
        return self.lengths[self.n_pairs :]

    @property
    def base_padding(self) -> Tensor | None:
        """`base_lengths` if some base is padded, else None."""
        lengths = self.base_lengths
        return lengths if bool((lengths < self.run.logits.shape[1]).any()) else None

    @property
    def base_there(self) -> Tensor:
        return self.there[self.n_pairs :]

    @property
    def base_codes(self) -> Tensor:
        return self.codes[self.n_pairs :]

    @cached_property
    def source_values(self) -> Values:
        return {name: codes[: self.n_pairs] for name, codes in self.values.items()}

    def interchange_codes(self, edges: Tensor) -> Tensor:
        """High-level output codes when circuit edges [row, circuit edge] carry the source's values.

        Rows repeat the batch's pairs as often as they are longer than it.
        """
        times = edges.shape[0] // self.n_pairs

        def repeat(tensor: Tensor) -> Tensor:
            return tensor if times == 1 else tensor.repeat(times, *[1] * (tensor.ndim - 1))

        source = {name: repeat(codes) for name, codes in self.source_values.items()}
        return self.high_level.interchange(repeat(self.pairs.base), repeat(self.pairs.base_lengths), source, edges)
