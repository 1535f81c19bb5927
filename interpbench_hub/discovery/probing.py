"""Subnetwork probing: learn which nodes or edges the model can do without.

Cao, Sanh and Rush 2021, arXiv:2104.03514, as Conmy et al. (2023, arXiv:2304.14997) turned it into circuit discovery, on
nodes there and on edges in the InterpBench paper (Gupta et al. 2024, arXiv:2407.14494): the weights stay as they are,
every node (or edge) gets a hard-concrete gate, and gates are learned that keep the output close to the model's while
as few as possible are open. What is behind a closed gate is ablated.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from interpbench_hub.circuit import Edge
from interpbench_hub.discovery.data import PairData
from interpbench_hub.discovery.exhaustive import Ablation
from interpbench_hub.discovery.masks import (
    MaskedModel,
    chance_open,
    checked_count,
    checked_positive,
    location_of,
    sample_gates,
)
from interpbench_hub.discovery.scores import EdgeScores, ScoreGranularity, Universe, scored_items
from interpbench_hub.errors import SettingError
from interpbench_hub.siit.adam import Adam

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer

    from interpbench_hub.transformer import Transformer

DEFAULT_PENALTIES = (0.1, 1.0, 10.0, 100.0)
"""Weights of the penalty. A gate is closed if it is worth less than the weight divided by the number of gates, in nats
or squared units: with a hundred gates, from a thousandth (which leaves many open) to one (which closes all of a model
whose outputs are shares)."""

_START = 0.9
"""Median of every gate at the start."""


def edge_subnetwork_probing(
    model: "HookedTransformer | Transformer",
    universe: Universe,
    data: PairData,
    *,
    ablation: Ablation = "resample",
    granularity: ScoreGranularity | None = None,
    penalties: Sequence[float] = DEFAULT_PENALTIES,
    steps: int = 300,
    batch_size: int = 16,
    learning_rate: float = 0.1,
    seed: int = 0,
) -> EdgeScores:
    """The chance that an edge's learned gate is open, mean over the weights of the penalty.

    Gates minimise, by Adam, the expected `output_difference` (the Kullback-Leibler divergence from the model's own
    output, or the squared error) plus a penalty times the mean chance of being open over all gates. Every weight of the
    penalty has gates of its own; all are learned side by side in one stacked pass a step. An edge that stays open under
    a larger penalty scores higher, so the mean ranks edges as a sweep over penalties does.

    Args:
        model: What `load_model` returns, or the package's own transformer; its weights and gradients stay as they are.
        universe: The edges to score: `Circuit.universe` of the model's circuit. Others have no gate and stay.
        data: Pairs of inputs; the model runs on the clean ones.
        ablation: What is behind a closed gate, as in `exhaustive_patching`. Cao et al. put zero, Conmy et al. either
            zero or the corrupted input's value.
        granularity: What has a gate: `qkv-edge`, `edge` (a sender into q, k and v of a head at once) or `node` (all
            that reads the node); that of the universe if not given.
        penalties: Weights of the penalty, above 0.
        steps: Updates.
        batch_size: Pairs of a step, for each weight of the penalty.
        learning_rate: Adam's, on the location (log alpha) of each gate.
        seed: Of batches and gates; the same seed gives the same scores on the same machine.

    Returns:
        From 0 to 1 for each item.

    Raises:
        SettingError: An option that cannot be, or a universe that is not that of the model.

    The defaults were chosen by what is minimised, on four cases: three times as many steps, or pairs, close more of the
    gates that do nothing under the smaller penalties, and the difference stays as it is.

    Deviations from the papers: each pair of a batch draws gates of its own, where the published code draws them once a
    batch, which makes gradients far less noisy: hundreds of steps at a rate of 0.1 stand for thousands at 0.001 there;
    several weights of the penalty are averaged, where the papers make one run, or one point of a curve, of each.
    """
    masked = MaskedModel(model, universe, data, ablation=ablation, granularity=granularity)
    chances = _learn(masked, penalties, steps, batch_size, learning_rate, seed)
    return EdgeScores(masked.items, chances.mean(0).cpu().numpy())


def node_subnetwork_probing(
    model: "HookedTransformer | Transformer",
    universe: Universe,
    data: PairData,
    *,
    ablation: Ablation = "resample",
    granularity: ScoreGranularity | None = None,
    penalties: Sequence[float] = DEFAULT_PENALTIES,
    steps: int = 300,
    batch_size: int = 16,
    learning_rate: float = 0.1,
    seed: int = 0,
) -> EdgeScores:
    """The chance that a node's learned gate is open, mean over the weights of the penalty, lifted to edges.

    As `edge_subnetwork_probing`, whose options it takes, with a gate for each node that sends (the embeddings, heads
    and MLPs): what a node writes is mixed with its replacement for all that read it. At granularity `node` the scores
    are those of nodes. At the others an edge gets the smaller score of its two ends (`EdgeScores.from_nodes`, where the
    embeddings and the logits count as in every circuit).

    Deviations from Conmy et al., besides those of `edge_subnetwork_probing`: a head has one gate, there three, on its
    q, k and v.
    """
    masked = MaskedModel(model, universe, data, ablation=ablation, granularity="node")
    chances = _learn(masked, penalties, steps, batch_size, learning_rate, seed).mean(0)
    by_node = {node: float(chance) for node, chance in zip(masked.items, chances, strict=True)}
    if granularity == "node":
        return EdgeScores.of(universe, by_node, granularity="node")
    return EdgeScores.from_nodes(cast(tuple[Edge, ...], scored_items(universe, granularity)), by_node)


def _learn(
    masked: MaskedModel,
    penalties: Sequence[float],
    steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
) -> Tensor:
    """Chances of being open [penalty, item] after all updates."""
    if not penalties:
        raise SettingError("there are no penalties; subnetwork probing needs at least one weight of the penalty")
    weights = torch.tensor([checked_positive("a penalty", penalty) for penalty in penalties])
    checked_count("steps", steps)
    checked_count("batch_size", batch_size)
    checked_positive("learning_rate", learning_rate)
    device = masked.places.device
    weights = weights.to(device)
    generator = torch.Generator().manual_seed(seed)
    shape = (len(weights), masked.n_items)
    optimiser = Adam.of(torch.full((math.prod(shape),), location_of(_START), device=device))
    for number, pairs in enumerate(masked.batches(batch_size, steps, generator), 1):
        log_alpha = optimiser.parameters.detach().view(shape).requires_grad_()
        uniform = torch.rand(len(weights), len(pairs), masked.n_items, generator=generator).to(device)
        gates = sample_gates(log_alpha[:, None], uniform).flatten(0, 1)
        # Rows are all pairs under the first penalty, then all under the second, ...
        found = masked.difference(masked.edges(1 - gates), pairs.repeat(len(weights)))
        # Summed: the gates of one penalty have no bearing on those of another.
        loss = found.view(len(weights), -1).mean(1).sum() + weights @ chance_open(log_alpha).mean(1)
        (gradient,) = torch.autograd.grad(loss, [log_alpha])
        optimiser.step(gradient.flatten(), learning_rate, number, (0.9, 0.999), math.inf)
    return chance_open(optimiser.parameters.view(shape).double())
