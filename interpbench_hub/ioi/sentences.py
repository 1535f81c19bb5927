"""Sentences of Indirect Object Identification, their counterfactuals, and pairs of both, drawn as tensors.

A sentence is a template with its slots filled. Its subject (S) is named in both clauses, its indirect object (IO) in
the first alone: "Then, Mary and John went to the store. John gave a drink to" goes on with Mary. Where the IO comes
first, the order is ABBA, else BABA.
"""

from dataclasses import dataclass, fields, replace
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from interpbench_hub.cases.pairs import Pairs, Split, seeded
from interpbench_hub.certificate import Counterfactual
from interpbench_hub.errors import SettingError
from interpbench_hub.ioi.templates import AGAIN, FIRST, SECOND, SLOTS, TEMPLATES, VOCAB, templates_of
from interpbench_hub.ioi.words import COUNTERFACTUALS, NAMES, OBJECTS, PLACES

if TYPE_CHECKING:
    from interpbench_hub.ioi.case import IoiCase

_WIDTH = max(map(len, TEMPLATES))
_BUCKETS: dict[Split, range] = {"train": range(0, 70), "validation": range(70, 80), "test": range(80, 100)}


@dataclass(frozen=True)
class Sentences:
    """A batch of sentences by what fills their slots: LongTensors [sentence], names and words as token ids."""

    template: Tensor
    first: Tensor
    second: Tensor
    again: Tensor
    """The name of the second clause; in ordinary sentences one of the first two."""
    place: Tensor
    object: Tensor

    def __len__(self) -> int:
        return len(self.template)

    def rows(self, rows: Tensor | slice) -> "Sentences":
        return Sentences(*(getattr(self, field.name)[rows] for field in fields(self)))

    def where(self, chosen: Tensor, other: "Sentences") -> "Sentences":
        """These sentences where `chosen` [sentence], else the others."""
        return Sentences(
            *(torch.where(chosen, getattr(self, field.name), getattr(other, field.name)) for field in fields(self))
        )

    @property
    def lengths(self) -> Tensor:
        """Tokens [sentence], BOS not counted."""
        return _tables().lengths[self.template]

    @property
    def io(self) -> Tensor:
        """Names [sentence] that are said once in the first clause and not again; the first one if both are."""
        return torch.where(self.again == self.first, self.second, self.first)

    def tokens(self) -> Tensor:
        """Token ids [sentence, pos] without BOS, 0 after a sentence's end."""
        tables = _tables()
        tokens = tables.words[self.template]
        fillings = (self.first, self.second, self.again, self.place, self.object)
        for slot, filling in enumerate(fillings):
            tokens = torch.where(tokens == -1 - slot, filling[:, None], tokens)
        return tokens

    def positions(self) -> dict[str, Tensor]:
        """Where the roles stand, counted without BOS: `io`, `s1`, `s2` and `end`, LongTensors [sentence].

        Where the second clause has a third name, `io` is the first of the other two and `s1` the second.
        """
        tables = _tables()
        first, second = tables.place_of[FIRST][self.template], tables.place_of[SECOND][self.template]
        is_first = self.again == self.first
        return {
            "io": torch.where(is_first, second, first),
            "s1": torch.where(is_first, first, second),
            "s2": tables.place_of[AGAIN][self.template],
            "end": self.lengths - 1,
        }


@dataclass(frozen=True)
class _Tables:
    words: Tensor
    """Token ids [template, pos]; -1 - n for the n-th slot, 0 after the end."""
    lengths: Tensor
    place_of: dict[str, Tensor]


@cache
def _tables() -> _Tables:
    ids = {word: place for place, word in enumerate(VOCAB)} | {slot: -1 - n for n, slot in enumerate(SLOTS)}
    rows = [[ids[word] for word in template] + [0] * (_WIDTH - len(template)) for template in TEMPLATES]
    places = {slot: torch.tensor([template.index(slot) for template in TEMPLATES]) for slot in (FIRST, SECOND, AGAIN)}
    return _Tables(torch.tensor(rows), torch.tensor([len(template) for template in TEMPLATES]), places)


def name_bucket(one: Tensor, other: Tensor) -> Tensor:
    """A number from 0 to 99 for an unordered pair of names, always the same: which split the pair belongs to."""
    low, high = torch.minimum(one, other), torch.maximum(one, other)
    mixed = (low * len(NAMES) + high + 1) * 2_654_435_761 & ((1 << 40) - 1)
    return (mixed ^ (mixed >> 17)) * 2_246_822_519 % 1_000_003 % 100


def names_in_split(one: Tensor, other: Tensor, split: Split | None) -> Tensor:
    """Whether pairs of names may appear together as IO and S in a split."""
    if split is None:
        return torch.ones_like(one, dtype=torch.bool)
    bucket = name_bucket(one, other)
    return (bucket >= _BUCKETS[split].start) & (bucket < _BUCKETS[split].stop)


