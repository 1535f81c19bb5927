"""A transformer in plain torch whose forward pass can exchange what any edge carries, row by row.

Same weights, names and outputs as TransformerLens' HookedTransformer (attention and MLP in series, learned
positions, no or GPT-2's LayerNorm). It is what training, certifying and discovery run; users get a HookedTransformer.

An edge is (receiver slot, sender). The input of a receiver is the sum of its senders' outputs; exchanging an edge
adds (replacement - own output) of that sender to that receiver's input alone. Exchanging all edges that leave a node
exchanges the node. What an edge carries is what hooks see: a head's `hook_result`, an MLP's `hook_mlp_out`, the
embeddings; the attention bias b_O belongs to no edge.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from interpbench_hub.circuit import SLOTS, Circuit, Edge, Node, Slot, all_edges, all_nodes
from interpbench_hub.errors import CheckpointError, SettingError
from interpbench_hub.exchange import Exchange, Replacement

_ACTIVATIONS = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
}


@dataclass(frozen=True)
class TransformerConfig:
    """Shape of a transformer; field names and meanings are those of HookedTransformerConfig."""

    n_layers: int
    n_heads: int
    d_model: int
    d_head: int
    d_mlp: int
    d_vocab: int
    d_vocab_out: int
    n_ctx: int
    attention_dir: Literal["causal", "bidirectional"] = "causal"
    act_fn: Literal["relu", "gelu", "gelu_new"] = "gelu"
    normalization_type: Literal["LN"] | None = None
    eps: float = 1e-5

    def __post_init__(self) -> None:
        for name in ("n_layers", "n_heads", "d_model", "d_head", "d_mlp", "d_vocab", "d_vocab_out", "n_ctx"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise SettingError(f"{name} is {value!r}; it is a whole number of at least 1")
        if self.attention_dir not in ("causal", "bidirectional"):
            raise SettingError(f"attention_dir is {self.attention_dir!r}; it is causal or bidirectional")
        if self.act_fn not in _ACTIVATIONS:
            raise SettingError(f"act_fn is {self.act_fn!r}; it is one of {', '.join(_ACTIVATIONS)}")
        if self.normalization_type not in (None, "LN"):
            raise SettingError(f"normalization_type is {self.normalization_type!r}; it is None or 'LN'")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @cached_property
    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every parameter under its TransformerLens name, in the order of `flat`."""
        heads, d, dh, mlp = self.n_heads, self.d_model, self.d_head, self.d_mlp
        shapes: dict[str, tuple[int, ...]] = {"embed.W_E": (self.d_vocab, d), "pos_embed.W_pos": (self.n_ctx, d)}
        for layer in range(self.n_layers):
            at = f"blocks.{layer}."
            if self.normalization_type == "LN":
                shapes |= {f"{at}ln1.w": (d,), f"{at}ln1.b": (d,), f"{at}ln2.w": (d,), f"{at}ln2.b": (d,)}
            shapes |= {f"{at}attn.W_{c}": (heads, d, dh) for c in "QKV"} | {f"{at}attn.W_O": (heads, dh, d)}
            shapes |= {f"{at}attn.b_{c}": (heads, dh) for c in "QKV"} | {f"{at}attn.b_O": (d,)}
            shapes |= {f"{at}mlp.W_in": (d, mlp), f"{at}mlp.b_in": (mlp,)}
            shapes |= {f"{at}mlp.W_out": (mlp, d), f"{at}mlp.b_out": (d,)}
        if self.normalization_type == "LN":
            shapes |= {"ln_final.w": (d,), "ln_final.b": (d,)}
        return shapes | {"unembed.W_U": (d, self.d_vocab_out), "unembed.b_U": (self.d_vocab_out,)}

    # -- senders and receivers, the two axes of an edge mask -----------------------------------------------------------

    @cached_property
    def senders(self) -> tuple[Node, ...]:
        """Every node but the logits, in the order of a forward pass: the last axis of an edge mask."""
        return tuple(all_nodes(self.n_layers, self.n_heads)[:-1])

    @cached_property
    def receivers(self) -> tuple[tuple[Node, Slot | None], ...]:
        """Every receiver slot: a layer's q of all heads, k, v, its MLP; last the logits. Middle axis of a mask."""
        slots: list[tuple[Node, Slot | None]] = []
        for layer in range(self.n_layers):
            heads = [Node.of_head(layer, head) for head in range(self.n_heads)]
            slots.extend((head, slot) for slot in SLOTS for head in heads)
            slots.append((Node.of_mlp(layer), None))
        return (*slots, (Node("logits"), None))

    @cached_property
    def edges(self) -> tuple[Edge, ...]:
        """Every edge, in the order of `Circuit.universe`."""
        return tuple(all_edges(self.n_layers, self.n_heads))

    @cached_property
    def edge_places(self) -> dict[Edge, tuple[int, int]]:
        """(receiver, sender) place of every edge in a mask."""
        receiver = {slot: place for place, slot in enumerate(self.receivers)}
        sender = {node: place for place, node in enumerate(self.senders)}
        return {edge: (receiver[edge.target, edge.slot], sender[edge.source]) for edge in self.edges}

    def mask_of(self, edges: Circuit | list[Edge] | tuple[Edge, ...]) -> Tensor:
        """BoolTensor [receivers, senders], set where one of the edges lies."""
        mask = torch.zeros(len(self.receivers), len(self.senders), dtype=torch.bool)
        for edge in edges:
            mask[self.edge_places[edge]] = True
        return mask

    @property
    def receivers_per_layer(self) -> int:
        return 3 * self.n_heads + 1

    def senders_before(self, layer: int, *, mlp: bool = False) -> int:
        """How many senders the heads (or the MLP) of a layer can read."""
        return 2 + layer * (self.n_heads + 1) + (self.n_heads if mlp else 0)


