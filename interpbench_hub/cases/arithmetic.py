"""Cases that calculate: sums and remainders modulo a number, addition with carries."""

from interpbench_hub.cases import samplers
from interpbench_hub.cases.case import Case
from interpbench_hub.cases.common import count_of
from interpbench_hub.cases.vocabs import integers
from interpbench_hub.rasp.language import (
    Comparison,
    Full,
    Map,
    Select,
    SelectorWidth,
    SequenceMap,
    SOp,
    indices,
    tokens,
)

MODULUS = 4
DIGITS = integers(0, MODULUS - 1)
TERNARY = integers(0, 2)
COLUMNS = ("00", "01", "10", "11")
"""The digits of two binary numbers at one place."""


def _sum_so_far(over: SOp, count_meaning: str, small_meaning: str) -> SOp:
    """The sum modulo 4 of what `over` has held so far; `count_meaning` has a {} for the value that is counted."""
    ones, twos, threes = (
        count_of(value, name, count_meaning.format(value), over=over)
        for value, name in ((1, "n_ones"), (2, "n_twos"), (3, "n_threes"))
    )
    small = SequenceMap(lambda x, y: (x + 2 * y) % 4, ones, twos).named("small_sum", small_meaning)
    return SequenceMap(lambda x, y: (x + 3 * y) % 4, small, threes)


def _alternating(sop: SOp) -> SOp:
    """`sop` at even indices, minus it at odd ones, modulo 4."""
    return SequenceMap(lambda x, y: -x % 4 if y % 2 else x, sop, indices)


def _modular_sum() -> SOp:
    total = _sum_so_far(tokens, "how many {} came so far", "the sum of the ones and twos so far, modulo 4")
    return total.named("total", "the sum so far, modulo 4")


def _carry_addition() -> SOp:
    total = Map(lambda x: x.count("1"), tokens).named("column_sum", "how many of the two digits are 1")
    settled = SelectorWidth(Select(total, Full(1), Comparison.NEQ)).named(
        "n_settled", "how many columns so far carry or stop a carry, whatever came before"
    )
    source = SequenceMap(lambda x, y: y if x == 2 else None, total, settled).named(
        "carry_number", "the number of this column among the settling ones, if it carries"
    )
    asked = SequenceMap(lambda x, y: y if x == 1 else y - 1, total, settled).named(
        "asked_number", "the number of the last settling column before this one"
    )
    carry = SelectorWidth(Select(source, asked, Comparison.EQ)).named("carry", "the carry into this column, 0 or 1")
    return SequenceMap(lambda x, y: (x + y) % 2, total, carry).named("digit", "the digit of the sum at this place")


def _remainder() -> SOp:
    # Powers of 3 are 1 and -1 by turns modulo 4, so digits count plus or minus, seen from the first one.
    signed = _alternating(tokens).named(
        "signed_digit", "the digit at even indices, minus the digit at odd ones, modulo 4"
    )
    total = _sum_so_far(
        signed, "how many signed digits so far are {}", "the sum of the signed digits 1 and 2 so far, modulo 4"
    ).named("signed_sum", "the sum of the signed digits so far, modulo 4")
    return _alternating(total).named("remainder", "the remainder of the number so far, modulo 4")


CASES = [
    Case(
        id="modular_sum",
        description="Adds up the digits up to each position, modulo 4.",
        program=_modular_sum(),
        vocab=DIGITS,
        max_len=8,
        causal=True,
        sampler=samplers.few_distinct(DIGITS),
    ),
    Case(
        id="remainder",
        description="Gives the remainder modulo 4 of the ternary number that the digits up to each position write.",
        program=_remainder(),
        vocab=TERNARY,
        max_len=8,
        causal=True,
        sampler=samplers.few_distinct(TERNARY),
    ),
    Case(
        id="carry_addition",
        description="Adds two binary numbers, lowest digits first, whose digits at each place are one token.",
        program=_carry_addition(),
        vocab=COLUMNS,
        max_len=8,
        causal=True,
        sampler=samplers.with_share(COLUMNS, ["01", "10"]),
        notes="The carry out of the last column is dropped.",
    ),
]
