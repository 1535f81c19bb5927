"""Weights to begin with, out of another model: its nodes hand theirs to those that hold the same variables."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from interpbench_hub.checkpoint import Checkpoint, Value
from interpbench_hub.circuit import Circuit, Node

MAY_DIFFER = ("n_layers", "n_heads", "d_vocab_out")
"""Fields of the configuration in which two such models need not agree."""


def counterparts(origin: Circuit, circuit: Circuit) -> dict[Node, Node]:
    """The origin's node whose weights each head and MLP of a model takes; a node that is not listed takes none.

    A node of the circuit takes those of a node of its layer and kind that holds one of its variables, a node outside
    the circuit those of another such.
    """
    found: dict[Node, Node] = {}
    for layer in range(min(origin.n_layers, circuit.n_layers)):
        for nodes, others in zip(_nodes(circuit, layer), _nodes(origin, layer), strict=True):
            spare = (other for other in others if other not in origin.roles)
            for node in nodes:
                if node in circuit.roles:
                    taken = next((other for other in others if _share(origin, other, circuit, node)), None)
                else:
                    taken = next(spare, None)
                if taken is not None:
                    found[node] = taken
    return found


def transferred(
    weights: Mapping[str, Tensor], circuit: Circuit, classes: tuple[Value, ...], origin: Checkpoint
) -> dict[str, Tensor]:
    """A copy of a model's `weights` with all that it can take from the origin.

    That is the embeddings, each node's weights from its counterpart, biases and LayerNorms of the layers that both
    have, and the unembedding if both mean the same by their outputs: the `classes` given, none for numbers. Between
    models of one circuit it is everything. Sizes agree but for `MAY_DIFFER`, and so do tokens.
    """
    found = counterparts(origin.circuit, circuit)
    copies = {name: weight.clone() for name, weight in weights.items()}
    for name, weight in copies.items():
        match name.split("."):
            case ["unembed", _]:
                if origin.config.output.classes == classes:
                    weight.copy_(origin.weights[name])
            case ["blocks", layer, "mlp", _]:
                if Node.of_mlp(int(layer)) in found:
                    weight.copy_(origin.weights[name])
            case ["blocks", layer, "attn", part] if part != "b_O":
                for head, mine in enumerate(weight):
                    if taken := found.get(Node.of_head(int(layer), head)):
                        mine.copy_(origin.weights[name][taken.head])
            case _:
                if name in origin.weights:
                    weight.copy_(origin.weights[name])
    return copies


def _nodes(circuit: Circuit, layer: int) -> tuple[Sequence[Node], Sequence[Node]]:
    """Heads and MLP of a layer."""
    return [Node.of_head(layer, head) for head in range(circuit.n_heads)], [Node.of_mlp(layer)]


def _share(origin: Circuit, other: Node, circuit: Circuit, node: Node) -> bool:
    """Whether two nodes of two circuits hold a variable of the same name."""
    return other in origin.roles and bool({*origin.roles[other].variables} & {*circuit.roles[node].variables})
