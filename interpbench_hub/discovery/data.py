"""Pairs of inputs for discovery methods: what a method may look at, and how far outputs are from one another.

A pair is a clean input and a corrupted one, mostly of the same length. Owns the measure by which patched outputs are
compared. Nothing here tells which edges belong to a circuit.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
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

    # -- where they come from ----------------------------------------------------------------------------------------

    @classmethod
    def of(
        cls, case: "Case | str", *, n_pairs: int = DEFAULT_PAIRS, seed: int = 0, split: "Split" = "test"
    ) -> "PairData":
        """Pairs of a case, drawn as those of its dataset are: always the same for the same seed.

        More than half of the pairs change the output, every varying edge is exercised by a pair of the split if any
        does, and every length has its turn. `n_pairs` may be any number; below a few dozen, planting a pair for each
        edge fills the data with those.
        """
        # It needs nothing of the extra `data`, and what a benchmark measures should be what its datasets hold.
        from dataset_builders.counterfactuals import CounterfactualPairs
        from interpbench_hub.cases import get_case
        from interpbench_hub.cases.pairs import SPLITS
        from interpbench_hub.siit.pair_run import to_ids

        case = get_case(case) if isinstance(case, str) else case
        if isinstance(n_pairs, bool) or not isinstance(n_pairs, int) or n_pairs < 1:
            raise SettingError(f"n_pairs is {n_pairs!r}; it is a whole number of at least 1")
        if split not in SPLITS:
            raise SettingError(f"split {split!r} is not one of {', '.join(SPLITS)}")
        chunks = [tuple(chunk) for chunk in CounterfactualPairs(case, split, seed=seed).chunks(n_pairs)]
        base, base_lengths, source, source_lengths = (torch.cat(parts) for parts in zip(*chunks, strict=True))
        data = cls(
            to_ids(case, base, base_lengths),
            to_ids(case, source, source_lengths),
            base_lengths + 1,
            source_lengths + 1,
            case.categorical,
        )
        return data.trimmed()

    @classmethod
    def from_dataset(cls, rows: Iterable[Any]) -> "PairData":
        """Pairs from rows of a dataset of this project: a split that `datasets.load_dataset` gives, or a part of it.

        The padding id is the one after BOS, as in every case. Raises `SettingError` for rows that lack a column.
        """
        columns: dict[str, list[Any]] = {name: [] for name in _COLUMNS}
        categorical = False
        # Fewer columns are faster to read, and what is in the others is not for methods to see.
        choose = getattr(rows, "select_columns", None)
        names: Sequence[str] | None = getattr(rows, "column_names", None)
        if choose and names and set(_COLUMNS) <= set(names):
            categorical = "label_ids" in names
            rows = choose(list(_COLUMNS))
        for row in rows:
            lacking = [name for name in _COLUMNS if name not in row]
            if lacking:
                raise SettingError(
                    f"rows have no column {', '.join(lacking)}; pairs are made from {', '.join(_COLUMNS)}, the columns "
                    "of this project's datasets of cases"
                )
            categorical |= "label_ids" in row
            for name in _COLUMNS:
                columns[name].append(row[name])
        if not columns["length"]:
            raise SettingError("there are no rows; a discovery method needs at least one pair")
        width = max(columns["counterfactual_length"])
        pad_id = columns["input_ids"][0][0] + 1
        clean, corrupted = (
            torch.tensor([[*ids, *[pad_id] * (width - len(ids))] for ids in columns[name]]) for name in _COLUMNS[:2]
        )
        lengths, corrupted_lengths = (torch.tensor(columns[name]) for name in _COLUMNS[2:])
        return cls(clean, corrupted, lengths, corrupted_lengths, categorical)

    # -- parts of them -----------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return self.clean.shape[0]

    @property
    def n_pairs(self) -> int:
        return len(self)

    @property
    def real(self) -> Tensor:
        """Positions of the clean inputs that count: BoolTensor [pair, pos], neither BOS nor padding."""
        places = torch.arange(self.clean.shape[1], device=self.clean.device)
        return (places > 0) & (places < self.lengths[:, None])

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
        return replace(self, clean=self.clean[:, :width], corrupted=self.corrupted[:, :width])

    def to(self, device: torch.device | str) -> "PairData":
        """The same pairs on another device."""
        return self._each(lambda part: part.to(device))

    def _each(self, change: Callable[[Tensor], Tensor]) -> "PairData":
        clean, corrupted = change(self.clean), change(self.corrupted)
        return PairData(clean, corrupted, change(self.lengths), change(self.corrupted_lengths), self.categorical)

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
