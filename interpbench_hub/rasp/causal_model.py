"""What every high-level model is, whatever its variables: codes on batches, with node and path (edge) interchange."""

from abc import ABC, abstractmethod
from typing import Self

import torch
from torch import Tensor

from interpbench_hub.circuit import LOGITS, Circuit, Edge, Slot
from interpbench_hub.rasp.alignment import Alignment, prescribed_circuit
from interpbench_hub.rasp.variables import Graph, Read, Variable

Values = dict[str, Tensor]
"""Codes of every variable: LongTensor [batch, pos] each, BOS not among the positions."""

Slots = dict[Slot | None, Tensor]
"""Codes [batch, pos] that a head reads, by slot; a slot that holds a constant is not among them."""

SELECTED, UNCLEAR = 1, 2
"""What a head's selector says of a key and a query; 0 is no, and unclear what hangs on an ambiguous value."""


class CausalModel(ABC):
    """A graph's variables on batches of inputs, and where in the circuit each of them is read."""

    def __init__(self, graph: Graph, alignment: Alignment, *, device: torch.device | str = "cpu") -> None:
        self.graph, self.alignment, self.device = graph, alignment, torch.device(device)
        self.circuit: Circuit = prescribed_circuit(graph, alignment)
        self.edge_index = {edge: place for place, edge in enumerate(self.circuit)}
        node_of = alignment.node_of
        # What no node implements is computed by the logits.
        self._edge_of_read = {
            (variable.name, read): self.edge_index[
                Edge(node_of[read.variable], node_of.get(variable.name, LOGITS), read.slot)
            ]
            for variable in graph.variables
            for read in variable.reads
        }

    def to(self, device: torch.device | str) -> Self:
        """The same model for tensors on another device."""
        return type(self)(self.graph, self.alignment, device=device)

    @property
    def output_ambiguous(self) -> int:
        """Code of an ambiguous output."""
        return self.graph.output.ambiguous

    @abstractmethod
    def selects_alike(self, head: Variable) -> bool:
        """Whether a head selects the same keys whatever keys and queries hold."""

    @abstractmethod
    def selects_nothing(self, head: Variable) -> bool:
        """Whether a head selects no key, whatever keys and queries hold."""

    def run(self, tokens: Tensor, lengths: Tensor) -> Values:
        """Every variable on inputs `tokens` [batch, pos] (codes of the vocabulary, no BOS).

        `lengths` [batch] counts each row's tokens; positions from there on are padding: nothing selects them and
        their codes mean nothing.
        """
        return self._run(tokens, lengths, None, None)

    def interchange(self, tokens: Tensor, lengths: Tensor, source: Values, edges: Tensor) -> Tensor:
        """The output on base inputs when some edges carry their value on a source input: codes [batch, pos].

        `source` are the source inputs' values (`run`), `edges` a BoolTensor [batch, n_circuit_edges] in the order of
        `circuit`: where it is set, the receiver alone reads in that slot what the sender holds on the source input.
        A node interchange sets all the edges that leave the node.
        """
        return self.output(self.interchange_values(tokens, lengths, source, edges), source, edges)

    def interchange_values(self, tokens: Tensor, lengths: Tensor, source: Values, edges: Tensor) -> Values:
        """Codes [batch, pos] of every variable, as its own node computes it, under the interchange of `interchange`."""
        return self._run(tokens, lengths, source, edges)

    def compared(
        self, head: Variable, values: Values, source: Values | None = None, edges: Tensor | None = None
    ) -> Slots:
        """Codes [batch, pos] that a head's selector compares, by slot (`q` and `k`, less those that are constant).

        `values` are those of `run`, or of `interchange_values` with its `source` and `edges`.
        """
        return {read.slot: self.read(head, read, values, source, edges) for read in head.reads if read.slot != "v"}

    def selected(
        self, head: Variable, values: Values, lengths: Tensor, source: Values | None = None, edges: Tensor | None = None
    ) -> Tensor:
        """What each query of a head selects, as `selects`, by the arguments of `compared`."""
        return self.selects(head, self.compared(head, values, source, edges), lengths, values[head.name].shape[1])

    @abstractmethod
    def selects(self, head: Variable, compared: Slots, lengths: Tensor, width: int) -> Tensor:
        """What each query of a head selects, [batch, query, key]: 0, `SELECTED`, or `UNCLEAR` after an interchange.

        `compared` are codes [batch, width] as `compared` gives them, `lengths` [batch] says where keys end.
        """

    @abstractmethod
    def output(self, values: Values, source: Values, edges: Tensor) -> Tensor:
        """The output of an interchange, codes [batch, pos], by its `interchange_values`."""

    @abstractmethod
    def _run(self, tokens: Tensor, lengths: Tensor, source: Values | None, edges: Tensor | None) -> Values: ...

    def slots(self, head: Variable, values: Values, source: Values | None, edges: Tensor | None) -> Slots:
        """Codes [batch, pos] that a head reads, as `read`, by slot."""
        return {read.slot: self.read(head, read, values, source, edges) for read in head.reads}

    def read(self, reader: Variable, read: Read, values: Values, source: Values | None, edges: Tensor | None) -> Tensor:
        """Codes [batch, pos] that a variable reads: another's, or the source's where their edge is exchanged."""
        codes = values[read.variable]
        if source is None or edges is None:
            return codes
        swapped = edges[:, self._edge_of_read[reader.name, read], None]
        return torch.where(swapped, source[read.variable][:, : codes.shape[1]], codes)
