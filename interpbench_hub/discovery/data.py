"""Pairs of inputs for discovery methods: what a method may look at, and how far outputs are from one another.

A pair is a clean input and a corrupted one, mostly of the same length. Owns the measure by which patched outputs are
compared, and which positions it looks at. Nothing here tells which edges belong to a circuit.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from interpbench_hub.errors import SettingError

if TYPE_CHECKING:
    from interpbench_hub.cases.case import Case
    from interpbench_hub.cases.pairs import Split

DEFAULT_PAIRS = 256
_COLUMNS = ("input_ids", "counterfactual_ids", "length", "counterfactual_length")
_LABELS = "label_ids"
_NO_LABEL = -100
"""Label id where nothing is to be predicted, as in the datasets and for PyTorch's cross entropy."""


@dataclass(frozen=True, eq=False)
class PairData:
    """Pairs of token ids, BOS first, padded on the right.

    A corrupted input is at least as long as its clean one; what it carries beyond the end of the clean input has no
    place to go. Both tensors are equally wide.
    """

    clean: Tensor
    """Token ids [pair, pos] of the inputs that models run on."""
    corrupted: Tensor
    """Token ids [pair, pos] of the inputs that replaced values come from."""
    lengths: Tensor
    """Real positions [pair] of the clean inputs, BOS counted."""
    corrupted_lengths: Tensor
    """Real positions [pair] of the corrupted inputs, BOS counted."""
    categorical: bool
    """Whether outputs are classes; else they are numbers."""
    counted: Tensor = field(default=None)  # type: ignore[assignment]
    """Positions of the clean inputs whose output counts: BoolTensor [pair, pos], at least one in each pair, neither BOS
    nor padding. All that are neither if not given; of sentences, the last one alone."""

    def __post_init__(self) -> None:
        n_pairs, width = self.clean.shape
        shapes = [tuple(part.shape) for part in (self.corrupted, self.lengths, self.corrupted_lengths)]
        if shapes != [(n_pairs, width), (n_pairs,), (n_pairs,)] or not n_pairs:
            raise SettingError(
                f"clean ids have shape {(n_pairs, width)}, corrupted ids and lengths {shapes}; pairs are ids "
                "[pair, pos], both equally wide, with lengths [pair]"
            )
        wrong = (self.lengths < 2) | (self.corrupted_lengths < self.lengths) | (self.corrupted_lengths > width)
        if bool(wrong.any()):
            pair = int(wrong.nonzero()[0])
            raise SettingError(
                f"pair {pair} has lengths {int(self.lengths[pair])} and {int(self.corrupted_lengths[pair])} in {width} "
                "positions; a clean input has at least BOS and a token, the corrupted one is at least as long"
            )
        places = torch.arange(width, device=self.lengths.device)
        there = (places > 0) & (places < self.lengths[:, None])
        if self.counted is None:
            object.__setattr__(self, "counted", there)
        elif self.counted.shape != there.shape or self.counted.dtype != torch.bool:
            raise SettingError(
                f"counted is {self.counted.dtype} of shape {tuple(self.counted.shape)}; it is a BoolTensor [pair, pos] "
                f"of shape {tuple(there.shape)}, as the clean ids are"
            )
        elif bool((wrong := (self.counted & ~there).any(1) | ~self.counted.any(1)).any()):
            pair = int(wrong.nonzero()[0])
            raise SettingError(
                f"of pair {pair} positions {self.counted[pair].nonzero()[:, 0].tolist()} count; at least one does, and "
                f"of its {int(self.lengths[pair])} real positions BOS does not"
            )

    # -- where they come from ----------------------------------------------------------------------------------------

    @classmethod
    def of(
        cls,
        case: "Case | str",
        *,
        n_pairs: int = DEFAULT_PAIRS,
        seed: int = 0,
        split: "Split" = "test",
        counterfactual: str | None = None,
    ) -> "PairData":
        """Pairs of a case, drawn as those of its dataset are: always the same for the same seed.

        More than half of the pairs change the output, every varying edge is exercised by a pair of the split if any
        does, and every length has its turn. `n_pairs` may be any number; below a few dozen, planting a pair for each
        edge fills the data with those. Cases of sentences have corrupted inputs of several kinds, of which
        `counterfactual` names one (`name_swap` if not given): the pairs are the first rows of the dataset.

        Positions count where the case defines an output. Raises `SettingError` for what cannot be drawn.
        """
        # It needs nothing of the extra `data`, and what a benchmark measures should be what its datasets hold.
        from dataset_builders.draws import draw_of
        from interpbench_hub.cases import get_case
        from interpbench_hub.cases.pairs import SPLITS, real_positions
        from interpbench_hub.siit.pair_run import to_ids

        case = get_case(case) if isinstance(case, str) else case
        if isinstance(n_pairs, bool) or not isinstance(n_pairs, int) or n_pairs < 1:
            raise SettingError(f"n_pairs is {n_pairs!r}; it is a whole number of at least 1")
        if split not in SPLITS:
            raise SettingError(f"split {split!r} is not one of {', '.join(SPLITS)}")
        chunks = [tuple(chunk) for chunk in draw_of(case, split, seed=seed).pairs(n_pairs, counterfactual)]
        base, base_lengths, source, source_lengths = (torch.cat(parts) for parts in zip(*chunks, strict=True))
        output = case.graph.output
        codes = case.high_level.run(base, base_lengths)[output.name]
        there = real_positions(base, base_lengths)
        data = cls(
            to_ids(case, base, base_lengths),
            to_ids(case, source, source_lengths),
            base_lengths + 1,
            source_lengths + 1,
            case.categorical,
            F.pad(there & (codes != output.ambiguous), (1, 0)),
        )
        return data.trimmed()

    @classmethod
    def from_dataset(cls, rows: Iterable[Any], *, counterfactual: str | None = None) -> "PairData":
        """Pairs from rows of a dataset of this project: a split that `datasets.load_dataset` gives, or a part of it.

        Rows of sentences hold a corrupted input of each kind, of which `counterfactual` names one (`name_swap` if not
        given). Positions without a label do not count. The padding id is the one after BOS, as in every case. Raises
        `SettingError` for rows that lack a column.
        """
        # Fewer columns are faster to read, and what is in the others is not for methods to see.
        choose = getattr(rows, "select_columns", None)
        names: Sequence[str] | None = getattr(rows, "column_names", None)
        if choose and names:
            rows = choose([name for name in (*_columns_of(names, counterfactual), _LABELS) if name in names])
        pairs: list[tuple[list[int], list[int]]] = []
        labels: list[list[int] | None] = []
        for row in rows:
            columns = _columns_of(row, counterfactual)
            lacking = [name for name in columns if name not in row]
            if lacking:
                raise SettingError(
                    f"rows have no column {', '.join(lacking)}; pairs are made from {', '.join(columns)}, the columns "
                    "of this project's datasets of cases"
                )
            other = row[columns[1]]
            # That of sentences is a group of columns.
            pairs.append((row["input_ids"], other["input_ids"] if isinstance(other, dict) else other))
            labels.append(row.get(_LABELS))
        if not pairs:
            raise SettingError("there are no rows; a discovery method needs at least one pair")
        width = max(len(ids) for pair in pairs for ids in pair)
        pad_id = pairs[0][0][0] + 1
        clean, corrupted = (_padded([pair[place] for pair in pairs], pad_id, width) for place in (0, 1))
        lengths, corrupted_lengths = (torch.tensor([len(pair[place]) for pair in pairs]) for place in (0, 1))
        with_labels = [ids for ids in labels if ids is not None]
        counted = _padded(with_labels, _NO_LABEL, width) != _NO_LABEL if len(with_labels) == len(pairs) else None
        return cls(clean, corrupted, lengths, corrupted_lengths, bool(with_labels), counted)  # type: ignore[arg-type]

    # -- parts of them -----------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return self.clean.shape[0]

    @property
    def n_pairs(self) -> int:
        return len(self)

    @property
    def real(self) -> Tensor:
        """Positions of the clean inputs that count: `counted`."""
        return self.counted

    def rows(self, rows: Tensor | slice) -> "PairData":
        """Some of the pairs, as wide as they are."""
        return self._each(lambda part: part[rows])

    def batches(self, size: int) -> Iterator["PairData"]:
        """All pairs in their order, at most `size` at a time, each batch no wider than it must be."""
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise SettingError(f"a batch of {size!r} pairs cannot be; its size is a whole number of at least 1")
        for start in range(0, len(self), size):
            yield self.rows(slice(start, start + size)).trimmed()

    def by_length(self) -> Iterator["PairData"]:
        """The pairs with clean inputs of each length by themselves: nothing clean is padded."""
        for length in self.lengths.unique().tolist():
            yield self.rows(torch.where(self.lengths == length)[0]).trimmed()

    def trimmed(self) -> "PairData":
        """The same pairs without columns that are all padding."""
        width = int(self.corrupted_lengths.max())
        clean, corrupted, counted = (part[:, :width] for part in (self.clean, self.corrupted, self.counted))
        return replace(self, clean=clean, corrupted=corrupted, counted=counted)

    def to(self, device: torch.device | str) -> "PairData":
        """The same pairs on another device."""
        return self._each(lambda part: part.to(device))

    def _each(self, change: Callable[[Tensor], Tensor]) -> "PairData":
        names = ("clean", "corrupted", "lengths", "corrupted_lengths", "counted")
        return replace(self, **{name: change(getattr(self, name)) for name in names})

    # -- the measure -------------------------------------------------------------------------------------------------

    def difference(self, logits: Tensor, reference: Tensor) -> Tensor:
        """How far outputs are from reference outputs: [row], see `output_difference`.

        Both are logits [row, pos, out]; positions beyond theirs are padding of all pairs. Rows are the pairs, or
        repeat them (all pairs, then all again, ...), as stacked passes do; a reference of one row a pair is repeated.
        """
        if len(logits) % len(self) or len(reference) not in (len(self), len(logits)):
            raise SettingError(
                f"logits have {len(logits)} rows, their reference {len(reference)}; {len(self)} pairs have that many "
                "rows or a multiple"
            )
        times = len(logits) // len(self)
        if len(reference) < len(logits):
            reference = reference.repeat(times, 1, 1)
        real = self.real[:, : logits.shape[1]].repeat(times, 1)
        return output_difference(logits, reference, real, categorical=self.categorical)


