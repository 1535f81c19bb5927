"""Linear probes that read each variable off the node that implements it, trained beside the model and thrown away.

They give every node its task directly, however many layers lie between it and the output. Without them the gradient
of a deep program reaches its first variables only through all the others. What nodes carry besides their variable,
and who may read it, is still the business of the interchanges.

They read intervened rows as well, where each variable should be what the program makes it under the same interchange:
the keys of one input with the queries of another are combinations that no plain row has.
"""

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from interpbench_hub.cases.case import Case
from interpbench_hub.rasp.variables import Variable
from interpbench_hub.transformer import TransformerConfig

MAX_CLASSES = 128
"""Categorical variables with more values than this get no probe: a probe's cost grows with them."""


class Probes:
    """One affine map from a node's output [d_model] to each of its variables: class logits or a standardised number."""

    def __init__(self, case: Case, config: TransformerConfig, *, seed: int, device: torch.device) -> None:
        self.variables: list[Variable] = []
        self._is_language = case.is_language
        self._senders: list[int] = []
        self._numbers: list[Tensor | None] = []
        widths = []
        for variable in case.graph.variables:
            is_number = variable.encoding == "numerical"
            # An output of the logits' own needs no probe: it is there to be read.
            if (
                variable.name not in case.alignment.node_of
                or not (variable.reads or variable.constants)
                or (not is_number and len(variable.classes) > MAX_CLASSES)
            ):
                continue
            self.variables.append(variable)
            self._senders.append(config.senders.index(case.alignment.node_of[variable.name]))
            self._numbers.append(_standardised(variable).to(device) if is_number else None)
            widths.append(1 if is_number else len(variable.classes))
        generator = torch.Generator().manual_seed(seed)
        d_model = config.d_model
        weights = [torch.randn(d_model, width, generator=generator) / math.sqrt(d_model) for width in widths]
        parts = [
            torch.cat([weight, torch.zeros(1, width)]).flatten() for weight, width in zip(weights, widths, strict=True)
        ]
        self.flat = torch.cat([*parts, torch.zeros(0)]).to(device).requires_grad_()
        self._shapes = [(d_model + 1, width) for width in widths]
        self._starts = [sum(d * width for d, width in self._shapes[:place]) for place in range(len(widths))]
        self._place_of = {variable.name: place for place, variable in enumerate(self.variables)}

    def loss(self, senders: Tensor | Mapping[int, Tensor], codes: Tensor, there: Tensor) -> Tensor:
        """Sum over the variables of the mean loss of reading them: a scalar.

        `senders` [sender, row, 1 + pos, d_model] is what nodes wrote, or a mapping with those of the variables,
        `codes` [row, variable, pos], `there` [row, pos].
        """
        # Taken apart once: each slice of its own would cost a tensor of the full size in the backward pass.
        written = senders.unbind() if isinstance(senders, Tensor) else senders
        total = self.flat.new_zeros(())
        for place, sender in enumerate(self._senders):
            total = total + self._loss(place, written[sender], codes[:, place], there)
        return total

    def loss_of(self, variables: Sequence[str], written: Tensor, codes: Tensor, there: Tensor) -> Tensor:
        """The same of some variables of one node, which wrote `written` [row, 1 + pos, d_model]."""
        total = self.flat.new_zeros(())
        for place, name in enumerate(variables):
            total = total + self._loss(self._place_of[name], written, codes[:, place], there)
        return total

    def _loss(self, place: int, written: Tensor, codes: Tensor, there: Tensor) -> Tensor:
        """Mean loss of reading one variable, `codes` [row, pos], off what its node wrote."""
        variable, numbers, (d, width) = self.variables[place], self._numbers[place], self._shapes[place]
        weight = self.flat[self._starts[place] : self._starts[place] + d * width].view(d, width)
        code = codes.flatten()
        read = torch.addmm(weight[-1], written[:, 1:].flatten(0, 1), weight[:-1])
        if numbers is None:
            counts = (there.flatten() & (code < width)).to(read.dtype)
            each = F.cross_entropy(read, code.clamp(max=width - 1), reduction="none")
            if self._is_language and variable.may_be_undefined:
                counts = balanced(counts, code == variable.undefined)
        else:
            counts = there.flatten() & (code < len(numbers))
            each = (read[:, 0] - numbers[code.clamp(max=len(numbers) - 1)]) ** 2
        return (each * counts).sum() / counts.sum().clamp(min=1)


def balanced(counts: Tensor, is_undefined: Tensor) -> Tensor:
    """Weights of positions with which those where something is undefined count as much as all others together.

    What a head says, it says at one position of a sentence, and all the others would drown it.
    """
    return sum(part / part.sum().clamp(min=1) for part in (counts * is_undefined, counts * ~is_undefined))  # type: ignore[return-value]


def _standardised(variable: Variable) -> Tensor:
    """A numerical variable's values with mean 0 and deviation 1."""
    values = torch.tensor([float(value) for value in variable.values])
    return (values - values.mean()) / values.std(correction=0).clamp(min=1e-3)
