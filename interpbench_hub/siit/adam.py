"""Adam (Kingma and Ba 2015) on one vector of parameters: a handful of operations a step, whatever it holds.

With an `Eigenbasis` it is SOAP (Vyas et al. 2024): the same Adam, run in a basis that follows the gradients.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from interpbench_hub.siit.eigenbasis import Eigenbasis


@dataclass
class Adam:
    """Parameters with the running moments of their gradient, each [n_parameters]."""

    parameters: Tensor
    first_moment: Tensor
    second_moment: Tensor

    @classmethod
    def of(cls, parameters: Tensor) -> "Adam":
        return cls(parameters, torch.zeros_like(parameters), torch.zeros_like(parameters))

    def copy(self) -> "Adam":
        """The same values, whatever becomes of these."""
        return Adam(self.parameters.clone(), self.first_moment.clone(), self.second_moment.clone())

    @torch.no_grad()
    def step(
        self,
        gradient: Tensor,
        rate: float,
        number: int,
        betas: tuple[float, float],
        norm: float,
        basis: Eigenbasis | None = None,
        factors: Tensor | None = None,
    ) -> None:
        """Update number `number` (from 1) at a learning rate; `gradient` is scaled down, in place, to `norm`.

        `factors` [n_parameters] multiply the learning rate. In a basis, the second moments are those of the gradient as
        it lies in the basis at the time. They do not turn with it, so where a basis turns fast, as it does when most
        gradients are tiny, a first moment can meet a second moment that has hardly seen it. No update is larger than
        it could be in a basis that stays.
        """
        first, second = betas
        gradient.mul_((norm / gradient.norm().clamp(min=1e-12)).clamp(max=1.0))
        self.first_moment.lerp_(gradient, 1 - first)
        direction = self.first_moment
        if basis is not None:
            basis.follow(gradient, number)
            gradient, direction = basis.into(torch.stack([gradient, direction]))
        self.second_moment.mul_(second).addcmul_(gradient, gradient, value=1 - second)
        scale = (self.second_moment / (1 - second**number)).sqrt_().add_(1e-8)
        if basis is None:
            update = direction / scale
        else:
            most = largest_update(betas)
            update = basis.out_of(direction.div_(scale).clamp_(-most, most)[None])[0]
        if factors is not None:
            update = update * factors
        self.parameters.add_(update, alpha=-rate / (1 - first**number))


def largest_update(betas: tuple[float, float]) -> float:
    """The most that a first moment can be as a multiple of the root of its second moment: 1 if the betas are equal.

    By the Cauchy-Schwarz inequality over the weights that the two give to past gradients.
    """
    first, second = betas
    if first**2 >= second:
        return math.inf
    return (1 - first) / math.sqrt((1 - second) * (1 - first**2 / second))
