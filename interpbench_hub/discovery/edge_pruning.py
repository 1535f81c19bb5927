"""Edge pruning: gates on all edges at once, learned while ever fewer of them may be open.

Bhaskar, Wettig, Friedman and Chen 2024, arXiv:2406.16778: every edge has a hard-concrete gate, the output is to stay
close to the model's, and a Lagrangian holds the share of closed gates at a target that rises during the run.
"""

import math
from typing import TYPE_CHECKING

import torch

from interpbench_hub.discovery.data import PairData
from interpbench_hub.discovery.exhaustive import Ablation
from interpbench_hub.discovery.masks import MaskedModel, chance_open, checked_count, checked_positive, sample_gates
from interpbench_hub.discovery.scores import EdgeScores, ScoreGranularity, Universe
from interpbench_hub.errors import SettingError
from interpbench_hub.siit.adam import Adam

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer

    from interpbench_hub.transformer import Transformer

_START = 3.0
"""Log alpha of every gate at the start: it is closed in one draw of a hundred."""
_WARM_UP = 5 / 6
"""Share of all steps during which the target rises, as in the paper's runs (2500 of 3000)."""
_BETAS = (0.9, 0.999)


def edge_pruning(
    model: "HookedTransformer | Transformer",
    universe: Universe,
    data: PairData,
    *,
    ablation: Ablation = "resample",
    granularity: ScoreGranularity | None = None,
    target_sparsity: float = 0.95,
    steps: int = 400,
    batch_size: int = 32,
    learning_rate: float = 0.1,
    multiplier_rate: float = 0.1,
    seed: int = 0,
) -> EdgeScores:
    """The chance that an edge's gate is open at the end of edge pruning.

    Gates minimise, by Adam, the expected `output_difference` plus l1 (t - s) + l2 (t - s)^2, where s is the expected
    share of closed gates and t its target, which rises linearly from 0 to `target_sparsity` over five sixths of the
    steps; the multipliers l1 and l2 start at 0 and maximise the same, so that they grow until the target is met,
    whatever the scale of outputs.

    Args:
        model: What `load_model` returns, or the package's own transformer; its weights and gradients stay as they are.
        universe: The edges to score: `Circuit.universe` of the model's circuit. Others have no gate and stay.
        data: Pairs of inputs; the model runs on the clean ones.
        ablation: What is behind a closed gate, as in `exhaustive_patching`. The paper resamples.
        granularity: What has a gate: `qkv-edge`, `edge` (a sender into q, k and v of a head at once) or `node` (all
            that reads the node); that of the universe if not given.
        target_sparsity: Share of gates that are to be closed in the end, above 0 and at most 1. Where the model needs
            more edges than then remain it loses some, where it needs fewer others stay open with them.
        steps: Updates.
        batch_size: Pairs of a step.
        learning_rate: Adam's, on the location (log alpha) of each gate.
        multiplier_rate: Adam's, on the multipliers.
        seed: Of batches and gates; the same seed gives the same scores on the same machine.

    Returns:
        From 0 to 1 for each item. The paper's circuit is what scores highest, as many as the final sparsity leaves.

    Raises:
        SettingError: An option that cannot be, or a universe that is not that of the model.

    Deviations from the paper: each pair of a batch draws gates of its own, there a batch shares them; rates are 0.1
    where its runs on GPT-2 take 0.8, gates start at a log alpha of 3 where those start at 10, and steps are hundreds,
    not thousands, as there are hundreds of edges, not tens of thousands. There are no gates on nodes besides those on
    edges (an option of the published code). The difference is measured at every position that counts.
    """
    if isinstance(target_sparsity, bool) or not 0 < target_sparsity <= 1:
        raise SettingError(f"target_sparsity is {target_sparsity!r}; it is a share of gates, above 0 and at most 1")
    checked_count("steps", steps)
    checked_count("batch_size", batch_size)
    checked_positive("learning_rate", learning_rate)
    checked_positive("multiplier_rate", multiplier_rate)
    masked = MaskedModel(model, universe, data, ablation=ablation, granularity=granularity)
    device = masked.places.device
    generator = torch.Generator().manual_seed(seed)
    gates = Adam.of(torch.full((masked.n_items,), _START, device=device))
    multipliers = Adam.of(torch.zeros(2, device=device))
    for number, pairs in enumerate(masked.batches(batch_size, steps, generator), 1):
        target = target_sparsity * min(1.0, number / (_WARM_UP * steps))
        log_alpha = gates.parameters.detach().requires_grad_()
        uniform = torch.rand(len(pairs), masked.n_items, generator=generator).to(device)
        found = masked.difference(masked.edges(1 - sample_gates(log_alpha, uniform)), pairs)
        gap = target - (1 - chance_open(log_alpha).mean())
        terms = torch.stack([gap, gap.square()])
        (gradient,) = torch.autograd.grad(found.mean() + multipliers.parameters @ terms, [log_alpha])
        gates.step(gradient, learning_rate, number, _BETAS, math.inf)
        # Uphill: multipliers maximise what gates minimise.
        multipliers.step(-terms.detach(), multiplier_rate, number, _BETAS, math.inf)
    return EdgeScores(masked.items, chance_open(gates.parameters.double()).cpu().numpy())
