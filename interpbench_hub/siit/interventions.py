"""Which edges a training row exchanges, and what with: the draw behind every intervened row.

Interventions are BoolTensors [row, edge] over `TransformerConfig.edges`, the order of `Circuit.universe`; a node's
interchange is the interchange of all edges that leave it, so one mask says everything.
"""

from functools import cached_property

import torch
from torch import Tensor

from interpbench_hub.cases.case import Case
from interpbench_hub.certificate import Section
from interpbench_hub.circuit import POS_EMBED, Edge, Node
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

    @cached_property
    def outside_node_edges(self) -> Tensor:
        """All edges that leave each node outside: BoolTensor [outside node, edge]."""
        rows = [self.out_of(node) for node in self.outside_nodes]
        return torch.stack(rows) if rows else self.in_circuit.new_zeros(0, self.n_edges)

    @property
    def n_exchanges(self) -> int:
        """Number of single exchanges the program answers for: of interchange edges, then of circuit nodes."""
        return len(self.exchange_sets)

    @cached_property
    def exchange_sets(self) -> Tensor:
        """The edges that each single exchange moves: BoolTensor [exchange, edge]."""
        nodes = torch.stack([self.out_of(node) for node in self.circuit_nodes])
        return torch.cat([self._single_edges[self.interchange_edges], nodes])

    @cached_property
    def outside_sets(self) -> Tensor:
        """What a certificate replaces outside: each single edge (of all, by place), each node outside, everything.

        BoolTensor [set, edge].
        """
        return torch.cat([self._single_edges, self.outside_node_edges, ~self.in_circuit[None]])

    def exchange(self, section: Section, name: str) -> int | None:
        """Place in `exchange_sets` of what an entry of a certificate's section exchanged; None for the position."""
        if section == "edge_interchange":
            found = (self.interchange_edges == self.index[Edge.parse(name)]).nonzero()
            return int(found[0, 0]) if len(found) else None
        return len(self.interchange_edges) + [node.name for node in self.circuit_nodes].index(name)

    @property
    def _single_edges(self) -> Tensor:
        return torch.eye(self.n_edges, dtype=torch.bool, device=self.device)

    def outside_set(self, section: Section, name: str) -> int:
        """Place in `outside_sets` of what an entry of a certificate's section replaced."""
        if section == "edge_strict":
            return self.index[Edge.parse(name)]
        if section == "node_strict":
            return self.n_edges + [node.name for node in self.outside_nodes].index(name)
        return len(self.outside_sets) - 1


OUTSIDE_SHAPES = ("edge", "receiver", "nodes", "edges", "all")
"""Shapes of the sets of edges that are replaced outside the circuit: a single edge, all edges into one receiver, a
random set of nodes, a random set of edges, everything."""
OUTSIDE_SHARES = (0.30, 0.20, 0.15, 0.15, 0.20)
"""Shares of these shapes as long as each has the same weight."""


