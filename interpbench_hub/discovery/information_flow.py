"""Information flow routes: which edges carry most of what their receivers read, on a way to the output.

Looks at one forward pass an input and nothing else: no gradients, nothing replaced, no corrupted inputs.
"""

import math
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor

from interpbench_hub.circuit import SLOTS
from interpbench_hub.discovery.data import PairData
from interpbench_hub.discovery.exhaustive import ABLATIONS, Ablation
from interpbench_hub.discovery.masks import item_places
from interpbench_hub.discovery.model import to_transformer
from interpbench_hub.discovery.scores import EdgeScores, ScoreGranularity, Universe, scored_items
from interpbench_hub.errors import SettingError
from interpbench_hub.transformer import Transformer

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer

Extent = Literal["routes", "local"]
"""Whether an edge must lie on a route to the output (`routes`), or its own receiver alone is looked at (`local`)."""
EXTENTS: tuple[Extent, ...] = get_args(Extent)

_FLOATS = 4_000_000
"""Numbers in the largest tensor of a batch at most: 16 MB."""


@torch.no_grad()
def information_flow_routes(
    model: "HookedTransformer | Transformer",
    universe: Universe,
    data: PairData,
    *,
    ablation: Ablation = "resample",
    granularity: ScoreGranularity | None = None,
    extent: Extent = "routes",
) -> EdgeScores:
    """Information flow routes (Ferrando and Voita 2024, arXiv:2403.00824), for edges between components.

    What a part z of a sum x is worth to it is its proximity, max(0, |x| - |x - z|) in L1 norm, as a share of that of
    all parts. The paper builds a graph of token representations, from the output down: an edge belongs to it if its
    share exceeds a threshold and its end is in the graph already. An edge's score here is the largest threshold at
    which it belongs to the graph of an input (at whichever position), mean over the clean inputs.

    How the paper's graph becomes one of senders and receiver slots:

    - Parts are what senders write, sums what receivers read (attention biases included, LayerNorm left out). The paper
      takes the parts of one residual block at a time, with all that came before as one more part; senders that have
      written before are here told apart instead, since that is what edges do.
    - What a head writes at a query position is a sum over key positions of attention times value times output matrix;
      the shares of these lead on from a head to the positions it reads.
    - The method follows what moves, not what decides where it moves from: it knows no q and k. Here they read what v
      reads, so edges into q, k and v have the same shares; the q is read at the query's position, k and v at the key's.
    - The graph of an input has those of all its predictions: it begins at the logits of every position that counts
      (`PairData.real`).

    Args:
        model: What `load_model` returns, or the package's own transformer.
        universe: The edges to score: `Circuit.universe` of the model's circuit.
        data: Pairs of inputs, of which the clean ones alone are looked at.
        ablation: Changes nothing: nothing is replaced. There because all methods have it.
        granularity: `qkv-edge`; `edge` or `node` for the largest score, on each input, of an edge into any slot of a
            head, or of any edge that leaves a node; that of the universe if not given.
        extent: `routes`, or `local` for the share alone, mean over inputs and their positions but BOS, whether or not
            the receiver matters to the output: what the code of MIB (arXiv:2504.13151) calls by the method's name. It
            takes BOS too, and both embeddings as one sender.

    Returns:
        Shares, from 0 to 1.

    Raises:
        SettingError: An option that cannot be, or a universe that is not that of the model.
    """
    for name, value, known in (("ablation", ablation, ABLATIONS), ("extent", extent, EXTENTS)):
        if value not in known:
            raise SettingError(f"{name} {value!r} is not one of {', '.join(known)}")
    transformer = to_transformer(model)
    config = transformer.config
    items = scored_items(universe, granularity)
    places = item_places(items, config).flatten().to(transformer.device)
    data = data.to(transformer.device)
    width = data.clean.shape[1]
    per_pair = max(len(config.receivers) * len(config.senders), config.n_heads * width * config.d_model) * width
    total = torch.zeros(len(items), dtype=torch.float64, device=transformer.device)
    for batch in data.batches(max(1, _FLOATS // per_pair)):
        flow = _Flow(transformer, batch)
        found = (flow.thresholds() if extent == "routes" else flow.mean_shares()).flatten(1)
        # Last come the edges that are no item's.
        of_items = found.new_zeros(len(found), len(items) + 1)
        of_items.scatter_reduce_(1, places.expand(len(found), -1), found, "amax")
        total += of_items[:, : len(items)].double().sum(0)
    return EdgeScores(items, (total / len(data)).tolist())


def shares(parts: Tensor, whole: Tensor) -> Tensor:
    """What parts [part, ..., d] are worth to their sum [..., d]: [part, ...], adding up to 1.

    All 0 where no part is closer to the sum than nothing is. The parts need not add up to `whole`.
    """
    size = whole.abs().sum(-1)
    proximity = (size - (whole - parts).abs().sum(-1)).clamp(min=0)
    total = proximity.sum(0)
    return proximity / total.where(total > 0, 1)


class _Flow:
    """Shares of all edges on a batch of clean inputs."""

    def __init__(self, model: Transformer, data: PairData) -> None:
        self.config = config = model.config
        self.counted = data.real
        places = torch.arange(data.clean.shape[1], device=data.clean.device)
        self._there = (places > 0) & (places < data.lengths[:, None])
        senders = model.run(data.clean, data.lengths).senders
        bias = model.attention_bias(data.clean.shape[1], data.lengths)
        self.edges = senders.new_zeros(len(config.receivers), len(config.senders), *data.clean.shape)
        """Shares of senders in what receivers read, [receiver, sender, pair, pos]; 0 where there is no edge."""
        self.positions: list[Tensor] = []
        """Shares of key positions in what each head of a layer writes: [head, pair, key, query] a layer."""
        resid = senders[:2].sum(0)
        for layer in range(config.n_layers):
            start, stop = config.senders_before(layer), config.senders_before(layer, mlp=True)
            first, mlp = self._slots(layer)
            self.edges[first:mlp, :start] = shares(senders[:start], resid)
            terms = _head_terms(model, resid, layer, bias)
            self.positions.append(shares(terms.permute(2, 0, 1, 3, 4), senders[start:stop]).permute(1, 2, 0, 3))
            resid = model.add_heads(resid, senders[start:stop], layer)
            self.edges[mlp, :stop] = shares(senders[:stop], resid)
            resid = resid + senders[stop]
        self.edges[-1] = shares(senders, resid)

    def mean_shares(self) -> Tensor:
        """Mean over positions, neither BOS nor padding: [pair, receiver, sender]."""
        mean = self.edges.masked_fill(~self._there, 0).sum(-1) / self._there.sum(-1)
        return mean.permute(2, 0, 1)

    def thresholds(self) -> Tensor:
        """The largest threshold at which an edge belongs to the graph of its input: [pair, receiver, sender].

        A sender's threshold at a position is the largest of its edges' there, an edge's the smaller of its share and
        its receiver's threshold: the widest path to the output, found from the output down.
        """
        reached = torch.zeros_like(self.edges[:, 0])
        """Thresholds of receiver slots: [receiver, pair, pos]."""
        reached[-1] = self.counted.to(reached.dtype)
        senders = torch.minimum(self.edges[-1], reached[-1])
        for layer in reversed(range(self.config.n_layers)):
            start, stop = self.config.senders_before(layer), self.config.senders_before(layer, mlp=True)
            first, mlp = self._slots(layer)
            reached[mlp] = senders[stop]
            senders = torch.maximum(senders, torch.minimum(self.edges[mlp], reached[mlp]))
            heads = senders[start:stop]
            read = torch.minimum(self.positions[layer], heads[:, :, None]).amax(-1)
            reached[first:mlp] = torch.cat([heads, *[read] * (len(SLOTS) - 1)])
            through = torch.minimum(self.edges[first:mlp], reached[first:mlp, None]).amax(0)
            senders = torch.maximum(senders, through)
        return torch.minimum(self.edges, reached[:, None]).amax(-1).permute(2, 0, 1)

    def _slots(self, layer: int) -> tuple[int, int]:
        """Places of a layer's first receiver slot and of its last, the MLP."""
        first = layer * self.config.receivers_per_layer
        return first, first + self.config.receivers_per_layer - 1


def _head_terms(model: Transformer, resid: Tensor, layer: int, bias: Tensor | None) -> Tensor:
    """What each key position adds to what each head writes at each query: [head, pair, key, query, d_model]."""
    config = model.config
    q, k, v = model.project(resid, layer).split(config.n_heads)
    scores = k @ (q / math.sqrt(config.d_head)).transpose(-1, -2)
    pattern = (scores if bias is None else scores + bias).softmax(-2)
    values = v @ model.parameters[f"blocks.{layer}.attn.W_O"][:, None]
    return pattern[..., None] * values[:, :, :, None]
