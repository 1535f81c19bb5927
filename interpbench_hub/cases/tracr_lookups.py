"""Cases of the 2024 benchmark that combine each token with the length, its neighbour or tokens at given places."""

from interpbench_hub.cases import samplers
from interpbench_hub.cases.case import Case
from interpbench_hub.cases.common import at_index, last_token, length, second_last_token
from interpbench_hub.cases.vocabs import integers
from interpbench_hub.rasp.language import Aggregate, Comparison, Map, Select, SequenceMap, SOp, indices, tokens

NUMBERS = integers(0, 10)


def next_or_last() -> SOp:
    """The token one place after; the last one for itself."""
    before_next = SequenceMap(lambda x, y: x if x < y - 1 else x - 1, indices, length(indices)).named(
        "index_before", "the index before the token to fetch: this one, or the one before at the end"
    )
    after = Select(indices, before_next, lambda key, query: key - 1 == query)
    return Aggregate(after, tokens).named("following", "the number one place after; the last for itself")


def _double_first_half() -> SOp:
    in_first_half = SequenceMap(lambda x, y: 1 if x < y / 2 else 0, indices, length()).named(
        "in_first_half", "1 in the first half of the input, else 0"
    )
    return SequenceMap(lambda x, y: x * (1 + y), tokens, in_first_half).named(
        "doubled", "the number, doubled in the first half"
    )


def _halve_second_half() -> SOp:
    half = Map(lambda x: x // 2, length()).named("half", "half the length of the input, rounded down")
    in_second_half = (indices >= half).named("in_second_half", "whether the position is in the second half")
    return SequenceMap(lambda x, y: x / 2 if y else x, tokens, in_second_half).named(
        "halved", "the number, halved in the second half"
    )


def _average_of_ends() -> SOp:
    at_start = Select(indices, indices, lambda key, query: key == 0)
    first = Aggregate(at_start, tokens).named("first", "the first number")
    mirror = SequenceMap(lambda x, y: y - x - 1, indices, length(indices)).named(
        "mirror_index", "the index that mirrors this one"
    )
    backwards = Aggregate(Select(mirror, indices, Comparison.EQ), tokens).named(
        "backwards", "the numbers in reverse order"
    )
    last = Aggregate(at_start, backwards).named("last", "the last number, first in reverse order")
    return SequenceMap(lambda x, y: (x + y) / 2, first, last).named("average", "the mean of the first and last number")


def _last_at_start() -> SOp:
    return SequenceMap(lambda x, y: x if y == 0 else 0, last_token(length()), indices).named(
        "moved", "the last number at index 0, else 0"
    )


def _sum_of_last_two() -> SOp:
    n_tokens = length()
    return (last_token(n_tokens) + second_last_token(n_tokens)).named("total", "the sum of the last two numbers")


def _multiple_of_first() -> SOp:
    return SequenceMap(lambda x, y: 1 if y != 0 and x % y == 0 else 0, tokens, at_index(0, "first")).named(
        "is_multiple", "1 if the first number is not 0 and divides this one, else 0"
    )


def _polynomial() -> SOp:
    start = (tokens - tokens).named("start", "0: where the sum starts and the index of x")
    base = Aggregate(Select(indices, start, Comparison.EQ), tokens).named(
        "base", "the first number, the x of the polynomial"
    )
    one = Map(lambda x: 1, tokens).named("index_a", "1, the index of the coefficient a")
    two = Map(lambda x: 2, tokens).named("index_b", "2, the index of the coefficient b")
    three = Map(lambda x: 3, tokens).named("index_c", "3, the index of the coefficient c")
    a = Aggregate(Select(indices, one, Comparison.EQ), tokens).named("a", "the second number")
    b = Aggregate(Select(indices, two, Comparison.EQ), tokens).named("b", "the third number")
    c = Aggregate(Select(indices, three, Comparison.EQ), tokens).named("c", "the fourth number")
    squares = SequenceMap(lambda x, y: y * x**2, base, a).named("square_term", "a times x squared")
    linear = SequenceMap(lambda x, y: y * x, base, b).named("linear_term", "b times x")
    constant = SequenceMap(lambda x, y: y, base, c).named("constant_term", "c")
    first_sum = (start + squares).named("sum_a", "the first term")
    second_sum = (first_sum + linear).named("sum_ab", "the sum of the first two terms")
    return (second_sum + constant).named("polynomial", "the value of the polynomial at x")


def _divide_by_ratio() -> SOp:
    first = at_index(0, "first")
    second_index = Map(lambda x: 1 if x > 1 else 0, length(indices)).named(
        "second_index", "the index of the second number, 0 if there is none"
    )
    second = Aggregate(Select(indices, second_index, Comparison.EQ), tokens).named("second", "the second number")
    ratio = SequenceMap(lambda x, y: y / x if x != 0 and y != 0 else 1, first, second).named(
        "ratio", "the second number divided by the first, 1 if either is 0"
    )
    return (tokens / ratio).named("quotient", "the number divided by the ratio")


CASES = [
    Case(
        id="case_45",
        description="Doubles the numbers in the first half, the middle of an odd number included.",
        program=_double_first_half(),
        vocab=NUMBERS,
        was_published_2024=True,
    ),
    Case(
        id="case_82",
        description="Halves the numbers in the second half, the middle of an odd number included.",
        program=_halve_second_half(),
        vocab=NUMBERS,
        was_published_2024=True,
    ),
    Case(
        id="case_88",
        description="Gives the mean of the first and the last number at every position.",
        program=_average_of_ends(),
        vocab=NUMBERS,
    ),
    Case(
        id="case_99",
        description="Adds to each number the next one; the last is added to itself.",
        program=(tokens + next_or_last()).named("total", "the number plus the next one"),
        vocab=NUMBERS,
    ),
    Case(
        id="case_111",
        description="Puts the last number at index 0 and zero everywhere else.",
        program=_last_at_start(),
        vocab=NUMBERS,
        was_published_2024=True,
    ),
    Case(
        id="case_112",
        description="Subtracts each number from the next one; the last gives 0.",
        program=(next_or_last() - tokens).named("difference", "the next number minus this one"),
        vocab=NUMBERS,
    ),
    Case(
        id="case_115",
        description="Multiplies each number by the next one; the last is squared.",
        program=(tokens * next_or_last()).named("product", "the number times the next one"),
        vocab=NUMBERS,
    ),
    Case(
        id="case_116",
        description="Marks each multiple of the first number with 1, the others with 0; all with 0 if the first is 0.",
        program=_multiple_of_first(),
        vocab=NUMBERS,
        max_len=11,
    ),
    Case(
        id="case_117",
        description="Gives the sum of the last two numbers at every position.",
        program=_sum_of_last_two(),
        vocab=NUMBERS,
    ),
    Case(
        id="case_119",
        description="Gives the polynomial a x^2 + b x + c of the numbers x, a, b and c; undefined for three numbers.",
        program=_polynomial(),
        vocab=integers(0, 5),
        max_len=5,
        sampler=samplers.large_first(integers(0, 5)),
    ),
    Case(
        id="case_127",
        description="Divides each number by the ratio of the second to the first, or keeps it if either is 0.",
        program=_divide_by_ratio(),
        vocab=NUMBERS,
    ),
]
