"""What the rows of training steps hold, drawn for a block of steps at once, so that a step itself only computes.

The program's side of a step (values of the variables, targets under interchange) is integer look-ups on tiny
tensors: call by call its cost is nearly all overhead, which a block of steps pays once.

Some pairs of a block are the worst of the block before, with the same interventions: what is nearly always right is
learnt from the few pairs where it is not.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from interpbench_hub.cases.case import Case
from interpbench_hub.cases.pairs import Pairs, real_positions, seeded
from interpbench_hub.rasp.causal_model import Values
from interpbench_hub.siit.attention import AttentionTargets
from interpbench_hub.siit.interventions import OUTSIDE_SHAPES, EdgeSpace, InterventionDraw
from interpbench_hub.siit.mixing import Mixing
from interpbench_hub.siit.pair_run import to_ids
from interpbench_hub.siit.rarity import Rarity
from interpbench_hub.siit.recipe import Recipe

BLOCK_STEPS = 16
EXCHANGED = -1
"""In the place of an ablation: the circuit's own interchange."""
RARITY_PAIRS = 8_192
"""Pairs at random that tell what is rare."""


class StepDraw(NamedTuple):
    """The rows of one step (or, with one more axis in front, of several).

    Rows are the sources, then the bases; intervened rows are the groups of circuit rows, then those of outside rows.
    Each side and each group has one row a pair, in the order of the pairs.
    """

    ids: Tensor
    """Token ids [source and base, 1 + pos], BOS first."""
    lengths: Tensor
    """Positions of each source and base, BOS included."""
    there: Tensor
    """Real positions [source and base, pos], BOS left out."""
    codes: Tensor
    """Output codes of every source and base [source and base, pos]."""
    variables: Tensor
    """Codes of the variables that probes read [source and base, variable, pos]."""
    masks: Tensor
    """Edges that carry a replacement [intervened row, receivers, senders]: 0 or 1."""
    targets: Tensor
    """Output codes the intervened rows should give [intervened row, pos]."""
    target_variables: Tensor
    """Codes the variables that probes read should have in the intervened rows [intervened row, variable, pos]."""
    selected: Tensor
    """What the circuit's heads select in every row [plain or intervened row, head, query, key], BOS left out: see
    `AttentionTargets.selected`."""
    compared: Tensor
    """What the circuit's comparing heads compare in every row, q and k [plain or intervened row, head, 2, pos]: see
    `AttentionTargets.compared`."""
    crossed: Tensor
    """What comparing heads select if some of each row's keys are those of the row before, of the one before that, and
    so on, plain and intervened rows apart [plain or intervened row, other row, head, query, key]: see
    `AttentionTargets.crossed`."""
    moved: Tensor
    """At which positions these keys are [plain or intervened row, other row, pos]."""
    mixed: Tensor
    """Which edges into the MLPs of `Mixing` carry what they carry in the row before [source and base, edge]."""
    mixed_codes: Tensor
    """Codes that the variables of these MLPs should have then [source and base, variable, pos]."""
    ablations: Tensor
    """What replaces in each intervened row: its place in the recipe's ablations, -1 in circuit rows."""
    kinds: Tensor
    """Of which kind an intervened row is: the circuit edge or node it exchanges, its place among the space's; after
    these the shape and ablation of what it replaces outside. -1 if its loss is not kept track of."""
    edge_kinds: Tensor
    """After all these kinds, the edge an intervened row replaces if it is a single one outside the circuit, else -1."""

    def of_pairs(self, n_pairs: int) -> "StepDraw":
        """The same with the rows [..., row, ...] of several steps as [step, side or group, pair, ...]."""
        return StepDraw(*(part.unflatten(1, (part.shape[1] // n_pairs, n_pairs)) for part in self))


class Draws:
    """Draws the steps of one run. A block depends on the seed, its number, weights, replayed pairs and suspects."""

    def __init__(
        self,
        case: Case,
        space: EdgeSpace,
        recipe: Recipe,
        seed: int,
        variables: tuple[str, ...],
        attention: AttentionTargets | None,
        mixing: Mixing,
        device: torch.device,
    ) -> None:
        self.case, self.space, self.recipe, self.seed = case, space, recipe, seed
        self.variables, self.attention, self.mixing, self.device = variables, attention, mixing, device
        self.sampler = case.pair_sampler(seed=f"train {seed}", split="train", related=recipe.related_share)
        self.interventions = InterventionDraw(space)
        wants_rare = recipe.rare_share and recipe.circuit_groups and any(v.reads for v in case.graph.variables)
        self.rarity = self._rarity() if wants_rare else None
        n_outside_kinds = len(OUTSIDE_SHAPES) * len(recipe.ablations) if recipe.outside_level == "edge" else 0
        self.kind_counts = (space.n_exchanges, n_outside_kinds, space.n_edges if n_outside_kinds else 0)
        """Kinds of circuit rows, of outside rows, and of single edges outside."""
        self.n_replayed = int(recipe.replayed_share * recipe.n_pairs)
        """Pairs of a step that are replayed."""

    def first_losses(self) -> Tensor:
        """What the running losses of the kinds of rows [kind] start from.

        Single edges start from nothing: they are many, and high losses that nobody has seen would draw all rows.
        """
        *kinds, n_edges = self.kind_counts
        return torch.cat([torch.ones(sum(kinds)), torch.zeros(n_edges)])

    def weights(self, losses: Tensor, suspects: Sequence[Sequence[int]] = ()) -> Tensor:
        """Chances of the kinds of rows [kind], given their running losses: what is still wrong is drawn more often.

        Circuit rows, outside rows and single edges are weighed among themselves; no kind is ever left out. Exchanges
        among the suspects get a share of the rows that exchange an edge, or a node.
        """
        parts = (part for part in losses.split(self.kind_counts) if len(part))
        weights = torch.cat([part / part.mean().clamp(min=1e-12) + 0.3 for part in parts])
        n_edges, share = len(self.space.interchange_edges), self.recipe.suspect_share
        exchanges = [place for place, ablation in suspects if ablation == EXCHANGED]
        for first, end in ((0, n_edges), (n_edges, self.space.n_exchanges)):
            found = [place for place in exchanges if first <= place < end]
            if found:
                others = weights[first:end].sum()
                weights[first:end] *= 1 - share
                weights[found] += share * others / len(found)
        return weights

    def block(
        self, number: int, weights: Tensor, replayed: StepDraw | None, suspects: Sequence[Sequence[int]] = ()
    ) -> StepDraw:
        """The steps `number * BLOCK_STEPS` and on, [step, row, ...].

        `weights` [kind] are the chances of the kinds of rows; `replayed` is what `worst` chose of the last
        block; `suspects`, places among the space's outside sets and of an ablation, get a share of the rows, less
        those within the circuit, which `weights` knows of.
        """
        block = self._fresh(number, weights, [suspect for suspect in suspects if suspect[1] != EXCHANGED])
        if replayed is not None and self.n_replayed:
            for part, worst in zip(block.of_pairs(self.recipe.n_pairs), replayed, strict=True):
                # [pair, side or group, ...] -> [step, side or group, pair of the step, ...]
                part[:, :, : self.n_replayed] = worst.unflatten(0, (BLOCK_STEPS, self.n_replayed)).transpose(1, 2)
        block = block._replace(**self._crossed(number, block), **self._mixed(number, block))
        return StepDraw(*(part.to(self.device) for part in block))

    def worst(self, block: StepDraw, losses: Tensor) -> StepDraw:
        """Pairs of a block with the highest losses [step, pair], with all their rows: [pair, side or group, ...]."""
        chosen = losses.flatten().topk(BLOCK_STEPS * self.n_replayed).indices
        # Shuffled by their place in the block, so that a step gets worse and better ones.
        step, pair = (place.cpu() for place in (chosen // losses.shape[1], chosen % losses.shape[1]))
        order = torch.argsort(pair * BLOCK_STEPS + step)
        parts = block.of_pairs(self.recipe.n_pairs)
        return StepDraw(*(part.cpu()[step[order], :, pair[order]] for part in parts))

    def _fresh(self, number: int, weights: Tensor, suspects: Sequence[Sequence[int]]) -> StepDraw:
        recipe, steps, n_pairs = self.recipe, BLOCK_STEPS, self.recipe.n_pairs
        n_circuit, n_outside = recipe.circuit_groups * n_pairs, recipe.outside_groups * n_pairs
        generator = torch.Generator().manual_seed(seeded("steps", self.seed, number))
        of_circuit, of_outside, of_edges = weights.split(self.kind_counts)
        pairs, exchanges = self._pairs(number, of_circuit, generator)
        # [step, source or base, pair] throughout, so that a step is one slice.
        sides = torch.stack([pairs.source, pairs.base]).unflatten(1, (steps, n_pairs)).transpose(0, 1)
        counts = torch.stack([pairs.source_lengths, pairs.base_lengths]).unflatten(1, (steps, n_pairs)).transpose(0, 1)
        tokens, lengths = sides.flatten(0, 2), counts.flatten()
        values = self.case.high_level.run(tokens, lengths)
        codes = values[self.case.graph.output.name].unflatten(0, (steps, 2 * n_pairs))
        circuit = self.interventions.exchanged_edges(exchanges)
        is_isolated = number * steps < recipe.isolated_steps
        n_ablations = len(recipe.ablations)
        if recipe.outside_level == "node":
            outside = self.interventions.outside_node(steps * n_outside, generator)
            ablations = torch.randint(n_ablations, (steps * n_outside,), generator=generator)
            outside_kinds = edge_kinds = torch.full_like(ablations, -1)
        else:
            drawn = self.interventions.outside_kinds(steps * n_outside, of_outside, generator)
            if is_isolated:
                # The last shape is everything.
                drawn = drawn % n_ablations + (len(OUTSIDE_SHAPES) - 1) * n_ablations
            shapes, single = drawn // n_ablations, self.interventions.outside_edge(len(drawn), of_edges, generator)
            outside = self.interventions.outside(shapes, single, generator)
            ablations, outside_kinds = drawn % n_ablations, drawn + self.space.n_exchanges
            # A single edge is the first shape.
            edge_kinds = (single + sum(self.kind_counts[:2])).masked_fill(shapes > 0, -1)
        if suspects and n_outside:
            chosen = torch.rand(steps * n_outside, generator=generator) < recipe.suspect_share
            which = torch.randint(len(suspects), (steps * n_outside,), generator=generator)
            place, kind = torch.tensor([list(suspect) for suspect in suspects]).unbind(1)
            outside = torch.where(chosen[:, None], self.space.outside_sets[place[which]], outside)
            ablations = torch.where(chosen, kind[which], ablations)
            outside_kinds, edge_kinds = (kinds.masked_fill(chosen, -1) for kinds in (outside_kinds, edge_kinds))
        variables = self._probed(values).unflatten(0, (steps, 2 * n_pairs))
        targets = codes[:, n_pairs:].repeat(1, recipe.outside_groups, 1)
        target_variables = variables[:, n_pairs:].repeat(1, recipe.outside_groups, 1, 1)
        selected = [self._selected(values, lengths).unflatten(0, (steps, 2 * n_pairs))]
        target_selected = selected[0][:, n_pairs:].repeat(1, recipe.outside_groups, 1, 1, 1)
        compared = [self._compared(values, lengths).unflatten(0, (steps, 2 * n_pairs))]
        target_compared = compared[0][:, n_pairs:].repeat(1, recipe.outside_groups, 1, 1, 1)
        if n_circuit:

            def grouped(tensor: Tensor, side: int) -> Tensor:
                """One side's rows, once for every group of circuit rows."""
                rows = tensor.unflatten(0, (steps, 2, n_pairs))[:, side]
                return rows.repeat(1, recipe.circuit_groups, *[1] * (tensor.ndim - 1)).flatten(0, 1)

            source = {name: grouped(value, 0) for name, value in values.items()}
            high_level, exchanged = self.case.high_level, self.space.to_circuit(circuit)
            changed = high_level.interchange_values(grouped(tokens, 1), grouped(lengths, 1), source, exchanged)
            output = high_level.output(changed, source, exchanged)
            targets = torch.cat([output.unflatten(0, (steps, n_circuit)), targets], dim=1)
            probed = self._probed(changed).unflatten(0, (steps, n_circuit))
            target_variables = torch.cat([probed, target_variables], dim=1)
            of_circuit_rows = self._selected(changed, grouped(lengths, 1), source, exchanged)
            selected.append(of_circuit_rows.unflatten(0, (steps, n_circuit)))
            compared_rows = self._compared(changed, grouped(lengths, 1), source, exchanged)
            compared.append(compared_rows.unflatten(0, (steps, n_circuit)))
        compared = torch.cat([*compared, target_compared], dim=1)
        if is_isolated:
            circuit = circuit | ~self.space.in_circuit
        edges = [edges.reshape(steps, -1, self.space.n_edges) for edges in (circuit, outside)]
        masks = self.space.to_mask(torch.cat(edges, dim=1).flatten(0, 1))
        no_kinds = torch.full((steps, n_circuit), -1)
        others = (*compared.shape[:2], recipe.crossed_rows)
        return StepDraw(
            ids=to_ids(self.case, tokens, lengths).unflatten(0, (steps, 2 * n_pairs)),
            lengths=(lengths + 1).view(steps, -1),
            there=real_positions(tokens, lengths).unflatten(0, (steps, 2 * n_pairs)),
            codes=codes,
            variables=variables,
            masks=masks.to(torch.float32).view(steps, n_circuit + n_outside, *masks.shape[1:]),
            targets=targets,
            target_variables=target_variables,
            selected=torch.cat([*selected, target_selected], dim=1),
            compared=compared,
            crossed=compared.new_zeros(*others, compared.shape[2], *compared.shape[-1:] * 2, dtype=torch.uint8),
            moved=torch.zeros(*others, compared.shape[-1], dtype=torch.bool),
            mixed=torch.zeros(steps, 2 * n_pairs, self.mixing.n_edges, dtype=torch.bool),
            mixed_codes=codes.new_zeros(*codes.shape[:2], self.mixing.n_variables, codes.shape[2]),
            ablations=torch.cat([no_kinds, ablations.view(steps, n_outside)], dim=1),
            kinds=torch.cat([exchanges.view(steps, n_circuit), outside_kinds.view(steps, n_outside)], dim=1),
            edge_kinds=torch.cat([no_kinds, edge_kinds.view(steps, n_outside)], dim=1),
        )

    def _rarity(self) -> Rarity:
        sampler = self.case.pair_sampler(seed=f"rarity {self.seed}", split="train", related=self.recipe.related_share)
        generator = torch.Generator().manual_seed(seeded("rarity", self.seed))
        exchanges = self._exchanges(RARITY_PAIRS, torch.ones(self.space.n_exchanges), generator)
        return Rarity(self.case, self.space, sampler.draw(RARITY_PAIRS), exchanges)

    def _exchanges(self, rows: int, weights: Tensor, generator: torch.Generator) -> Tensor:
        return self.interventions.circuit(rows, weights, self.recipe.node_share, generator)

    def _pairs(self, number: int, weights: Tensor, generator: torch.Generator) -> tuple[Pairs, Tensor]:
        """The pairs of a block, and the exchanges of their circuit rows, LongTensor [step, group, pair] as one axis."""
        recipe, rows = self.recipe, BLOCK_STEPS * self.recipe.n_pairs
        candidates = recipe.rare_candidates if self.rarity else 1
        pairs = self.sampler.draw(candidates * rows, number)
        exchanges = self._exchanges(recipe.circuit_groups * candidates * rows, weights, generator)
        exchanges = exchanges.view(recipe.circuit_groups, candidates * rows)
        if self.rarity:
            variables = torch.randint(len(self.rarity.variables), (rows,), generator=generator).repeat(candidates)
            # A pair's first exchange speaks for the others.
            surprise = self.rarity.surprise(pairs, exchanges[0], variables).view(candidates, rows)
            is_rare = torch.rand(rows, generator=generator) < recipe.rare_share
            chosen = torch.where(is_rare, surprise.argmax(0), 0) * rows + torch.arange(rows)
            pairs, exchanges = pairs[chosen], exchanges[:, chosen]
        return pairs, exchanges.unflatten(1, (BLOCK_STEPS, recipe.n_pairs)).transpose(0, 1).flatten()

    def _probed(self, values: Values) -> Tensor:
        """Codes of the variables that probes read: [row, variable, pos]."""
        if self.variables:
            return torch.stack([values[name] for name in self.variables], dim=1)
        output = values[self.case.graph.output.name]
        return output.new_zeros(len(output), 0, output.shape[-1])

    def _selected(self, values: Values, lengths: Tensor, *exchange: Any) -> Tensor:
        """What the circuit's heads select: [row, head, query, key]; no head's if nobody is told."""
        if self.attention:
            return self.attention.selected(values, lengths, *exchange)
        return torch.zeros(len(lengths), 0, 1, 1, dtype=torch.uint8)

    def _compared(self, values: Values, lengths: Tensor, *exchange: Any) -> Tensor:
        """What the circuit's comparing heads compare: [row, head, 2, pos]; no head's if nobody is told."""
        recipe = self.recipe
        weights = (recipe.crossed_weight, recipe.interchanged_weight, recipe.pairwise_weight, recipe.spread_weight)
        if self.attention and any(weights):
            return self.attention.compared(values, *exchange)
        return torch.zeros(len(lengths), 0, 2, next(iter(values.values())).shape[1], dtype=torch.long)

    def _crossed(self, number: int, block: StepDraw) -> dict[str, Tensor]:
        """`StepDraw.crossed` and `moved` of a whole block: the rows before may be replayed ones."""
        if not self.attention or not block.compared.shape[2]:
            return {}
        n_plain, n_groups = block.lengths.shape[1], self.recipe.circuit_groups + self.recipe.outside_groups
        generator = torch.Generator().manual_seed(seeded("crossed", self.seed, number))
        # Half of the rows have all keys from another row, as an exchange of k does. The others tell what two rows
        # hold apart key by key: names that no sentence of training has together, or neighbours in an order.
        share = 2 * torch.rand(*block.moved.shape[:3], 1, generator=generator)
        drawn = torch.rand(block.moved.shape, generator=generator) < share
        of_bases = block.lengths[:, self.recipe.n_pairs :].repeat(1, n_groups)
        compared, drawn = (part.tensor_split([n_plain], dim=1) for part in (block.compared, drawn))
        positions = torch.arange(block.moved.shape[-1])
        crossed, moved = [], []
        for held, some, lengths in zip(compared, drawn, (block.lengths - 1, of_bases - 1), strict=True):
            of_others = torch.stack([lengths.roll(1 + other, 1) for other in range(self.recipe.crossed_rows)], dim=2)
            moved.append(some & (positions < of_others[..., None]))
            crossed.append(self.attention.crossed(held, lengths, moved[-1]))
        return {"crossed": torch.cat(crossed, dim=1), "moved": torch.cat(moved, dim=1)}

    def _mixed(self, number: int, block: StepDraw) -> dict[str, Tensor]:
        """`StepDraw.mixed` and `mixed_codes` of a whole block: the row before may be a replayed one."""
        if not self.mixing.mlps:
            return {}
        generator = torch.Generator().manual_seed(seeded("mixed", self.seed, number))
        mixed = torch.rand(block.mixed.shape, generator=generator) < 0.5
        tokens, lengths = block.ids[..., 1:].masked_fill(~block.there, 0).flatten(0, 1), block.lengths.flatten() - 1
        values = self.case.high_level.run(tokens, lengths)
        before = {name: codes.unflatten(0, mixed.shape[:2]).roll(1, 1).flatten(0, 1) for name, codes in values.items()}
        codes = self.mixing.codes(tokens, lengths, before, mixed.flatten(0, 1))
        return {"mixed": mixed, "mixed_codes": codes.unflatten(0, mixed.shape[:2])}
