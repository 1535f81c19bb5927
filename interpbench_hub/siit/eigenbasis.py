"""The basis in which Adam runs: for each weight matrix, the eigenvectors of its gradients' second moments.

This is SOAP (Vyas et al. 2024, arXiv:2409.11321), Adam in the eigenbasis of Shampoo's preconditioner. A weight matrix
[m, n] with gradient G has running averages of G G^T [m, m] and G^T G [n, n]. Gradients are rotated by the eigenvectors
of both, Adam scales them there, and the update is rotated back. Heads share the basis on the side of the residual
stream; hidden layers, positions, tokens and outputs have none, these sides stay as they are.

"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

REFRESHED_EVERY = 10
"""Steps after which the eigenvectors follow the averages, by one step of orthogonal iteration; until the first of
them gradients are taken as they are."""
_DECAY = 0.95
"""Decay rate of the averages."""


@dataclass(frozen=True)
class _Side:
    """One side of weight matrices that lie next to each other in the vector of parameters, and what rotates it."""

    place: slice
    """Where the weights lie in the vector of parameters."""
    shape: tuple[int, int, int, int]
    """[group, member, m, n] of the weights."""
    is_left: bool
    """Whether the m side is rotated; else the n side."""
    is_shared: bool
    """Whether the members of a group have one basis."""
    start: int
    """Where the averages, and the bases, begin in their vectors."""

    @property
    def basis_shape(self) -> tuple[int, int, int, int]:
        size = self.shape[2 if self.is_left else 3]
        return (self.shape[0], 1 if self.is_shared else self.shape[1], size, size)

    @property
    def held(self) -> slice:
        """Where the averages, and the bases, lie in their vectors."""
        return slice(self.start, self.start + prod(self.basis_shape))

    def seconds(self, gradient: Tensor) -> Tensor:
        """Second moments of a gradient, in the shape of the bases."""
        weights = gradient[self.place].view(self.shape)
        if self.is_shared:
            # All members as one long matrix.
            weights = weights.transpose(1, 2).flatten(2) if self.is_left else weights.flatten(1, 2)
            weights = weights.unsqueeze(1)
        return weights @ weights.mT if self.is_left else weights.mT @ weights

    def turn(self, vectors: Tensor, bases: Tensor, *, back: bool) -> None:
        """Rotate this side of some vectors [vector, parameter] into its bases or back, in place."""
        weights = vectors[:, self.place].view(-1, *self.shape)
        basis = bases[self.held].view(self.basis_shape)
        if self.is_left:
            weights.copy_((basis if back else basis.mT) @ weights)
        else:
            weights.copy_(weights @ (basis.mT if back else basis))


class Eigenbasis:
    """Rotations of vectors of parameters.

    `averages` and `bases` [n_basis] hold all second moments and all eigenvectors; they are all there is to save.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], device: torch.device | str = "cpu") -> None:
        """For parameters of these shapes, by TransformerLens name in the order of their vector."""
        self._sides = list(_sides(shapes))
        size = self._sides[-1].held.stop
        self.averages = torch.zeros(size, device=device)
        self.bases = torch.zeros(size, device=device)
        for side in self._sides:
            self.bases[side.held].view(side.basis_shape).copy_(torch.eye(side.basis_shape[-1]))

    @torch.no_grad()
    def follow(self, gradient: Tensor, number: int) -> None:
        """Take account of the gradient [n_parameters] of update `number` (from 1)."""
        seconds = torch.cat([side.seconds(gradient).flatten() for side in self._sides])
        self.averages.lerp_(seconds, 1 - _DECAY)
        if number % REFRESHED_EVERY == 0:
            for side in self._sides:
                averages = self.averages[side.held].view(side.basis_shape)
                basis = self.bases[side.held].view(side.basis_shape)
                # First the eigenvectors themselves, largest first; from then on they only need to follow. The first
                # gradients alone have too few directions, and amplify what is noise in all others.
                basis.copy_(
                    torch.linalg.eigh(averages).eigenvectors.flip(-1)
                    if number == REFRESHED_EVERY
                    else torch.linalg.qr(averages @ basis).Q
                )

    def into(self, vectors: Tensor) -> Tensor:
        """Vectors of parameters [vector, n_parameters], rotated into the bases."""
        return self._turned(vectors, back=False)

    def out_of(self, vectors: Tensor) -> Tensor:
        """Vectors of parameters [vector, n_parameters] in the bases, rotated back."""
        return self._turned(vectors, back=True)

    def _turned(self, vectors: Tensor, *, back: bool) -> Tensor:
        turned = vectors.clone()
        for side in self._sides:
            side.turn(turned, self.bases, back=back)
        return turned


def _sides(shapes: Mapping[str, tuple[int, ...]]) -> Iterator[_Side]:
    """The sides that are rotated of a transformer's parameters."""
    place = held = 0
    for name, shape in shapes.items():
        match name.rsplit(".", 1)[1]:
            case "W_Q":
                # q, k and v of a layer lie next to each other: three groups of heads.
                grouped, sides = (3, *shape), ((True, True), (False, False))
            case "W_O":
                grouped, sides = (1, *shape), ((True, False), (False, True))
            case "W_in" | "W_U":
                grouped, sides = (1, 1, *shape), ((True, True),)
            case "W_out" | "W_E" | "W_pos":
                grouped, sides = (1, 1, *shape), ((False, True),)
            case _:
                grouped, sides = (), ()
        for is_left, is_shared in sides:
            assert len(grouped) == 4
            side = _Side(slice(place, place + prod(grouped)), grouped, is_left, is_shared, held)
            yield side
            held = side.held.stop
        place += prod(shape)