class SentenceSampler:
    """Draws sentences of a split (templates and pairs of names alike) from a generator."""

    def __init__(self, split: Split | None, generator: torch.Generator) -> None:
        self.split: Split | None = split
        self.generator = generator
        self._templates = torch.tensor(templates_of(split))
        self._lengths = _tables().lengths[self._templates]

    def draw(self, n_sentences: int, at_least: Tensor | None = None) -> Sentences:
        """Sentences whose templates, names, places, objects and order are each as likely as any other.

        `at_least` [sentence] are the fewest tokens they may have.
        """
        first_fit = torch.zeros(n_sentences, dtype=torch.long)
        if at_least is not None:
            # Templates are sorted by length.
            first_fit = torch.searchsorted(self._lengths, at_least)
            if bool((first_fit == len(self._templates)).any()):
                raise SettingError(
                    f"a sentence of at least {int(at_least.max())} tokens is asked for; the longest of split "
                    f"{self.split!r} has {int(self._lengths[-1])}"
                )
        room = len(self._templates) - first_fit
        chosen = first_fit + (self._uniform(n_sentences) * room).long()
        first, second = self._names(n_sentences)
        again = torch.where(self._uniform(n_sentences) < 0.5, first, second)
        n_names, n_places = len(NAMES), len(PLACES)
        place = n_names + self._below(n_places, n_sentences)
        thing = n_names + n_places + self._below(len(OBJECTS), n_sentences)
        return Sentences(self._templates[chosen], first, second, again, place, thing)

    def counterfactual(self, sentences: Sentences, kind: Counterfactual) -> Sentences:
        """For each sentence one that differs from it as the kind says."""
        match kind:
            case "name_swap":
                return replace(sentences, first=sentences.second, second=sentences.first, again=sentences.io)
            case "s2_to_io":
                return replace(sentences, again=sentences.io)
            case "abc":
                return replace(sentences, again=self._third(sentences))
            case "resample":
                return self.draw(len(sentences), sentences.lengths)

    def _names(self, n_pairs: int) -> tuple[Tensor, Tensor]:
        """Pairs of two different names that belong to the split."""
        first, second = torch.zeros(2, n_pairs, dtype=torch.long)
        missing = torch.arange(n_pairs)
        while len(missing):
            one, other = self._below(len(NAMES), len(missing)), self._below(len(NAMES), len(missing))
            first[missing], second[missing] = one, other
            missing = missing[(one == other) | ~names_in_split(one, other, self.split)]
        return first, second

    def _third(self, sentences: Sentences) -> Tensor:
        """A name [sentence] that is neither of the first clause's."""
        low = torch.minimum(sentences.first, sentences.second)
        high = torch.maximum(sentences.first, sentences.second)
        third = self._below(len(NAMES) - 2, len(sentences))
        third = third + (third >= low)
        return third + (third >= high)

    def _uniform(self, n_numbers: int) -> Tensor:
        return torch.rand(n_numbers, generator=self.generator)

    def _below(self, limit: int, n_numbers: int) -> Tensor:
        return torch.randint(limit, (n_numbers,), generator=self.generator)


@dataclass(frozen=True)
class SentencePairs:
    """Draws pairs of sentences, as `PairSampler` draws pairs of an ordinary case's inputs: the base, and its source.

    The n-th draw depends on the case, `seed`, `split`, `kinds` and n alone.
    """

    case: "IoiCase"
    seed: int | str = 0
    split: Split | None = None
    kinds: tuple[Counterfactual, ...] = COUNTERFACTUALS
    """What sources are to their bases, in equal shares."""
    garbled: float = 0.0
    """Share of pairs in which half of the words that are no names are drawn at random, so that heads learn names and
    not the few templates by heart."""

    def draw(self, n_pairs: int, draw: int = 0) -> Pairs:
        """The pairs of draw number `draw`."""
        base, source = self.sentences(n_pairs, draw)
        pairs = Pairs(base.tokens(), base.lengths, source.tokens(), source.lengths)
        return self._garble(pairs, draw) if self.garbled else pairs

    def _garble(self, pairs: Pairs, draw: int) -> Pairs:
        """Pairs with other words in a share of them, the same ones in source and base."""
        generator = self._sampler("garbled", draw).generator
        shape = pairs.base.shape
        chosen = torch.rand(len(pairs.base), 1, generator=generator) < self.garbled
        chosen = chosen & (torch.rand(shape, generator=generator) < 0.5)
        words = torch.randint(len(NAMES), len(VOCAB), shape, generator=generator)

        def garble(tokens: Tensor) -> Tensor:
            return torch.where(chosen & (tokens >= len(NAMES)), words, tokens)

        return Pairs(garble(pairs.base), pairs.base_lengths, garble(pairs.source), pairs.source_lengths)

    def sentences(self, n_pairs: int, draw: int = 0) -> tuple[Sentences, Sentences]:
        """The same pairs by what fills their slots."""
        sampler = self._sampler("pairs", self.kinds, draw)
        base = sampler.draw(n_pairs)
        source = base
        which = torch.randint(len(self.kinds), (n_pairs,), generator=sampler.generator)
        for place, kind in enumerate(self.kinds):
            source = sampler.counterfactual(base, kind).where(which == place, source)
        return base, source

    def inputs(self, n_inputs: int, draw: int = 0) -> tuple[Tensor, Tensor]:
        """Sentences by themselves and their lengths."""
        sentences = self._sampler("inputs", draw).draw(n_inputs)
        return sentences.tokens(), sentences.lengths

    def _sampler(self, *parts: object) -> SentenceSampler:
        seed = seeded("sentences", self.case.id, self.seed, self.split, *parts)
        return SentenceSampler(self.split, torch.Generator().manual_seed(seed))
