"""Hypothesis strategies: random programs over the whole RASP language."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from hypothesis import assume
from hypothesis import strategies as st

from interpbench_hub.errors import ProgramError
from interpbench_hub.rasp import (
    Aggregate,
    Comparison,
    Full,
    LinearSequenceMap,
    Map,
    Select,
    SelectorWidth,
    SequenceMap,
    SOp,
    indices,
    numerical,
    tokens,
)
from interpbench_hub.rasp.graph import build_graph

VOCABULARIES = (("a", "b"), (0, 1, 2), ("a", "b", "c", "d"), (-2, 0, 1, 5), (0.5, 1.5, 4), ("c", "a", "b"), (3, 1, 2))
ORDERS = (Comparison.LT, Comparison.LEQ, Comparison.GT, Comparison.GEQ)
# No mean of few of the numbers below, nor a sum of two, comes near: a rounding error must not decide a test.
THRESHOLDS = (-0.7123, 0.3719, 1.2391)


class RandomProgram(NamedTuple):
    """A program with the inputs it is meant for; lengths run from 2 to `max_len`, BOS counted."""

    program: SOp
    vocab: tuple[Any, ...]
    max_len: int
    causal: bool


@dataclass
class _Pool:
    """Expressions made so far, by what may be done with them."""

    categorical: list[SOp] = field(default_factory=list)
    numerical: list[SOp] = field(default_factory=list)
    ordered: list[SOp] = field(default_factory=list)
    """The categorical ones whose values are all numbers."""

    def add(self, sop: SOp, *, is_ordered: bool = False) -> SOp:
        (self.numerical if sop.encoding == "numerical" else self.categorical).append(sop)
        if is_ordered and sop.encoding == "categorical":
            self.ordered.append(sop)
        return sop


def number(value: Any) -> float:
    """A number for every value a random program knows; fails on None as arithmetic does."""
    return ord(value[0]) - ord("a") if isinstance(value, str) else value + 0


@st.composite
def programs(draw: st.DrawFn, max_steps: int = 7) -> RandomProgram:
    """Programs of up to `max_steps` operations that can be compiled."""
    vocab = draw(st.sampled_from(VOCABULARIES))
    max_len = draw(st.integers(2, 6))
    causal = draw(st.booleans())
    pool = _Pool()
    pool.add(tokens, is_ordered=not isinstance(vocab[0], str))
    pool.add(indices, is_ordered=True)
    pool.add(numerical(indices))
    program: SOp = tokens
    for _ in range(draw(st.integers(2, max_steps))):
        program = draw(st.sampled_from(_STEPS))(draw, pool)
    try:
        build_graph(program, vocab, 1, max_len - 1, causal=causal)
    except ProgramError:
        assume(False)
    return RandomProgram(program, vocab, max_len, causal)


def _latest(draw: st.DrawFn, sops: list[SOp]) -> SOp:
    """One of the expressions, mostly the latest: so programs grow deep and leave little unused."""
    return sops[-1] if draw(st.integers(0, 3)) else draw(st.sampled_from(sops))


def _unary(draw: st.DrawFn) -> tuple[Callable[[Any], Any], str, bool]:
    """A function of any value, its text, and whether it always yields a number."""
    a, b, m = draw(st.integers(1, 3)), draw(st.integers(-2, 2)), draw(st.integers(2, 4))
    return draw(
        st.sampled_from(
            [
                (lambda x: (a * number(x) + b) % m, f"({a} * number(x) + {b}) % {m}", True),
                (lambda x: number(x) >= b, f"number(x) >= {b}", True),
                (lambda x: b, str(b), True),
                (lambda x: None if number(x) == b else x, f"None if number(x) == {b} else x", False),
                (lambda x: b / number(x), f"{b} / number(x)", False),
                (lambda x: "abcd"[int(number(x) + a) % m], f"'abcd'[int(number(x) + {a}) % {m}]", False),
            ]
        )
    )


def _binary(draw: st.DrawFn) -> tuple[Callable[[Any, Any], Any], str, bool]:
    a, b, m = draw(st.integers(1, 3)), draw(st.integers(-2, 2)), draw(st.integers(2, 4))
    return draw(
        st.sampled_from(
            [
                (lambda x, y: (a * number(x) + number(y)) % m, f"({a} * number(x) + number(y)) % {m}", True),
                (lambda x, y: number(x) < number(y), "number(x) < number(y)", True),
                (lambda x, y: x == y, "x == y", True),
                (lambda x, y: x if number(y) > b else None, f"x if number(y) > {b} else None", False),
                (lambda x, y: number(x) / number(y), "number(x) / number(y)", False),
                (lambda x, y: (x, y)[a % 2], f"(x, y)[{a % 2}]", False),
            ]
        )
    )


def _of_number(draw: st.DrawFn) -> tuple[Callable[[Any], Any], str]:
    low = draw(st.sampled_from(THRESHOLDS))
    return draw(
        st.sampled_from(
            [
                (lambda x: x > low, f"x > {low}"),
                (lambda x: int(x > low) + 2 * int(x > 2.3917), f"int(x > {low}) + 2 * int(x > 2.3917)"),
                (lambda x: None if x > low else "low", f"None if x > {low} else 'low'"),
                (lambda x: 3, "3"),
            ]
        )
    )


def _select(draw: st.DrawFn, pool: _Pool) -> Select:
    def side(sops: list[SOp]) -> SOp:
        return draw(st.one_of(st.sampled_from(sops), st.just(sops[-1]), st.builds(Full, st.integers(0, 2))))

    choice = draw(st.integers(0, 5))
    if choice == 0:
        return Select(side(pool.ordered), side(pool.ordered), draw(st.sampled_from(ORDERS)))
    keys, queries = side(pool.categorical), side(pool.categorical)
    a, m = draw(st.integers(-1, 1)), draw(st.integers(2, 3))
    if choice == 1:
        return Select(
            keys, queries, lambda key, query: (number(key) + number(query)) % m == 0, text=f"(k + q) % {m} == 0"
        )
    if choice == 2:
        return Select(
            keys, queries, lambda key, query: key is None or query is None, text="key is None or query is None"
        )
    if choice == 3:
        return Select(keys, queries, lambda key, query: number(key) == number(query) + a, text=f"key == query + {a}")
    return Select(
        keys, queries, draw(st.sampled_from([Comparison.EQ, Comparison.NEQ, Comparison.TRUE, Comparison.FALSE]))
    )


def _map(draw: st.DrawFn, pool: _Pool) -> SOp:
    function, text, is_number = _unary(draw)
    made = Map(function, _latest(draw, pool.categorical), text=text)
    return pool.add(numerical(made) if is_number and draw(st.booleans()) else made, is_ordered=is_number)


def _map_of_number(draw: st.DrawFn, pool: _Pool) -> SOp:
    if draw(st.booleans()):
        a, b = draw(st.integers(-2, 2)), draw(st.integers(-1, 1))
        return pool.add(numerical(Map(lambda x: a * x + b, _latest(draw, pool.numerical), text=f"{a} * x + {b}")))
    function, text = _of_number(draw)
    made = Map(function, _latest(draw, pool.numerical), text=text)
    is_total = "None" not in text
    return pool.add(numerical(made) if is_total and draw(st.booleans()) else made, is_ordered=is_total)


def _sequence_map(draw: st.DrawFn, pool: _Pool) -> SOp:
    function, text, is_number = _binary(draw)
    first, second = _latest(draw, pool.categorical), draw(st.sampled_from([*pool.categorical, Full(1)]))
    made = SequenceMap(function, first, second, text=text)
    return pool.add(numerical(made) if is_number and draw(st.booleans()) else made, is_ordered=is_number)


def _linear(draw: st.DrawFn, pool: _Pool) -> SOp:
    first, second = _latest(draw, pool.numerical), draw(st.sampled_from([*pool.numerical, Full(2)]))
    p, q = draw(st.sampled_from([1, -1, 0.5])), draw(st.sampled_from([1, -1, 2]))
    return pool.add(LinearSequenceMap(first, second, p, q))


def _aggregate(draw: st.DrawFn, pool: _Pool) -> SOp:
    values = _latest(draw, [*pool.categorical, Full("a")])
    return pool.add(Aggregate(_select(draw, pool), values), is_ordered=any(values is sop for sop in pool.ordered))


def _average(draw: st.DrawFn, pool: _Pool) -> SOp:
    return pool.add(Aggregate(_select(draw, pool), _latest(draw, pool.numerical), default=0))


def _width(draw: st.DrawFn, pool: _Pool) -> SOp:
    return pool.add(SelectorWidth(_select(draw, pool)), is_ordered=True)


_STEPS = (_map, _sequence_map, _aggregate, _average, _width, _map_of_number, _linear)
