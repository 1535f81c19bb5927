"""Exchanging one edge or node at a time, exactly and cheaply: what it cannot reach is taken from the base run.

Gives the same logits as `Transformer.interchange` with a mask of that edge, or of all edges that leave the node, for
a fraction of the work: one slot of one head (or one MLP) is computed anew, then the layers after it.
"""

from torch import Tensor

from interpbench_hub.circuit import LOGITS, Edge, Node
from interpbench_hub.errors import UnknownNameError
from interpbench_hub.transformer import Run, Transformer


class EdgePatcher:
    """Interchanges of single edges and nodes on a fixed set of base inputs.

    `base` is their plain run, `lengths` [row] their real positions (BOS included; None if nothing is padded).
    """

    def __init__(self, model: Transformer, base: Run, lengths: Tensor | None = None) -> None:
        self.model, self.base = model, base
        config = model.config
        self._bias = model.attention_bias(base.logits.shape[1], lengths)
        self._resid_pre: list[Tensor] = []
        self._resid_mid: list[Tensor] = []
        self._qkv: list[Tensor] = []
        resid = base.senders[:2].sum(0)
        for layer in range(config.n_layers):
            self._resid_pre.append(resid)
            self._qkv.append(model.project(resid, layer))
            start, stop = config.senders_before(layer), config.senders_before(layer, mlp=True)
            resid = model.add_heads(resid, base.senders[start:stop], layer)
            self._resid_mid.append(resid)
            resid = resid + base.senders[stop]
        self._resid_final = resid

    def logits(self, edge: Edge, replacement: Tensor) -> Tensor:
        """Logits [row, pos, out] when `edge` alone carries `replacement` [row, pos, d_model]."""
        model, config = self.model, self.model.config
        if edge not in config.edge_places:
            raise UnknownNameError(f"edge {edge} does not exist in a transformer of this size")
        sender = config.edge_places[edge][1]
        delta = replacement - self.base.senders[sender]
        if not bool(delta.any()):
            # Resampling the position, for one, replaces a value by itself.
            return self.base.logits
        if edge.target == LOGITS:
            return model.unembed(self._resid_final + delta)
        layer = edge.target.layer
        assert layer is not None
        if edge.target.is_mlp:
            mid = self._resid_mid[layer]
            return model.resume(mid + model.mlp(mid + delta, layer), layer + 1, self._bias)
        return model.resume_after_heads(self._with_head(edge, delta, layer), layer, self._bias)

    def node_logits(self, node: Node, replacement: Tensor) -> Tensor:
        """Logits [row, pos, out] when everything that reads `node` sees `replacement` [row, pos, d_model]."""
        senders = self.model.config.senders
        if node not in senders:
            raise UnknownNameError(f"node {node} sends nothing in a transformer of this size")
        delta = replacement - self.base.senders[senders.index(node)]
        if node.layer is None:
            return self.model.resume(self._resid_pre[0] + delta, 0, self._bias)
        if node.is_head:
            return self.model.resume_after_heads(self._resid_mid[node.layer] + delta, node.layer, self._bias)
        after = (*self._resid_pre[1:], self._resid_final)[node.layer]
        return self.model.resume(after + delta, node.layer + 1, self._bias)

    def _with_head(self, edge: Edge, delta: Tensor, layer: int) -> Tensor:
        """The residual stream after a layer's heads when one slot of one head sees `delta` added to its input."""
        model, config = self.model, self.model.config
        head = edge.target.head
        assert head is not None and edge.slot is not None
        place = "qkv".index(edge.slot) * config.n_heads + head
        changed = model.project_slot(self._resid_pre[layer] + delta, layer, place)
        slots = {slot: self._qkv[layer][place * config.n_heads + head] for place, slot in enumerate("qkv")}
        slots[edge.slot] = changed
        written = model.head(slots["q"], slots["k"], slots["v"], layer, head, self._bias)
        return self._resid_mid[layer] + written - self.base.senders[config.senders_before(layer) + head]
