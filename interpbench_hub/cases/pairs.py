"""Inputs and pairs of inputs of a case as tensors of token codes: drawn, enumerated, and split.

A pair is a base input and a source input at least as long. Inputs are LongTensors [batch, pos] of places in the
vocabulary, without BOS, padded on the right to the case's longest input, with their lengths beside them.
"""

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from interpbench_hub.errors import SettingError

if TYPE_CHECKING:
    from interpbench_hub.cases.case import Case

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
_SHARES = {"train": range(0, 70), "validation": range(70, 80), "test": range(80, 100)}

MIN_SPACE_TO_SPLIT = 5_000
"""Lengths with fewer possible inputs than this are not split: every split holds all of them."""


class Pairs(NamedTuple):
    """Bases and sources with their lengths; see the module's docstring for shapes."""

    base: Tensor
    base_lengths: Tensor
    source: Tensor
    source_lengths: Tensor

    def __getitem__(self, rows):  # type: ignore[override]
        """The pairs of some rows (a slice or an index tensor); an int picks a field, as in any tuple."""
        if isinstance(rows, int):
            return tuple.__getitem__(self, rows)
        return Pairs(*(part[rows] for part in tuple(self)))

    @property
    def n_pairs(self) -> int:
        return self.base.shape[0]


def is_split(case: "Case", n_tokens: int) -> bool:
    """Whether inputs of this length are divided among the splits (there are enough of them)."""
    return len(case.vocab) ** n_tokens >= MIN_SPACE_TO_SPLIT


def real_positions(tokens: Tensor, lengths: Tensor) -> Tensor:
    """Which positions of `tokens` [batch, pos] are no padding: BoolTensor [batch, pos]."""
    return torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]


def split_bucket(tokens: Tensor, lengths: Tensor) -> Tensor:
    """A number from 0 to 99 for each input, the same whenever and wherever it is computed: LongTensor [batch]."""
    # A multiplicative hash in 61 bits; the constants only need to be odd and large.
    state = lengths * 2_654_435_761 + 97
    for position in range(tokens.shape[1]):
        mixed = (state * 1_099_511_628_211 + tokens[:, position] + 1) & ((1 << 61) - 1)
        mixed = mixed ^ (mixed >> 29)
        state = torch.where(position < lengths, mixed, state)
    state = (state * 2_246_822_519) & ((1 << 61) - 1)
    return (state ^ (state >> 31)) % 100


def in_split(case: "Case", tokens: Tensor, lengths: Tensor, split: Split) -> Tensor:
    """Which inputs may appear in a split: BoolTensor [batch]."""
    if not is_split(case, case.max_len - 1):
        # No length has enough inputs, the longest having the most.
        return torch.ones(len(tokens), dtype=torch.bool)
    share = _SHARES[split]
    bucket = split_bucket(tokens, lengths)
    whole = torch.tensor([not is_split(case, n) for n in range(case.max_len)])
    return whole[lengths] | ((bucket >= share.start) & (bucket < share.stop))


