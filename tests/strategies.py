"""Programs to test with, over the whole RASP language: examples written by hand and a Hypothesis strategy."""

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

LETTERS, DIGITS = ("a", "b", "c"), (0, 1, 2, 3)

before = Select(indices, indices, Comparison.LEQ)
same = Select(tokens, tokens, Comparison.EQ)
everywhere = Select(indices, indices, Comparison.TRUE)
previous = Aggregate(Select(indices, indices, lambda key, query: key == query - 1), tokens)
length = SelectorWidth(everywhere)
share_of_a = Aggregate(before, numerical(tokens == "a"), default=0)
share_of_b = Aggregate(before, numerical(tokens == "b"), default=0)
backwards = Aggregate(Select(indices, length - indices - 1, Comparison.EQ), tokens)
by_rank = SelectorWidth(Select(tokens, tokens, Comparison.LT))

EXAMPLES: dict[str, tuple[SOp, tuple[Any, ...], bool]] = {
    "tokens": (tokens, LETTERS, False),
    "indices": (indices, LETTERS, False),
    "indices as numbers": (numerical(indices), LETTERS, True),
    "tokens as numbers": (numerical(tokens), (0.5, -1, 3), False),
    "partial map": (Map(lambda x: None if x == 1 else 2 * x, tokens), DIGITS, False),
    "map to numbers": (numerical(tokens * 0.25 - 1), DIGITS, False),
    "sequence map": (tokens * 10 + indices, DIGITS, False),
    "partial sequence map": (tokens / indices, DIGITS, False),
    "sequence map to numbers": (numerical(tokens - indices), DIGITS, False),
    "one variable twice": (tokens * tokens, DIGITS, False),
    "previous token": (previous, LETTERS, False),
    "previous token, causal": (previous, LETTERS, True),
    "map of the undefined": (previous == tokens, LETTERS, False),
    "fraction": (share_of_a, LETTERS, False),
    "fraction, causal": (share_of_a, LETTERS, True),
    "balance": (LinearSequenceMap(share_of_a, share_of_b, 1, -1), LETTERS, False),
    "weighted sum": (LinearSequenceMap(share_of_a, numerical(indices), -2, 0.5), LETTERS, False),
    "sum with itself": (LinearSequenceMap(share_of_a, share_of_a, 1, 1), LETTERS, False),
    "sum with a constant": (LinearSequenceMap(share_of_a, Full(3), 2, 1), LETTERS, False),
    "thresholds": (Map(lambda x: "few" if x < 0.3 else None if x < 0.7 else "many", share_of_a), LETTERS, False),
    "numbers of numbers": (numerical(Map(lambda x: x * x, share_of_a)), LETTERS, False),
    "mean of steps": (Aggregate(before, numerical(Map(lambda x: x > 0.4, share_of_a)), default=0), LETTERS, False),
    "mean of an offset": (Aggregate(before, numerical(tokens - 7), default=0), DIGITS, False),
    "mean over nothing": (
        Aggregate(Select(tokens, indices, lambda key, query: key == query + 1), numerical(indices + 1), default=0),
        DIGITS,
        False,
    ),
    "mean of numbers by map": (
        Aggregate(Select(tokens, indices, Comparison.EQ), numerical(share_of_a * -2.0 + 3), default=0),
        ("a", 0, 1, 2),
        True,
    ),
    "count": (SelectorWidth(same), LETTERS, False),
    "count as a number": (numerical(SelectorWidth(same)), LETTERS, False),
    "count, causal": (SelectorWidth(same), LETTERS, True),
    "count of nothing": (SelectorWidth(Select(tokens, indices, Comparison.FALSE)), LETTERS, False),
    "count of counts": (SelectorWidth(Select(SelectorWidth(same), indices, Comparison.GT)), LETTERS, False),
    "length": (length, LETTERS, False),
    "constant query": (SelectorWidth(Select(tokens, Full("a"), Comparison.EQ)), LETTERS, False),
    "constant key": (SelectorWidth(Select(Full(2), indices, Comparison.LEQ)), LETTERS, False),
    "constant value": (Aggregate(Select(tokens, Full("a"), Comparison.EQ), Full("there")), LETTERS, False),
    "constant number": (Aggregate(Select(tokens, tokens, Comparison.LT), numerical(Full(4)), default=0), DIGITS, False),
    "mean by a constant query": (
        Aggregate(Select(tokens, Full("a"), Comparison.EQ), numerical(indices), default=0),
        LETTERS,
        False,
    ),
    "vocabulary out of order": (previous, ("c", "a", "b"), False),
    "equal to a third": (Map(lambda x: x == 1 / 3, share_of_a), LETTERS, False),
    "balance of thirds": (LinearSequenceMap(share_of_a, share_of_b, 2, -1) == 0, LETTERS, False),
    "undefined keys and queries": (
        SelectorWidth(Select(previous, previous, lambda key, query: key is None or query is None)),
        LETTERS,
        False,
    ),
    "undefined never compares": (SelectorWidth(Select(previous, previous, Comparison.NEQ)), LETTERS, False),
    "undefined by TRUE": (SelectorWidth(Select(previous, tokens, Comparison.TRUE)), LETTERS, False),
    "values undefined": (
        Aggregate(Select(indices, indices, lambda key, query: key == query - 1), previous),
        LETTERS,
        False,
    ),
    "backwards": (backwards, LETTERS, False),
    "sorted ranks": (Aggregate(Select(by_rank, indices, Comparison.EQ), tokens), DIGITS, False),
    "long chain": ((((previous == "a") & (tokens != "a")) | (indices > 2)) & (length > 3), LETTERS, False),
}
"""Program, vocabulary, and whether attention is causal, by what the program shows."""

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
