"""How much of a model's behaviour a circuit keeps: from measured behaviours to the numbers that papers report.

Owns definitions, no measuring: the behaviour F of a model, or of a part of it with all else ablated, is a number that
somebody has measured (accuracy, logit difference, minus a divergence from the whole model, averaged over inputs).
All of `faithfulness`, `completeness`, `minimality`, `sparsity` and `cpr` are larger for better circuits, `cmd` smaller.
"""

from typing import overload

import numpy as np
from numpy.typing import ArrayLike

from interpbench_hub.discovery.arrays import FloatArray, as_floats
from interpbench_hub.errors import SettingError

MIB_FRACTIONS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Shares of all edges that circuits keep in the MIB benchmark (arXiv:2504.13151)."""


@overload
def faithfulness(m_circuit: float, m_corrupted: float, m_clean: float) -> float | None: ...
@overload
def faithfulness(m_circuit: ArrayLike, m_corrupted: float, m_clean: float) -> float | FloatArray | None: ...
def faithfulness(m_circuit: ArrayLike, m_corrupted: float, m_clean: float) -> float | FloatArray | None:
    """Share of the behaviour that the circuit keeps: (m_circuit - m_corrupted) / (m_clean - m_corrupted).

    The normalised faithfulness of Hanna et al. (2024, arXiv:2403.17806) and of MIB (2025, arXiv:2504.13151):
    `m_clean` is the metric of the whole model, `m_corrupted` with every edge ablated, `m_circuit` with the edges
    outside the circuit ablated. 1 says "as the model", 0 "as nothing"; below 0 and above 1 are possible. Each is an
    average over inputs already: the ratio of means, not the mean of ratios. (Wang et al. 2022, arXiv:2211.00593, use
    the plain difference F(M) - F(C).)

    `m_circuit` is a number, or an array of any shape (one a circuit) whose shape comes back. None if `m_clean` equals
    `m_corrupted`: the ablation then changes nothing and there is nothing to keep.
    """
    circuit = as_floats(m_circuit, "m_circuit", n_dims=None)
    corrupted, clean = (
        float(as_floats(value, what, n_dims=0)) for value, what in ((m_corrupted, "m_corrupted"), (m_clean, "m_clean"))
    )
    if clean == corrupted:
        return None
    kept = (circuit - corrupted) / (clean - corrupted)
    return float(kept) if kept.ndim == 0 else kept


def cpr(fractions: ArrayLike, faithfulnesses: ArrayLike) -> float:
    """Integrated circuit performance ratio of MIB (arXiv:2504.13151): the area under the faithfulness curve.

    `fractions` [point] are the shares of edges kept, strictly rising within 0 to 1; `faithfulnesses` [point] is
    `faithfulness` at each. The area is the sum of trapezoids on a linear axis, as in MIB's evaluation code; it is not
    divided by the width of the axis. Larger is better; values above 1 are possible where a circuit beats the model.

    Taken as given: MIB measures at `MIB_FRACTIONS`, and its axis is these nominal shares, not the share left after
    rounding to whole edges and pruning dead ends. Areas compare only between curves over the same fractions.
    """
    x, y = _curve(fractions, faithfulnesses)
    return _trapezoids(x, y)


def cmd(fractions: ArrayLike, faithfulnesses: ArrayLike) -> float:
    """Integrated circuit-model distance of MIB (arXiv:2504.13151): the area between the faithfulness curve and 1.

    As `cpr`, with |1 - faithfulness| in place of faithfulness. Like MIB's evaluation code it takes the absolute value
    at the points measured and draws straight lines between these, so a segment that crosses 1 counts for more than
    what lies between line and 1. 0 is best: the circuit does as the model does at every size.
    """
    x, y = _curve(fractions, faithfulnesses)
    return _trapezoids(x, np.abs(1 - y))


def completeness(circuit_without: ArrayLike, model_without: ArrayLike) -> float | None:
    """1 - the largest |F(C \\ K) - F(M \\ K)| over the sets K of circuit edges that were tried.

    A circuit C is complete if it and the model M do alike under every knockout K of its parts; the term is the
    incompleteness score of Wang et al. (2022, arXiv:2211.00593), who search for the worst K. `circuit_without` [set] is
    F(C \\ K), `model_without` [set] is F(M \\ K). With F scaled as `faithfulness`, 1 is best and 0 is a set after which
    the two differ by the model's whole behaviour; below 0 is possible. K = {} gives 1 - |F(C) - F(M)|. An upper
    bound: sets not tried may be worse. None if no set was tried.
    """
    circuit, model = as_floats(circuit_without, "circuit_without"), as_floats(model_without, "model_without")
    if circuit.shape != model.shape:
        raise SettingError(
            f"circuit_without has shape {circuit.shape} and model_without {model.shape}; pass both for the same sets"
        )
    return 1 - float(np.abs(circuit - model).max()) if circuit.size else None


def minimality(without_edge: ArrayLike, with_edge: ArrayLike) -> float | None:
    """The smallest over edges e of C of the largest |F(C \\ (K + e)) - F(C \\ K)| over the sets K that were tried.

    The inner term is the minimality score of Wang et al. (2022, arXiv:2211.00593), there of heads, here of edges: what
    e adds once the set K of other circuit edges is gone. A circuit is minimal if every edge has a score well above 0
    for some K, so the smallest one is what counts; 0 means an edge that can go.

    `without_edge` is F(C \\ (K + e)), `with_edge` is F(C \\ K), both [edge] (one K an edge, K = {} for plain
    leave-one-out) or [edge, set]; `with_edge` may be a single number if it is the same for all. F scaled as
    `faithfulness`. A lower bound: sets not tried may show more. None for a circuit without edges or if no set was
    tried.
    """
    without = as_floats(without_edge, "without_edge", n_dims=None)
    whole = as_floats(with_edge, "with_edge", n_dims=None)
    if without.ndim not in (1, 2) or (whole.ndim > 0 and whole.shape != without.shape):
        raise SettingError(
            f"without_edge has shape {without.shape} and with_edge {whole.shape}; pass both as [edge] or both as "
            "[edge, set], or one number for with_edge"
        )
    if not without.size:
        return None
    change = np.abs(without - whole)
    return float((change.max(1) if change.ndim == 2 else change).min())


def sparsity(n_kept: int, n_edges: int) -> float:
    """Share of the model's `n_edges` edges that a circuit of `n_kept` edges leaves out: 1 - n_kept / n_edges.

    1 minus the circuit size of MIB (arXiv:2504.13151); the edge sparsity of Bhaskar et al. (2024, arXiv:2406.16778).
    """
    if n_edges < 1 or not 0 <= n_kept <= n_edges:
        raise SettingError(f"{n_kept} edges kept of {n_edges}; a circuit keeps from none to all of at least one edge")
    return 1 - n_kept / n_edges


def _curve(fractions: ArrayLike, faithfulnesses: ArrayLike) -> tuple[FloatArray, FloatArray]:
    x, y = as_floats(fractions, "fractions"), as_floats(faithfulnesses, "faithfulnesses")
    if x.shape != y.shape or len(x) < 2:
        raise SettingError(
            f"there are {len(x)} fractions and {len(y)} faithfulnesses; a curve needs one of each at two points or more"
        )
    if x[0] < 0 or x[-1] > 1 or (x[1:] <= x[:-1]).any():
        raise SettingError(f"fractions {x.tolist()} do not rise strictly within 0 to 1; sort them and drop repetitions")
    return x, y


def _trapezoids(x: FloatArray, y: FloatArray) -> float:
    return float(np.diff(x) @ (y[1:] + y[:-1])) / 2