def seeded(*parts: object) -> int:
    """A 63-bit seed made from anything that prints the same everywhere."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


class PairSource(Protocol):
    """Draws pairs, and inputs by themselves; the same number of a draw always gives the same."""

    def draw(self, n_pairs: int, draw: int = 0) -> Pairs:
        """The pairs of draw number `draw`."""
        ...

    def inputs(self, n_inputs: int, draw: int = 0) -> tuple[Tensor, Tensor]:
        """Inputs and their lengths."""
        ...


@dataclass(frozen=True)
class PairSampler:
    """Draws pairs from a case's sampler: every length equally often, sources at least as long as their base.

    The n-th draw depends on the case, `seed`, `split` and n alone, so a stream can be taken up anywhere.
    """

    case: "Case"
    seed: int | str = 0
    split: Split | None = None
    """Only inputs of this split; None draws from all."""
    related: float = 0.0
    """Share of pairs whose source is the base with a few tokens changed (and, if longer, some appended), where that
    stays within the split."""

    def draw(self, n_pairs: int, draw: int = 0) -> Pairs:
        """The pairs of draw number `draw`."""
        case = self.case
        seed = seeded("pairs", case.id, self.seed, self.split, draw)
        generator = torch.Generator().manual_seed(seed)
        rng = random.Random(seed)
        shortest, longest = case.min_len - 1, case.max_len - 1
        base_lengths = torch.randint(shortest, longest + 1, (n_pairs,), generator=generator)
        source_lengths = base_lengths + (torch.rand(n_pairs, generator=generator) * (longest + 1 - base_lengths)).long()
        # Half of the sources have their base's length: the difference in length is one difference among others.
        same = torch.rand(n_pairs, generator=generator) < 0.5
        source_lengths = torch.where(same, base_lengths, source_lengths)
        tokens = self._inputs(torch.cat([base_lengths, source_lengths]), generator, rng)
        base, source = tokens[:n_pairs], tokens[n_pairs:]
        if self.related:
            changed = self._change(base, source, base_lengths, generator)
            taken = torch.rand(n_pairs, generator=generator) < self.related
            if self.split is not None:
                taken &= in_split(case, changed, source_lengths, self.split)
            source = torch.where(taken[:, None], changed, source)
        return Pairs(base, base_lengths, source, source_lengths)

    def inputs(self, n_inputs: int, draw: int = 0) -> tuple[Tensor, Tensor]:
        """Inputs and their lengths, every length equally often."""
        seed = seeded("inputs", self.case.id, self.seed, self.split, draw)
        generator = torch.Generator().manual_seed(seed)
        lengths = torch.randint(self.case.min_len - 1, self.case.max_len, (n_inputs,), generator=generator)
        return self._inputs(lengths, generator, random.Random(seed)), lengths

    def _inputs(self, lengths: Tensor, generator: torch.Generator, rng: random.Random) -> Tensor:
        tokens = self._draw(lengths, generator, rng)
        if self.split is None:
            return tokens
        for _ in range(1000):
            outside = ~in_split(self.case, tokens, lengths, self.split)
            if not bool(outside.any()):
                return tokens
            tokens[outside] = self._draw(lengths[outside], generator, rng)
        raise SettingError(
            f"case {self.case.id}: its sampler draws no inputs of the split {self.split!r} at some length; draw from "
            "more inputs, or shorten the lengths"
        )

    def _draw(self, lengths: Tensor, generator: torch.Generator, rng: random.Random) -> Tensor:
        case = self.case
        width = case.max_len - 1
        if case.sampler is None:
            tokens = torch.randint(0, len(case.vocab), (len(lengths), width), generator=generator)
        else:
            ids = case.token_ids
            rows = []
            for length in lengths.tolist():
                row = [ids[token] for token in case.sample(rng, length)]
                rows.append(row + [0] * (width - length))
            tokens = torch.tensor(rows, dtype=torch.long).reshape(len(lengths), width)
        return tokens.masked_fill(torch.arange(width) >= lengths[:, None], 0)

    def _change(self, base: Tensor, source: Tensor, base_lengths: Tensor, generator: torch.Generator) -> Tensor:
        """The base with one token and about a quarter of the others (and all beyond its end) taken from the source."""
        taken = torch.rand(base.shape, generator=generator) < 0.25
        one = (torch.rand(len(base), generator=generator) * base_lengths).long()
        taken |= torch.arange(base.shape[1]) == one[:, None]
        return torch.where(taken | (torch.arange(base.shape[1]) >= base_lengths[:, None]), source, base)


def all_inputs(case: "Case") -> tuple[Tensor, Tensor]:
    """Every input of a case, shortest first, and their lengths."""
    width = case.max_len - 1
    rows, lengths = [], []
    for n_tokens in range(case.min_len - 1, case.max_len):
        these = torch.tensor(list(product(range(len(case.vocab)), repeat=n_tokens)), dtype=torch.long)
        rows.append(torch.nn.functional.pad(these, (0, width - n_tokens)))
        lengths.append(torch.full((len(these),), n_tokens))
    return torch.cat(rows), torch.cat(lengths)


def count_pairs(case: "Case") -> int:
    """Number of pairs of inputs with a source at least as long as its base."""
    counts = [len(case.vocab) ** n_tokens for n_tokens in range(case.min_len - 1, case.max_len)]
    return sum(count * sum(counts[place:]) for place, count in enumerate(counts))


def pair_places(lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Every pair of inputs of these lengths as places of its base and of its source, at least as long."""
    base, source = torch.where(lengths[None, :] >= lengths[:, None])
    return base, source


def all_pairs(case: "Case", chunk: int = 8192) -> Iterator[Pairs]:
    """Every pair of inputs, in chunks of at most `chunk` pairs."""
    tokens, lengths = all_inputs(case)
    base, source = pair_places(lengths)
    for b, s in zip(base.split(chunk), source.split(chunk), strict=True):
        yield Pairs(tokens[b], lengths[b], tokens[s], lengths[s])
