"""First-order effects of all edges of a batch of pairs, from one forward and one backward pass.

What an edge (or a node) would change in a metric of the output is estimated by (what replaces its sender's value -
that value) . d(metric) / d(input of its receiver slot). Owns the metrics that are differentiated and the passes that
give gradients at every receiver slot. Nothing of the model changes: no gradient of a parameter is computed.
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from interpbench_hub.discovery.data import PairData
from interpbench_hub.discovery.exhaustive import ABLATIONS, Ablation, mean_activations
from interpbench_hub.errors import SettingError
from interpbench_hub.transformer import Transformer

Metric = Literal["logit_difference", "log_odds", "loss", "kl", "kl_to_corrupted"]
METRICS: tuple[Metric, ...] = get_args(Metric)

_FLOATS = 4_000_000
"""Numbers in the gradients of one batch at most: 16 MB."""


# -- what is differentiated --------------------------------------------------------------------------------------------


def metric_of(metric: Metric, logits: Tensor, clean: Tensor, corrupted: Tensor, data: PairData) -> Tensor:
    """How far logits [pair, pos, out] have moved from the clean output, mean over `data.real` positions: [pair].

    `clean` and `corrupted` are the model's outputs on the pairs' inputs; "answer" means the class with the largest
    logit there. Larger is further from clean:

    - `logit_difference`: logit of the corrupted answer - logit of the clean one (Wang et al. 2022, arXiv:2211.00593;
      what Syed et al. 2023, arXiv:2310.10348, differentiate), 0 where the answers agree. For numbers, the output in the
      direction of the corrupted one.
    - `log_odds`: of every answer but the clean one, logsumexp of the other logits - logit of the clean answer. It moves
      where the answers agree too. For numbers as `logit_difference`, where outputs agree upwards.
    - `loss`: cross-entropy of the clean answer, for numbers the squared difference from the clean output.
    - `kl`: `PairData.difference` from the clean output. On the clean input itself it is at its minimum, so its gradient
      there is zero: fit for integrated gradients only.
    - `kl_to_corrupted`: minus `PairData.difference` from the corrupted output.
    """
    if metric == "kl":
        return data.difference(logits, clean)
    if metric == "kl_to_corrupted":
        return -data.difference(logits, corrupted)
    if data.categorical:
        each = _of_classes(metric, logits, clean.argmax(-1, keepdim=True), corrupted.argmax(-1, keepdim=True))
    elif metric == "loss":
        each = (logits - clean).square().mean(-1)
    else:
        towards = (corrupted - clean).sign()
        each = (logits * (towards if metric == "logit_difference" else torch.where(towards < 0, -1.0, 1.0))).mean(-1)
    # Multiplying would let a NaN of a padded position through.
    return each.masked_fill(~data.real, 0).sum(1) / data.real.sum(1)


def _of_classes(metric: Metric, logits: Tensor, clean: Tensor, corrupted: Tensor) -> Tensor:
    """[pair, pos] from the answers [pair, pos, 1]."""
    if metric == "loss":
        return -logits.log_softmax(-1).gather(-1, clean)[..., 0]
    if metric == "log_odds":
        others = logits.scatter(-1, clean, -torch.inf).logsumexp(-1)
        return others - logits.gather(-1, clean)[..., 0]
    return (logits.gather(-1, corrupted) - logits.gather(-1, clean))[..., 0]


# -- passes ------------------------------------------------------------------------------------------------------------


class SlotRun(NamedTuple):
    """A forward pass in which every receiver slot has an input of its own, to differentiate by.

    `inputs` are those of the receivers in their order, [slot, row, pos, d_model] each (the q, k and v of a layer's
    heads in one), from the place where the pass began; `logits` is [row, pos, out].
    """

    inputs: list[Tensor]
    logits: Tensor


def run_slots(
    model: Transformer, resid: Tensor, bias: Tensor | None, layer: int = 0, *, after_heads: bool = False
) -> SlotRun:
    """A pass from the residual stream [row, pos, d_model] as it enters a layer, or between its heads and its MLP."""
    config = model.config
    inputs: list[Tensor] = []
    for at in range(layer, config.n_layers):
        if at > layer or not after_heads:
            slots = resid.expand(3 * config.n_heads, *resid.shape)
            resid = model.add_heads(resid, model.heads(model.project_each(slots, at), at, bias), at)
            inputs.append(slots)
        # A view of its own, so that its gradient is that through the MLP and not that of the stream.
        mlp_input = resid[None]
        resid = resid + model.mlp(mlp_input[0], at)
        inputs.append(mlp_input)
    last = resid[None]
    return SlotRun([*inputs, last], model.unembed(last[0]))


class PairGradients:
    """One batch of pairs: what would replace what each sender writes, and gradients of the metric by slots' inputs.

    `means` [sender, 1, pos, d_model] replaces under mean ablation, as wide as the batch or wider.
    """

    def __init__(
        self, model: Transformer, data: PairData, metric: Metric, ablation: Ablation, means: Tensor | None = None
    ) -> None:
        self.model, self.data = model, data
        self.metric: Metric = metric
        width = data.clean.shape[1]
        with torch.no_grad():
            self.clean = model.run(data.clean, data.lengths)
            corrupted = model.run(data.corrupted, data.corrupted_lengths)
        self.corrupted_logits = corrupted.logits
        if ablation == "resample":
            replacement = corrupted.senders
        elif means is not None:
            replacement = means[:, :, :width]
        else:
            replacement = torch.zeros_like(self.clean.senders)
        self.delta = replacement - self.clean.senders
        """What each sender's replacement adds to the residual stream: [sender, pair, pos, d_model]."""
        self._bias = model.attention_bias(width, data.lengths)

    @torch.enable_grad()
    def gradients(self, resid: Tensor, layer: int = 0, *, after_heads: bool = False) -> Tensor:
        """d(metric) / d(input of a receiver slot) in the pass from `resid`: [receiver, pair, pos, d_model].

        Receivers before the place where the pass begins have no row. At padded positions gradients are 0.
        """
        run = run_slots(self.model, resid.detach().requires_grad_(), self._bias, layer, after_heads=after_heads)
        moved = metric_of(self.metric, run.logits, self.clean.logits, self.corrupted_logits, self.data)
        # By these inputs alone: autograd then computes no gradient of a parameter, nor touches `flat.grad`.
        return torch.cat(torch.autograd.grad(moved.sum(), run.inputs))

    def effects(self, gradients: Tensor, senders: slice = slice(None)) -> Tensor:
        """Sum over positions and d_model of replacement times gradient: [pair, receiver, sender].

        Also for senders that come after a receiver, where it means nothing.
        """
        return torch.einsum("spid,rpid->prs", self.delta[senders], gradients)


def batches_of(model: Transformer, data: PairData, metric: Metric, ablation: Ablation) -> Iterator[PairGradients]:
    """All pairs, in batches whose gradients take a bounded amount of memory."""
    for name, value, known in (("metric", metric, METRICS), ("ablation", ablation, ABLATIONS)):
        if value not in known:
            raise SettingError(f"{name} {value!r} is not one of {', '.join(known)}")
    data = data.to(model.device)
    with torch.no_grad():
        means = mean_activations(model, data) if ablation == "mean" else None
    config = model.config
    size = max(1, _FLOATS // (len(config.receivers) * data.clean.shape[1] * config.d_model))
    for batch in data.batches(size):
        yield PairGradients(model, batch, metric, ablation, means)
