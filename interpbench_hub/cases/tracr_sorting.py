"""Cases of the 2024 benchmark that order the input: sorting, medians, maxima."""

from interpbench_hub.cases import samplers
from interpbench_hub.cases.case import Case
from interpbench_hub.cases.common import length, sort, sort_unique
from interpbench_hub.cases.vocabs import WORDS, integers
from interpbench_hub.rasp.language import (
    Aggregate,
    Comparison,
    Map,
    Select,
    SelectorWidth,
    SequenceMap,
    SOp,
    indices,
    tokens,
)

NUMBERS = integers(0, 10)


def _unique_key(gap: float) -> SOp:
    return SequenceMap(lambda x, y: x + gap * y, tokens, indices, text=f"x + {gap} * y").named(
        "unique_key", "the number plus a bit for the position, so that all differ"
    )


def _sort_by_length() -> SOp:
    return sort(
        tokens, Map(len, tokens).named("word_length", "the number of letters of the word"), max_len=10, min_gap=1
    )


def median(in_order: SOp) -> SOp:
    """The mean of the two middle values of a sorted input, which are the same one if their number is odd."""
    n_tokens = length()
    low = Map(lambda x: (x - 1) // 2, n_tokens).named("low_middle", "the index of the lower of the two middle values")
    high = Map(lambda x: x // 2, n_tokens).named("high_middle", "the index of the upper of the two middle values")
    below = Aggregate(Select(indices, low, Comparison.EQ), in_order).named("lower", "the lower middle value")
    above = Aggregate(Select(indices, high, Comparison.EQ), in_order).named("upper", "the upper middle value")
    return SequenceMap(lambda x, y: (x + y) / 2, below, above).named("median", "the mean of the two middle values")


def maximum() -> SOp:
    """The largest number, everywhere."""
    key = _unique_key(1e-14)
    rank = SelectorWidth(Select(key, key, Comparison.LEQ)).named("rank", "how many keys are not larger, from 1 up")
    return Aggregate(Select(rank, length(), Comparison.EQ), tokens).named("maximum", "the largest number of the input")


CASES = [
    Case(
        id="case_9",
        description="Sorts digits in ascending order.",
        program=sort(tokens, tokens, max_len=10, min_gap=1),
        vocab=integers(0, 9),
    ),
    Case(
        id="case_22",
        description="Sorts words by their length, equally long ones in the order of the input.",
        program=_sort_by_length(),
        vocab=WORDS,
    ),
    Case(
        id="case_59",
        description="Sorts numbers in ascending order.",
        program=sort_unique(tokens, _unique_key(0.00001)),
        vocab=NUMBERS,
    ),
    Case(
        id="case_81",
        description="Gives the median of the numbers at every position.",
        program=median(sort(tokens, tokens, max_len=100, min_gap=1)),
        vocab=NUMBERS,
        sampler=samplers.ranges(NUMBERS),
    ),
    Case(
        id="case_97",
        description="Divides each number by the largest, as a class; 0 if all are 0.",
        program=SequenceMap(lambda x, y: x / y if y > 0 else 0, tokens, maximum()).named(
            "scaled", "the number divided by the largest"
        ),
        vocab=NUMBERS,
        sampler=samplers.ranges(NUMBERS),
        was_published_2024=True,
    ),
    Case(
        id="case_98",
        description="Gives the largest number at every position.",
        program=maximum(),
        vocab=NUMBERS,
        sampler=samplers.ranges(NUMBERS),
    ),
    Case(
        id="case_126",
        description="Gives the median of the numbers at every position, sorted by finer keys than in case_81.",
        program=median(sort_unique(tokens, _unique_key(0.0001))),
        vocab=NUMBERS,
        sampler=samplers.ranges(NUMBERS),
    ),
]
