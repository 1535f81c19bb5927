"""What a model still does when all but some of its edges are ablated: the behaviour that faithfulness compares.

Owns the passes and the two numbers taken from them; what follows from the numbers is in `faithfulness`.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from interpbench_hub.certificate import TOLERANCE
from interpbench_hub.circuit import SLOTS, Edge
from interpbench_hub.discovery.arrays import FloatArray
from interpbench_hub.discovery.data import PairData, output_difference
from interpbench_hub.discovery.exhaustive import ABLATIONS, Ablation, mean_activations
from interpbench_hub.discovery.faithfulness import faithfulness
from interpbench_hub.discovery.model import to_transformer
from interpbench_hub.errors import SettingError

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer

    from interpbench_hub.transformer import Transformer, TransformerConfig


class Behaviour(NamedTuple):
    """How alike the whole model and parts of it are, means over pairs: float [set] each."""

    difference: FloatArray
    """`PairData.difference` from the whole model's output: 0 is the same."""
    agreement: FloatArray
    """Share of real positions that come out as the whole model's do, by the rule of certificates: the same argmax, or
    a number that is less than 0.05 off. 1 is the same."""


class AblatedModel:
    """A model of which any set of edges can be kept while all others carry what an ablation puts in their place.

    What is kept carries what its sender computes from its own, partly ablated input, as in ACDC, EAP-IG and MIB. One
    pass over all pairs a set of edges.
    """

    def __init__(
        self, model: "HookedTransformer | Transformer", data: PairData, *, ablation: Ablation = "resample"
    ) -> None:
        if ablation not in ABLATIONS:
            raise SettingError(f"ablation {ablation!r} is not one of {', '.join(ABLATIONS)}")
        self.transformer = to_transformer(model)
        self.data = data.to(self.transformer.device)
        with torch.no_grad():
            self._base = self.transformer.run(self.data.clean, self.data.lengths)
            self._replacement = self._replaced(ablation)
        # Small shares of a small model are the same few edges, and methods that agree ask for the same ones.
        self._known: dict[bytes, tuple[float, float]] = {}
        nothing = self.behaviour([()])
        self._nothing = (float(nothing.difference[0]), float(nothing.agreement[0]))

    def _replaced(self, ablation: Ablation) -> Tensor:
        if ablation == "zero":
            return torch.zeros_like(self._base.senders)
        if ablation == "mean":
            return mean_activations(self.transformer, self.data).expand_as(self._base.senders)
        return self.transformer.run(self.data.corrupted, self.data.corrupted_lengths).senders

    @torch.no_grad()
    def behaviour(self, kept: Sequence[Iterable[Edge]]) -> Behaviour:
        """The behaviour with each of these sets of edges kept; an edge into a head as a whole keeps its q, k and v."""
        differences, agreements = np.empty(len(kept)), np.empty(len(kept))
        for place, edges in enumerate(kept):
            mask = kept_mask(edges, self.transformer.config)
            key = mask.numpy().tobytes()
            if key not in self._known:
                self._known[key] = self._measured(mask)
            differences[place], agreements[place] = self._known[key]
        return Behaviour(differences, agreements)

    def _measured(self, kept: Tensor) -> tuple[float, float]:
        """Difference and agreement with a mask of edges kept."""
        reference, real, lengths = self._base.logits, self.data.real, self.data.lengths
        exchanged = ~kept.to(reference.device)[None]
        logits = self.transformer.interchange(self._base.senders, self._replacement, exchanged, lengths)
        difference = output_difference(logits, reference, real, categorical=self.data.categorical)
        agreement = _agreement(logits, reference, real, categorical=self.data.categorical)
        return float(difference.double().mean()), float(agreement.mean())

    def faithfulness(self, kept: Sequence[Iterable[Edge]]) -> tuple[FloatArray | None, FloatArray | None]:
        """`faithfulness` [set] of these sets of edges, by difference and by agreement.

        0 is that of no edge at all, 1 that of the whole model. None where the model without any edge does as the whole
        one does.
        """
        found = self.behaviour(kept)
        by_difference = faithfulness(-found.difference, -self._nothing[0], 0.0)
        by_agreement = faithfulness(found.agreement, self._nothing[1], 1.0)
        return cast("FloatArray | None", by_difference), cast("FloatArray | None", by_agreement)


def kept_mask(edges: Iterable[Edge], config: "TransformerConfig") -> Tensor:
    """BoolTensor [receivers, senders], set where one of the edges lies, all slots of a head for an edge without one."""
    mask = torch.zeros(len(config.receivers), len(config.senders), dtype=torch.bool)
    for edge in edges:
        slots = SLOTS if edge.target.is_head and edge.slot is None else (edge.slot,)
        for slot in slots:
            place = config.edge_places.get(Edge(edge.source, edge.target, slot))
            if place is None:
                raise SettingError(
                    f"edge {edge} does not exist in a model with {config.n_layers} layers of {config.n_heads} heads; "
                    "give edges of the universe of the model's own circuit"
                )
            mask[place] = True
    return mask


def _agreement(logits: Tensor, reference: Tensor, real: Tensor, *, categorical: bool) -> Tensor:
    """Share of real positions with the same output: float64 [row]."""
    if categorical:
        same = logits.argmax(-1) == reference.argmax(-1)
    else:
        same = (logits - reference)[:, :, 0].abs() < TOLERANCE
    return (same & real).sum(1).double() / real.sum(1)
