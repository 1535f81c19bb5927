"""Recipes: what a training run optimises and for how long. The same object is the API, the CLI and the JSON."""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal

from interpbench_hub.certificate import Ablation, Certificate, is_at_least
from interpbench_hub.errors import SettingError, unknown_name
from interpbench_hub.validation import json_or_text

if TYPE_CHECKING:
    from interpbench_hub.cases import Case
    from interpbench_hub.siit.quick_check import QuickCheck

_LAST_PROBES = 0.1
"""Share of the probes' weight that stays from the middle of a cool-down on."""
_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", tuple: "a list in brackets"}
"""What to call the kinds of fields."""


@dataclass(frozen=True)
class Recipe:
    """Settings of one training run; every field can be changed on the command line (`settings`)."""

    name: str
    """Name under which the provenance records the recipe."""
    n_pairs: int = 16
    """Pairs of inputs a step. Every group of rows below is this long."""
    circuit_groups: int = 3
    """Groups of rows with one circuit node or circuit edge interchanged; the target is the program's. What lies outside
    a circuit is right long before its last edge is."""
    outside_groups: int = 2
    """Groups of rows with something outside the circuit replaced; the target is the base output."""
    node_share: float = 0.3
    """Share of the circuit rows that interchange a node; the rest interchange an edge."""
    suspect_share: float = 0.25
    """Share of the outside rows for single edges that a certificate found at fault, once there are any."""
    outside_level: str = "edge"
    """What is replaced outside the circuit: sets of `edge`s of all shapes, or one whole `node`."""
    ablations: tuple[Ablation, ...] = ("resample", "zero", "mean")
    """What replaces outside the circuit, in equal shares."""
    isolated_steps: int = 0
    """Steps at the start in which the circuit is trained by itself: every intervened row has everything outside the
    circuit replaced, and plain rows need not give the program's output. Other routes to that output, once learnt, are
    hard to unlearn."""
    related_share: float = 0.25
    """Share of pairs whose source is the base with some tokens changed."""
    rare_share: float = 0.5
    """Share of pairs that are the rarest of `rare_candidates` by what one of the program's variables holds under their
    exchange."""
    rare_candidates: int = 4
    """See `rare_share`."""
    replayed_share: float = 0.25
    """Share of pairs that are the worst ones of the last 16 steps, drawn again with their interventions."""
    probe_weight: float = 1.0
    """Weight of the probes' loss; it falls with the learning rate, and to a tenth by the middle of a cool-down."""
    intervened_probe_weight: float = 1.0
    """Weight, as a share of `probe_weight`, of the probes' loss in intervened rows, where they read what each variable
    is under the interchange."""
    attention_weight: float = 1.0
    """Weight, as a share of `probe_weight`, of the loss of what the circuit's heads attend to."""
    lasting_attention: bool = False
    """Whether that loss keeps its weight in a cool-down, in which that of probes falls to a tenth."""
    crossed_weight: float = 1.0
    """Weight of what pairs of rows add to these helps: as a share of `attention_weight`, queries that look at another
    row's keys (`AttentionTargets.crossed_loss`); as a share of `probe_weight`, MLPs that read a part from another row
    (`Mixing`). Otherwise only rows with an exchanged edge have such combinations."""
    crossed_rows: int = 1
    """How many other rows each row's queries look at."""
    interchanged_weight: float = 0.0
    """Weight, as a share of `attention_weight`, of heads that compare with what the circuit brings to queries, or to
    keys, taken from other places and all else kept (`AttentionTargets.interchanged_loss`)."""
    pairwise_weight: float = 0.0
    """Weight, as a share of `attention_weight`, of heads that compare every query of a step with every key of it
    (`AttentionTargets.pairwise_loss`); without LayerNorm only."""
    spread_weight: float = 0.0
    """Weight, as a share of `probe_weight`, of writing the values that heads compare unlike each other
    (`AttentionTargets.spread_loss`)."""
    language_weight: float = 0.1
    """Weight of the loss of predicting every next token, in cases whose inputs are sentences."""
    learning_rate: float = 3e-3
    """Peak learning rate of Adam, which runs in the basis of `Eigenbasis`."""
    attention_rate: float = 3.0
    """The learning rate of embeddings and heads as a multiple of `learning_rate`, which is that of MLPs and the
    unembedding: to tell a key from another, heads need large weights."""
    betas: tuple[float, float] = (0.95, 0.95)
    """Decay rates of Adam's moments."""
    gradient_norm: float = 1.0
    """The gradient is scaled down to this norm."""
    warm_up: int = 50
    """Steps over which the learning rate rises to its peak."""
    steady_steps: int = 500
    """Steps at the peak; from there on the learning rate falls with the square root of the step."""
    averaged_share: float = 0.1
    """Share of all steps so far over which the parameters are averaged; checks look at the average."""
    max_steps: int = 12_000
    """Steps after which training ends, whatever the grade; a run that ended short of its goal can be given more."""
    check_every: int = 125
    """Least number of steps between quick checks, which are an eighth of the steps so far apart."""
    good_enough: float = 0.95
    """Least accuracy in a quick check that starts a cool-down: the noise of a high learning rate hides the rest."""
    cool_down: float = 0.25
    """Length of a cool-down, in which the learning rate falls to nothing, as a share of the steps so far."""
    goal: Literal["path", "edge", "node", "behaviour"] = "path"
    """What ends training early: grade `path`, `edge` or `node`, or `behaviour` alone."""

    def __post_init__(self) -> None:
        for name in ("n_pairs", "steady_steps", "max_steps", "check_every", "rare_candidates", "crossed_rows"):
            if getattr(self, name) < 1:
                raise SettingError(f"recipe {self.name}: {name} is {getattr(self, name)!r}; it is at least 1")
        for name in (
            "circuit_groups",
            "outside_groups",
            "probe_weight",
            "intervened_probe_weight",
            "attention_weight",
            "crossed_weight",
            "interchanged_weight",
            "pairwise_weight",
            "spread_weight",
            "language_weight",
            "warm_up",
            "cool_down",
            "isolated_steps",
        ):
            if not getattr(self, name) >= 0:
                raise SettingError(f"recipe {self.name}: {name} is {getattr(self, name)!r}; it is at least 0")
        for name in ("learning_rate", "attention_rate", "gradient_norm"):
            if not getattr(self, name) > 0:
                raise SettingError(f"recipe {self.name}: {name} is {getattr(self, name)!r}; it is above 0")
        shares = ("node_share", "related_share", "rare_share", "replayed_share", "suspect_share", "averaged_share")
        for name in (*shares, "good_enough"):
            if not 0 <= getattr(self, name) <= 1:
                raise SettingError(f"recipe {self.name}: {name} is {getattr(self, name)!r}; it is a share from 0 to 1")
        if self.goal not in ("path", "edge", "node", "behaviour"):
            raise SettingError(f"recipe {self.name}: goal is {self.goal!r}; it is path, edge, node or behaviour")
        if self.outside_level not in ("edge", "node"):
            raise SettingError(f"recipe {self.name}: outside_level is {self.outside_level!r}; it is edge or node")
        if not self.ablations or not set(self.ablations) <= {"resample", "zero", "mean"}:
            raise SettingError(f"recipe {self.name}: ablations are {self.ablations!r}; of resample, zero, mean")

    def rate(self, step: int, cooling_from: int | None = None, started: int = 0) -> float:
        """Learning rate of a step, counted from 0; `started` is where the run took over another's weights.

        It needs no length of the run: it falls so slowly that training goes on learning for as long as it takes, and
        a cool-down, wherever it starts, takes out the noise that is left.
        """
        left = 1.0 if cooling_from is None else max(0.01, 1 - self._cooled(step, cooling_from))
        # A run that goes on from another's weights may begin with a cool-down, and warms up in it.
        risen = min(1.0, (step + 1 - started) / max(self.warm_up, 1))
        return self.learning_rate * self._fallen(step if cooling_from is None else cooling_from) * risen * left

    def probe_weight_at(self, step: int, cooling_from: int | None = None) -> float:
        """Weight of the probes' loss in a step: they lead at first, and what the program needs has the last word.

        A share stays to the end. Once all rows but a few are right, the rest of the loss says so little of what most
        heads should do that Adam magnifies its noise: large models that are let go lose what they have learnt.
        """
        if cooling_from is not None:
            return self.probe_weight_at(cooling_from) * self._left(step, cooling_from)
        return self.probe_weight * self._fallen(step)

    def attention_weight_at(self, step: int, cooling_from: int | None = None) -> float:
        """Weight of the loss of attention in a step, as a share of `probe_weight_at`."""
        if self.lasting_attention and cooling_from is not None:
            return self.attention_weight / self._left(step, cooling_from)
        return self.attention_weight

    def _left(self, step: int, cooling_from: int) -> float:
        """What is left of the probes' weight in a step of a cool-down."""
        return max(_LAST_PROBES, 1 - 2 * self._cooled(step, cooling_from))

    def _fallen(self, step: int) -> float:
        """What is left of the peak rate in a step without a cool-down."""
        return min(1.0, math.sqrt(self.steady_steps / (step + 1)))

    def _cooled(self, step: int, cooling_from: int) -> float:
        """Share of a cool-down that lies behind a step."""
        return (step - cooling_from) / self.cooling_steps(cooling_from)

    def check_after(self, step: int) -> int:
        """Step of the next quick check, seen from a step."""
        return step + max(self.check_every, step // 8)

    def cooling_steps(self, step: int) -> int:
        """Steps of a cool-down that starts after `step` steps; it never outlasts the run."""
        return max(1, min(round(self.cool_down * step), self.max_steps - step))

    @property
    def last_cooling(self) -> int:
        """Step from which on the run is cooled down whatever the checks say, so that it ends on a settled model."""
        return math.ceil(self.max_steps / (1 + self.cool_down))

    def reaches_goal(self, check: "QuickCheck", least: float) -> bool:
        """Whether all that the recipe's goal asks for is at least `least` in a quick check."""
        match self.goal:
            case "behaviour":
                return check.behaviour >= least
            case "node":
                # Under resampling alone, as grade `node` asks; nothing is demanded of single edges.
                return min(check.behaviour, check.node_interchange, check.node_strict_resample) >= least
            case "edge":
                strict = min(check.node_strict, check.edge_strict, check.complement)
                return min(check.behaviour, check.node_interchange, strict) >= least
            case _:
                return check.worst >= least

    def is_done(self, certificate: Certificate) -> bool:
        """Whether a certificate reaches the recipe's goal."""
        if self.goal == "behaviour":
            return all(entry.passes for entry in certificate.behaviour)
        return is_at_least(certificate.grade, self.goal)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def changed(self, **changes: Any) -> "Recipe":
        """The same recipe with some fields changed; None leaves a field as it is."""
        known = self.to_dict()
        for name in changes:
            if name not in known:
                raise unknown_name("recipe field", name, known)
        return replace(self, **{name: value for name, value in changes.items() if value is not None})


EDGE_SIIT = Recipe("edge-siit")
"""Edge-SIIT: nodes and edges interchanged, nodes and edges outside the circuit replaced."""

SIIT = Recipe(
    "siit",
    node_share=1.0,
    circuit_groups=1,
    outside_groups=1,
    outside_level="node",
    ablations=("resample",),
    suspect_share=0.0,
    related_share=0.0,
    rare_share=0.0,
    replayed_share=0.0,
    probe_weight=0.0,
    goal="node",
)
"""Strict Interchange Intervention Training per node, as in the InterpBench paper (arXiv:2407.14494)."""

BEHAVIOUR = Recipe(
    "behaviour",
    circuit_groups=0,
    outside_groups=0,
    related_share=0.0,
    rare_share=0.0,
    probe_weight=0.0,
    goal="behaviour",
)
"""Plain supervised training on the program's outputs: a natural model of the same task."""

RECIPES = {recipe.name: recipe for recipe in (EDGE_SIIT, SIIT, BEHAVIOUR)}


def get_recipe(recipe: str | Recipe) -> Recipe:
    """A recipe by name, or the recipe itself."""
    if isinstance(recipe, Recipe):
        return recipe
    try:
        return RECIPES[recipe]
    except (KeyError, TypeError):
        raise unknown_name("recipe", recipe, RECIPES) from None


def settings(texts: Iterable[str]) -> dict[str, Any]:
    """Fields for `Recipe.changed` from texts `field=value`, the value in JSON, with or without a text's quotes.

    Raises:
        UnknownNameError: recipes have no such field.
        SettingError: the value is of another kind than the field's, or there is no `=`.
    """
    defaults = {field.name: field.default for field in fields(Recipe) if field.name != "name"}
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, written = (part.strip() for part in text.partition("="))
        if not equals:
            raise SettingError(f"setting {text!r} has no value; write field=value, such as max_steps=2000")
        if name not in defaults:
            raise unknown_name("recipe field", name, defaults)
        found[name] = _read(name, written, type(defaults[name]))
    return found


def _read(name: str, written: str, kind: type) -> Any:
    """A field's value of the kind its default is of."""
    value = json_or_text(written)
    if kind is float and type(value) is int:
        value = float(value)
    if kind is tuple and isinstance(value, list):
        value = tuple(value)
    if type(value) is not kind:
        raise SettingError(f"recipe field {name} is {_KINDS[kind]}, not {written}")
    return value


def recipe_for(case: "Case", recipe: str | Recipe) -> Recipe:
    """A recipe as a case is trained by it: fields of Edge-SIIT that nobody has changed are those the case asks for."""
    chosen = get_recipe(recipe)
    if chosen.name != EDGE_SIIT.name:
        return chosen
    own = case.edge_siit.items()
    return chosen.changed(**{name: value for name, value in own if getattr(chosen, name) == getattr(EDGE_SIIT, name)})