class InterventionDraw:
    """Draws interventions for training rows.

    Outside the circuit, sets of all shapes occur: random sets alone almost never isolate one edge or fill one receiver,
    and those are where solutions that cheat hide.
    """

    def __init__(self, space: EdgeSpace) -> None:
        self.space = space
        circuit_receivers = torch.unique(space.receiver[space.in_circuit])
        circuit_senders = torch.unique(space.sender[space.in_circuit])
        outside = ~space.in_circuit
        into = torch.isin(space.receiver, circuit_receivers)
        shadow = into & torch.isin(space.sender, circuit_senders)
        self.edge_shares = torch.zeros(space.n_edges)
        """Chances of single edges as long as each has the same weight."""
        # Into a receiver of the circuit; between a sender and a receiver of the circuit; any.
        for share, pool in ((0.5, into), (0.25, shadow), (0.25, torch.ones_like(into))):
            edges = outside & pool if bool((outside & pool).any()) else outside
            self.edge_shares += share * edges / edges.sum().clamp(min=1)
        self.receivers = torch.unique(space.receiver[outside])
        self.circuit_receivers = circuit_receivers[torch.isin(circuit_receivers, self.receivers)]
        self.outside_edges = space.outside_node_edges if space.outside_nodes else outside[None]

    def circuit(self, rows: int, weights: Tensor, node_share: float, generator: torch.Generator) -> Tensor:
        """Which circuit edge or node each row exchanges, a place among the space's exchanges: LongTensor [row].

        `weights` [exchange] are their chances among edges and among nodes.
        """
        n_edges = len(self.space.interchange_edges)
        edge = _drawn(rows, weights[:n_edges], generator)
        node = n_edges + _drawn(rows, weights[n_edges:], generator)
        return torch.where(torch.rand(rows, generator=generator) < node_share, node, edge)

    def exchanged_edges(self, exchanges: Tensor) -> Tensor:
        """The edges that exchanges move: LongTensor [row] -> BoolTensor [row, edge]."""
        return self.space.exchange_sets[exchanges]

    def outside_kinds(self, rows: int, weights: Tensor, generator: torch.Generator) -> Tensor:
        """Of which kind each outside row is: LongTensor [row].

        A kind is a shape with an ablation, `shape * n_ablations + ablation`. `weights` [kind] are multiplied by the
        shares of the shapes; ablations have equal ones.
        """
        shares = torch.tensor(OUTSIDE_SHARES).repeat_interleave(len(weights) // len(OUTSIDE_SHARES))
        return _drawn(rows, shares * weights, generator)

    def outside_edge(self, rows: int, weights: Tensor, generator: torch.Generator) -> Tensor:
        """A single edge outside the circuit for each row, a place among all: LongTensor [row].

        `weights` [edge] are multiplied by the chances that edges have of themselves.
        """
        return _drawn(rows, self.edge_shares * weights, generator)

    def outside(self, shapes: Tensor, single: Tensor, generator: torch.Generator) -> Tensor:
        """Sets of edges outside the circuit, one for each row's shape, a place in `OUTSIDE_SHAPES`: [row, edge].

        `single` [row] is the edge a row replaces if its shape is a single edge.
        """
        space, device, rows = self.space, self.space.device, len(shapes)

        def rand(*shape: int) -> Tensor:
            return torch.rand(*shape, generator=generator)

        def pick(pool: Tensor) -> Tensor:
            return pool[torch.randint(len(pool), (rows,), generator=generator)]

        one = torch.zeros(rows, space.n_edges, dtype=torch.bool, device=device)
        one[torch.arange(rows, device=device), single] = True
        receiver = pick(self.receivers)
        if len(self.circuit_receivers):
            receiver = torch.where(rand(rows) < 0.75, pick(self.circuit_receivers), receiver)
        whole_receiver = space.receiver == receiver[:, None]
        subset = rand(rows, len(self.outside_edges)) < rand(rows, 1)
        nodes = (subset.float() @ self.outside_edges.float()) > 0
        some = rand(rows, space.n_edges) < rand(rows, 1)
        chosen = torch.ones_like(one)
        for shape, edges in enumerate((one, whole_receiver, nodes, some)):
            chosen = torch.where(shapes[:, None] == shape, edges, chosen)
        return chosen & ~space.in_circuit

    def outside_node(self, rows: int, generator: torch.Generator) -> Tensor:
        """One node outside the circuit a row: [row, edge]."""
        return self.outside_edges[torch.randint(len(self.outside_edges), (rows,), generator=generator)]


def _drawn(rows: int, weights: Tensor, generator: torch.Generator) -> Tensor:
    """A place among the weights for each row, by its weight: LongTensor [row]."""
    # None at all, for recipes without such rows, is less than multinomial can draw.
    return torch.multinomial(weights, max(rows, 1), replacement=True, generator=generator)[:rows]
