"""A model of which any edges carry something else, in whole or in part: what search and mask-learning methods run.

Owns how masks over scored items (edges, heads' edges as wholes, or nodes) become masks over edges, and the
hard-concrete gates that learned masks consist of (Louizos, Welling and Kingma 2018, arXiv:1712.01312). Which masks are
tried, and how they are learned, is the business of the methods.
"""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from interpbench_hub.circuit import Edge, Node
from interpbench_hub.discovery.data import PairData, output_difference
from interpbench_hub.discovery.exhaustive import ABLATIONS, Ablation, mean_activations
from interpbench_hub.discovery.model import to_transformer
from interpbench_hub.discovery.scores import ScoreGranularity, Universe, scored_items
from interpbench_hub.errors import SettingError
from interpbench_hub.transformer import TransformerConfig

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer

    from interpbench_hub.transformer import Transformer

TEMPERATURE = 2 / 3
"""How soft gates are; this and the stretch are those of Louizos et al., which all papers after them kept."""
STRETCH = (-0.1, 1.1)
"""The interval that the concrete distribution is stretched to before it is cut off at 0 and 1."""


# -- gates -------------------------------------------------------------------------------------------------------------


def sample_gates(log_alpha: Tensor, uniform: Tensor) -> Tensor:
    """Hard-concrete gates from 0 (closed) to 1 (open): the quantile `uniform` (0 to 1) of each gate's distribution.

    sigmoid((log u - log(1 - u) + log_alpha) / temperature), stretched and cut off (Louizos et al. 2018, equations 10
    and 11). Shapes broadcast; differentiable in `log_alpha` wherever a gate is strictly between 0 and 1.
    """
    low, high = STRETCH
    concrete = torch.sigmoid((torch.logit(uniform) + log_alpha) / TEMPERATURE)
    return (concrete * (high - low) + low).clamp(0, 1)


def chance_open(log_alpha: Tensor) -> Tensor:
    """Chance that a hard-concrete gate is not exactly 0, in the shape of `log_alpha` (equation 12 there)."""
    low, high = STRETCH
    return torch.sigmoid(log_alpha - TEMPERATURE * math.log(-low / high))


def location_of(median: float) -> float:
    """The log alpha of a gate with this median, which lies strictly between 0 and 1."""
    low, high = STRETCH
    return TEMPERATURE * math.log((median - low) / (high - median))


# -- models ------------------------------------------------------------------------------------------------------------


class MaskedModel:
    """A model on fixed pairs, in which each scored item (an edge, the edges into a head, or all that leave a node)
    carries its own value, its replacement, or a mixture of both.

    `removed` says how much of its replacement an item carries, from 0 (its own value, as in the model) to 1: what is
    removed is ablated. Items keep the order of the universe. Gradients flow to `removed` (`torch.autograd.grad`); those
    of the parameters are never asked for.
    """

    @torch.no_grad()
    def __init__(
        self,
        model: "HookedTransformer | Transformer",
        universe: Universe,
        data: PairData,
        *,
        ablation: Ablation,
        granularity: ScoreGranularity | None,
    ) -> None:
        """Run the model once on clean and once on corrupted inputs; arguments are those of `exhaustive_patching`."""
        if ablation not in ABLATIONS:
            raise SettingError(f"ablation {ablation!r} is not one of {', '.join(ABLATIONS)}")
        self.model = to_transformer(model)
        self.config = self.model.config
        self.items = scored_items(universe, granularity)
        self.places = item_places(self.items, self.config).to(self.model.device)
        """Number of the item that an edge belongs to, [receiver, sender]; that of no item is the count of items."""
        data = data.to(self.model.device)
        width = int(data.lengths.max())
        self.base = self.model.run(data.clean[:, :width], data.lengths)
        """The plain run on the clean inputs."""
        if ablation == "mean":
            self.replacement = mean_activations(self.model, data)[:, :, :width].expand_as(self.base.senders)
        elif ablation == "zero":
            self.replacement = torch.zeros_like(self.base.senders)
        else:
            self.replacement = self.model.run(data.corrupted, data.corrupted_lengths).senders[:, :, :width]
        self.lengths, self.categorical = data.lengths, data.categorical
        self.real = data.real[:, :width]

    @property
    def n_pairs(self) -> int:
        return len(self.lengths)

    @property
    def n_items(self) -> int:
        return len(self.items)

    def edges(self, removed: Tensor) -> Tensor:
        """Masks over items [..., item] as masks over edges [..., receiver, sender], 0 where no item has the edge."""
        none = removed.new_zeros(*removed.shape[:-1], 1)
        return torch.cat([removed, none], -1)[..., self.places]

    def logits(self, edges: Tensor, pairs: Tensor, *, first_layer: int = 0) -> Tensor:
        """Logits [row, pos, out] of the pairs [row] under masks over edges [row or 1, receiver, sender].

        No edge into a layer before `first_layer` may be removed; what lies before it is then not computed anew.
        """
        return self.model.interchange(
            self.base.senders[: self.config.senders_before(first_layer), pairs],
            self.replacement[:, pairs],
            edges,
            self.lengths[pairs],
            first_layer=first_layer,
        )

    def difference(self, edges: Tensor, pairs: Tensor, *, first_layer: int = 0) -> Tensor:
        """How far the output of the masked model is from the model's own, [row]: see `output_difference`."""
        logits = self.logits(edges, pairs, first_layer=first_layer)
        return output_difference(logits, self.base.logits[pairs], self.real[pairs], categorical=self.categorical)

    def batches(self, size: int, steps: int, generator: torch.Generator) -> Iterator[Tensor]:
        """Pairs [row] of each of `steps` steps: all pairs in an order drawn anew each time they have had their turn."""
        size = min(size, self.n_pairs)
        waiting = torch.empty(0, dtype=torch.long)
        for _ in range(steps):
            if len(waiting) < size:
                waiting = torch.cat([waiting, torch.randperm(self.n_pairs, generator=generator)])
            yield waiting[:size].to(self.places.device)
            waiting = waiting[size:]


def item_places(items: tuple[Edge | Node, ...], config: TransformerConfig) -> Tensor:
    """Number of the item that each edge belongs to, LongTensor [receiver, sender]; `len(items)` where it has none.

    Raises `SettingError` for an item that the model has not.
    """
    numbers = {item: number for number, item in enumerate(items)}
    places = torch.full((len(config.receivers), len(config.senders)), len(items))
    found: set[Edge | Node] = set()
    for edge, place in config.edge_places.items():
        item = next((item for item in (edge, edge.without_slot, edge.source) if item in numbers), None)
        if item is not None:
            places[place] = numbers[item]
            found.add(item)
    for item in items:
        if item not in found:
            raise SettingError(
                f"the universe has {item}, which a model with {config.n_layers} layers of {config.n_heads} heads has "
                "not; give the universe of the model's own circuit"
            )
    return places


def checked_count(name: str, value: object) -> int:
    """A whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise SettingError(f"{name} is {value!r}; it is a whole number of at least 1")
    return value


def checked_positive(name: str, value: object) -> float:
    """A finite number above 0."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise SettingError(f"{name} is {value!r}; it is a finite number above 0")
    return float(value)
