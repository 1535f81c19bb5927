"""Which counterfactual goes with which clean input: drawn, measured on the high-level model, chosen.

Owns the choice of pairs that differ in a way that matters, and the counts that say how far they do. Both inputs of a
pair are equally long; only where an edge of the circuit carries nothing but the length, a few counterfactuals are
longer, of which an interchange uses the first positions. Inputs are tensors of token codes, as in
`interpbench_hub.cases.pairs`; knows nothing of columns or files.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from interpbench_hub.cases.kinds import changes_output
from interpbench_hub.cases.pairs import Pairs, Split, in_split, real_positions, seeded
from interpbench_hub.circuit import LOGITS, Edge
from interpbench_hub.errors import CaseError, SettingError

if TYPE_CHECKING:
    from interpbench_hub.cases.case import Case

CHUNK = 2_500
"""Rows made at a time: memory does not grow with the number of rows."""
ROUNDS = 8
"""Counterfactuals tried for a row before the best so far is kept."""
SEARCH_POOLS = 6
"""Sets of inputs searched for a pair that exercises an edge before the split is said to hold none."""
SEARCH_ROUNDS = 4
"""Counterfactuals tried for every input of such a set."""
PLAIN = 4
"""One row in so many takes the first counterfactual drawn, whatever it does to the output."""
LONGER = 25
"""Where edges carry the length alone, one row in so many has a longer counterfactual, if there are longer inputs."""
_RETRIES = 40
"""Changes tried until one stays within the split; a split holds at least a tenth of the inputs."""


@dataclass
class Counts:
    """What the rows of a split turned out to be."""

    rows: int = 0
    distinct_inputs: int = 0
    """Different clean inputs."""
    label_changes: int = 0
    """Pairs whose output differs at some position of the clean input."""
    longer: int = 0
    """Pairs whose counterfactual is longer than the clean input."""
    rows_of_length: dict[int, int] = field(default_factory=dict)
    """By length, BOS counted."""
    exercised: dict[str, int] = field(default_factory=dict)
    """For each varying edge of the circuit, the pairs whose path interchange of it alone changes the output."""
    _seen: set[bytes] = field(default_factory=set, repr=False)

    def add(self, pairs: Pairs, changed: Tensor, exercises: Tensor, edges: list[Edge]) -> None:
        self.rows += pairs.n_pairs
        # Padding is 0, a token like others, so an input is its tokens and its length.
        inputs = torch.cat([pairs.base_lengths[:, None], pairs.base], dim=1).to(torch.int32)
        self._seen.update(row.tobytes() for row in inputs.numpy())
        self.distinct_inputs = len(self._seen)
        self.label_changes += int(changed.sum())
        self.longer += int((pairs.source_lengths > pairs.base_lengths).sum())
        n_tokens, counts = pairs.base_lengths.unique(return_counts=True)
        for length, count in zip((n_tokens + 1).tolist(), counts.tolist(), strict=True):
            self.rows_of_length[length] = self.rows_of_length.get(length, 0) + count
        for edge, row in zip(edges, exercises, strict=True):
            self.exercised[str(edge)] = self.exercised.get(str(edge), 0) + int(row.sum())

    def to_dict(self) -> dict[str, Any]:
        """The counts as JSON holds them; keys in a fixed order."""
        return {
            "rows": self.rows,
            "distinct_inputs": self.distinct_inputs,
            "label_changes": self.label_changes,
            "longer": self.longer,
            "rows_of_length": {str(length): self.rows_of_length[length] for length in sorted(self.rows_of_length)},
            "exercised": self.exercised,
        }


class Pool:
    """Inputs of a split, grouped by length, to take clean inputs from and to mix counterfactuals of."""

    def __init__(self, tokens: Tensor, lengths: Tensor, n_lengths: int) -> None:
        order = torch.argsort(lengths, stable=True)
        self.tokens, self.lengths = tokens[order], lengths[order]
        self.counts = torch.bincount(lengths, minlength=n_lengths)
        self.starts = self.counts.cumsum(0) - self.counts

    def any_of(self, lengths: Tensor, generator: torch.Generator) -> Tensor:
        """A random input of each of the lengths."""
        place = (torch.rand(len(lengths), generator=generator) * self.counts[lengths]).long()
        return self.tokens[self.starts[lengths] + place]

    def first_of(self, lengths: Tensor) -> Tensor:
        """Inputs of the lengths, none used twice."""
        order = torch.argsort(lengths, stable=True)
        ordered = lengths[order]
        counts = torch.bincount(lengths, minlength=len(self.counts))
        rank = torch.arange(len(lengths)) - (counts.cumsum(0) - counts)[ordered]
        taken = torch.empty(len(lengths), self.tokens.shape[1], dtype=torch.long)
        taken[order] = self.tokens[self.starts[ordered] + rank]
        return taken


class CounterfactualPairs:
    """The pairs of one split of a case's dataset, the same for the same seed; `counts` grows as chunks are drawn."""

    def __init__(self, case: "Case", split: Split, *, seed: int = 0) -> None:
        if case.is_language:
            # Mixing the words of sentences makes none.
            raise CaseError(f"case {case.id}: its inputs are sentences; draw them with dataset_builders.draws.draw_of")
        self.case = case
        self.split: Split = split
        self.seed = seed
        self.counts = Counts()
        self._sampler = case.pair_sampler(seed=f"dataset {seed}", split=split)

    @cached_property
    def edges(self) -> list[Edge]:
        """The varying edges of the case's circuit."""
        return self.case.circuit.of_kind("varying")

    @cached_property
    def length_only(self) -> list[Edge]:
        """Those of them that carry what follows from the length: no pair of equally long inputs exercises them."""
        return [edge for edge in self.edges if edge in edges_of_length(self.case)]

    def chunks(self, n_rows: int) -> Iterator[Pairs]:
        """`n_rows` pairs of a clean input (base) and its counterfactual (source), at most `CHUNK` at a time."""
        self.counts = Counts()
        sampler = self.case.pair_sampler(seed=f"dataset {self.seed} search", split=self.split)
        pools = (Pool(*sampler.inputs(CHUNK, number), self.case.max_len) for number in range(SEARCH_POOLS))
        first_pool = next(pools)
        found = self._search(chain([first_pool], pools))
        goals = [edge for edge in found if edge not in self.length_only]
        turns = self._turns(first_pool)
        draw = 0
        for first in range(0, n_rows, CHUNK):
            lengths = turns[torch.arange(first, min(first + CHUNK, n_rows)) % len(turns)]
            pool, draw = self._pool(lengths, draw)
            pairs = self._choose(pool.first_of(lengths), lengths, pool, goals, self._generator("chunk", first))
            if first == 0:
                pairs = _planted(pairs, list(found.values()))
            exercises = changes_output(self.case, pairs, self.edges)
            self.counts.add(pairs, self._changes(pairs), exercises, self.edges)
            yield pairs

    def pairs(self, n_rows: int, kind: str | None = None) -> Iterator[Pairs]:
        """The same as `chunks`: a row has one counterfactual, of no kind."""
        if kind is not None:
            raise SettingError(
                f"counterfactual {kind!r} is no kind of case {self.case.id}: its rows have one each, so leave it out"
            )
        return self.chunks(n_rows)

    def record(self) -> dict[str, Any]:
        """What is to be kept about the rows, as JSON holds it."""
        return {"counts": self.counts.to_dict(), "length_only": [str(edge) for edge in self.length_only]}

    def _turns(self, pool: Pool) -> Tensor:
        """Token counts in the order in which rows take turns.

        A length at which no two inputs of the split have different outputs comes up a quarter as often as the others:
        its pairs cannot change the output.
        """
        output = self.case.high_level.run(pool.tokens, pool.lengths)[self.case.graph.output.name]
        differs = (output != output[pool.starts[pool.lengths]]) & real_positions(pool.tokens, pool.lengths)
        lengths = torch.arange(self.case.min_len - 1, self.case.max_len)
        lively = lengths[torch.isin(lengths, pool.lengths[differs.any(-1)])]
        return torch.cat([lengths, *[lively] * 3]) if len(lively) < len(lengths) else lengths

    # -- drawing -------------------------------------------------------------------------------------------------------

    def _generator(self, *what: object) -> torch.Generator:
        parts = ("counterfactuals", self.case.id, self.seed, self.split, *what)
        return torch.Generator().manual_seed(seeded(*parts))

    def _pool(self, lengths: Tensor, draw: int) -> tuple[Pool, int]:
        """Inputs enough for clean ones of these lengths and then some, and the number of the next draw."""
        n_lengths = self.case.max_len - self.case.min_len + 1
        needed = torch.bincount(lengths, minlength=self.case.max_len)
        size = max(len(lengths) + len(lengths) // 4, 16 * n_lengths)
        tokens, token_counts = [], []
        while True:
            drawn = self._sampler.inputs(size, draw)
            draw += 1
            tokens.append(drawn[0])
            token_counts.append(drawn[1])
            pool = Pool(torch.cat(tokens), torch.cat(token_counts), self.case.max_len)
            if bool((pool.counts >= needed).all()) and bool((pool.counts[self.case.min_len - 1 :] > 0).all()):
                return pool, draw
            size = max(size // 4, 64)

    def _longer(self, lengths: Tensor, goals: Tensor) -> Tensor:
        """Which rows should have a longer counterfactual: those whose goal needs it, if there are longer inputs."""
        return torch.isin(goals, self._places(self.length_only)) & (lengths < self.case.max_len - 1)

    def _draw(
        self, base: Tensor, lengths: Tensor, longer: Tensor, pool: Pool, generator: torch.Generator
    ) -> tuple[Pairs, Tensor]:
        """Each base with a counterfactual, and whether it is one: an input of the split that is not the base.

        An independent input, or the base with one token, a quarter or half of its tokens taken from such an input;
        what lies beyond the base's end is the independent input's.
        """
        n_rows, width = base.shape
        source, source_lengths = base.clone(), lengths.clone()
        if bool(longer.any()):
            more = (torch.rand(n_rows, generator=generator) * (self.case.max_len - 1 - lengths)).long() + 1
            source_lengths = torch.where(longer, lengths + more, lengths)
        open_ = torch.arange(n_rows)
        for _ in range(_RETRIES):
            other = pool.any_of(source_lengths[open_], generator)
            share = torch.tensor([2.0, 0.5, 0.25, -1.0])[torch.randint(4, (len(open_),), generator=generator)]
            taken = torch.rand(len(open_), width, generator=generator) < share[:, None]
            place = (torch.rand(len(open_), generator=generator) * lengths[open_]).long()
            taken |= (torch.arange(width) == place[:, None]) & (share < 0)[:, None]
            taken |= ~real_positions(base[open_], lengths[open_])
            made = torch.where(taken, other, base[open_])
            good = longer[open_] | (made != base[open_]).any(-1)
            good &= in_split(self.case, made, source_lengths[open_], self.split)
            source[open_[good]] = made[good]
            open_ = open_[~good]
            if not len(open_):
                break
        valid = torch.ones(n_rows, dtype=torch.bool)
        valid[open_] = False
        return Pairs(base, lengths, source, source_lengths), valid

    # -- measuring -----------------------------------------------------------------------------------------------------

    def _changes(self, pairs: Pairs) -> Tensor:
        model, output = self.case.high_level, self.case.graph.output.name
        clean = model.run(pairs.base, pairs.base_lengths)[output]
        other = model.run(pairs.source, pairs.source_lengths)[output]
        return ((clean != other) & real_positions(pairs.base, pairs.base_lengths)).any(-1)

    def _measure(self, pairs: Pairs, goals: Tensor) -> tuple[Tensor, Tensor]:
        """Whether each pair changes the output, and whether interchanging its goal (a place in the circuit) does."""
        model, output = self.case.high_level, self.case.graph.output.name
        clean = model.run(pairs.base, pairs.base_lengths)[output]
        source = model.run(pairs.source, pairs.source_lengths)
        mask = torch.nn.functional.one_hot(goals, len(model.circuit)).bool()
        codes = model.interchange(pairs.base, pairs.base_lengths, source, mask)
        there = real_positions(pairs.base, pairs.base_lengths)
        exercises = ((codes != clean) & (codes != model.output_ambiguous) & there).any(-1)
        return ((source[output] != clean) & there).any(-1), exercises

    # -- choosing ------------------------------------------------------------------------------------------------------

    def _choose(
        self, base: Tensor, lengths: Tensor, pool: Pool, goals: list[Edge], generator: torch.Generator
    ) -> Pairs:
        """The best of up to `ROUNDS` counterfactuals for each base: every row has an edge it should exercise."""
        places = self._places(goals or list(self.case.circuit)[:1])
        goal = places[torch.randint(len(places), (len(base),), generator=generator)]
        plain = torch.rand(len(base), generator=generator) < 1 / PLAIN
        if self.length_only:
            needy = self._places(self.length_only)
            taken = torch.rand(len(base), generator=generator) < 1 / LONGER
            goal = torch.where(taken, needy[torch.randint(len(needy), (len(base),), generator=generator)], goal)
        longer = self._longer(lengths, goal)
        source, source_lengths, score = base.clone(), lengths.clone(), torch.full((len(base),), -1)
        for _ in range(ROUNDS):
            # 3 changes the output and exercises the goal, 2 and 1 do one of the two, 0 neither, -1 is none yet.
            open_ = torch.where(plain, score < 0, score < 3).nonzero()[:, 0]
            if not len(open_):
                break
            pairs, valid = self._draw(base[open_], lengths[open_], longer[open_], pool, generator)
            changed, exercised = self._measure(pairs, goal[open_])
            new = torch.where(valid, 2 * changed.long() + exercised.long(), -1)
            better = new > score[open_]
            source[open_[better]] = pairs.source[better]
            source_lengths[open_[better]] = pairs.source_lengths[better]
            score[open_[better]] = new[better]
        if bool((score < 0).any()):
            length = int(lengths[score < 0][0]) + 1
            raise CaseError(
                f"case {self.case.id}: no counterfactual of length {length} found in the split {self.split!r}; its "
                "sampler must draw at least two different inputs of every length"
            )
        return Pairs(base, lengths, source, source_lengths)

    def _search(self, pools: Iterable[Pool]) -> dict[Edge, Pairs]:
        """A pair that exercises each varying edge, for those edges for which there is one."""
        found: dict[Edge, Pairs] = {}
        generator = self._generator("search")
        open_ = list(self.edges)
        for pool in pools:
            for _ in range(SEARCH_ROUNDS):
                if not open_:
                    return {edge: found[edge] for edge in self.edges}
                places = self._places(open_)
                goal = places[torch.randint(len(open_), (len(pool.lengths),), generator=generator)]
                longer = self._longer(pool.lengths, goal)
                pairs, valid = self._draw(pool.tokens, pool.lengths, longer, pool, generator)
                hits = self._measure(pairs, goal)[1] & valid
                for edge, place in zip(list(open_), places.tolist(), strict=True):
                    rows = (hits & (goal == place)).nonzero()[:, 0]
                    if len(rows):
                        # Any of them: rows are sorted by length, and not all edges should meet at the shortest.
                        found[edge] = pairs[rows[torch.randint(len(rows), (1,), generator=generator)]]
                        open_.remove(edge)
        return {edge: found[edge] for edge in self.edges if edge in found}

    def _places(self, edges: list[Edge]) -> Tensor:
        return torch.tensor([self.case.high_level.edge_index[edge] for edge in edges], dtype=torch.long)


def edges_of_length(case: "Case") -> set[Edge]:
    """The edges along which no token's influence travels: what they carry follows from length and position."""
    graph, node_of = case.graph, case.alignment.node_of
    of_tokens: set[str] = set()
    carried = {Edge(node_of[graph.output.name], LOGITS): {graph.output.name}}
    for variable in graph.variables:
        is_head = variable.kind in ("fraction", "aggregate")
        # Keys and queries say nothing to a head that selects the same whatever they are, as does the head of a length.
        deaf = ("k", "q") if is_head and case.high_level.selects_alike(variable) else ()
        heard = {read.variable for read in variable.reads if read.slot not in deaf}
        if variable.kind == "tokens" or (heard & of_tokens and len(variable.classes) > 1):
            of_tokens.add(variable.name)
        for read in variable.reads:
            edge = Edge(node_of[read.variable], node_of[variable.name], read.slot)
            carried.setdefault(edge, set()).add(read.variable)
    return {edge for edge, names in carried.items() if not names & of_tokens}


def _planted(pairs: Pairs, extra: list[Pairs]) -> Pairs:
    """The pairs with some rows replaced by the extra ones, each by one of its length, as far as there are such rows."""
    free = torch.ones(pairs.n_pairs, dtype=torch.bool)
    for pair in extra:
        rows = (free & (pairs.base_lengths == pair.base_lengths)).nonzero()[:, 0]
        if len(rows):
            for part, value in zip(tuple(pairs), tuple(pair), strict=True):
                part[rows[0]] = value[0]
            free[rows[0]] = False
    return pairs
