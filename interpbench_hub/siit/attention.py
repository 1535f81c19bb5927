"""What the program says each head of the circuit looks at, as a target for the head's attention in training.

Queries and keys are the last thing a head learns from the output alone, most of all where an interchange brings the
queries of one input to the keys of another. Told what to look at, it learns them first. As with probes, this is a help
to training and nothing more: what a model attends to is no part of its certificate.
"""

import math
from collections.abc import Sequence
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from interpbench_hub.cases.case import Case
from interpbench_hub.circuit import Node, Slot
from interpbench_hub.rasp.causal_model import SELECTED, UNCLEAR, Slots, Values
from interpbench_hub.rasp.variables import Variable
from interpbench_hub.siit.probes import balanced
from interpbench_hub.transformer import Attention, Transformer

Carried = Sequence[tuple[Tensor, Tensor]]
"""See `AttentionTargets.carried`."""
_LEAST_PAIRWISE = 1e-6
"""Nats below which `AttentionTargets.pairwise_loss` gets no steeper."""


class AttentionTargets:
    """The keys that each head of a circuit selects, and how far its attention is from them.

    A head's attention should be spread evenly over what it selects: the keys, and BOS if it selects none. A head that
    counts always selects BOS as well, for the share that BOS gets tells the count. In sentences, where several names
    are no name whatever their shares, it may be spread over them in any way; each by itself should outweigh all that is
    not selected, so that no two names look alike to a head.
    """

    def __init__(self, case: Case) -> None:
        self.case = case
        self.heads = tuple(variable for variable in case.graph.variables if variable.kind in ("fraction", "aggregate"))
        self.comparing = tuple(head for head in self.heads if self._compares(head))
        """The heads that compare what stands at a query with what stands at a key."""

    def _compares(self, head: Variable) -> bool:
        compared = [self.case.graph[read.variable] for read in head.reads if read.slot != "v"]
        has_both = len(compared) == 2 and not any(variable.is_positional for variable in compared)
        return has_both and not self.case.high_level.selects_alike(head)

    def selected(
        self, values: Values, lengths: Tensor, source: Values | None = None, edges: Tensor | None = None
    ) -> Tensor:
        """What the heads' queries select, [row, head, query, key]: the high-level model's `selected` of all heads."""
        width = next(iter(values.values())).shape[1]
        selected = torch.zeros(len(lengths), len(self.heads), width, width, dtype=torch.uint8)
        for place, head in enumerate(self.heads):
            selected[:, place] = self.case.high_level.selected(head, values, lengths, source, edges)
        return selected

    def compared(self, values: Values, source: Values | None = None, edges: Tensor | None = None) -> Tensor:
        """Codes that comparing heads compare, their q and their k: [row, comparing head, 2, pos]."""
        batch, width = next(iter(values.values())).shape
        compared = torch.zeros(batch, len(self.comparing), 2, width, dtype=torch.long)
        for place, head in enumerate(self.comparing):
            codes = self.case.high_level.compared(head, values, source, edges)
            compared[:, place, 0], compared[:, place, 1] = codes["q"], codes["k"]
        return compared

    def crossed(self, compared: Tensor, lengths: Tensor, moved: Tensor) -> Tensor:
        """What comparing heads select if some of each row's keys are those of the row before, of the one before that,
        and so on, the last rows being before the first: [batch, row, other row, comparing head, query, key].

        `compared` [batch, row, comparing head, 2, pos] as `compared` gives them; `lengths` [batch, row]; `moved`
        [batch, row, other row, pos] says at which positions that row has its key.
        """
        n_others, width = moved.shape[2:]
        q, own = compared.unbind(3)
        k = torch.stack([own.roll(1 + other, 1) for other in range(n_others)], dim=2)
        k = torch.where(moved[:, :, :, None], k, own[:, :, None]).flatten(0, 2)
        q, lengths = (part.flatten(0, 1).repeat_interleave(n_others, 0) for part in (q, lengths))
        selected = torch.zeros(*q.shape, width, dtype=torch.uint8)
        for place, head in enumerate(self.comparing):
            codes: Slots = {"q": q[:, place], "k": k[:, place]}
            selected[:, place] = self.case.high_level.selects(head, codes, lengths, width)
        return selected.unflatten(0, moved.shape[:3])

    def loss(self, attention: Sequence[Attention], selected: Tensor, there: Tensor) -> Tensor:
        """Sum over the heads of the mean divergence of their attention from its target, in nats: a scalar.

        `attention` is that of every layer (`Transformer.run`) with BOS in front, `selected` is
        [row, head, query, key], `there` [row, query] says which queries are real. Queries whose selection an
        interchange left unclear do not count. In sentences those that select nothing count as much as all others
        together, for there are many more of them.
        """
        total = attention[0].scores.new_zeros(())
        for place, head in enumerate(self.heads):
            layer, number = self._place(head)
            total = total + self._divergence(head, attention[layer].scores[number], selected[:, place], there)
        return total

    def crossed_loss(
        self, attention: Sequence[Attention], crossed: Tensor, moved: Tensor, bias: Tensor, there: Tensor
    ) -> Tensor:
        """The same of comparing heads if some of each row's keys are those of rows before, summed over these: a scalar.

        `crossed` [row, other row, comparing head, query, key] is what they should select with keys of the row before,
        of the one before that, and so on; `moved` [row, other row, pos] says at which positions that row has its key;
        `bias` is the rows' attention bias (`Transformer.attention_bias`).
        """
        total = attention[0].scores.new_zeros(())
        rows, n_others = moved.shape[:2]
        # Every row keeps its own BOS.
        is_moved = F.pad(moved, (1, 0))[..., None]
        before = ((torch.arange(rows)[:, None] - torch.arange(1, 1 + n_others)) % rows).flatten().to(moved.device)
        chosen, there = crossed.flatten(0, 1), there.repeat_interleave(n_others, 0)
        for place, head in enumerate(self.comparing):
            layer, number = self._place(head)
            q, k, own = (part[number] for part in attention[layer])
            others = k.index_select(0, before).unflatten(0, (rows, n_others))
            scores = others @ q[:, None].transpose(-1, -2) + bias[:, None]
            scores = torch.where(is_moved, scores, own[:, None]).flatten(0, 1)
            total = total + n_others * self._divergence(head, scores, chosen[:, place], there)
        return total

    def interchanged_loss(
        self,
        model: Transformer,
        senders: Tensor,
        attention: Sequence[Attention],
        compared: Tensor,
        lengths: Tensor,
        generator: torch.Generator,
    ) -> Tensor:
        """The same of comparing heads if the circuit brought another place's value to each query, or to each key, and
        all else stayed: summed over heads and over these two, a scalar.

        Where a head's input holds both what the circuit brings there and, by the stream, what stands there, the two
        differ in rows with that edge exchanged alone: seldom with any two given values. Places are drawn from all rows,
        each value as often as any other. `senders` [sender, row, 1 + pos, d_model] is what nodes wrote, `compared`
        [row, comparing head, 2, pos] are the values' codes, `lengths` [row] count tokens, BOS not among them.
        """
        total = attention[0].scores.new_zeros(())
        width = compared.shape[-1]
        there = torch.arange(width, device=lengths.device) < lengths[:, None]
        bias = model.attention_bias(1 + width, lengths + 1)
        assert bias is not None
        slots: tuple[Slot, Slot] = ("q", "k")
        for place, head in enumerate(self.comparing):
            layer, number = self._place(head)
            resid = model.head_input(senders, layer)
            for side, slot in enumerate(slots):
                codes = list(compared[:, place].unbind(1))
                parts = [attention[layer].q[number], attention[layer].k[number]]
                places = _places_by_code(codes[side], there, self._verdicts[place].shape[side], generator)
                own = self._written(head, slot, model, senders)[:, 1:]
                change = F.pad(own.flatten(0, 1)[places] - own, (0, 0, 1, 0))
                parts[side] = self._projected(head, slot, model, resid + change)
                codes[side] = codes[side].flatten()[places]
                scores = parts[1] @ parts[0].transpose(-1, -2) + bias
                # The program's tables are where the program is, on the CPU.
                held: Slots = {"q": codes[0].cpu(), "k": codes[1].cpu()}
                selected = self.case.high_level.selects(head, held, lengths.cpu(), width).to(scores.device)
                total = total + self._divergence(head, scores, selected, there)
        return total

    def carried(self, model: Transformer, senders: Tensor) -> Carried:
        """What the circuit's edges carry to q and k of every comparing head, biases included: [row, 1 + pos, d_head].

        `senders` [sender, row, 1 + pos, d_model] is what nodes wrote; q is divided by sqrt(d_head), as in `Attention`.
        Of transformers without LayerNorm, behind which no part of q or k is a single edge's.
        """
        found: list[tuple[Tensor, Tensor]] = []
        for head in self.comparing:
            q = self._projected(head, "q", model, self._read(head, "q", model, senders))
            found.append((q, self._projected(head, "k", model, self._read(head, "k", model, senders))))
        return found

    def pairwise_loss(
        self, attention: Sequence[Attention], carried: Carried, compared: Tensor, there: Tensor
    ) -> Tensor:
        """How far comparing heads are from what they should attend to if a row held but one key: a scalar.

        Every query of a step meets every key, as the circuit's edges carry them (`carried`) while all other edges carry
        what they do in the row before or, in every second row, nothing, and all pairs of values count alike: inputs
        bring few values together, and of an order's neighbours, which are the hardest to tell apart, hardly any.
        `compared` [row, comparing head, 2, pos] are the values' codes. Of the divergence of a row of such keys this is
        the root, whose slope does not flatten out: the last hundredths of a nat make or break a count.
        """
        total = attention[0].scores.new_zeros(())
        is_real = there & there.roll(1, 0)
        # What all rows have in common would stay in another row's: only its absence tells.
        is_kept = (torch.arange(len(there), device=there.device) % 2 > 0)[:, None, None]
        for place, head in enumerate(self.comparing):
            layer, number = self._place(head)
            q, k, _ = (part[number] for part in attention[layer])
            verdicts = self._verdicts[place].to(q.device)
            queries, keys = (
                (own + (part - own).roll(1, 0) * is_kept)[:, 1:][is_real]
                for part, own in zip((q, k), carried[place], strict=True)
            )
            codes = [held[is_real] for held in compared[:, place].unbind(1)]
            shares = [_alike(held, n_codes) for held, n_codes in zip(codes, verdicts.shape, strict=True)]
            of_query, of_key = (held.clamp(max=n - 1) for held, n in zip(codes, verdicts.shape, strict=True))
            verdict = verdicts[of_query][:, of_key]
            lead = queries @ (keys - k[:, 0].mean(0)).T
            # A head that counts gives BOS as much as each key it selects.
            wanted = (verdict == SELECTED).to(lead.dtype) * (0.5 if head.kind == "fraction" else 1.0)
            least = (wanted == 0.5) * math.log(2)
            counts = shares[0][:, None] * shares[1] * (verdict != UNCLEAR)
            apart = (F.softplus(lead) - wanted * lead - least).clamp(min=0)
            mean = (apart * counts).sum() / counts.sum().clamp(min=1e-12)
            total = total + (there.shape[1] * mean + _LEAST_PAIRWISE).sqrt()
        return total

    def spread_loss(self, model: Transformer, senders: Tensor, compared: Tensor, there: Tensor) -> Tensor:
        """How alike the values that comparing heads compare are written: a scalar, 0 if no two point the same way.

        Sum of squares of the cosines above 0 between a value's mean, less that of all values, and every other's; mean
        over the values of a step. Nodes write neighbours in an order much alike as long as nothing asks for more,
        and a head needs very large weights to tell them apart. `senders` [sender, row, 1 + pos, d_model] is what nodes
        wrote, `compared` [row, comparing head, 2, pos] are the values' codes.
        """
        total = senders.new_zeros(())
        for place, head in enumerate(self.comparing):
            slots: tuple[Slot, Slot] = ("q", "k")
            sides = zip(slots, compared[:, place].unbind(1), self._verdicts[place].shape, strict=True)
            for slot, codes, n_codes in sides:
                if slot == "k" and self._node(head, "k") == self._node(head, "q"):
                    continue
                means = _means_by_code(self._written(head, slot, model, senders)[:, 1:], codes, there, n_codes)
                means = F.normalize(means - means.mean(0), dim=1)
                alike = (means @ means.T).fill_diagonal_(0).relu()
                total = total + alike.square().sum() / len(means)
        return total

    def _node(self, head: Variable, slot: Slot) -> Node:
        """The node that a comparing head reads in a slot."""
        name = head.read_in(slot)
        assert name is not None
        return self.case.alignment.node_of[name]

    def _written(self, head: Variable, slot: Slot, model: Transformer, senders: Tensor) -> Tensor:
        """What that node wrote: [row, 1 + pos, d_model]."""
        return senders[model.config.senders.index(self._node(head, slot))]

    def _read(self, head: Variable, slot: Slot, model: Transformer, senders: Tensor) -> Tensor:
        """What all nodes wrote that the circuit lets a head read in a slot: [row, 1 + pos, d_model]."""
        nodes = self._sources[self.case.alignment.node_of[head.name], slot]
        return senders[[model.config.senders.index(node) for node in nodes]].sum(0)

    def _projected(self, head: Variable, slot: Slot, model: Transformer, inputs: Tensor) -> Tensor:
        """A head's q, divided by sqrt(d_head) as in `Attention`, or its k, from its input: [row, 1 + pos, d_head]."""
        layer, number = self._place(head)
        if slot == "q":
            return model.project_slot(inputs, layer, number) / math.sqrt(model.config.d_head)
        return model.project_slot(inputs, layer, model.config.n_heads + number)

    @cached_property
    def _sources(self) -> dict[tuple[Node, Slot | None], list[Node]]:
        """The nodes that the circuit's edges into each receiver come from."""
        sources: dict[tuple[Node, Slot | None], list[Node]] = {}
        for edge in self.case.circuit:
            sources.setdefault((edge.target, edge.slot), []).append(edge.source)
        return sources

    @cached_property
    def _verdicts(self) -> tuple[Tensor, ...]:
        """`_verdicts_on_pairs` of every comparing head, for those cases that are trained by them."""
        return tuple(self._verdicts_on_pairs(head) for head in self.comparing)

    def _verdicts_on_pairs(self, head: Variable) -> Tensor:
        """What a comparing head says of every key value seen from every query value: [query code, key code]."""
        n_values = {read.slot: len(self.case.graph[read.variable].classes) for read in head.reads if read.slot != "v"}
        q, k = torch.meshgrid(torch.arange(n_values["q"]), torch.arange(n_values["k"]), indexing="ij")
        codes: Slots = {"q": q.reshape(-1, 1), "k": k.reshape(-1, 1)}
        alone = torch.ones(q.numel(), dtype=torch.long)
        return self.case.high_level.selects(head, codes, alone, 1).view(q.shape)

    def _place(self, head: Variable) -> tuple[int, int]:
        """Layer and number of the head that implements a variable."""
        node = self.case.alignment.node_of[head.name]
        assert node.layer is not None and node.head is not None
        return node.layer, node.head

    def _divergence(self, head: Variable, scores: Tensor, selected: Tensor, there: Tensor) -> Tensor:
        """Mean divergence of one head's `scores` [row, 1 + key, 1 + query] from `selected` [row, query, key]."""
        scores, chosen = scores[:, :, 1:], selected.transpose(1, 2)
        keys = chosen == SELECTED
        has_none = ~keys.any(1, keepdim=True)
        wanted = torch.cat([torch.ones_like(has_none) if head.kind == "fraction" else has_none, keys], dim=1)
        counts = (there & ~(chosen == UNCLEAR).any(1)).to(scores.dtype)
        if self.case.is_language:
            return (_contrast(scores, wanted) * balanced(counts, has_none[:, 0])).sum()
        target = wanted / wanted.sum(1, keepdim=True)
        # Keys out of reach have a logarithm of -inf, and no share of the target.
        apart = torch.where(wanted, target * (target.log() - scores.log_softmax(1)), 0.0).sum(1)
        return (apart * counts).sum() / counts.sum().clamp(min=1)


