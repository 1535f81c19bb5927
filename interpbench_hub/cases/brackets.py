"""Cases about brackets: how deep they are nested, which fit together, how the depth compares with before."""

from interpbench_hub.cases import samplers
from interpbench_hub.cases.case import Case
from interpbench_hub.cases.common import count_of, frac_prevs
from interpbench_hub.rasp.language import (
    Aggregate,
    Comparison,
    Full,
    Map,
    Select,
    SelectorWidth,
    SequenceMap,
    SOp,
    tokens,
)

ROUND = ("(", ")", "x")
ROUND_AND_SQUARE = ("(", ")", "[", "]")
LONGEST_NEST = 5
"""Most tokens of an input with two kinds of brackets."""


def depth_so_far() -> SOp:
    """How many more round brackets opened than closed up to each position; for causal cases."""
    opens = count_of("(", "opens", "how many brackets opened so far")
    closes = count_of(")", "closes", "how many brackets closed so far")
    return (opens - closes).named("depth", "how many more brackets opened than closed so far")


def _depth_rank() -> SOp:
    depth = depth_so_far()
    return SelectorWidth(Select(depth, depth, Comparison.GEQ)).named(
        "rank", "how many positions so far are at least as deep as this one"
    )


def _average_depth() -> SOp:
    height = Map(lambda x: min(max(x, 0), 2) / 2, depth_so_far()).named(
        "height", "half the depth, at least 0 and at most 1"
    )
    return frac_prevs(height).named("average", "the mean height so far")


def _surplus_share() -> SOp:
    step = Map(lambda x: {"(": 1, ")": -1}.get(x, 0), tokens).named("step", "1 for ( and -1 for ), else 0")
    balance = frac_prevs(step).named("balance", "the mean step so far")
    sign = Map(lambda x: (x > 0) - (x < 0), balance).named("sign", "whether more ( (1) or more ) (-1) came so far")
    return frac_prevs(sign).named("surplus", "the fraction of positions so far with more ( minus that with more )")


# -- two kinds of brackets ---------------------------------------------------------------------------------------------


def _is_opening(token: str) -> bool:
    return token in "(["


def _fits(level: int, nth: int) -> bool:
    """Whether the `nth` bracket that opens at `level` can stand in an input at all."""
    return nth >= 1 and max(level, 2 - level) + 2 * (nth - 1) <= LONGEST_NEST


def _level(depth: int, token: str) -> int | None:
    level = depth if _is_opening(token) else depth + 1
    return level if _fits(level, 1) else None


def _verdict(partner: str, token: str) -> str:
    if _is_opening(token):
        return "opens"
    return "closes" if partner + token in ("()", "[]") else "clashes"


def _dyck_2() -> SOp:
    same_way = "key in '([' == query in '(['"
    opens, closes = (
        SelectorWidth(
            Select(tokens, Full(kind), lambda key, query: _is_opening(key) == _is_opening(query), text=same_way)
        ).named(name, f"how many brackets of both kinds {done} so far")
        for kind, name, done in (("(", "opens", "opened"), (")", "closes", "closed"))
    )
    depth = (opens - closes).named("depth", "how many more brackets opened than closed so far")
    level = SequenceMap(_level, depth, tokens).named("level", "the depth inside this bracket")
    opened = SequenceMap(lambda x, y: _level(x, y) if _is_opening(y) else None, depth, tokens).named(
        "opened_level", "the level of an opening bracket"
    )
    nth = SelectorWidth(Select(opened, level, Comparison.EQ)).named(
        "nth", "how many brackets so far have opened this one's level"
    )
    pair = SequenceMap(lambda x, y: (x, y) if _fits(x, y) else None, level, nth).named(
        "pair", "the level and the number of its openings, the same for brackets that fit together"
    )
    opening = SequenceMap(lambda x, y: (x, y) if _fits(x, y) else None, opened, nth).named(
        "opened_pair", "the same at opening brackets only"
    )
    partner = Aggregate(Select(opening, pair, Comparison.EQ), tokens).named(
        "partner", "the opening bracket that this one closes; an opening one for itself"
    )
    return SequenceMap(_verdict, partner, tokens).named(
        "verdict", "whether the bracket opens, closes one of its kind or clashes with one of the other"
    )


CASES = [
    Case(
        id="depth_rank",
        description="Counts the positions up to each that are at least as deep in brackets, itself included.",
        program=_depth_rank(),
        vocab=ROUND,
        max_len=8,
        causal=True,
        sampler=samplers.balanced_brackets(ROUND, ["()"]),
    ),
    Case(
        id="dyck_2",
        description="Tells whether each bracket opens, closes one of its kind or clashes; undefined if none is open.",
        program=_dyck_2(),
        vocab=ROUND_AND_SQUARE,
        max_len=LONGEST_NEST + 1,
        causal=True,
        sampler=samplers.nested_brackets(["()", "[]"]),
        notes="A bracket closes the last one that opened at its level, which brackets without an opening one lower.",
    ),
    Case(
        id="average_depth",
        description="Gives the mean depth of brackets up to each position, in halves of at most 2.",
        program=_average_depth(),
        vocab=ROUND,
        max_len=7,
        causal=True,
        sampler=samplers.balanced_brackets(ROUND, ["()"]),
    ),
    Case(
        id="surplus_share",
        description="Gives the fraction of positions up to each where ( outnumbers ) minus that where ) outnumbers (.",
        program=_surplus_share(),
        vocab=ROUND,
        max_len=7,
        causal=True,
        sampler=samplers.with_share(ROUND, ["("], [")"]),
    ),
]
