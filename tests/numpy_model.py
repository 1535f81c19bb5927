"""A checkpoint folder worked out from its files alone, in numpy, straight from the definitions.

Imports nothing of the package: what it finds hangs on the formats and on the words of the design, not on our code.
Nodes and edges are their names. A forward pass asks, for every receiver, what each of its senders carries to it; an
interchange is another answer to that question.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load
from scipy.special import erf

Array = np.ndarray
Senders = Mapping[str, Array]
"""What every node but the logits writes: [row, pos, d_model] each."""

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": lambda x: np.maximum(x, 0),
    "gelu": lambda x: x * (1 + erf(x / math.sqrt(2))) / 2,
    "gelu_new": lambda x: x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2,
}


def edge_name(source: str, target: str, slot: str | None) -> str:
    return f"{source}->{target}<{slot}>" if slot else f"{source}->{target}"


class NumpyModel:
    """The files of one checkpoint folder, and the transformer they describe, in double precision."""

    def __init__(self, folder: Path) -> None:
        self.config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        self.circuit: dict[str, Any] = json.loads((folder / "circuit.json").read_text(encoding="utf-8"))
        self.certificate: dict[str, Any] = json.loads((folder / "certificate.json").read_text(encoding="utf-8"))
        weights = (folder / "model.safetensors").read_bytes()
        self.weights_sha256 = hashlib.sha256(weights).hexdigest()
        self.weights: dict[str, Array] = {name: array.astype(np.float64) for name, array in load(weights).items()}
        shape = self.config["transformer"]
        self.n_layers: int = shape["n_layers"]
        self.n_heads: int = shape["n_heads"]
        self.is_causal = shape["attention_dir"] == "causal"
        self.activation = ACTIVATIONS[shape["act_fn"]]
        self.has_norm = shape["normalization_type"] == "LN"

    # -- nodes and edges -----------------------------------------------------------------------------------------------

    def heads_of(self, layer: int) -> list[str]:
        return [f"a{layer}.h{head}" for head in range(self.n_heads)]

    def senders_to_heads(self, layer: int) -> list[str]:
        """What the heads of a layer can read: the embeddings and all of the layers before."""
        before = [node for earlier in range(layer) for node in (*self.heads_of(earlier), f"m{earlier}")]
        return ["embed", "pos_embed", *before]

    def senders_to_mlp(self, layer: int) -> list[str]:
        return [*self.senders_to_heads(layer), *self.heads_of(layer)]

    @property
    def senders(self) -> list[str]:
        return self.senders_to_heads(self.n_layers)

    @property
    def universe(self) -> list[str]:
        """Every edge of a transformer of this size."""
        edges = []
        for layer in range(self.n_layers):
            for head in self.heads_of(layer):
                edges += [edge_name(node, head, slot) for slot in "qkv" for node in self.senders_to_heads(layer)]
            edges += [edge_name(node, f"m{layer}", None) for node in self.senders_to_mlp(layer)]
        return edges + [edge_name(node, "logits", None) for node in self.senders]

    @property
    def circuit_edges(self) -> list[str]:
        return [edge_name(edge["source"], edge["target"], edge["slot"]) for edge in self.circuit["edges"]]

    @property
    def outside_edges(self) -> list[str]:
        inside = set(self.circuit_edges)
        return [edge for edge in self.universe if edge not in inside]

    @property
    def outside_nodes(self) -> list[str]:
        """Nodes that write and that no edge of the circuit touches."""
        touched = {edge[end] for edge in self.circuit["edges"] for end in ("source", "target")}
        return [node for node in self.senders if node not in touched]

    def leaving(self, node: str) -> list[str]:
        """All edges that leave a node: exchanging them exchanges the node."""
        return [edge for edge in self.universe if edge.startswith(f"{node}->")]

    # -- forward pass --------------------------------------------------------------------------------------------------

    def run(
        self, ids: Array, edges: Iterable[str] = (), replacement: Senders | None = None
    ) -> tuple[Array, dict[str, Array]]:
        """Logits [row, pos, out] and what every sender writes, for token ids [row, pos] (BOS first).

        Each of the `edges` carries `replacement` of its sender instead of what the sender writes in this run.
        """
        exchanged, w = set(edges), self.weights
        written: dict[str, Array] = {}

        def read(senders: list[str], target: str, slot: str | None, attention_bias: Array) -> Array:
            """The input of a receiver: the sum of what its senders carry to it, and of the biases of attention."""
            total = np.zeros_like(written["embed"]) + attention_bias
            for sender in senders:
                if edge_name(sender, target, slot) in exchanged:
                    assert replacement is not None
                    total = total + replacement[sender]
                else:
                    total = total + written[sender]
            return total

        written["embed"] = w["embed.W_E"][ids]
        written["pos_embed"] = np.broadcast_to(w["pos_embed.W_pos"][: ids.shape[1]], written["embed"].shape)
        bias = np.zeros(written["embed"].shape[-1])
        for layer in range(self.n_layers):
            at = f"blocks.{layer}"
            for head, name in enumerate(self.heads_of(layer)):
                projected = {}
                for slot in "qkv":
                    x = self._norm(read(self.senders_to_heads(layer), name, slot, bias), f"{at}.ln1")
                    kind = slot.upper()
                    projected[slot] = x @ w[f"{at}.attn.W_{kind}"][head] + w[f"{at}.attn.b_{kind}"][head]
                written[name] = self._attention(**projected) @ w[f"{at}.attn.W_O"][head]
            bias = bias + w[f"{at}.attn.b_O"]
            x = self._norm(read(self.senders_to_mlp(layer), f"m{layer}", None, bias), f"{at}.ln2")
            hidden = self.activation(x @ w[f"{at}.mlp.W_in"] + w[f"{at}.mlp.b_in"])
            written[f"m{layer}"] = hidden @ w[f"{at}.mlp.W_out"] + w[f"{at}.mlp.b_out"]
        last = self._norm(read(self.senders, "logits", None, bias), "ln_final")
        return last @ w["unembed.W_U"] + w["unembed.b_U"], written

    def _attention(self, q: Array, k: Array, v: Array) -> Array:
        """What a head takes from the positions it attends to: [row, pos, d_head]."""
        scores = q @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1])
        if self.is_causal:
            scores = np.where(np.tril(np.ones(scores.shape[-2:], dtype=bool)), scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        return weights / weights.sum(-1, keepdims=True) @ v

    def _norm(self, x: Array, name: str) -> Array:
        if not self.has_norm:
            return x
        centred = x - x.mean(-1, keepdims=True)
        scale = np.sqrt((centred**2).mean(-1, keepdims=True) + self.config["transformer"]["eps"])
        return centred / scale * self.weights[f"{name}.w"] + self.weights[f"{name}.b"]

    # -- tokens and outputs --------------------------------------------------------------------------------------------

    def encode(self, sequences: list[list]) -> Array:
        """Token ids [row, 1 + pos] of equally long sequences, BOS put first."""
        vocab = self.config["vocab"]
        tokens = [plain(token) for token in vocab["tokens"]]
        return np.array([[vocab["bos_id"], *(tokens.index(token) for token in row)] for row in sequences])

    def decode(self, logits: Array) -> list[list]:
        """Outputs at every position but BOS: the likeliest class, or the number."""
        output = self.config["output"]
        if output["kind"] == "regression":
            return logits[:, 1:, 0].tolist()
        classes = [plain(value) for value in output["classes"]]
        return [[classes[place] for place in row] for row in logits[:, 1:].argmax(-1)]

    def is_same(self, one: Any, other: Any) -> bool:
        """Whether two outputs of a position are one: the same class, or numbers within the certificate's tolerance."""
        if self.config["output"]["kind"] == "regression":
            # A number has no way to say undefined.
            return other is None or abs(one - other) < self.certificate["tolerance"]
        return one == other


def plain(value: Any) -> Any:
    """A token or class from its JSON, where objects stand for what JSON lacks."""
    match value:
        case {"tuple": items}:
            return tuple(plain(item) for item in items)
        case {"float": text}:
            return float(text)
        case {"undefined": _}:
            return None
    return value
