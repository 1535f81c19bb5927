"""What a RASP program means on one sequence: the pure evaluator every other part is tested against."""

from collections.abc import Sequence
from typing import cast

from interpbench_hub.errors import ProgramError
from interpbench_hub.rasp import language as rasp
from interpbench_hub.rasp.language import Value


def evaluate(program: rasp.SOp, tokens: Sequence[Value], *, causal: bool = False) -> list[Value]:
    """Values of `program` at each position of `tokens` (without BOS); None where undefined.

    With `causal`, selectors select only keys at or before the query's position, as a causal transformer does.
    """
    known: dict[rasp.SOp, list[Value]] = {}
    for sop in in_order(program):
        known[sop] = _values(sop, list(tokens), known, causal)
    return known[program]


def in_order(program: rasp.SOp) -> list[rasp.SOp]:
    """Every s-op of a program once, each after those it reads; raises `ProgramError` on a cycle."""
    order: list[rasp.SOp] = []
    done: set[int] = set()
    open_: set[int] = set()
    # An explicit stack: programs built in loops can be deeper than Python's recursion limit.
    stack: list[tuple[rasp.SOp, bool]] = [(program, False)]
    while stack:
        sop, leaving = stack.pop()
        if leaving:
            open_.discard(id(sop))
            done.add(id(sop))
            order.append(sop)
            continue
        if id(sop) in done:
            continue
        if not isinstance(sop, rasp.SOp):
            raise ProgramError(f"{sop!r} is not part of the RASP language; build programs from interpbench_hub.rasp")
        if id(sop) in open_:
            raise ProgramError(f"variable {sop.name!r} reads itself; a program has no cycles")
        open_.add(id(sop))
        stack.append((sop, True))
        for child in reversed(sop.children):
            if id(child) in open_ and id(child) not in done:
                raise ProgramError(
                    f"variable {child.name!r} reads itself through {sop.name!r}; a program has no cycles"
                )
            stack.append((child, False))
    return order


def apply(sop: rasp.Map | rasp.SequenceMap, *arguments: Value) -> Value:
    """A map's function on given values: None where an argument is None or the arithmetic is undefined."""
    if any(argument is None for argument in arguments):
        return None
    try:
        return sop.function(*arguments)
    except ArithmeticError:
        return None
    except Exception as error:
        given = ", ".join(repr(argument) for argument in arguments)
        raise ProgramError(f"variable {sop.name!r}: its function fails on {given}: {error!r}") from error


def selects(sop: rasp.Aggregate | rasp.SelectorWidth, key: Value, query: Value) -> bool:
    """Whether the selector of an aggregate or a width lets `query` select `key`."""
    try:
        return sop.selector.selects(key, query)
    except Exception as error:
        raise ProgramError(
            f"variable {sop.name!r}: its selector fails on key {key!r} and query {query!r}: {error!r}"
        ) from error


def _values(sop: rasp.SOp, tokens: list[Value], known: dict[rasp.SOp, list[Value]], causal: bool) -> list[Value]:
    match sop:
        case rasp.Tokens():
            return tokens
        case rasp.Indices():
            return list(range(len(tokens)))
        case rasp.Full():
            return [sop.value] * len(tokens)
        case rasp.Map():
            return [apply(sop, x) for x in known[sop.inner]]
        case rasp.SequenceMap():
            return [apply(sop, x, y) for x, y in zip(known[sop.first], known[sop.second], strict=True)]
        case rasp.Aggregate():
            values = known[sop.sop]
            return [_aggregate(sop, [values[key] for key in keys]) for keys in _selected(sop, known, causal)]
        case rasp.SelectorWidth():
            return [len(keys) for keys in _selected(sop, known, causal)]
    raise ProgramError(f"{sop!r} is not part of the RASP language; build programs from interpbench_hub.rasp")


def _selected(
    sop: rasp.Aggregate | rasp.SelectorWidth, known: dict[rasp.SOp, list[Value]], causal: bool
) -> list[list[int]]:
    keys, queries = known[sop.selector.keys], known[sop.selector.queries]
    return [
        [position for position, key in enumerate(keys[: at + 1] if causal else keys) if selects(sop, key, query)]
        for at, query in enumerate(queries)
    ]


def _aggregate(sop: rasp.Aggregate, selected: list[Value]) -> Value:
    if not selected:
        return sop.default
    if sop.encoding == "categorical" and all(value == selected[0] for value in selected):
        return selected[0]
    if any(value is None for value in selected):
        return None
    try:
        return sum(cast(list[float], selected)) / len(selected)
    except TypeError as error:
        raise ProgramError(
            f"variable {sop.name!r} averages {selected!r}; only numbers have a mean, so select equal values"
        ) from error
