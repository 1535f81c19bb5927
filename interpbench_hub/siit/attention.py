"""What the program says each head of the circuit looks at, as a target for the head's attention in training.

Queries and keys are the last thing a head learns from the output alone, most of all where an interchange brings the
queries of one input to the keys of another. Told what to look at, it learns them first. As with probes, this is a help
to training and nothing more: what a model attends to is no part of its certificate.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from interpbench_hub.cases.case import Case
from interpbench_hub.rasp.causal_model import SELECTED, UNCLEAR, Values
from interpbench_hub.siit.probes import balanced


class AttentionTargets:
    """The keys that each head of a circuit selects, and how far its attention is from them.

    A head's attention should be spread evenly over what it selects: the keys, and BOS if it selects none. A head that
    counts always selects BOS as well, for the share that BOS gets tells the count.
    """

    def __init__(self, case: Case) -> None:
        self.case = case
        self.heads = tuple(variable for variable in case.graph.variables if variable.kind in ("fraction", "aggregate"))

    def selected(
        self, values: Values, lengths: Tensor, source: Values | None = None, edges: Tensor | None = None
    ) -> Tensor:
        """What the heads' queries select, [row, head, query, key]: the high-level model's `selected` of all heads."""
        width = next(iter(values.values())).shape[1]
        selected = torch.zeros(len(lengths), len(self.heads), width, width, dtype=torch.uint8)
        for place, head in enumerate(self.heads):
            selected[:, place] = self.case.high_level.selected(head, values, lengths, source, edges)
        return selected

    def loss(self, scores: Sequence[Tensor], selected: Tensor, there: Tensor) -> Tensor:
        """Sum over the heads of the mean divergence of their attention from its target, in nats: a scalar.

        `scores` of every layer are [head, row, 1 + key, 1 + query] (`Transformer.run`), `selected` is
        [row, head, query, key], `there` [row, query] says which queries are real. Queries whose selection an
        interchange left unclear do not count. In sentences those that select nothing count as much as all others
        together, for there are many more of them.
        """
        total = scores[0].new_zeros(())
        for place, head in enumerate(self.heads):
            node = self.case.alignment.node_of[head.name]
            assert node.layer is not None and node.head is not None
            attention = scores[node.layer][node.head][:, :, 1:].log_softmax(1)
            chosen = selected[:, place].transpose(1, 2)
            keys = (chosen == SELECTED).to(attention.dtype)
            n_keys = keys.sum(1, keepdim=True)
            bos = torch.ones_like(n_keys) if head.kind == "fraction" else (n_keys == 0).to(keys.dtype)
            target = torch.cat([bos, keys], dim=1) / (bos + n_keys)
            # Keys out of reach have a logarithm of -inf, and no share of the target.
            apart = torch.where(target > 0, target * (target.log() - attention), 0.0).sum(1)
            counts = (there & ~(chosen == UNCLEAR).any(1)).to(apart.dtype)
            if self.case.is_language:
                total = total + (apart * balanced(counts, n_keys[:, 0] == 0)).sum()
            else:
                total = total + (apart * counts).sum() / counts.sum().clamp(min=1)
        return total
