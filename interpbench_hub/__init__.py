"""InterpBench Hub: small transformers with known circuits, certified edge by edge.

    from interpbench_hub import load_model, load_circuit

    model = load_model("case_3")      # a HookedTransformer of TransformerLens
    circuit = load_circuit("case_3")  # the edges that carry its program

Importing this package is quick: torch and TransformerLens are imported when something that needs them is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from interpbench_hub.cases import get_case as get_case
    from interpbench_hub.cases import list_cases as list_cases
    from interpbench_hub.circuit import Circuit as Circuit
    from interpbench_hub.circuit import Edge as Edge
    from interpbench_hub.circuit import Node as Node
    from interpbench_hub.discovery.evaluation import evaluate as evaluate
    from interpbench_hub.errors import InterpBenchError as InterpBenchError
    from interpbench_hub.hub import list_models as list_models
    from interpbench_hub.loader import load_certificate as load_certificate
    from interpbench_hub.loader import load_circuit as load_circuit
    from interpbench_hub.loader import load_model as load_model
    from interpbench_hub.publishing import publish as publish
    from interpbench_hub.rasp.compiler import compile_to_transformer as compile_to_transformer
    from interpbench_hub.siit import certify as certify
    from interpbench_hub.siit import train as train

    __version__: str

__all__ = [
    "Circuit",
    "Edge",
    "InterpBenchError",
    "Node",
    "certify",
    "compile_to_transformer",
    "evaluate",
    "get_case",
    "list_cases",
    "list_models",
    "load_certificate",
    "load_circuit",
    "load_model",
    "publish",
    "train",
]

_HOME = {
    "Circuit": "circuit",
    "Edge": "circuit",
    "InterpBenchError": "errors",
    "Node": "circuit",
    "certify": "siit",
    "compile_to_transformer": "rasp.compiler",
    "evaluate": "discovery.evaluation",
    "get_case": "cases",
    "list_cases": "cases",
    "list_models": "hub",
    "load_certificate": "loader",
    "load_circuit": "loader",
    "load_model": "loader",
    "publish": "publishing",
    "train": "siit",
}
"""The module each public name comes from."""


def __getattr__(name: str) -> object:
    if name == "__version__":
        value: object = _version()
    elif name in _HOME:
        value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; public are {', '.join(__all__)}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    from interpbench_hub.constants import DISTRIBUTION

    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:  # run from a source tree that was never installed
        return "0+unknown"
