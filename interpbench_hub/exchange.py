"""What exchanged edges add to the inputs of their receivers, for every receiver of one forward pass.

Each sender's difference between what replaces it and what it wrote is kept in one tensor, which fills as the pass goes
on; what a receiver is given is the product of its part of the edge mask with the differences so far. Left to autograd,
each of these products would have a gradient as large as that tensor, and all of them would have to be added up. Here
they add to one and the same, and what replaces is never spread over rows that are replaced alike.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

_LONG = 8_192
"""Numbers a matrix from which on products are added up in place."""


@dataclass(frozen=True)
class Replacement:
    """What exchanged edges carry. Rows of a pass beyond those of `values` begin with its first row again."""

    values: Tensor
    """What each sender wrote on other inputs [sender, row, pos, d_model]."""
    kept: Tensor | None = None
    """By what the values are multiplied in each row of the pass [row]: 0 in zero and mean ablations. None: by 1."""
    means: Tensor | None = None
    """What each sender writes on average [sender, pos, d_model]."""
    averaged: Tensor | None = None
    """By what the means are multiplied in each row of the pass [row]: 1 in mean ablations. Given with `means`."""


class Exchange:
    """The exchanges of one forward pass, which at most one backward pass may follow."""

    def __init__(self, edges: Tensor, replacement: Replacement, n_rows: int) -> None:
        """`edges` [row, receivers, senders], or [1, receivers, senders] for all rows alike, says how much of each edge
        is exchanged; gradients flow to it, too."""
        self._edges = edges
        self._differences = _Differences(replacement, n_rows, n_long=len(edges))
        self._n_senders = 0
        # Nothing but the order of the backward pass: a sender's gradient is complete when all its readers had theirs.
        self._order = _Begin.apply(replacement.values, replacement.means, self._differences)

    def add(self, written: Tensor) -> None:
        """Take in what the next senders wrote [sender, row, pos, d_model]."""
        self._order = _Add.apply(self._order, written, self._differences, self._n_senders)
        self._n_senders += len(written)

    def inputs(self, stream: Tensor, start: int, stop: int) -> Tensor:
        """What receivers `start` to `stop` read: the residual stream [row, pos, d_model] and what the exchanged edges
        from the senders so far add to it. [receiver, row, pos, d_model]"""
        edges = self._edges[:, start:stop, : self._n_senders]
        return _Inputs.apply(self._order, edges, stream, self._differences)


class _Differences:
    """What replaces each sender less what it wrote, and the gradient of it."""

    def __init__(self, replacement: Replacement, n_rows: int, n_long: int) -> None:
        values, groups = replacement.values, (n_rows // replacement.values.shape[1], replacement.values.shape[1])
        self.place, self.groups = values.shape[2:], groups
        # Rows whose edges are the same make one long row.
        self.tensor = values.new_empty(n_long, len(values), n_rows // n_long * self.place.numel())
        """[row, sender, pos * d_model]"""
        self.gradient: Tensor | None = None
        """Gradient of the differences with its sign changed, so that it is that of what senders wrote."""
        self.kept, self.averaged = (
            None if factors is None else factors.view(*groups, 1, 1)
            for factors in (replacement.kept, replacement.averaged)
        )
        self._values, self._means = values[:, None], replacement.means
        self._grouped = self.by_group(self.tensor)

    def by_row(self, tensor: Tensor) -> Tensor:
        """[row, any, pos * d_model] as [any, row, pos, d_model], without a copy."""
        n_long, n_any, _ = tensor.shape
        return tensor.view(n_long, n_any, -1, *self.place).transpose(0, 1).flatten(1, 2)

    def by_group(self, tensor: Tensor) -> Tensor:
        """The same as [any, group, row of the replacement, pos, d_model]."""
        return self.by_row(tensor).unflatten(1, self.groups)

    def write(self, written: Tensor, start: int) -> None:
        stop = start + len(written)
        found, values = self._grouped[start:stop], self._values[start:stop]
        written = written.view(-1, *self.groups, *self.place)
        if self.kept is None:
            torch.sub(values, written, out=found)
            return
        torch.mul(values, self.kept, out=found)
        found.sub_(written)
        if self._means is not None and self.averaged is not None:
            found.addcmul_(self._means[start:stop, None, None], self.averaged)

    def pull(self, edges: Tensor, gradient: Tensor) -> None:
        """Take in the gradient [row, receiver, pos * d_model] of what senders gave to some receivers."""
        if self.gradient is None:
            self.gradient = torch.zeros_like(self.tensor)
        _add_product(self.gradient[:, : edges.shape[2]], edges.transpose(1, 2), gradient, -1)

    def of_values(self) -> Tensor | None:
        """Gradient of the values that replace."""
        if self.gradient is None:
            return None
        factors = self.tensor.new_ones(self.groups) if self.kept is None else self.kept.view(self.groups)
        return torch.einsum("gr,sgrpd->srpd", -factors, self.by_group(self.gradient))

    def of_means(self) -> Tensor | None:
        """Gradient of the means that replace."""
        if self.gradient is None or self.averaged is None:
            return None
        return torch.einsum("gr,sgrpd->spd", -self.averaged.view(self.groups), self.by_group(self.gradient))


class _Begin(Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, means: Tensor | None, differences: _Differences) -> Tensor:
        ctx.differences = differences
        return values.new_zeros(())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        needs_values, needs_means, _ = ctx.needs_input_grad
        found: _Differences = ctx.differences
        return found.of_values() if needs_values else None, found.of_means() if needs_means else None, None


class _Add(Function):
    @staticmethod
    def forward(ctx: Any, order: Tensor, written: Tensor, differences: _Differences, start: int) -> Tensor:
        ctx.differences, ctx.start, ctx.stop = differences, start, start + len(written)
        differences.write(written, start)
        return order.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        found: _Differences = ctx.differences
        gradient = None if found.gradient is None else found.by_row(found.gradient[:, ctx.start : ctx.stop])
        return *grad_outputs, gradient, None, None


class _Inputs(Function):
    @staticmethod
    def forward(ctx: Any, order: Tensor, edges: Tensor, stream: Tensor, differences: _Differences) -> Tensor:
        ctx.differences = differences
        ctx.save_for_backward(edges)
        inputs = stream.repeat(edges.shape[1], 1, 1, 1)
        _add_product(_long_rows(inputs, len(edges)), edges, differences.tensor[:, : edges.shape[2]])
        return inputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        found: _Differences = ctx.differences
        (edges,), (gradient,) = ctx.saved_tensors, grad_outputs
        needs_order, needs_edges, needs_stream, _ = ctx.needs_input_grad
        rows = _long_rows(gradient.contiguous(), len(edges))
        if needs_order:
            found.pull(edges, rows)
        of_edges = torch.bmm(rows, found.tensor[:, : edges.shape[2]].transpose(1, 2)) if needs_edges else None
        return gradient.new_zeros(()), of_edges, gradient.sum(0) if needs_stream else None, None


def _long_rows(inputs: Tensor, n_long: int) -> Tensor:
    """[receiver, row, pos, d_model] as [long row, receiver, pos * d_model]."""
    return inputs.view(len(inputs), n_long, -1).transpose(0, 1)


def _add_product(total: Tensor, left: Tensor, right: Tensor, factor: int = 1) -> None:
    """Add the product of two batches of matrices, times 1 or -1, to a batch whose rows may lie apart."""
    # torch adds matrix by matrix, which takes its time for each; if they are small, a tensor between is quicker.
    if total[0].numel() < _LONG:
        total.add_(torch.bmm(left, right), alpha=factor)
    else:
        total.baddbmm_(left, right, alpha=factor)
