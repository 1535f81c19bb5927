"""The rotating basis of Adam, against SOAP written out matrix by matrix in numpy."""

import numpy as np
import pytest
import torch

from interpbench_hub.siit.adam import Adam
from interpbench_hub.siit.eigenbasis import REFRESHED_EVERY, Eigenbasis
from interpbench_hub.transformer import TransformerConfig

CONFIG = TransformerConfig(
    n_layers=2, n_heads=2, d_model=6, d_head=3, d_mlp=10, d_vocab=5, d_vocab_out=4, n_ctx=7, attention_dir="causal"
)
SHAPES = CONFIG.parameter_shapes
SIZE = sum(int(np.prod(shape)) for shape in SHAPES.values())


def gradients(n_steps: int) -> torch.Tensor:
    """Gradients [step, parameter] with a few strong directions, as those of a network have."""
    generator = torch.Generator().manual_seed(0)
    strong = torch.randn(5, SIZE, generator=generator, dtype=torch.float64)
    shares = torch.randn(n_steps, 5, generator=generator, dtype=torch.float64)
    return shares @ strong + 0.1 * torch.randn(n_steps, SIZE, generator=generator, dtype=torch.float64)


def named(vector: np.ndarray) -> dict[str, np.ndarray]:
    """The parameters by name, heads as matrices of their own."""
    parts, start = {}, 0
    for name, shape in SHAPES.items():
        size = int(np.prod(shape))
        part = vector[start : start + size].reshape(shape)
        parts |= {f"{name}.{head}": part[head] for head in range(2)} if part.ndim == 3 else {name: part}
        start += size
    return parts


class Soap:
    """SOAP with a dictionary of matrices: `left` and `right` by the name under which heads share them."""

    def __init__(self) -> None:
        self.averages: dict[str, np.ndarray] = {}
        self.bases: dict[str, np.ndarray] = {}

    @staticmethod
    def sides(name: str) -> tuple[str | None, str | None]:
        """Names of what rotates the left and the right side of a matrix."""
        shared = name.rpartition(".")[0]
        if any(kind in name for kind in ("W_Q", "W_K", "W_V")):
            return f"{shared} left", f"{name} right"
        if "W_O" in name:
            return f"{name} left", f"{shared} right"
        if name.endswith(("W_in", "W_U")):
            return f"{name} left", None
        if name.endswith(("W_out", "W_E", "W_pos")):
            return None, f"{name} right"
        return None, None

    def follow(self, gradient: dict[str, np.ndarray], number: int) -> None:
        fresh: dict[str, np.ndarray] = {}
        for name, matrix in gradient.items():
            left, right = self.sides(name)
            if left:
                fresh[left] = fresh.get(left, 0) + matrix @ matrix.T
            if right:
                fresh[right] = fresh.get(right, 0) + matrix.T @ matrix
        for side, seconds in fresh.items():
            self.averages[side] = 0.95 * self.averages.get(side, 0) + 0.05 * seconds
            if number == REFRESHED_EVERY:
                self.bases[side] = np.linalg.eigh(self.averages[side])[1][:, ::-1]
            elif number % REFRESHED_EVERY == 0:
                self.bases[side] = np.linalg.qr(self.averages[side] @ self.bases[side])[0]

    def turned(self, matrices: dict[str, np.ndarray], *, back: bool = False) -> dict[str, np.ndarray]:
        turned = {}
        for name, matrix in matrices.items():
            left, right = (self.bases.get(side) if side else None for side in self.sides(name))
            if left is not None:
                matrix = (left if back else left.T) @ matrix
            if right is not None:
                matrix = matrix @ (right.T if back else right)
            turned[name] = matrix
        return turned


def double_basis() -> Eigenbasis:
    basis = Eigenbasis(SHAPES)
    basis.averages, basis.bases = basis.averages.double(), basis.bases.double()
    return basis


def test_updates_are_those_of_soap_written_out():
    vectors = gradients(45)
    start = torch.randn(SIZE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    adam, basis, soap = Adam.of(start.clone()), double_basis(), Soap()
    weights = {name: matrix.copy() for name, matrix in named(start.numpy()).items()}
    first = {name: np.zeros_like(matrix) for name, matrix in weights.items()}
    second = {name: np.zeros_like(matrix) for name, matrix in weights.items()}
    # The most in a basis that stays, by Cauchy and Schwarz: sums of geometric series.
    most, exceeding = 0.1 / np.sqrt(0.05 * (1 - 0.9**2 / 0.95)), 0
    for number, vector in enumerate(vectors, start=1):
        adam.step(vector.clone(), 0.01, number, (0.9, 0.95), 1e9, basis)
        gradient = named(vector.numpy())
        soap.follow(gradient, number)
        first = {name: 0.9 * first[name] + 0.1 * gradient[name] for name in weights}
        rotated, direction = soap.turned(gradient), soap.turned(first)
        second = {name: 0.95 * second[name] + 0.05 * rotated[name] ** 2 for name in weights}
        update = {name: direction[name] / (np.sqrt(second[name] / (1 - 0.95**number)) + 1e-8) for name in weights}
        exceeding += sum(int((np.abs(matrix) > most).sum()) for matrix in update.values())
        update = {name: np.clip(matrix, -most, most) / (1 - 0.9**number) for name, matrix in update.items()}
        for name, matrix in soap.turned(update, back=True).items():
            weights[name] = weights[name] - 0.01 * matrix
        for name, matrix in named(adam.parameters.numpy()).items():
            np.testing.assert_allclose(matrix, weights[name], rtol=1e-6, atol=1e-8, err_msg=f"{name} at {number}")
    assert exceeding


def test_rotations_keep_lengths_and_undo_each_other():
    basis = double_basis()
    vectors = gradients(REFRESHED_EVERY * 3)
    for number, vector in enumerate(vectors, start=1):
        basis.follow(vector, number)
        turned = basis.into(vectors)
        torch.testing.assert_close(turned.norm(dim=1), vectors.norm(dim=1))
        torch.testing.assert_close(basis.out_of(turned), vectors)
        assert torch.equal(turned, vectors) == (number < REFRESHED_EVERY)


def test_the_basis_comes_to_diagonalise_the_averages():
    basis = double_basis()
    steady = gradients(1)[0]
    noise = gradients(200) * 0.01
    for number in range(1, 201):
        basis.follow(steady + noise[number - 1], number)
    for side in basis._sides:
        averages = basis.averages[side.held].view(side.basis_shape)
        eigenvectors = basis.bases[side.held].view(side.basis_shape)
        rotated = eigenvectors.mT @ averages @ eigenvectors
        largest = torch.linalg.eigvalsh(averages)[..., -1]
        torch.testing.assert_close(rotated[..., 0, 0], largest, rtol=1e-3, atol=0)


@pytest.mark.parametrize("vectors", [1, 3])
def test_vectors_given_stay_as_they_are(vectors):
    basis = double_basis()
    for number, vector in enumerate(gradients(REFRESHED_EVERY), start=1):
        basis.follow(vector, number)
    given = gradients(vectors)
    kept = given.clone()
    basis.out_of(basis.into(given))
    assert torch.equal(given, kept)


def test_a_gradient_of_zero_leaves_everything_finite():
    basis = Eigenbasis(SHAPES)
    adam = Adam.of(torch.ones(SIZE))
    for number in range(1, 2 * REFRESHED_EVERY + 1):
        adam.step(torch.zeros(SIZE), 0.01, number, (0.9, 0.95), 1.0, basis)
    assert torch.equal(adam.parameters, torch.ones(SIZE))
    assert bool(basis.bases.isfinite().all())