def _contrast(scores: Tensor, wanted: Tensor) -> Tensor:
    """Divergence in nats if one wanted key stood among all that are not wanted; mean over the wanted [row, query].

    Both arguments are [row, key, query]. Wanted keys do not compete with one another: to share a head's attention
    evenly, a hundred names would have to be equally unlike each other, which they cannot be in a few dozen dimensions.
    """
    others = scores.masked_fill(wanted, -torch.inf).logsumexp(1, keepdim=True)
    left = F.softplus(others - scores.masked_fill(~wanted, 0.0)).masked_fill(~wanted, 0.0)
    return left.sum(1) / wanted.sum(1)


def _means_by_code(vectors: Tensor, codes: Tensor, there: Tensor, n_codes: int) -> Tensor:
    """Mean of the vectors [row, pos, d] where a code [row, pos] stands, of each one met below `n_codes`: [code, d]."""
    counted = there & (codes < n_codes)
    _, place = codes[counted].unique(return_inverse=True)
    counts = torch.bincount(place)
    sums = vectors.new_zeros(len(counts), vectors.shape[-1]).index_add(0, place, vectors[counted])
    return sums / counts[:, None]


def _places_by_code(codes: Tensor, there: Tensor, n_codes: int, generator: torch.Generator) -> Tensor:
    """Places among all [row * pos], one for each place [row, pos], where a code below `n_codes` is there: drawn so that
    all codes come up alike. Any real place if there is no such code."""
    counted = there.flatten()
    shares = torch.zeros(counted.shape)
    shares[counted.cpu()] = _alike(codes.flatten()[counted], n_codes).cpu()
    if not shares.any():
        shares = counted.cpu().to(shares.dtype)
    drawn = torch.multinomial(shares, len(shares), replacement=True, generator=generator)
    return drawn.view(codes.shape).to(codes.device)


def _alike(codes: Tensor, n_codes: int) -> Tensor:
    """Weights with which all codes [n] count alike, however often each is there; from `n_codes` on none: [n]."""
    counts = torch.bincount(codes, minlength=n_codes)
    return (codes < n_codes) / counts[codes].to(torch.get_default_dtype())
