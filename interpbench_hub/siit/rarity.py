"""How rare what a program computes from is: training looks for rare values, which pairs drawn at random seldom bring.

Inputs drawn at random make counts near their mean; a circuit must carry the others as well, and a model that has
them wrong now and then is wrong in one pair of a few hundred.
"""

import torch
from torch import Tensor

from interpbench_hub.cases.case import Case
from interpbench_hub.cases.pairs import Pairs, real_positions
from interpbench_hub.siit.interventions import EdgeSpace


class Rarity:
    """Surprise at what each variable of a case holds under an exchange, in nats, as pairs at random let one expect.

    Of a map it is the values it reads that count, taken together: it must be right for all their combinations. And
    what a head counts it sees as a share of all it looks at, so how much that is counts as well: the position, or
    the length where heads look at the whole input.
    """

    def __init__(self, case: Case, space: EdgeSpace, pairs: Pairs, exchanges: Tensor) -> None:
        """`pairs` with the place of each one's exchange, LongTensor [row], are what all others are held to."""
        self.case, self.space = case, space
        self.variables = [variable for variable in case.graph.variables if variable.reads]
        there = real_positions(pairs.base, pairs.base_lengths)
        self._known = [held[there].unique(return_counts=True) for held in self._held(pairs, exchanges)]
        self._n_seen = int(there.sum())

    def surprise(self, pairs: Pairs, exchanges: Tensor, variables: Tensor) -> Tensor:
        """Of the rarest thing that a row's variable, a place in `variables`, holds at any position: [row], in nats."""
        there, rows = real_positions(pairs.base, pairs.base_lengths), []
        for held, (known, counts) in zip(self._held(pairs, exchanges), self._known, strict=True):
            place = torch.searchsorted(known, held).clamp(max=len(known) - 1)
            # What was never seen counts as rarer than what was seen once.
            count = torch.where(known[place] == held, counts[place], 0) + 0.5
            rows.append((self._n_seen / count).log().masked_fill(~there, 0).amax(1))
        return torch.stack(rows)[variables, torch.arange(len(variables))]

    def _held(self, pairs: Pairs, exchanges: Tensor) -> list[Tensor]:
        """What each variable holds, or a map reads, as one number: LongTensor [row, pos] each."""
        model, graph = self.case.high_level, self.case.graph
        source = model.run(pairs.source, pairs.source_lengths)
        edges = self.space.to_circuit(self.space.exchange_sets[exchanges])
        values = model.interchange_values(pairs.base, pairs.base_lengths, source, edges)
        length, width = pairs.base_lengths[:, None], pairs.base.shape[1]
        at = (torch.arange(width) if self.case.causal else length).expand_as(pairs.base)
        held = []
        for variable in self.variables:
            if variable.kind != "map":
                held.append(values[variable.name] * (width + 1) + at)
                continue
            joint = at
            for read in variable.reads:
                # An ambiguous value has the highest code.
                joint = joint * (graph[read.variable].ambiguous + 1)
                joint = joint + model.read(variable, read, values, source, edges)
            held.append(joint)
        return held
