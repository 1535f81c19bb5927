"""The methods by name, and from a name or an import path to a function: `(model, universe, data, **options)`.

Owns the table of what comes along and how a method is called. A method's module is imported when it is first used.
"""

import hashlib
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, cast

from interpbench_hub.circuit import Edge
from interpbench_hub.discovery.naming import GRANULARITIES, ScoreGranularity, scored_items
from interpbench_hub.discovery.scores import EdgeScores
from interpbench_hub.errors import SettingError, unknown_name

if TYPE_CHECKING:
    from interpbench_hub.discovery.data import PairData


class Method(Protocol):
    """A circuit discovery method: scores every edge of a universe (higher is more important), never sees a circuit.

    `model` is the HookedTransformer of `load_model`, or for functions that are marked with `takes_transformer` the
    package's own transformer; `universe` the model's edges in order; `data` pairs of inputs. Of the options
    `granularity`, `ablation` and `seed` a function gets those that it has a parameter for. Returns `EdgeScores`, or a
    mapping from edges or their names to numbers.
    """

    # (model, universe, data, **options), said so that functions with options of their own fit.
    def __call__(self, *args: Any, **options: Any) -> EdgeScores | Mapping[Any, float]: ...


_SHARED = ("granularity", "ablation", "seed")
"""Options that an evaluation sets for all methods."""
_MARK = "takes_transformer"


def takes_transformer(function: Callable[..., Any]) -> Callable[..., Any]:
    """Marks a method of yours as one for the package's own transformer: no TransformerLens is loaded for it.

    >>> @takes_transformer
    ... def my_method(model, universe, data): ...
    """
    setattr(function, _MARK, True)
    return function


@dataclass(frozen=True)
class MethodEntry:
    """A method that can be called by its name, or by its import path if it is somebody else's."""

    name: str
    path: str
    """`module:function`, imported when it is first used."""
    title: str
    paper: str = ""
    """Where it is described."""
    granularities: tuple[ScoreGranularity, ...] = GRANULARITIES
    """What it can score itself; an evaluation at another granularity takes the nearest of these and lifts or merges."""

    @cached_property
    def function(self) -> Method:
        """The function; raises `SettingError` where there is none."""
        module_name, _, attribute = self.path.partition(":")
        try:
            found: Any = import_module(module_name)
            for part in attribute.split("."):
                found = getattr(found, part)
        except (ImportError, AttributeError) as error:
            raise SettingError(
                f"method {self.path!r} cannot be imported ({error}); a method is a name of `interpbench methods` or "
                "package.module:function, installed or in the current folder"
            ) from error
        if not callable(found):
            raise SettingError(f"method {self.path!r} is a {type(found).__name__}; a method is a function")
        return cast(Method, found)

    @property
    def takes_transformer(self) -> bool:
        """Whether it gets the package's own transformer: what comes along does, others if they are marked."""
        return self.name in METHODS or getattr(self.function, _MARK, False)

    @property
    def options(self) -> dict[str, Any]:
        """Its options with their defaults (`...` for one without), but for those that an evaluation sets."""
        return {
            name: ... if parameter.default is parameter.empty else parameter.default
            for name, parameter in list(self._parameters.items())[3:]
            if name not in _SHARED and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        }

    @property
    def _parameters(self) -> Mapping[str, inspect.Parameter]:
        return inspect.signature(self.function).parameters

    def accepts(self, option: str) -> bool:
        """Whether it has an option of this name, or takes any."""
        parameters = self._parameters
        takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
        return option in list(parameters)[3:] or takes_any

    @property
    def sha256(self) -> str | None:
        """Digest of the file that the function is written in: a changed method is another method. None without one."""
        try:
            source = inspect.getsourcefile(cast(Any, self.function))
            return None if source is None else hashlib.sha256(Path(source).read_bytes()).hexdigest()
        except (TypeError, OSError):
            return None

    def check_options(self, options: Mapping[str, Any]) -> None:
        """Raise `SettingError` for an option that the method does not have or that an evaluation sets itself."""
        for option in options:
            if option in _SHARED or not self.accepts(option):
                known = ", ".join(self.options) or "none"
                raise SettingError(f"method {self.name} has no option {option!r}; its options are {known}")

    def scores(
        self,
        model: Any,
        universe: Sequence[Edge],
        data: "PairData",
        *,
        granularity: ScoreGranularity = "qkv-edge",
        ablation: str = "resample",
        seed: int = 0,
        options: Mapping[str, Any] = MappingProxyType({}),
    ) -> EdgeScores:
        """Run it on a model and its universe of q, k and v edges; the scores have one of its own granularities.

        That is `granularity`, or where the method has not got it edges for nodes and nodes for edges.
        """
        level: ScoreGranularity = granularity
        if level not in self.granularities:
            level = next(other for other in GRANULARITIES if other in self.granularities)
        given: dict[str, Any] = {"ablation": ablation, "seed": seed}
        given = {name: value for name, value in given.items() if self.accepts(name)}
        edges = cast(tuple[Edge, ...], tuple(universe))
        if self.accepts("granularity"):
            given["granularity"] = level
        elif level == "edge":
            edges = cast(tuple[Edge, ...], scored_items(edges, "edge"))
        found = self.function(model, edges, data, **given, **options)
        if isinstance(found, EdgeScores):
            return found
        if isinstance(found, Mapping):
            return EdgeScores.of(edges, found, granularity=level)
        raise SettingError(
            f"method {self.name} returned a {type(found).__name__}; a method returns EdgeScores, or a mapping from "
            "edges or their names to numbers"
        )


