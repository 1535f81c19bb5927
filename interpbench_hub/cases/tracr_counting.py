"""Cases of the 2024 benchmark that count tokens and give the count, or what follows from it, a position."""

from interpbench_hub.cases import samplers
from interpbench_hub.cases.case import Case
from interpbench_hub.cases.common import hist, length, unique_token_extractor
from interpbench_hub.cases.vocabs import integers, letters
from interpbench_hub.rasp.language import Comparison, Map, Select, SelectorWidth, SequenceMap, SOp, indices, tokens

NUMBERS = integers(0, 10)


def count_tokens(comparison: Comparison, name: str, meaning: str) -> SOp:
    """How many tokens compare so with the one at each position."""
    return SelectorWidth(Select(tokens, tokens, comparison)).named(name, meaning)


def _count_of_a() -> SOp:
    is_a = Select(tokens, tokens, lambda key, query: key == "a")
    return SelectorWidth(is_a).named("count_of_a", "how many tokens are a")


def share_label(count: int, length: int) -> str:
    """Whether `count` tokens out of `length` are more than half, more than a quarter, or fewer."""
    if count > length / 2:
        return "frequent"
    return "common" if count > length / 4 else "rare"


def _rank() -> SOp:
    smaller = count_tokens(Comparison.LT, "n_smaller", "how many numbers are smaller")
    return Map(lambda x: x + 1, smaller).named("rank", "the number's rank from the smallest, 1 being the first")


def _keep_single() -> SOp:
    count = count_tokens(Comparison.EQ, "count", "how often this number occurs in the input")
    place = Map(lambda x: x + 1, indices).named("place", "the position counted from 1")
    possible = SequenceMap(lambda x, y: x if x <= y else 0, count, place).named(
        "possible_count", "the count, 0 if it is more than the positions so far"
    )
    is_single = Map(lambda x: 1 if x == 1 else 0, possible).named("is_single", "1 if the number occurs once, else 0")
    return SequenceMap(lambda x, y: x if y == 1 else 0, tokens, is_single).named(
        "kept", "the number if it occurs once, else 0"
    )


CASES = [
    Case(
        id="case_7",
        description="Counts how often each letter occurs in the input.",
        program=hist(),
        vocab=letters(3),
        sampler=samplers.few_distinct(letters(3)),
        was_published_2024=True,
    ),
    Case(
        id="case_14",
        description="Counts the letters a of the input.",
        program=_count_of_a(),
        vocab=letters(3),
        sampler=samplers.with_share(letters(3), ["a"]),
        was_published_2024=True,
    ),
    Case(
        id="case_18",
        description="Labels each letter frequent, common or rare: over half of the input, over a quarter, or less.",
        program=SequenceMap(share_label, hist(), length()).named("rarity", "how frequent the letter is"),
        vocab=letters(5),
        sampler=samplers.few_distinct(letters(5)),
        was_published_2024=True,
    ),
    Case(
        id="case_21",
        description="Keeps each letter where it comes for the first time and leaves its repetitions undefined.",
        program=unique_token_extractor(tokens),
        vocab=letters(3),
        causal=True,
        sampler=samplers.few_distinct(letters(3)),
        was_published_2024=True,
        notes="The 2024 text spoke of a compact list, but first occurrences stay at their own places.",
    ),
    Case(
        id="case_25",
        description="Gives the share of the input that each letter makes up, as a class.",
        program=SequenceMap(lambda x, y: x / y if y > 0 else None, hist(), length()).named(
            "share", "the letter's count divided by the number of letters"
        ),
        vocab=letters(3),
        sampler=samplers.few_distinct(letters(3)),
        was_published_2024=True,
    ),
    Case(
        id="case_44",
        description="Counts for each number how many are greater.",
        program=count_tokens(Comparison.GT, "n_greater", "how many numbers are greater"),
        vocab=NUMBERS,
        was_published_2024=True,
    ),
    Case(
        id="case_47",
        description="Counts how often each of ten letters occurs in the input.",
        program=count_tokens(Comparison.EQ, "count", "how often this letter occurs in the input"),
        vocab=letters(10),
        sampler=samplers.few_distinct(letters(10)),
    ),
    Case(
        id="case_61",
        description="Ranks each number: one more than the count of smaller ones.",
        program=_rank(),
        vocab=NUMBERS,
    ),
    Case(
        id="case_63",
        description="Counts for each number how many are smaller.",
        program=count_tokens(Comparison.LT, "n_smaller", "how many numbers are smaller"),
        vocab=NUMBERS,
        was_published_2024=True,
    ),
    Case(
        id="case_67",
        description="Multiplies each number by the length of the input.",
        program=(tokens * length()).named("product", "the number times the length of the input"),
        vocab=NUMBERS,
        was_published_2024=True,
    ),
    Case(
        id="case_71",
        description="Divides each number by the length of the input, as a class.",
        program=SequenceMap(lambda x, y: x / y if y > 0 else 0, tokens, length()).named(
            "quotient", "the number divided by the length of the input"
        ),
        vocab=NUMBERS,
        was_published_2024=True,
    ),
    Case(
        id="case_78",
        description="Counts how often each of ten letters occurs in the input, exactly as case_47 does.",
        program=count_tokens(Comparison.EQ, "count", "how often this letter occurs in the input"),
        vocab=letters(10),
        sampler=samplers.few_distinct(letters(10)),
        notes="The 2024 benchmark has this program twice.",
    ),
    Case(
        id="case_96",
        description="Keeps each number that occurs exactly once and sets every other one to zero.",
        program=_keep_single(),
        vocab=integers(1, 10),
        sampler=samplers.few_distinct(integers(1, 10)),
        notes="The 2024 text said that first occurrences stay, but the program drops every number that repeats.",
    ),
]
