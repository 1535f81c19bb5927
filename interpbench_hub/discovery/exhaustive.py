"""Exact activation patching: every edge (or node) replaced alone, its effect on the output measured, not estimated.

The reference that faster methods approximate (activation patching: Vig et al. 2020, arXiv:2004.12265; of single edges,
path patching: Goldowsky-Dill et al. 2023, arXiv:2304.05969). Edges that end at the same place are patched together, in
rows of their own of one stacked pass, and only what lies after the edge is computed anew.
"""

from typing import TYPE_CHECKING, Literal, cast, get_args

import torch
from torch import Tensor

from interpbench_hub.circuit import SLOTS, Edge, Node
from interpbench_hub.discovery.data import PairData, output_difference
from interpbench_hub.discovery.model import to_transformer
from interpbench_hub.discovery.scores import EdgeScores, ScoreGranularity, Universe, scored_items
from interpbench_hub.errors import SettingError
from interpbench_hub.transformer import Run, Transformer, TransformerConfig

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer

Ablation = Literal["resample", "zero", "mean"]
ABLATIONS: tuple[Ablation, ...] = get_args(Ablation)

_POSITIONS = 4_096
"""Positions of a stacked pass at most. From 1000 to 8000 make no difference; more no longer fit a processor's cache."""


@torch.no_grad()
def exhaustive_patching(
    model: "HookedTransformer | Transformer",
    universe: Universe,
    data: PairData,
    *,
    ablation: Ablation = "resample",
    granularity: ScoreGranularity | None = None,
) -> EdgeScores:
    """How far the output moves when one edge (or node) alone carries something else, mean over pairs, for each of them.

    Args:
        model: What `load_model` returns, or the package's own transformer.
        universe: The edges to score: `Circuit.universe` of the model's circuit.
        data: Pairs of inputs; the model runs on the clean ones.
        ablation: What an edge carries instead: its value on the corrupted input (`resample`), zero, or its mean at
            that position over all inputs of the data, clean and corrupted.
        granularity: `qkv-edge` (each slot of a head by itself), `edge` (all three at once) or `node` (all that reads
            the node); that of the universe if not given.

    Returns:
        `PairData.difference` between patched and clean outputs, in nats or squared units, at least 0 up to rounding.

    Raises:
        SettingError: An option that cannot be, or a universe that is not that of the model.
    """
    if ablation not in ABLATIONS:
        raise SettingError(f"ablation {ablation!r} is not one of {', '.join(ABLATIONS)}")
    transformer = to_transformer(model)
    items = scored_items(universe, granularity)
    places = _places(items, transformer.config)
    data = data.to(transformer.device)
    means = mean_activations(transformer, data) if ablation == "mean" else None
    config = transformer.config
    totals = torch.zeros(len(config.receivers) + 1, len(config.senders), dtype=torch.float64, device=transformer.device)
    wanted = torch.zeros_like(totals, dtype=torch.bool)
    wanted[tuple(torch.tensor(places).T)] = True
    at_once = any(isinstance(item, Edge) and item.target.is_head and item.slot is None for item in items)
    for group in data.by_length():
        width = int(group.lengths.max())
        base = transformer.run(group.clean[:, :width])
        if means is not None:
            replacement = means[:, :, :width].expand_as(base.senders)
        elif ablation == "zero":
            replacement = torch.zeros_like(base.senders)
        else:
            padded = bool((group.corrupted_lengths < group.corrupted.shape[1]).any())
            source = transformer.run(group.corrupted, group.corrupted_lengths if padded else None)
            replacement = source.senders[:, :, :width]
        _Patches(transformer, base, replacement, group, wanted, totals).add_all(heads_at_once=at_once)
    found = totals.cpu() / len(data)
    return EdgeScores(items, [float(found[place]) for place in places])


def _places(items: tuple[Edge | Node, ...], config: TransformerConfig) -> list[tuple[int, int]]:
    """(receiver, sender) of every item; an edge into a head as a whole has its q's place, a node the one past all."""
    receiver = {slot: place for place, slot in enumerate(config.receivers)}
    sender = {node: place for place, node in enumerate(config.senders)}
    places = []
    for item in items:
        if isinstance(item, Node):
            at = (len(config.receivers), sender.get(item))
        else:
            slot = "q" if item.target.is_head and item.slot is None else item.slot
            at = (receiver.get((item.target, slot)), sender.get(item.source))
        if None in at:
            raise SettingError(
                f"the universe has {item}, which a model with {config.n_layers} layers of {config.n_heads} heads has "
                "not; give the universe of the model's own circuit"
            )
        places.append(cast(tuple[int, int], at))
    return places


def mean_activations(transformer: Transformer, data: PairData) -> Tensor:
    """Mean of what each sender writes at each position over all inputs that reach it: [sender, 1, pos, d_model]."""
    total, count = 0.0, 0.0
    for tokens, lengths in ((data.clean, data.lengths), (data.corrupted, data.corrupted_lengths)):
        senders = transformer.run(tokens, lengths).senders
        reached = (torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None])[None, :, :, None]
        total = total + (senders * reached).sum(1, keepdim=True, dtype=torch.float64)
        count = count + reached.sum(1, keepdim=True)
    return (total / cast(Tensor, count).clamp(min=1)).to(transformer.flat.dtype)


