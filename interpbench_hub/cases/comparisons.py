"""Cases that compare: chains of comparisons, rises against falls, the neighbourhood against the whole."""

import operator

from interpbench_hub.cases import samplers
from interpbench_hub.cases.case import Case
from interpbench_hub.cases.common import count_of, earlier_token, frac_prevs, shift_by
from interpbench_hub.cases.vocabs import integers
from interpbench_hub.rasp.language import (
    Aggregate,
    Comparison,
    LinearSequenceMap,
    Map,
    Select,
    SequenceMap,
    SOp,
    indices,
    numerical,
    tokens,
)

NUMERALS = ("0", "1", "2")
SIGNS = {"<": operator.lt, "=": operator.eq, ">": operator.gt}
CHAIN = (*NUMERALS, *SIGNS)
DIGITS = integers(0, 3)
WITH_X = ("a", "b", "x")


def _comparison_chain() -> SOp:
    sign = shift_by(1, tokens).named("sign", "the token one place before")
    left = shift_by(2, tokens).named("left", "the token two places before")
    claim = SequenceMap(lambda x, y: (x, y) if x in NUMERALS and y in SIGNS else None, left, sign).named(
        "claim", "the number and the sign before this place, if they are such"
    )
    is_false = SequenceMap(lambda x, y: not SIGNS[x[1]](x[0], y) if y in NUMERALS else None, claim, tokens).named(
        "is_false", "whether a comparison ends here and is false"
    )
    n_false = count_of(True, "n_false", "how many comparisons so far are false", over=is_false)
    return Map(lambda x: x == 0, n_false).named("holds", "whether all comparisons so far are true")


def _trend() -> SOp:
    # The first number has no predecessor and is compared with itself.
    previous = earlier_token(1, "previous", "the number before; the first for itself")
    direction = SequenceMap(lambda x, y: (x < y) - (x > y), previous, tokens).named(
        "direction", "1 if the number rises, -1 if it falls, else 0"
    )
    return frac_prevs(direction).named("trend", "the fraction of rises so far minus that of falls")


def _local_surge() -> SOp:
    is_x = numerical((tokens == "x").named("is_x", "whether the letter is x"))
    nearby = Select(indices, indices, lambda key, query: abs(key - query) <= 1, text="abs(key - query) <= 1")
    near = Aggregate(nearby, is_x, default=0).named(
        "near_share", "the fraction of x among this letter and its neighbours"
    )
    overall = Aggregate(Select(indices, indices, Comparison.TRUE), is_x, default=0).named(
        "overall_share", "the fraction of x in the input"
    )
    return LinearSequenceMap(near, overall, 1, -1).named("surge", "how much denser x is around here than overall")


CASES = [
    Case(
        id="comparison_chain",
        description="Tells whether all comparisons of neighbouring numbers up to each position are true, as in 0<2>1.",
        program=_comparison_chain(),
        vocab=CHAIN,
        min_len=5,
        max_len=8,
        causal=True,
        sampler=samplers.comparison_chains(NUMERALS, SIGNS),
        notes="A comparison is a number, a sign and a number in a row; whatever else stands there says nothing.",
    ),
    Case(
        id="trend",
        description="Gives the fraction of numbers up to each position that rise minus that of those that fall.",
        program=_trend(),
        vocab=DIGITS,
        max_len=8,
        causal=True,
        sampler=samplers.mixture(
            samplers.uniform(DIGITS), samplers.in_runs(DIGITS), samplers.in_runs(DIGITS, descending=True)
        ),
    ),
    Case(
        id="local_surge",
        description="Subtracts the fraction of x in the input from that among each letter and its neighbours.",
        program=_local_surge(),
        vocab=WITH_X,
        max_len=8,
        sampler=samplers.with_share(WITH_X, ["x"]),
    ),
]
