"""Attribution patching of edges and nodes: what exhaustive patching measures, estimated with gradients.

All methods here score an edge by the first-order effect that replacing what it carries has on a metric of the output,
and differ in where the gradient is taken. A score is the size of the effect in units of the metric.

Why `logit_difference` is the default metric: its slope does not fade where a model is sure of its answer, and there is
one for numbers. AUROC, mean over the 123 bundled certified models (64 pairs each) of `eap` / `eap_ig_inputs` /
`eap_ig_activations`: `logit_difference` 0.985 / 0.986 / 0.999, `log_odds` 0.986 / 0.988 / -, `kl_to_corrupted`
0.985 / 0.987 / 0.998, `loss` 0.944 / 0.984 / -, `kl` 0.942 / 0.984 / 0.999. With `absolute` instead of `signed`
nothing moves by more than 0.005. What `eap` finds with `kl` rests on rounding. In 28 of the models looked at closer,
those of numbers have no score above 0 (AUROC 0.5); those of classes have largest scores from 1e-22 to 1e-7, in an order
that resembles the right one, presumably because rounding errors take the same ways back through the model. A grid of
thresholds that begins above them takes them all for 0.
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Literal, cast, get_args

import torch
from torch import Tensor

from interpbench_hub.circuit import Node
from interpbench_hub.discovery.exhaustive import Ablation
from interpbench_hub.discovery.gradients import Metric, PairGradients, batches_of
from interpbench_hub.discovery.masks import item_places
from interpbench_hub.discovery.model import to_transformer
from interpbench_hub.discovery.scores import EdgeScores, ScoreGranularity, Universe, scored_items
from interpbench_hub.errors import SettingError

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer

    from interpbench_hub.discovery.data import PairData
    from interpbench_hub.transformer import Transformer

Aggregation = Literal["signed", "absolute"]
"""Effects of pairs are added up before their size is taken, or after: |mean over pairs|, or mean over pairs of | |."""
AGGREGATIONS: tuple[Aggregation, ...] = get_args(Aggregation)

DEFAULT_STEPS = 5
"""Points of a line that gradients are averaged over, as many as Hanna et al. (2024, arXiv:2403.17806) take."""


def eap(
    model: "HookedTransformer | Transformer",
    universe: Universe,
    data: "PairData",
    *,
    ablation: Ablation = "resample",
    granularity: ScoreGranularity | None = None,
    metric: Metric = "logit_difference",
    aggregation: Aggregation = "signed",
) -> EdgeScores:
    """Edge attribution patching (Syed et al. 2023, arXiv:2310.10348): gradients at the clean input.

    The effect of an edge on a pair is (what replaces its sender's value - that value) . d(metric) / d(input of its
    receiver slot), summed over positions and d_model; inputs are those before LayerNorm, whose slope counts. Two
    forward passes and one backward pass a pair, however many edges there are.

    The paper's metric is the difference of two logits at the last position, a single forward answer; here models answer
    at every position, so `logit_difference` is the mean over positions, with the model's own answers. Gradients at the
    clean input see nothing of a metric that is at its minimum there (`kl`; `loss` where the model is sure): with these
    a ranking is one of rounding errors.

    Args:
        model: What `load_model` returns, or the package's own transformer.
        universe: The edges to score: `Circuit.universe` of the model's circuit.
        data: Pairs of inputs; the model runs on the clean ones.
        ablation: What an edge carries instead, as in `exhaustive_patching`. The corrupted answer that some metrics look
            for is that of the corrupted input under every ablation.
        granularity: `qkv-edge`, `edge` (into a head as a whole: the sum of the effects through its slots) or `node`
            (the sum over all edges that leave it: attribution patching of nodes); that of the universe if not given.
        metric: What is differentiated, see `gradients.metric_of`.
        aggregation: `signed` for the size of the mean over pairs, as in the paper (where opposite effects cancel),
            `absolute` for the mean over pairs of the size.

    Returns:
        Sizes of effects, at least 0, in units of the metric.

    Raises:
        SettingError: An option that cannot be, or a universe that is not that of the model.
    """
    return _scores(_at_clean, model, universe, data, ablation, granularity, metric, aggregation)


def eap_ig_inputs(
    model: "HookedTransformer | Transformer",
    universe: Universe,
    data: "PairData",
    *,
    ablation: Ablation = "resample",
    granularity: ScoreGranularity | None = None,
    metric: Metric = "logit_difference",
    aggregation: Aggregation = "signed",
    steps: int = DEFAULT_STEPS,
) -> EdgeScores:
    """EAP with integrated gradients over inputs (Hanna et al. 2024, arXiv:2403.17806; MIB, arXiv:2504.13151).

    As `eap`, but the gradient is the mean of those at `steps` inputs on the straight line from what replaces the
    embeddings' sum to the sum itself: at k / steps of the way for k = 1 to `steps`, so the last is the clean input and
    one step is `eap`. So gradients that vanish at the clean input are seen elsewhere. `steps` + 2 forward passes and
    `steps` backward passes a pair.

    MIB defines it for resampling alone. Here the line begins under zero and mean ablation where the embeddings and
    positions are zero, or their means. Options and errors are those of `eap`; `steps` is at least 1.
    """

    def on_line(pairs: PairGradients) -> Tensor:
        embedding, change = pairs.clean.senders[:2].sum(0), pairs.delta[:2].sum(0)
        return pairs.effects(_mean(pairs.gradients(embedding + (1 - share) * change) for share in _shares(steps)))

    return _scores(on_line, model, universe, data, ablation, granularity, metric, aggregation)


def eap_ig_activations(
    model: "HookedTransformer | Transformer",
    universe: Universe,
    data: "PairData",
    *,
    ablation: Ablation = "resample",
    granularity: ScoreGranularity | None = None,
    metric: Metric = "logit_difference",
    aggregation: Aggregation = "signed",
    steps: int = DEFAULT_STEPS,
) -> EdgeScores:
    """EAP with integrated gradients over activations, one part of the model at a time (MIB, arXiv:2504.13151).

    As `eap_ig_inputs`, but for the edges that leave a part (both embeddings, the heads of one layer, or one MLP) the
    line runs from what replaces its output to that output, while all before it is as on the clean input. One step is
    `eap`. The idea is that of Marks et al. (2024, arXiv:2403.19647), who integrate one feature at a time. `steps` times
    (1 + 2 * layers) passes a pair, forward and backward, each only through what lies after its part.

    In MIB's code the gradients met on the way of each part are added to all edges, those of other parts too, at
    whatever receiver the pass reaches; here an edge gets those of its own sender's part alone, whose line is the one
    that the replacement of its sender lies on. Options and errors are those of `eap`; `steps` is at least 1.
    """

    def by_part(pairs: PairGradients) -> Tensor:
        config, clean = pairs.model.config, pairs.clean.senders
        found = clean.new_zeros(len(pairs.data), len(config.receivers), len(config.senders))
        resid = clean[:2].sum(0)
        parts = [(slice(0, 2), resid, 0, False)]
        for layer in range(config.n_layers):
            start, stop = config.senders_before(layer), config.senders_before(layer, mlp=True)
            mid = pairs.model.add_heads(resid, clean[start:stop], layer).detach()
            resid = mid + clean[stop]
            parts += [(slice(start, stop), mid, layer, True), (slice(stop, stop + 1), resid, layer + 1, False)]
        for senders, after, layer, after_heads in parts:
            change = pairs.delta[senders].sum(0)
            gradients = _mean(
                pairs.gradients(after + (1 - share) * change, layer, after_heads=after_heads)
                for share in _shares(steps)
            )
            found[:, -len(gradients) :, senders] = pairs.effects(gradients, senders)
        return found

    return _scores(by_part, model, universe, data, ablation, granularity, metric, aggregation)


def node_attribution_patching(
    model: "HookedTransformer | Transformer",
    universe: Universe,
    data: "PairData",
    *,
    ablation: Ablation = "resample",
    granularity: ScoreGranularity | None = None,
    metric: Metric = "logit_difference",
    aggregation: Aggregation = "absolute",
) -> EdgeScores:
    """Attribution patching of nodes (Nanda 2022; AtP of Kramar et al. 2024, arXiv:2403.00745), lifted to edges.

    The effect of a node on a pair is (what replaces its output - that output) . d(metric) / d(that output) at the clean
    input, summed over positions (AtP takes each position for a node of its own). A node's score is the mean over pairs
    of its size, as in AtP. AtP*'s corrections for saturated attention and for effects that cancel are not made.

    At granularity `node` the scores are those. Else an edge gets the smaller score of its two ends, by the rule of
    `EdgeScores.from_nodes`, for a universe with all heads and MLPs. Options and errors are those of `eap`.
    """
    nodes = _scores(_at_clean, model, universe, data, ablation, "node", metric, aggregation)
    if granularity == "node":
        return nodes
    scored = cast(dict[Node, float], dict(nodes))
    return EdgeScores.from_nodes(cast(Universe, scored_items(universe, granularity)), scored)


# -- what they share ---------------------------------------------------------------------------------------------------


def _at_clean(pairs: PairGradients) -> Tensor:
    return pairs.effects(pairs.gradients(pairs.clean.senders[:2].sum(0)))


def _shares(steps: int) -> list[float]:
    """How far along its line each of the points lies, the last at its end."""
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise SettingError(f"steps is {steps!r}; it is a whole number of at least 1, {DEFAULT_STEPS} by default")
    return [number / steps for number in range(1, steps + 1)]


def _mean(gradients: Iterable[Tensor]) -> Tensor:
    total, count = torch.zeros(()), 0
    for gradient in gradients:
        total, count = total.to(gradient) + gradient, count + 1
    return total / count


def _scores(
    effects_of: Callable[[PairGradients], Tensor],
    model: "HookedTransformer | Transformer",
    universe: Universe,
    data: "PairData",
    ablation: Ablation,
    granularity: ScoreGranularity | None,
    metric: Metric,
    aggregation: Aggregation,
) -> EdgeScores:
    """Scores from a method's effects [pair, receiver, sender] of each batch of pairs."""
    if aggregation not in AGGREGATIONS:
        raise SettingError(f"aggregation {aggregation!r} is not one of {', '.join(AGGREGATIONS)}")
    transformer = to_transformer(model)
    items = scored_items(universe, granularity)
    places = item_places(items, transformer.config).flatten().to(transformer.device)
    total = torch.zeros(len(items), dtype=torch.float64, device=transformer.device)
    for pairs in batches_of(transformer, data, metric, ablation):
        effects = effects_of(pairs).double().flatten(1)
        # To first order, several edges at once have the sum of their effects. Last come those that are no item's.
        of_items = effects.new_zeros(len(effects), len(items) + 1).index_add_(1, places, effects)[:, : len(items)]
        total += (of_items.abs() if aggregation == "absolute" else of_items).sum(0)
    return EdgeScores(items, (total.abs() / len(data)).tolist())
