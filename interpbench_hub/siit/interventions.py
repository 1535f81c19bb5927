"""Which edges a training row exchanges, and what with: the draw behind every intervened row.

Interventions are BoolTensors [row, edge] over `TransformerConfig.edges`, the order of `Circuit.universe`; a node's
interchange is the interchange of all edges that leave it, so one mask says everything.
"""

from functools import cached_property

import torch
from torch import Tensor

from interpbench_hub.cases.case import Case
from interpbench_hub.circuit import POS_EMBED, Node
from interpbench_hub.transformer import TransformerConfig


class EdgeSpace:
    """A case's circuit laid over all edges of its transformer, as index tensors."""

    def __init__(self, case: Case, config: TransformerConfig, device: torch.device | str = "cpu") -> None:
        self.case, self.config, self.device = case, config, torch.device(device)
        circuit = case.high_level.circuit
        self.edges = config.edges
        places = [config.edge_places[edge] for edge in self.edges]
        self.receiver = torch.tensor([place[0] for place in places], device=self.device)
        self.sender = torch.tensor([place[1] for place in places], device=self.device)
        self.in_circuit = torch.tensor([edge in circuit for edge in self.edges], device=self.device)
        self.index = {edge: place for place, edge in enumerate(self.edges)}
        """Place of every edge in `edges`."""
        self.circuit_places = torch.tensor([self.index[edge] for edge in circuit], device=self.device)
        """Place in `edges` of every circuit edge, in the circuit's order."""

    @property
    def n_edges(self) -> int:
        return len(self.edges)

    def to_mask(self, edges: Tensor) -> Tensor:
        """[row, edge] -> [row, receivers, senders], as the transformer takes it."""
        n_receivers, n_senders = len(self.config.receivers), len(self.config.senders)
        mask = edges.new_zeros(edges.shape[0], n_receivers * n_senders)
        mask[:, self.receiver * n_senders + self.sender] = edges
        return mask.view(edges.shape[0], n_receivers, n_senders)

    def to_circuit(self, edges: Tensor) -> Tensor:
        """[row, edge] -> [row, circuit edge], as the high-level model takes it."""
        return edges[:, self.circuit_places]

    def out_of(self, node: Node) -> Tensor:
        """All edges that leave a node: BoolTensor [edge]."""
        return self.sender == self.config.senders.index(node)

    @cached_property
    def circuit_nodes(self) -> list[Node]:
        """Nodes whose interchange the program answers for: those that implement a variable, but the position."""
        return [node for node in self.case.alignment.variables_of if node != POS_EMBED]

    @cached_property
    def outside_nodes(self) -> list[Node]:
        """Nodes of the transformer that no edge of the circuit touches."""
        touched = set(self.case.high_level.circuit.nodes)
        return [node for node in self.config.senders if node not in touched]

    @cached_property
    def interchange_edges(self) -> Tensor:
        """Places of the circuit edges worth exchanging: all but those from the position, which never differs."""
        position = self.config.senders.index(POS_EMBED)
        return self.circuit_places[self.sender[self.circuit_places] != position]

    @cached_property
    def negatives(self) -> Tensor:
        """Places of all edges outside the circuit."""
        return torch.where(~self.in_circuit)[0]


class InterventionDraw:
    """Draws interventions for training rows.

    Single edges, whole receivers, nodes, random subsets and everything at once all occur: subsets alone almost never
    isolate one edge or fill one receiver, and those are where solutions that cheat hide.
    """

    def __init__(self, space: EdgeSpace) -> None:
        self.space = space
        circuit_receivers = torch.unique(space.receiver[space.in_circuit])
        circuit_senders = torch.unique(space.sender[space.in_circuit])
        outside = ~space.in_circuit
        into = torch.isin(space.receiver, circuit_receivers)
        shadow = into & torch.isin(space.sender, circuit_senders)
        # Pools of single edges: any; into a receiver of the circuit; between a sender and a receiver of the circuit.
        self.pools = [torch.where(outside & pool)[0] for pool in (torch.ones_like(into), into, shadow)]
        self.pools = [pool if len(pool) else self.pools[0] for pool in self.pools]
        self.receivers = torch.unique(space.receiver[outside])
        self.circuit_receivers = circuit_receivers[torch.isin(circuit_receivers, self.receivers)]
        self.node_edges = torch.stack([space.out_of(node) for node in space.circuit_nodes])
        outside_nodes = space.outside_nodes
        self.outside_edges = (
            torch.stack([space.out_of(node) for node in outside_nodes]) if outside_nodes else outside[None]
        )

    def circuit(self, rows: int, weights: Tensor, node_share: float, generator: torch.Generator) -> Tensor:
        """Interchanges of one circuit node or one circuit edge a row: [row, edge].

        `weights` [interchange edge] are the edges' chances; nodes are drawn evenly.
        """
        space = self.space
        # None at all, for recipes without such rows, is more than multinomial can draw.
        chosen = torch.multinomial(weights, max(rows, 1), replacement=True, generator=generator)[:rows]
        single = torch.zeros(rows, space.n_edges, dtype=torch.bool, device=space.device)
        single[torch.arange(rows, device=space.device), space.interchange_edges[chosen]] = True
        node = torch.randint(len(self.node_edges), (rows,), generator=generator)
        by_node = torch.rand(rows, 1, generator=generator) < node_share
        return torch.where(by_node, self.node_edges[node], single)

    def outside(self, rows: int, generator: torch.Generator) -> Tensor:
        """Sets of edges outside the circuit, one a row: [row, edge]."""
        space, device = self.space, self.space.device

        def rand(*shape: int) -> Tensor:
            return torch.rand(*shape, generator=generator)

        def pick(pool: Tensor) -> Tensor:
            return pool[torch.randint(len(pool), (rows,), generator=generator)]

        style = rand(rows, 1)
        pool_draw = rand(rows)
        edge = torch.where(
            pool_draw < 0.5,
            pick(self.pools[1]),
            torch.where(pool_draw < 0.75, pick(self.pools[2]), pick(self.pools[0])),
        )
        one = torch.zeros(rows, space.n_edges, dtype=torch.bool, device=device)
        one[torch.arange(rows, device=device), edge] = True
        receiver = pick(self.receivers)
        if len(self.circuit_receivers):
            receiver = torch.where(rand(rows) < 0.75, pick(self.circuit_receivers), receiver)
        whole_receiver = space.receiver == receiver[:, None]
        subset = rand(rows, len(self.outside_edges)) < rand(rows, 1)
        nodes = (subset.float() @ self.outside_edges.float()) > 0
        some = rand(rows, space.n_edges) < rand(rows, 1)
        chosen = torch.where(style < 0.30, one, torch.ones_like(one))
        chosen = torch.where((style >= 0.30) & (style < 0.50), whole_receiver, chosen)
        chosen = torch.where((style >= 0.50) & (style < 0.65), nodes, chosen)
        chosen = torch.where((style >= 0.65) & (style < 0.80), some, chosen)
        return chosen & ~space.in_circuit

    def outside_node(self, rows: int, generator: torch.Generator) -> Tensor:
        """One node outside the circuit a row: [row, edge]."""
        return self.outside_edges[torch.randint(len(self.outside_edges), (rows,), generator=generator)]