_HERE = "interpbench_hub.discovery."
_EDGES: tuple[ScoreGranularity, ...] = ("qkv-edge", "edge")

METHODS: dict[str, MethodEntry] = {
    entry.name: entry
    for entry in (
        MethodEntry(
            "exhaustive",
            f"{_HERE}exhaustive:exhaustive_patching",
            "exhaustive activation patching",
            "arXiv:2004.12265, arXiv:2304.05969",
        ),
        MethodEntry("acdc", f"{_HERE}acdc:acdc", "automatic circuit discovery (ACDC)", "arXiv:2304.14997"),
        MethodEntry("eap", f"{_HERE}attribution:eap", "edge attribution patching", "arXiv:2310.10348"),
        MethodEntry(
            "eap-ig-inputs",
            f"{_HERE}attribution:eap_ig_inputs",
            "EAP with integrated gradients over inputs",
            "arXiv:2403.17806",
        ),
        MethodEntry(
            "eap-ig-activations",
            f"{_HERE}attribution:eap_ig_activations",
            "EAP with integrated gradients over activations",
            "arXiv:2403.17806, arXiv:2504.13151",
        ),
        MethodEntry(
            "node-attribution",
            f"{_HERE}attribution:node_attribution_patching",
            "attribution patching of nodes",
            "arXiv:2403.00745",
        ),
        MethodEntry(
            "information-flow",
            f"{_HERE}information_flow:information_flow_routes",
            "information flow routes",
            "arXiv:2403.00824",
        ),
        MethodEntry(
            "node-sp",
            f"{_HERE}probing:node_subnetwork_probing",
            "subnetwork probing with masks on nodes",
            "arXiv:2104.03514, arXiv:2304.14997",
        ),
        MethodEntry(
            "edge-sp",
            f"{_HERE}probing:edge_subnetwork_probing",
            "subnetwork probing with masks on edges",
            "arXiv:2104.03514, arXiv:2407.14494",
        ),
        MethodEntry("edge-pruning", f"{_HERE}edge_pruning:edge_pruning", "edge pruning", "arXiv:2406.16778"),
        MethodEntry("random", f"{_HERE}nulls:random_scores", "null: random scores"),
        MethodEntry("central", f"{_HERE}nulls:central_scores", "null: most central, no embedding"),
    )
}
"""What comes along, the exact reference first and the nulls last."""


def get_method(method: "str | Method | MethodEntry") -> MethodEntry:
    """A method by its name (`eap`), its import path (`my_pkg:my_method`, in the current folder too), or its function.

    Raises `UnknownNameError` for an unknown name, `SettingError` for a path that cannot be imported.
    """
    if isinstance(method, MethodEntry):
        return method
    if isinstance(method, str):
        if ":" not in method:
            if method not in METHODS:
                raise unknown_name(
                    "method", method, METHODS, hint="one of your own is given as package.module:function"
                )
            return METHODS[method]
        known = next((entry for entry in METHODS.values() if entry.path == method), None)
        if known is not None:
            return known
        _see_current_folder(method)
        entry = MethodEntry(method, method, method)
        return MethodEntry(method, method, _first_line(entry.function))
    if not callable(method):
        raise SettingError(f"method {method!r} is neither a name, an import path nor a function")
    function: Any = method
    name = getattr(function, "__qualname__", type(function).__name__)
    path = f"{getattr(function, '__module__', '')}:{name}"
    known = next((entry for entry in METHODS.values() if entry.path == path), None)
    if known is not None:
        return known
    entry = MethodEntry(path, path, _first_line(function))
    # Kept as it is: a function that is defined within another has no path that leads back to it.
    entry.__dict__["function"] = function
    return entry


def is_importable(entry: MethodEntry) -> bool:
    """Whether another process finds the same function under the method's path."""
    try:
        found = MethodEntry(entry.name, entry.path, "").function
    except SettingError:
        return False
    has_file = entry.path.partition(":")[0] != "__main__" or hasattr(sys.modules["__main__"], "__file__")
    return found is entry.function and has_file


def _see_current_folder(path: str) -> None:
    """A command's own folder comes first in the search for modules, not the one it is called in."""
    module = path.partition(":")[0]
    try:
        is_found = find_spec(module.partition(".")[0]) is not None
    except ValueError:  # __main__ has no spec
        is_found = True
    folder = str(Path.cwd())
    if not is_found and folder not in sys.path:
        sys.path.insert(0, folder)


def _first_line(function: Any) -> str:
    lines = (inspect.getdoc(function) or "").splitlines()
    return lines[0] if lines else getattr(function, "__qualname__", "")