class _Patches:
    """All edges of one group of equally long inputs, patched one at a time.

    Adds to `totals` [receiver, sender] the sum over pairs of the difference that each `wanted` edge makes; nodes have
    a row past those of the receivers.
    """

    def __init__(
        self, model: Transformer, base: Run, replacement: Tensor, data: PairData, wanted: Tensor, totals: Tensor
    ) -> None:
        self.model, self.config, self.base = model, model.config, base
        self.delta = replacement - base.senders
        """What each sender's replacement adds to the residual stream: [sender, pair, pos, d_model]."""
        self.wanted, self.totals = wanted, totals
        self._real = data.real[:, : base.logits.shape[1]]
        self._categorical = data.categorical
        # A value that is replaced by itself (the position's, when inputs are resampled) changes nothing.
        self._live = (self.delta != 0).flatten(2).any(-1)
        self._bias = model.attention_bias(base.logits.shape[1], None)

    def add_all(self, *, heads_at_once: bool) -> None:
        """Patch everything wanted; with `heads_at_once` an edge into a head goes into its q, k and v together."""
        config, model = self.config, self.model
        resid = self.base.senders[:2].sum(0)
        nodes = len(config.receivers)
        self._add_nodes(resid, slice(0, 2), 0)
        for layer in range(config.n_layers):
            start, stop = config.senders_before(layer), config.senders_before(layer, mlp=True)
            heads, mlp = self.base.senders[start:stop], self.base.senders[stop]
            mid = model.add_heads(resid, heads, layer)
            self._add_heads(resid, mid, layer, at_once=heads_at_once)
            self._add_nodes(mid, slice(start, stop), layer, after_heads=True)
            place = layer * config.receivers_per_layer + 3 * config.n_heads
            for rows in self._rows(self.wanted[place, :stop]):
                sender, pair = rows
                changed = mid[pair] + model.mlp(mid[pair] + self.delta[sender, pair], layer)
                self._add(place, rows, model.resume(changed, layer + 1, self._bias))
            resid = mid + mlp
            self._add_nodes(resid, slice(stop, stop + 1), layer + 1)
        for rows in self._rows(self.wanted[nodes - 1]):
            sender, pair = rows
            self._add(nodes - 1, rows, model.unembed(resid[pair] + self.delta[sender, pair]))

    def _add_heads(self, resid: Tensor, mid: Tensor, layer: int, *, at_once: bool) -> None:
        """Edges into the slots of a layer's heads: all senders and heads in one pass."""
        model, n_heads = self.model, self.config.n_heads
        before = self.config.senders_before(layer)
        first = layer * self.config.receivers_per_layer
        wanted = self.wanted[first : first + 3 * n_heads, :before].view(3, n_heads, before)
        own = model.project(resid, layer)
        own_heads = self.base.senders[before : before + n_heads]
        for sender, pair in self._rows(wanted.flatten(0, 1).any(0), share=n_heads):
            patched = model.project(resid[pair] + self.delta[sender, pair], layer)
            clean = own[:, pair]
            for number in range(1 if at_once else len(SLOTS)):
                qkv = patched
                if not at_once:
                    qkv = clean.clone()
                    qkv[number * n_heads : (number + 1) * n_heads] = patched[number * n_heads : (number + 1) * n_heads]
                changed = model.heads(qkv, layer, self._bias) - own_heads[:, pair]
                head, row = wanted[number][:, sender].nonzero(as_tuple=True)
                if len(head):
                    rows = sender[row], pair[row]
                    logits = model.resume_after_heads(mid[rows[1]] + changed[head, row], layer, self._bias)
                    self._add(first + number * n_heads + head, rows, logits)

    def _add_nodes(self, resid: Tensor, senders: slice, layer: int, *, after_heads: bool = False) -> None:
        """Nodes whose output has just entered the residual stream: everything that reads one sees its replacement."""
        nodes = len(self.config.receivers)
        wanted = torch.zeros_like(self.wanted[nodes])
        wanted[senders] = self.wanted[nodes, senders]
        resume = self.model.resume_after_heads if after_heads else self.model.resume
        for rows in self._rows(wanted):
            sender, pair = rows
            self._add(nodes, rows, resume(resid[pair] + self.delta[sender, pair], layer, self._bias))

    def _rows(self, wanted: Tensor, *, share: int = 1) -> list[tuple[Tensor, Tensor]]:
        """(sender, pair) of the rows in which some wanted sender [sender] changes anything, in chunks.

        `share` is how many rows of a pass each of them becomes.
        """
        sender, pair = (self._live[: len(wanted)] & wanted[:, None]).nonzero(as_tuple=True)
        size = max(1, _POSITIONS // (share * self._real.shape[1]))
        return list(zip(sender.split(size), pair.split(size), strict=True)) if len(sender) else []

    def _add(self, receiver: int | Tensor, rows: tuple[Tensor, Tensor], logits: Tensor) -> None:
        sender, pair = rows
        found = output_difference(logits, self.base.logits[pair], self._real[pair], categorical=self._categorical)
        place = receiver if isinstance(receiver, Tensor) else torch.full_like(sender, receiver)
        self.totals.index_put_((place, sender), found.double(), accumulate=True)
