"""Datasets of the cases: clean inputs with outputs and variables, each with a counterfactual to patch with.

    from dataset_builders import build_dataset
    folder = build_dataset("case_3", "datasets")

or `python -m dataset_builders build case_3 --out datasets`, then `datasets.load_dataset("datasets", "case_3")`.
`circuits` makes the dataset of all circuits, `landing` the card that introduces the collection.
"""

from typing import TYPE_CHECKING, Any

from dataset_builders.folders import build_dataset as build_dataset

if TYPE_CHECKING:
    from dataset_builders.builder import CircuitDataset as CircuitDataset

__all__ = ["CircuitDataset", "build_dataset"]


def __getattr__(name: str) -> Any:
    # The class needs `datasets` and torch to exist at all, so it is made when asked for.
    if name == "CircuitDataset":
        from dataset_builders.builder import CircuitDataset

        return CircuitDataset
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