class Run(NamedTuple):
    """One forward pass: what every sender wrote, [sender, row, pos, d_model], and the logits [row, pos, out]."""

    senders: Tensor
    logits: Tensor

    def rows(self, rows: Tensor | slice) -> "Run":
        """The same pass for some of its rows."""
        return Run(self.senders[:, rows], self.logits[rows])


class Attention(NamedTuple):
    """What the heads of a layer attend by."""

    q: Tensor
    """[head, row, query, d_head], divided by sqrt(d_head)."""
    k: Tensor
    """[head, row, key, d_head]."""
    scores: Tensor
    """[head, row, key, query] before the softmax, -inf where a query may not attend."""


class Transformer:
    """Parameters under TransformerLens names and the two forward passes, plain and with edges exchanged.

    All parameters are views of `flat`, one vector, and their gradients of `flat.grad`, so that an optimiser step is a
    handful of operations however many parameters there are. q, k and v of a layer lie side by side in it and enter a
    forward pass as one tensor.
    """

    def __init__(self, config: TransformerConfig, *, seed: int = 0, device: torch.device | str = "cpu") -> None:
        self.config = config
        sizes = {name: math.prod(shape) for name, shape in config.parameter_shapes.items()}
        self.flat = torch.nn.Parameter(torch.zeros(sum(sizes.values()), device=device))
        self.flat.grad = torch.zeros_like(self.flat)
        self.parameters: dict[str, Tensor] = {}
        """Every parameter under its TransformerLens name, as a view of `flat`."""
        self._leaves: dict[str, Tensor] = {}
        start = 0
        for name, shape in config.parameter_shapes.items():
            stop = start + sizes[name]
            self.parameters[name] = self.flat.data[start:stop].view(shape)
            if name.endswith(("_Q", "_K")):
                # Enters as a part of what ends with its layer's V, which comes right after.
                start = stop
                continue
            first = start
            if name.endswith("_V"):
                first, shape = start - 2 * sizes[name], (3 * shape[0], *shape[1:])
                name = name.removesuffix("_V") + "_QKV"
            leaf = self.flat.data[first:stop].view(shape).requires_grad_()
            leaf.grad = self.flat.grad[first:stop].view(shape)
            self._leaves[name] = leaf
            start = stop
        self._initialise(seed)

    def _initialise(self, seed: int) -> None:
        """Normal weights of deviation 0.8 / sqrt(fan in), zero biases.

        With LayerNorm what a receiver sees of a sender is that sender's share of the whole stream. There embeddings
        start with deviation 1 and what layers write starts small, so that no layer drowns the tokens.
        """
        # Drawn on the CPU whatever the device, so that a seed means the same weights everywhere.
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.parameters.items():
            kind = name.rsplit(".", 1)[1]
            if kind == "w":
                parameter.fill_(1.0)
            elif kind.startswith("W"):
                fan_in = self.config.d_model if kind in ("W_E", "W_pos") else parameter.shape[-2]
                deviation = 0.8 / math.sqrt(fan_in)
                if self.config.normalization_type == "LN":
                    if kind in ("W_E", "W_pos"):
                        deviation = 1.0
                    elif kind in ("W_O", "W_out"):
                        deviation /= math.sqrt(2 * self.config.n_layers)
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * deviation)

    @property
    def device(self) -> torch.device:
        return self.flat.device

    @property
    def n_parameters(self) -> int:
        return self.flat.numel()

    def state_dict(self) -> dict[str, Tensor]:
        """A copy of every parameter under its TransformerLens name."""
        return {name: parameter.clone() for name, parameter in self.parameters.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over weights; names and shapes must be exactly those of the configuration."""
        check_state(state, self.config)
        for name, parameter in self.parameters.items():
            parameter.copy_(state[name].detach())

    # -- forward -------------------------------------------------------------------------------------------------------

    def run(self, tokens: Tensor, lengths: Tensor | None = None, *, attention: list[Attention] | None = None) -> Run:
        """A plain forward pass over token ids [row, pos] (BOS first).

        `lengths` [row] counts each row's real positions, BOS included; padding after them is never attended to.
        `attention` receives what every layer's heads attend by.
        """
        rows, width = tokens.shape
        if width > self.config.n_ctx:
            raise SettingError(f"inputs have {width} positions; this transformer takes at most {self.config.n_ctx}")
        bias = self.attention_bias(width, lengths)
        embed = F.embedding(tokens, self._leaves["embed.W_E"])
        position = self._leaves["pos_embed.W_pos"][:width].expand(rows, width, -1)
        written = [torch.stack([embed, position])]
        resid = embed + position
        for layer in range(self.config.n_layers):
            heads = self.heads(self.project(resid, layer), layer, bias, attention)
            resid = self.add_heads(resid, heads, layer)
            mlp = self.mlp(resid, layer)
            resid = resid + mlp
            written += [heads, mlp[None]]
        return Run(torch.cat(written), self.unembed(resid))

    def resume(self, resid: Tensor, layer: int, bias: Tensor | None) -> Tensor:
        """Logits from the residual stream [row, pos, d_model] as it enters a layer."""
        for at in range(layer, self.config.n_layers):
            resid = self.add_heads(resid, self.heads(self.project(resid, at), at, bias), at)
            resid = resid + self.mlp(resid, at)
        return self.unembed(resid)

    def resume_after_heads(self, resid: Tensor, layer: int, bias: Tensor | None) -> Tensor:
        """Logits from the residual stream [row, pos, d_model] between a layer's heads and its MLP."""
        return self.resume(resid + self.mlp(resid, layer), layer + 1, bias)

    def __call__(self, tokens: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Logits [row, pos, d_vocab_out]."""
        return self.run(tokens, lengths).logits

    def interchange(
        self,
        base: Tensor,
        replacement: Tensor | Replacement,
        edges: Tensor,
        lengths: Tensor | None = None,
        *,
        first_layer: int = 0,
    ) -> Tensor:
        """Logits [row, pos, d_vocab_out] when some edges carry a replacement: see `interchange_run`."""
        return self.interchange_run(base, replacement, edges, lengths, first_layer=first_layer)[0]

    def interchange_run(
        self,
        base: Tensor,
        replacement: Tensor | Replacement,
        edges: Tensor,
        lengths: Tensor | None = None,
        *,
        first_layer: int = 0,
        attention: list[Attention] | None = None,
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """Logits [row, pos, d_vocab_out] when some edges carry a replacement, each row with its own edges.

        Also gives what each sender itself wrote under these exchanges, [row, pos, d_model] by its place in `senders`,
        from `first_layer` on. `attention` receives what these layers' heads attend by, as in `run`.

        `base` and `replacement` are what senders wrote ([sender, row, pos, d_model], as in `Run.senders`) on the
        base inputs and on whatever replaces (another run's rows, zeros, means; a `Replacement` says which of these
        each row gets); `edges` is a BoolTensor [row, receivers, senders], or [1, receivers, senders] for the same edges
        in every row. Only the first `senders_before(first_layer)` senders of `base` are read: what comes later is
        computed anew, so no edge into a layer before `first_layer` may be exchanged.
        """
        config = self.config
        if isinstance(replacement, Tensor):
            replacement = Replacement(replacement)
        values = replacement.values
        bias = self.attention_bias(values.shape[2], lengths)
        known = config.senders_before(first_layer)
        own = base[:known]
        resid = self._stream(own, first_layer)
        exchange = Exchange(edges.to(values.dtype), replacement, own.shape[1])
        exchange.add(own)
        written: dict[int, Tensor] = {}
        for layer in range(first_layer, config.n_layers):
            at = layer * config.receivers_per_layer
            mlp_at = at + config.receivers_per_layer - 1
            heads = self.heads(self.project_each(exchange.inputs(resid, at, mlp_at), layer), layer, bias, attention)
            written.update(enumerate(heads, known + len(written)))
            exchange.add(heads)
            resid = self.add_heads(resid, heads, layer)
            mlp = self.mlp(exchange.inputs(resid, mlp_at, mlp_at + 1)[0], layer)
            written[known + len(written)] = mlp
            exchange.add(mlp[None])
            resid = resid + mlp
        last = len(config.receivers) - 1
        return self.unembed(exchange.inputs(resid, last, last + 1)[0]), written

    # -- pieces of a layer, for those who put forward passes together themselves ---------------------------------------

    def attention_bias(self, width: int, lengths: Tensor | None) -> Tensor | None:
        """0 where a query may attend, -inf elsewhere: broadcastable to [head, row, key, query]."""
        bias = None
        if self.config.attention_dir == "causal":
            bias = torch.full((width, width), -torch.inf, device=self.device).tril(-1)
        if lengths is not None:
            padding = torch.arange(width, device=self.device) >= lengths[:, None]
            masked = torch.zeros(padding.shape, device=self.device).masked_fill(padding, -torch.inf)[:, :, None]
            bias = masked if bias is None else bias + masked
        return bias

    def project(self, resid: Tensor, layer: int) -> Tensor:
        """q, k, v of all heads from one shared input [row, pos, d]: [3 * head, row, pos, d_head]."""
        at = f"blocks.{layer}.attn."
        x = self._norm(resid, f"blocks.{layer}.ln1")
        weight = self._leaves[f"{at}W_QKV"].transpose(0, 1).flatten(1)
        offset = self._leaves[f"{at}b_QKV"].flatten()
        rows, width, _ = x.shape
        projected = torch.addmm(offset, x.reshape(rows * width, -1), weight)
        return projected.view(rows, width, 3 * self.config.n_heads, -1).permute(2, 0, 1, 3)

    def project_each(self, inputs: Tensor, layer: int) -> Tensor:
        """q, k, v when every slot of every head has its own input [3 * head, row, pos, d]."""
        at = f"blocks.{layer}.attn."
        x = self._norm(inputs, f"blocks.{layer}.ln1")
        weight, offset = self._leaves[f"{at}W_QKV"], self._leaves[f"{at}b_QKV"][:, None]
        slots, rows, width, d_model = x.shape
        projected = torch.baddbmm(offset, x.reshape(slots, rows * width, d_model), weight)
        return projected.view(slots, rows, width, -1)

    def project_slot(self, inputs: Tensor, layer: int, place: int) -> Tensor:
        """One slot of one head from its input [row, pos, d]: [row, pos, d_head].

        `place` counts the q of all heads, then their k, then their v.
        """
        at = f"blocks.{layer}.attn."
        x = self._norm(inputs, f"blocks.{layer}.ln1")
        return _affine(x, self._leaves[f"{at}W_QKV"][place], self._leaves[f"{at}b_QKV"][place])

    def head(self, q: Tensor, k: Tensor, v: Tensor, layer: int, head: int, bias: Tensor | None) -> Tensor:
        """What one head writes for its q, k and v [row, pos, d_head]: [row, pos, d_model]."""
        return self._attend(q, k, v, bias) @ self._leaves[f"blocks.{layer}.attn.W_O"][head]

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, attention: list[Attention] | None = None
    ) -> Tensor:
        # Scores are [key, query]: over so short an axis torch's softmax is three times as fast if it is not the last.
        q = q * (1 / math.sqrt(self.config.d_head))
        found = k @ q.transpose(-1, -2)
        if bias is not None:
            found = found + bias
        if attention is not None:
            attention.append(Attention(q, k, found))
        return found.softmax(-2).transpose(-1, -2) @ v

    def heads(self, qkv: Tensor, layer: int, bias: Tensor | None, attention: list[Attention] | None = None) -> Tensor:
        """What each head writes: [head, row, pos, d_model]; `attention` as in `run`."""
        n_heads = self.config.n_heads
        q, k, v = qkv.split(n_heads)
        z = self._attend(q, k, v, bias, attention)
        _, rows, width, _ = z.shape
        written = torch.bmm(z.reshape(n_heads, rows * width, -1), self._leaves[f"blocks.{layer}.attn.W_O"])
        return written.view(n_heads, rows, width, -1)

    def add_heads(self, resid: Tensor, heads: Tensor, layer: int) -> Tensor:
        """The residual stream after a layer's heads, the attention bias included."""
        return resid + heads.sum(0) + self._leaves[f"blocks.{layer}.attn.b_O"]

    def head_input(self, senders: Tensor, layer: int) -> Tensor:
        """The residual stream [row, pos, d_model] that a layer's heads read, of what senders wrote in a run."""
        return self._stream(senders[: self.config.senders_before(layer)], layer)

    def mlp_input(self, run: Run, layer: int) -> Tensor:
        """The residual stream [row, pos, d_model] that a layer's MLP read in a run."""
        return self._stream(run.senders[: self.config.senders_before(layer) + self.config.n_heads], layer + 1)

    def _stream(self, written: Tensor, n_layers: int) -> Tensor:
        """The residual stream [row, pos, d_model] of what senders wrote after the heads of `n_layers` layers."""
        resid = written.sum(0)
        for layer in range(n_layers):
            resid = resid + self._leaves[f"blocks.{layer}.attn.b_O"]
        return resid

    def mlp(self, resid: Tensor, layer: int) -> Tensor:
        """What an MLP writes for its input [row, pos, d]."""
        p, at = self._leaves, f"blocks.{layer}.mlp."
        x = self._norm(resid, f"blocks.{layer}.ln2")
        hidden = _ACTIVATIONS[self.config.act_fn](_affine(x, p[f"{at}W_in"], p[f"{at}b_in"]))
        return _affine(hidden, p[f"{at}W_out"], p[f"{at}b_out"])

    def _norm(self, x: Tensor, name: str) -> Tensor:
        if self.config.normalization_type is None:
            return x
        p = self._leaves
        return F.layer_norm(x, x.shape[-1:], p[f"{name}.w"], p[f"{name}.b"], self.config.eps)

    def unembed(self, resid: Tensor) -> Tensor:
        p = self._leaves
        return _affine(self._norm(resid, "ln_final"), p["unembed.W_U"], p["unembed.b_U"])


def _affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`x @ weight + bias` in one operation: [..., d] -> [..., e]."""
    return torch.addmm(bias, x.reshape(-1, x.shape[-1]), weight).view(*x.shape[:-1], -1)


def check_state(state: Mapping[str, Tensor], config: TransformerConfig) -> None:
    """Raise `CheckpointError` unless the parameters are exactly a configuration's, in name, shape and finiteness."""
    shapes = config.parameter_shapes
    for name in shapes:
        if name not in state:
            raise CheckpointError(f"weights lack the parameter {name}; the configuration has {len(shapes)} parameters")
    for name, tensor in state.items():
        if name not in shapes:
            raise CheckpointError(f"weights hold {name}, which is no parameter of this configuration")
        if tuple(tensor.shape) != shapes[name]:
            raise CheckpointError(
                f"parameter {name} has shape {tuple(tensor.shape)}; the configuration says {shapes[name]}"
            )
        if not tensor.is_floating_point():
            raise CheckpointError(f"parameter {name} has type {tensor.dtype}; weights are floating-point numbers")
    # One look at all parameters; which of them is at fault matters only if one is.
    if not math.isfinite(sum(float(tensor.detach().abs().sum(dtype=torch.float64)) for tensor in state.values())):
        name = next((name for name, tensor in state.items() if not bool(torch.isfinite(tensor).all())), "one")
        raise CheckpointError(f"parameter {name} holds NaN or infinity; such a model cannot be run")