def _columns_of(names: Iterable[str], counterfactual: str | None) -> tuple[str, ...]:
    """The columns that pairs are made from, of rows with these columns: clean inputs, corrupted ones, lengths."""
    from interpbench_hub.ioi.sentences import COUNTERFACTUALS

    kinds = [kind for kind in COUNTERFACTUALS if kind in names]
    if counterfactual is None and not kinds:
        return _COLUMNS
    if counterfactual is not None and counterfactual not in kinds:
        there = f"those of these rows are {', '.join(kinds)}" if kinds else "these rows have one each, so leave it out"
        raise SettingError(f"counterfactual {counterfactual!r} is no column of the rows; {there}")
    return ("input_ids", counterfactual or kinds[0], "length")


def _padded(rows: Sequence[Sequence[int]], value: int, width: int) -> Tensor:
    return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows])


def output_difference(logits: Tensor, reference: Tensor, real: Tensor, *, categorical: bool) -> Tensor:
    """Mean over the `real` [row, pos] positions of how far logits [row, pos, out] are from a reference: [row].

    For classes, the Kullback-Leibler divergence of the reference's distribution from that of the logits, sum over
    classes of p_reference * log(p_reference / p), in nats: what ACDC measures (Conmy et al. 2023, arXiv:2304.14997).
    For numbers, the squared difference. Differentiable in the logits.
    """
    if categorical:
        expected = reference.log_softmax(-1)
        each = F.kl_div(logits.log_softmax(-1), expected, reduction="none", log_target=True).sum(-1)
    else:
        each = (logits - reference).square().mean(-1)
    # Multiplying would let a NaN of a padded position through.
    return each.masked_fill(~real, 0).sum(1) / real.sum(1)
