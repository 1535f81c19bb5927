"""ACDC: edges are removed one after another, from the logits backwards, for as long as the output stays close.

Conmy et al. 2023, arXiv:2304.14997, algorithm 1. What is measured is how far the output with all edges removed so far
is from the model's own (`output_difference`: the Kullback-Leibler divergence, as there, or the squared error), mean
over pairs; an edge is removed for good if that rises by less than a threshold.

What each decision rests on is exactly what the sequential algorithm computes, in fewer and cheaper passes:

- Several thresholds walk together and part where a rise lies between two of them, so that what they have in common is
  computed once.
- Candidates are evaluated ahead, in rows of one stacked pass, as if each were removed in its turn; where one is kept,
  the rows after it are thrown away.
- When an edge's turn comes, nothing upstream of it has changed: passes begin at the receiver's layer.
- An edge that carries what it would be replaced by, or whose receiver nobody reads any more, is removed for nothing.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from interpbench_hub.circuit import SLOTS, Edge, Node
from interpbench_hub.discovery.data import PairData
from interpbench_hub.discovery.exhaustive import Ablation
from interpbench_hub.discovery.masks import MaskedModel
from interpbench_hub.discovery.naming import Item
from interpbench_hub.discovery.scores import EdgeScores, ScoreGranularity, Universe
from interpbench_hub.errors import SettingError

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer

    from interpbench_hub.transformer import Transformer

DEFAULT_THRESHOLDS = tuple(10.0 ** (exponent / 2) for exponent in range(-10, 3))
"""Two a decade from 1e-5 to 10: in nats or squared units, from what float32 can tell apart to more than any output of
the collection moves."""

_AHEAD = 4
"""Candidates evaluated ahead of their turn at most: more is thrown away where many edges are kept, as in models whose
circuit is no small part of them."""
_POSITIONS = 2_048
"""Positions of a stacked pass at most. More no longer fit a processor's cache."""


def acdc(
    model: "HookedTransformer | Transformer",
    universe: Universe,
    data: PairData,
    *,
    ablation: Ablation = "resample",
    granularity: ScoreGranularity | None = None,
    thresholds: Sequence[float] = DEFAULT_THRESHOLDS,
) -> EdgeScores:
    """The largest of the thresholds at which ACDC keeps an edge; 0 where it keeps it at none.

    Each threshold is a run of ACDC of its own, as in the curves of the paper; runs need not be nested, an edge may be
    kept at 0.1, removed at 0.01 and kept again. What an edge is worth is then the largest threshold that keeps it.

    Args:
        model: What `load_model` returns, or the package's own transformer.
        universe: The edges to score: `Circuit.universe` of the model's circuit. Others are never removed.
        data: Pairs of inputs; the model runs on the clean ones.
        ablation: What a removed edge carries, as in `exhaustive_patching`. The paper resamples (and tries zero).
        granularity: What is removed at a time: `qkv-edge`, `edge` (a sender from q, k and v of a head at once) or
            `node` (all that reads the node); that of the universe if not given.
        thresholds: Rises of the difference, in nats or squared units, above 0.

    Returns:
        One of the thresholds, or 0, for each item.

    Raises:
        SettingError: An option that cannot be, or a universe that is not that of the model.

    Deviations from the paper: receivers are visited latest first (the logits, then each layer's MLP, then its heads,
    the last one first, q before k before v), senders of each latest first, where the published code leaves the order to
    how its graph was built. Its edges inside a head (from q, k and v to the output) do not exist here.
    """
    levels = _checked_thresholds(thresholds)
    masked = MaskedModel(model, universe, data, ablation=ablation, granularity=granularity)
    scores = np.zeros(masked.n_items)
    for run in _Search(masked).runs(levels):
        kept = ~run.removed.cpu().numpy()
        scores[kept] = np.maximum(scores[kept], run.thresholds[-1])
    return EdgeScores(masked.items, scores)


def acdc_circuit(
    model: "HookedTransformer | Transformer",
    universe: Universe,
    data: PairData,
    *,
    threshold: float,
    ablation: Ablation = "resample",
    granularity: ScoreGranularity | None = None,
) -> frozenset[Item]:
    """The edges (at granularity `node`, nodes) that ACDC keeps at one threshold; other arguments as for `acdc`.

    An edge from a sender that is replaced by the same value (the position, say, when inputs are resampled) is never
    kept, however much the model needs it: removing it changes nothing. So it is the `varying` edges that are found.
    """
    levels = _checked_thresholds([threshold])
    masked = MaskedModel(model, universe, data, ablation=ablation, granularity=granularity)
    (run,) = _Search(masked).runs(levels)
    return frozenset(item for item, is_gone in zip(masked.items, run.removed.tolist(), strict=True) if not is_gone)


def _checked_thresholds(thresholds: Sequence[float]) -> tuple[float, ...]:
    """Rising and each once."""
    levels = [float(threshold) for threshold in thresholds]
    if not levels:
        raise SettingError("there are no thresholds; ACDC needs at least one")
    for level in levels:
        if not 0 < level < math.inf:
            raise SettingError(f"threshold {level} is not a finite number above 0; at 0 ACDC would keep noise")
    return tuple(sorted(set(levels)))


class _Run(NamedTuple):
    """How far ACDC has come with some thresholds, all of which have decided alike so far."""

    thresholds: tuple[float, ...]
    removed: Tensor
    """What they have removed: BoolTensor [item]."""
    turn: int
    """Whose turn it is, a place in the order of candidates."""
    difference: float
    """How far the output is from the model's own with all that removed."""


