"""The RASP language: sequence operators (s-ops) and selectors as immutable expressions.

The operators and their meaning are those of Tracr (Lindner et al. 2023, arXiv:2301.05062), which follow
RASP (Weiss et al. 2021, arXiv:2106.06981). Owns the syntax tree only: `evaluator` gives it meaning on one
sequence, `graph` turns it into variables, `high_level` runs those on batches.

>>> is_x = (tokens == "x").named("is_x", "whether the token is x")
>>> before = Select(indices, indices, Comparison.LEQ)
>>> program = Aggregate(before, numerical(is_x), default=0).named("frac_prevs")
>>> program(["x", "a"])
[1.0, 0.5]
"""

import copy
import enum
import operator
from collections.abc import Callable, Sequence
from typing import Any, Literal, Self

from interpbench_hub.errors import ProgramError

Value = Any
"""What a variable may hold at a position: a number, a string, a bool, a tuple of these, or None (undefined)."""
Encoding = Literal["categorical", "numerical"]


class Comparison(enum.Enum):
    """Predicates of `Select`: `key OP query`. A None key or query is never selected, except by TRUE."""

    EQ = "=="
    LT = "<"
    LEQ = "<="
    GT = ">"
    GEQ = ">="
    NEQ = "!="
    TRUE = "true"
    FALSE = "false"

    def __call__(self, key: Value, query: Value) -> bool:
        if self is Comparison.TRUE:
            return True
        if self is Comparison.FALSE or key is None or query is None:
            return False
        return bool(_COMPARE[self.value](key, query))


_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
Predicate = Comparison | Callable[[Value, Value], bool]


