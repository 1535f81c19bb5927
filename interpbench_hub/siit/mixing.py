"""MLPs of the circuit on inputs put together from two rows, and what the program says they should hold then.

To an MLP that reads several nodes, only a few rows a step bring what one of them holds on one input together with what
another holds on another. Here each such MLP runs once more by itself, with a random part of what it reads from the row
before, and its probes say how far it is from what the program makes of that. As with all probes, this is a help to
training and nothing more.
"""

from collections.abc import Collection
from typing import NamedTuple

import torch
from torch import Tensor

from interpbench_hub.cases.case import Case
from interpbench_hub.circuit import Edge
from interpbench_hub.rasp.causal_model import Values
from interpbench_hub.siit.probes import Probes
from interpbench_hub.transformer import Run, Transformer, TransformerConfig


class _MixedMlp(NamedTuple):
    layer: int
    senders: list[int]
    """Places among the senders of the nodes it reads, but for the position."""
    edges: list[int]
    """Places of the edges from these in the circuit."""
    variables: list[str]
    """What it implements, as far as it is probed."""


class Mixing:
    """The MLPs of a circuit that read several nodes, what they are given and how far they are from the program."""

    def __init__(self, case: Case, config: TransformerConfig, probed: Collection[str]) -> None:
        self.case = case
        self.mlps: list[_MixedMlp] = []
        alignment, graph = case.alignment, case.graph
        for node, names in alignment.variables_of.items():
            variables = [name for name in names if name in probed]
            if node.layer is None or node.head is not None or not variables:
                continue
            read = {read.variable for name in variables for read in graph[name].reads}
            senders = sorted({alignment.node_of[name] for name in read if not graph[name].is_positional})
            if len(senders) > 1:
                edges = [case.high_level.edge_index[Edge(sender, node)] for sender in senders]
                places = [config.senders.index(sender) for sender in senders]
                self.mlps.append(_MixedMlp(node.layer, places, edges, variables))

    @property
    def n_edges(self) -> int:
        """Number of all edges into these MLPs that may come from another row."""
        return sum(len(mlp.edges) for mlp in self.mlps)

    @property
    def n_variables(self) -> int:
        """Number of the variables these MLPs hold."""
        return sum(len(mlp.variables) for mlp in self.mlps)

    def codes(self, tokens: Tensor, lengths: Tensor, source: Values, mixed: Tensor) -> Tensor:
        """Codes that the MLPs' variables should have [row, variable, pos], MLP by MLP.

        `mixed` [row, edge] says which edges carry what they carry on another input, by its values `source`.
        """
        codes, at = [], 0
        for mlp in self.mlps:
            exchanged = torch.zeros(len(tokens), len(self.case.high_level.circuit), dtype=torch.bool)
            exchanged[:, mlp.edges] = mixed[:, at : at + len(mlp.edges)]
            changed = self.case.high_level.interchange_values(tokens, lengths, source, exchanged)
            codes += [changed[name] for name in mlp.variables]
            at += len(mlp.edges)
        return torch.stack(codes, dim=1)

    def loss(self, model: Transformer, probes: Probes, run: Run, mixed: Tensor, codes: Tensor, there: Tensor) -> Tensor:
        """The probes' loss on what the MLPs write if the edges `mixed` [row, edge] carry what they carry in the row
        before, the first row's in the last: a scalar.

        `codes` [row, variable, pos] are those of `codes`; `there` [row, pos] says which positions are real.
        """
        is_real = there & there.roll(1, 0)
        total, edge, variable = run.senders.new_zeros(()), 0, 0
        for mlp in self.mlps:
            own = run.senders[mlp.senders]
            weight = mixed[:, edge : edge + len(mlp.edges)].to(own.dtype)
            moved = torch.einsum("re,erpd->rpd", weight, own.roll(1, 1) - own)
            written = model.mlp(model.mlp_input(run, mlp.layer) + moved, mlp.layer)
            held = codes[:, variable : variable + len(mlp.variables)]
            total = total + probes.loss_of(mlp.variables, written, held, is_real)
            edge += len(mlp.edges)
            variable += len(mlp.variables)
        return total
