"""Cases that order tokens: each number once, by how often letters occur, and what lies above and below."""

from interpbench_hub.cases import samplers
from interpbench_hub.cases.case import Case
from interpbench_hub.cases.common import covers, hist, up_to_here
from interpbench_hub.cases.vocabs import integers, letters
from interpbench_hub.rasp.language import (
    Aggregate,
    Comparison,
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

DIGITS = integers(0, 3)
SMALL = integers(0, 2)
LONGEST_SORT = 5
"""Most letters of an input sorted by count."""


def _sort_distinct() -> SOp:
    # A counting sort: every index stands for the digit of that name, and no input is shorter than there are digits.
    copies = SelectorWidth(Select(tokens, indices, Comparison.EQ)).named(
        "n_copies", "how often the digit that equals the index occurs"
    )
    found = SequenceMap(lambda x, y: y if x and y in DIGITS else None, copies, indices).named(
        "found_digit", "the digit that equals the index, if it occurs"
    )
    n_found = up_to_here(found, "n_found", "how many digits up to the index occur")
    target = SequenceMap(lambda x, y: y - 1 if y else None, found, n_found).named(
        "target_index", "where the digit belongs: how many smaller ones occur"
    )
    return Aggregate(Select(target, indices, Comparison.EQ), found).named("in_order", "the distinct digit of this rank")


def _sort_by_count() -> SOp:
    count = hist()
    score = SequenceMap(lambda x, y: 3 * x - "abc".index(y) if x else None, count, tokens).named(
        "score", "three times the count, minus the letter's place in the alphabet"
    )
    better = SelectorWidth(Select(score, score, Comparison.GT)).named(
        "n_better", "how many letters have a higher score"
    )
    block = SequenceMap(_block, better, count).named(
        "block", "where this letter's copies go: from and before which index"
    )
    return Aggregate(covers(block), tokens).named("in_order", "the letter at this place of the order")


def _block(start: int, count: int) -> tuple[int, int] | None:
    return (start, start + count) if count and start + count <= LONGEST_SORT else None


def _spread_around() -> SOp:
    scaled = numerical(Map(lambda x: x / 2, tokens)).named("scaled", "half the number")
    upper = Aggregate(Select(tokens, tokens, Comparison.GEQ), scaled, default=0).named(
        "upper_mean", "the mean of the numbers that are not smaller, halved"
    )
    lower = Aggregate(Select(tokens, tokens, Comparison.LEQ), scaled, default=0).named(
        "lower_mean", "the mean of the numbers that are not larger, halved"
    )
    return LinearSequenceMap(upper, lower, 1, -1).named(
        "spread", "how far the mean of what is not smaller lies above the mean of what is not larger"
    )


CASES = [
    Case(
        id="sort_distinct",
        description="Sorts the digits in ascending order, each repeated one only once; undefined after the last.",
        program=_sort_distinct(),
        vocab=DIGITS,
        min_len=5,
        max_len=8,
        sampler=samplers.mixture(samplers.uniform(DIGITS), samplers.from_subset(DIGITS), samplers.distinct(DIGITS)),
    ),
    Case(
        id="sort_by_count",
        description="Sorts letters by how often they occur, the most frequent first, ties by the alphabet.",
        program=_sort_by_count(),
        vocab=letters(3),
        max_len=LONGEST_SORT + 1,
        sampler=samplers.few_distinct(letters(3)),
    ),
    Case(
        id="spread_around",
        description="Subtracts the mean of the numbers not larger than each from that of those not smaller, in halves.",
        program=_spread_around(),
        vocab=SMALL,
        max_len=6,
        sampler=samplers.ranges(SMALL),
    ),
]