class SOp:
    """An expression with one value a position. Compare and combine it with operators: `tokens == "x"`, `a - b`, `~a`.

    Expressions are immutable and compared by identity in sets and dictionaries; `==` builds a new expression.
    """

    name: str = "sop"
    meaning: str = ""
    encoding: Encoding = "categorical"
    is_named: bool = False
    """Whether `named` gave the name; default names carry no meaning and may repeat."""
    is_causal: bool = False
    """Whether a call lets queries select only keys at or before them."""

    @property
    def children(self) -> tuple["SOp", ...]:
        """The s-ops this one reads, in the order of its arguments (keys, queries, values for an Aggregate)."""
        return ()

    def named(self, name: str, meaning: str = "") -> Self:
        """A copy called `name`, with one line saying what it means."""
        if not isinstance(name, str) or not name.isidentifier():
            raise ProgramError(f"variable name {name!r} is not an identifier; use letters, digits and underscores")
        made = copy.copy(self)
        made.name, made.meaning, made.is_named = name, meaning or self.meaning, True
        return made

    def read_causally(self, is_causal: bool = True) -> Self:
        """A copy that, when called, lets queries select only keys at or before them, as a causal transformer does."""
        made = copy.copy(self)
        made.is_causal = is_causal
        return made

    def _encoded(self, encoding: Encoding) -> Self:
        made = copy.copy(self)
        made.encoding = encoding
        return made

    def __call__(self, tokens: Sequence[Value]) -> list[Value]:
        """The output on one sequence of tokens (without BOS); None where it is undefined."""
        from interpbench_hub.rasp.evaluator import evaluate

        return evaluate(self, tokens, causal=self.is_causal)

    def __str__(self) -> str:
        from interpbench_hub.rasp.printing import program_text

        return program_text(self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"

    def __bool__(self) -> bool:
        raise ProgramError(
            f"variable {self.name!r} has a value a position, so it is neither true nor false; use &, | and ~ "
            "instead of and, or, not, and one comparison at a time"
        )

    __hash__ = object.__hash__

    def _binary(
        self, other: object, function: Callable[[Value, Value], Value], symbol: str, swap: bool = False
    ) -> "SOp":
        if isinstance(other, SOp):
            return SequenceMap(function, self, other, text=f"x {symbol} y")
        if swap:
            return Map(lambda x: function(other, x), self, text=f"{other!r} {symbol} x")
        return Map(lambda x: function(x, other), self, text=f"x {symbol} {other!r}")

    def __eq__(self, other: object) -> "SOp":  # type: ignore[override]
        return self._binary(other, operator.eq, "==")

    def __ne__(self, other: object) -> "SOp":  # type: ignore[override]
        return self._binary(other, operator.ne, "!=")

    def __lt__(self, other: object) -> "SOp":
        return self._binary(other, operator.lt, "<")

    def __le__(self, other: object) -> "SOp":
        return self._binary(other, operator.le, "<=")

    def __gt__(self, other: object) -> "SOp":
        return self._binary(other, operator.gt, ">")

    def __ge__(self, other: object) -> "SOp":
        return self._binary(other, operator.ge, ">=")

    def __add__(self, other: object) -> "SOp":
        return self._binary(other, operator.add, "+")

    def __radd__(self, other: object) -> "SOp":
        return self._binary(other, operator.add, "+", swap=True)

    def __sub__(self, other: object) -> "SOp":
        return self._binary(other, operator.sub, "-")

    def __rsub__(self, other: object) -> "SOp":
        return self._binary(other, operator.sub, "-", swap=True)

    def __mul__(self, other: object) -> "SOp":
        return self._binary(other, operator.mul, "*")

    def __rmul__(self, other: object) -> "SOp":
        return self._binary(other, operator.mul, "*", swap=True)

    def __truediv__(self, other: object) -> "SOp":
        return self._binary(other, operator.truediv, "/")

    def __rtruediv__(self, other: object) -> "SOp":
        return self._binary(other, operator.truediv, "/", swap=True)

    def __floordiv__(self, other: object) -> "SOp":
        return self._binary(other, operator.floordiv, "//")

    def __mod__(self, other: object) -> "SOp":
        return self._binary(other, operator.mod, "%")

    def __and__(self, other: object) -> "SOp":
        return self._binary(other, lambda x, y: x and y, "and")

    def __or__(self, other: object) -> "SOp":
        return self._binary(other, lambda x, y: x or y, "or")

    def __invert__(self) -> "SOp":
        return Map(operator.not_, self, text="not x")

    def __neg__(self) -> "SOp":
        return Map(operator.neg, self, text="-x")


class Tokens(SOp):
    """The input token at each position."""

    name, meaning, is_named = "tokens", "the token at this position", True


class Indices(SOp):
    """The position, counted from 0; BOS has none."""

    name, meaning, is_named = "indices", "the position, counted from 0 after BOS", True


tokens = Tokens()
indices = Indices()


class Full(SOp):
    """The same constant at every position."""

    name = "full"

    def __init__(self, value: Value) -> None:
        if value is None:
            raise ProgramError("Full(None) is undefined everywhere; give it a value")
        self.value = value


class Map(SOp):
    """`function` of the value at each position; None where the value is None.

    A function that raises ArithmeticError leaves the position undefined. `text` is the function as shown in the
    program's text, in terms of `x`; by default it is read off the function's source.
    """

    name = "map"

    def __init__(self, function: Callable[[Value], Value], inner: SOp, *, text: str | None = None) -> None:
        self.function = _need_callable(function, "Map")
        self.inner = _need_sop(inner, "Map")
        self.text = text

    @property
    def children(self) -> tuple[SOp, ...]:
        return (self.inner,)


class SequenceMap(SOp):
    """`function` of two values at each position; None where either is None. `text` is in terms of `x` and `y`."""

    name = "sequence_map"

    def __init__(
        self, function: Callable[[Value, Value], Value], first: SOp, second: SOp, *, text: str | None = None
    ) -> None:
        self.function = _need_callable(function, "SequenceMap")
        self.first = _need_sop(first, "SequenceMap")
        self.second = _need_sop(second, "SequenceMap")
        self.text = text

    @property
    def children(self) -> tuple[SOp, ...]:
        return (self.first, self.second)


class LinearSequenceMap(SequenceMap):
    """`first_factor * first + second_factor * second`; both inputs and the output are numerical."""

    name = "linear_sequence_map"
    encoding = "numerical"

    def __init__(self, first: SOp, second: SOp, first_factor: float, second_factor: float) -> None:
        super().__init__(
            lambda x, y: first_factor * x + second_factor * y,
            first,
            second,
            text=f"{first_factor:g} * x {'-' if second_factor < 0 else '+'} {abs(second_factor):g} * y",
        )
        self.first_factor = first_factor
        self.second_factor = second_factor


class Select:
    """Which keys each query selects: `predicate(key, query)`, a `Comparison` or a function of two values.

    A function may look at None values; where it raises TypeError on one, nothing is selected.
    """

    def __init__(self, keys: SOp, queries: SOp, predicate: Predicate, *, text: str | None = None) -> None:
        self.keys = _need_sop(keys, "Select")
        self.queries = _need_sop(queries, "Select")
        self.predicate = _need_callable(predicate, "Select")
        self.text = text

    def selects(self, key: Value, query: Value) -> bool:
        """Whether a query of value `query` selects a key of value `key`."""
        try:
            return bool(self.predicate(key, query))
        except TypeError:
            if key is None or query is None:
                return False
            raise


class Aggregate(SOp):
    """The mean of the selected values at each position; `default` where nothing is selected.

    A categorical aggregate carries one selected value (or several equal ones) and has default None.
    """

    name = "aggregate"

    def __init__(self, selector: Select, sop: SOp, default: Value = None) -> None:
        if not isinstance(selector, Select):
            raise ProgramError(f"Aggregate takes a Select first, got {type(selector).__name__}")
        self.selector = selector
        self.sop = _need_sop(sop, "Aggregate")
        self.default = default
        # The mean of numbers is a number: an aggregate is encoded as what it averages, as in Tracr.
        self.encoding = self.sop.encoding

    @property
    def children(self) -> tuple[SOp, ...]:
        return (self.selector.keys, self.selector.queries, self.sop)


class SelectorWidth(SOp):
    """The number of keys each query selects."""

    name = "selector_width"

    def __init__(self, selector: Select) -> None:
        if not isinstance(selector, Select):
            raise ProgramError(f"SelectorWidth takes a Select, got {type(selector).__name__}")
        self.selector = selector

    @property
    def children(self) -> tuple[SOp, ...]:
        return (self.selector.keys, self.selector.queries)


def numerical(sop: SOp) -> SOp:
    """A copy of `sop` carried as a magnitude along one direction instead of a one-hot code."""
    made = _need_sop(sop, "numerical")._encoded("numerical")
    if isinstance(made, Tokens | Indices):
        made.name = f"{sop.name}_numerical"
    return made


def categorical(sop: SOp) -> SOp:
    """A copy of `sop` carried as a one-hot code, one class a value (the default)."""
    return _need_sop(sop, "categorical")._encoded("categorical")


def _need_sop(given: object, where: str) -> SOp:
    if not isinstance(given, SOp):
        raise ProgramError(
            f"{where} takes an s-op (tokens, indices, Map, ...), got {given!r}; wrap a constant as Full(constant)"
        )
    return given


def _need_callable(given: Any, where: str) -> Any:
    if not callable(given):
        raise ProgramError(f"{where} takes a function, got {given!r}")
    return given