class _Search:
    """ACDC on one masked model: the order of candidates, and the walk along it."""

    def __init__(self, masked: MaskedModel) -> None:
        self.masked, self.config = masked, masked.config
        self.order = sorted(range(masked.n_items), key=lambda number: _turn(masked.items[number]), reverse=True)
        self._moves = _moves(masked)
        self._exists = torch.zeros(len(self.config.receivers), len(self.config.senders), dtype=torch.bool)
        self._exists[tuple(torch.tensor(list(self.config.edge_places.values())).T)] = True
        self._exists = self._exists.to(masked.places.device)
        sender = {node: place for place, node in enumerate(self.config.senders)}
        self._readers = [sender.get(node) for node, _ in self.config.receivers]
        """For each receiver the place of its node among the senders; the last one, the logits, has none."""

    @torch.no_grad()
    def runs(self, thresholds: tuple[float, ...]) -> list[_Run]:
        """Where the runs at all thresholds (rising) end; thresholds that never parted end in one run."""
        nothing = torch.zeros(self.masked.n_items, dtype=torch.bool, device=self.masked.places.device)
        waiting, ended = [_Run(thresholds, nothing, 0, 0.0)], []
        while waiting:
            run = waiting.pop()
            if run.turn == len(self.order):
                ended.append(run)
            else:
                waiting += self._advance(run)
        return ended

    def _advance(self, run: _Run) -> list[_Run]:
        """Take the candidates of one receiver (or, of nodes, one layer) from a run's turn on.

        Rows are evaluated as if every candidate were removed. The run goes on for as long as some threshold does so;
        what keeps a candidate parts from it there.
        """
        group, stop = self._group(run.turn), run.turn + 1
        while stop < len(self.order) and self._group(stop) == group:
            stop += 1
        matters = self._matters(run.removed)
        tried = [turn for turn in range(run.turn, stop) if matters[self.order[turn]]]
        if len(tried) > _AHEAD:
            tried = tried[:_AHEAD]
            stop = tried[-1] + 1
        removed, masks = run.removed.clone(), []
        for turn in range(run.turn, stop):
            removed[self.order[turn]] = True
            if turn in tried:
                masks.append(removed.clone())
        found = dict(zip(tried, self._differences(masks, run.turn), strict=True))
        parted = []
        thresholds, removed, difference = run.thresholds, run.removed.clone(), run.difference
        for turn in range(run.turn, stop):
            if turn in found:
                rise = found[turn] - difference
                keeping = tuple(threshold for threshold in thresholds if rise >= threshold)
                if keeping:
                    parted.append(_Run(keeping, removed.clone(), turn + 1, difference))
                    thresholds = thresholds[len(keeping) :]
                    if not thresholds:
                        return parted
                difference = found[turn]
            removed[self.order[turn]] = True
        return [*parted, _Run(thresholds, removed, stop, difference)]

    def _group(self, turn: int) -> tuple[object, ...]:
        """What candidates must share to be evaluated in one pass: their receiver; of nodes, the layer."""
        item = self.masked.items[self.order[turn]]
        return (item.target, item.slot) if isinstance(item, Edge) else (item.layer, item.is_mlp)

    def _matters(self, removed: Tensor) -> list[bool]:
        """Whether removing an item could change the output at all when others are removed: one bool an item."""
        carries = self._exists & ~self.masked.edges(removed)
        # From the logits backwards: a receiver is read if what its node writes reaches one that is.
        is_read = torch.ones(len(self._readers), dtype=torch.bool, device=carries.device)
        for receiver in range(len(self._readers) - 2, -1, -1):
            is_read[receiver] = (carries[:, self._readers[receiver]] & is_read).any()
        matters = torch.zeros(self.masked.n_items + 1, dtype=torch.bool, device=carries.device)
        matters[self.masked.places[self._exists & is_read[:, None] & self._moves]] = True
        return matters.tolist()

    def _differences(self, masks: list[Tensor], turn: int) -> list[float]:
        """Mean difference over pairs under each mask [item], in stacked passes; `turn` is that of the first."""
        if not masks:
            return []
        masked, n_pairs = self.masked, self.masked.n_pairs
        edges = masked.edges(torch.stack(masks))
        first_layer = _first_layer(masked.items[self.order[turn]], self.config.n_layers)
        pairs = torch.arange(n_pairs, device=masked.places.device)
        total = torch.zeros(len(masks), dtype=torch.float64)
        for some in pairs.split(max(1, _POSITIONS // (len(masks) * masked.real.shape[1]))):
            rows = edges.repeat_interleave(len(some), 0)
            found = masked.difference(rows, some.repeat(len(masks)), first_layer=first_layer)
            total += found.double().view(len(masks), -1).sum(1).cpu()
        return (total / n_pairs).tolist()


def _moves(masked: MaskedModel) -> Tensor:
    """Whether a sender's replacement differs from its own value at any position that is not padding: [sender]."""
    # What padding carries, no real position ever sees.
    width = masked.real.shape[1]
    reached = torch.arange(width, device=masked.lengths.device) < masked.lengths[:, None]
    return ((masked.replacement != masked.base.senders).any(-1) & reached).flatten(1).any(-1)


def _turn(item: Edge | Node) -> tuple[object, ...]:
    """Items sorted by this, largest first, are in the order in which ACDC visits them."""
    if isinstance(item, Node):
        return (item,)
    return (item.target, -SLOTS.index(item.slot) if item.slot else 0, item.source)


def _first_layer(item: Edge | Node, n_layers: int) -> int:
    """The first layer whose inputs removing an item changes; the number of layers if none."""
    if isinstance(item, Edge):
        return n_layers if item.target.layer is None else item.target.layer
    if item.layer is None:
        return 0
    return item.layer if item.is_head else item.layer + 1
