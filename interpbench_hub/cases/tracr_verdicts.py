"""Cases of the 2024 benchmark that judge the input as a whole: the same 1 or 0 at every position."""

from interpbench_hub.cases import samplers
from interpbench_hub.cases.case import Case
from interpbench_hub.cases.common import compare_with_previous, count_failures, last_token, length, second_last_token
from interpbench_hub.cases.vocabs import integers
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


def holds_everywhere(holds: SOp) -> SOp:
    """1 if `holds` is 1 at every position, else 0; the same at every position."""
    return Map(lambda x: 0 if x > 0 else 1, count_failures(holds)).named(
        "verdict", f"1 if {holds.name} is 1 everywhere, else 0"
    )


def _last_two_equal() -> SOp:
    n_tokens = length()
    return SequenceMap(lambda x, y: 1 if x == y else 0, last_token(n_tokens), second_last_token(n_tokens)).named(
        "verdict", "1 if the last two numbers are equal, else 0"
    )


def _some_repeat() -> SOp:
    count = SelectorWidth(Select(tokens, tokens, Comparison.EQ)).named("count", "how often this number occurs")
    two = Map(lambda x: 2, indices).named("two", "2 everywhere")
    repeated = SelectorWidth(Select(count, two, Comparison.GEQ)).named(
        "n_repeated", "how many numbers occur at least twice"
    )
    return Map(lambda x: 1 if x > 0 else 0, repeated).named("verdict", "1 if some number occurs twice, else 0")


def _all_equal() -> SOp:
    different = SelectorWidth(Select(tokens, tokens, Comparison.NEQ)).named(
        "n_different", "how many numbers differ from this one"
    )
    zero = Map(lambda x: 0, indices).named("zero", "0 everywhere")
    agreeing = SelectorWidth(Select(different, zero, Comparison.EQ)).named(
        "n_agreeing", "how many numbers differ from no other"
    )
    return Map(lambda x: 1 if x > 0 else 0, agreeing).named("verdict", "1 if all numbers are equal, else 0")


def _parity_alternates() -> SOp:
    # The first number has no predecessor and is compared with the second.
    before = Select(indices, indices, lambda key, query: query == key + 1 or (key == 1 and query == 0))
    previous = Aggregate(before, tokens).named("previous", "the number before; the second for the first")
    was_even = Map(lambda x: 1 if x % 2 == 0 else 0, previous).named("was_even", "1 if the number before is even")
    is_odd = Map(lambda x: 1 if x % 2 == 1 else 0, tokens).named("is_odd", "1 if this number is odd, else 0")
    alternates = SequenceMap(lambda x, y: 1 if x == y else 0, was_even, is_odd).named(
        "alternates", "1 if one of the two numbers is even and the other odd"
    )
    return holds_everywhere(alternates)


def _all_even() -> SOp:
    return holds_everywhere(
        Map(lambda x: 1 if x % 2 == 0 else 0, tokens).named("is_even", "1 if the number is even, else 0")
    )


CASES = [
    Case(
        id="case_89",
        description="Tells whether the numbers never decrease, as 1 or 0 at every position.",
        program=holds_everywhere(
            compare_with_previous(
                lambda x, y: 0 if x > y else 1, "no_decrease", "1 if the number before is not larger, else 0"
            )
        ),
        vocab=NUMBERS,
        max_len=11,
        sampler=samplers.sorted_runs(NUMBERS),
    ),
    Case(
        id="case_94",
        description="Tells whether the numbers never increase, as 1 or 0 at every position.",
        program=holds_everywhere(
            compare_with_previous(
                lambda x, y: 1 if x >= y else 0, "no_increase", "1 if the number before is not smaller, else 0"
            )
        ),
        vocab=NUMBERS,
        sampler=samplers.sorted_runs(NUMBERS, descending=True),
    ),
    Case(
        id="case_108",
        description="Tells whether some number occurs twice, as 1 or 0 at every position.",
        program=_some_repeat(),
        vocab=NUMBERS,
        sampler=samplers.one_repeat(NUMBERS),
    ),
    Case(
        id="case_109",
        description="Tells whether the last two numbers are equal, as 1 or 0 at every position.",
        program=_last_two_equal(),
        vocab=NUMBERS,
        sampler=samplers.last_two_equal(NUMBERS),
    ),
    Case(
        id="case_124",
        description="Tells whether all numbers are equal, as 1 or 0 at every position.",
        program=_all_equal(),
        vocab=NUMBERS,
        sampler=samplers.nearly_constant(NUMBERS),
        was_published_2024=True,
    ),
    Case(
        id="case_125",
        description="Tells whether even and odd numbers alternate, as 1 or 0 at every position.",
        program=_parity_alternates(),
        vocab=NUMBERS,
        sampler=samplers.alternating(NUMBERS[::2], NUMBERS[1::2]),
    ),
    Case(
        id="case_129",
        description="Tells whether all numbers are even, as 1 or 0 at every position.",
        program=_all_even(),
        vocab=integers(0, 29),
        sampler=samplers.mostly_from(integers(0, 29), integers(0, 29)[::2]),
        was_published_2024=True,
    ),
]
