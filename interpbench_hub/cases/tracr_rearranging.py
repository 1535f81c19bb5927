"""Cases of the 2024 benchmark that move tokens to other positions: reversals, swaps, spreads."""

import math

from interpbench_hub.cases import samplers
from interpbench_hub.cases.case import Case
from interpbench_hub.cases.common import compare_with_previous, count_failures, length, reverse
from interpbench_hub.cases.vocabs import integers, letters
from interpbench_hub.rasp.language import Aggregate, Comparison, Map, Select, SequenceMap, SOp, indices, tokens

NUMBERS = integers(0, 10)


def fetch(source: SOp) -> SOp:
    """The token at the index that `source` names, at each position."""
    return Aggregate(Select(indices, source, Comparison.EQ), tokens).named("moved", f"the token at {source.name}")


def send(target: SOp) -> SOp:
    """The token that `target` sends here, at each position."""
    return Aggregate(Select(target, indices, Comparison.EQ), tokens).named(
        "moved", f"the token whose {target.name} is this position"
    )


# -- where tokens come from, by index and length -----------------------------------------------------------------------


def mirrored_second_half(index: int, length: int) -> int:
    """The index itself in the first half, its mirror image in the second."""
    return length - 1 - index if index >= length // 2 else index


def reversed_odd(index: int, length: int) -> int:
    """The index itself if even; odd ones in reverse order."""
    if index % 2 == 0:
        return index
    return length - index if length % 2 == 0 else length - index - 1


def partner_from_1(index: int, length: int) -> int:
    """The other index of the pairs (1, 2), (3, 4), ...; the index itself where it has no partner."""
    if index == 0 or (index == length - 1 and length % 2 == 0):
        return index
    return index - 1 if index % 2 == 0 else index + 1


def partner_from_0(index: int, length: int) -> int:
    """The other index of the pairs (0, 1), (2, 3), ...; the index itself where it has no partner."""
    if index == length - 1 and length % 2 == 1:
        return index
    return index + 1 if index % 2 == 0 else index - 1


def swapped_half(index: int, half: float) -> float:
    """The index after the halves change places; the middle of an odd length stays."""
    if index + 0.5 == half:
        return index
    return index + math.ceil(half) if index < half else index - math.ceil(half)


def swapped_ends(index: int, length: int) -> int:
    """The index after the first and the last position change places."""
    if index == 0:
        return length - 1
    return 0 if index + 1 == length else index


# -- programs ----------------------------------------------------------------------------------------------------------


def _swap_first_two() -> SOp:
    target = Map(lambda x: 1 - x if x <= 1 else x, indices).named("target_index", "the index, 0 and 1 exchanged")
    return send(target)


def _spread() -> SOp:
    half = Select(indices, indices, lambda key, query: key == query // 2)
    doubled = Aggregate(half, tokens).named("doubled", "the number at half this index, rounded down")
    return SequenceMap(lambda x, y: x if y % 2 == 0 else 0, doubled, indices).named(
        "spread", "that number at even indices, 0 at odd ones"
    )


def _swap_halves() -> SOp:
    half = Map(lambda x: x / 2, length(indices)).named("half", "half the length of the input")
    return send(SequenceMap(swapped_half, indices, half).named("target_index", "the index in the other half"))


def _reverse_if_sorted() -> SOp:
    no_decrease = compare_with_previous(
        lambda x, y: 1 if x <= y else 0, "no_decrease", "1 if the number before is not larger, else 0"
    )
    direction = Map(lambda x: 1 if x > 0 else -1, count_failures(no_decrease)).named(
        "direction", "-1 if the numbers never decrease, else 1"
    )
    middle = Map(lambda x: x / 2 - 0.5, length(indices)).named("middle", "the middle of the input, between two indices")
    offset = (indices - middle).named("offset", "how far the position is from the middle")
    turned = (direction * offset).named(
        "turned_offset", "that distance, to the other side if the numbers never decrease"
    )
    return send((middle + turned).named("target_index", "the index, mirrored if the numbers never decrease"))


def _equals_mirror() -> SOp:
    return (tokens == reverse(tokens)).named("equals_mirror", "whether the token equals the one at the mirror index")


CASES = [
    Case(
        id="case_2",
        description="Reverses the input.",
        program=reverse(tokens),
        vocab=letters(26),
        was_published_2024=True,
    ),
    Case(
        id="case_17",
        description="Tells whether each letter equals the one at its mirror position.",
        program=_equals_mirror(),
        vocab=letters(10),
        sampler=samplers.palindromes(letters(10)),
        notes="The 2024 text said whether the input is a palindrome; the program judges each position.",
    ),
    Case(
        id="case_58",
        description="Replaces the second half by the mirror image of the first and keeps the first.",
        program=fetch(
            SequenceMap(mirrored_second_half, indices, length()).named(
                "source_index", "the index, mirrored in the second half"
            )
        ),
        vocab=NUMBERS,
        was_published_2024=True,
        notes="A selector that nothing reads in the 2024 program is left out.",
    ),
    Case(
        id="case_74",
        description="Keeps the numbers at even indices and reverses the order of those at odd indices.",
        program=fetch(
            SequenceMap(reversed_odd, indices, length(indices)).named(
                "source_index", "the index if even, else its mirror image among odd ones"
            )
        ),
        vocab=NUMBERS,
    ),
    Case(
        id="case_93",
        description="Swaps the numbers at indices 1 and 2, 3 and 4 and so on; what has no partner stays.",
        program=fetch(
            SequenceMap(partner_from_1, indices, length(indices)).named(
                "source_index", "the other index of the pair, pairs starting at 1"
            )
        ),
        vocab=NUMBERS,
        was_published_2024=True,
    ),
    Case(
        id="case_100",
        description="Swaps the first two numbers and keeps the others.",
        program=_swap_first_two(),
        vocab=NUMBERS,
        max_len=11,
    ),
    Case(
        id="case_103",
        description="Swaps the numbers at indices 0 and 1, 2 and 3 and so on; what has no partner stays.",
        program=fetch(
            SequenceMap(partner_from_0, indices, length(indices)).named(
                "source_index", "the other index of the pair, pairs starting at 0"
            )
        ),
        vocab=NUMBERS,
        was_published_2024=True,
    ),
    Case(
        id="case_110",
        description="Spreads the first half of the input to even indices, with zeros in between.",
        program=_spread(),
        vocab=NUMBERS,
        was_published_2024=True,
    ),
    Case(
        id="case_113",
        description="Reverses the numbers if they never decrease and copies them otherwise.",
        program=_reverse_if_sorted(),
        vocab=integers(0, 29),
        sampler=samplers.sorted_runs(integers(0, 29)),
        was_published_2024=True,
    ),
    Case(
        id="case_120",
        description="Swaps the two halves of the input; the middle of an odd number stays.",
        program=_swap_halves(),
        vocab=NUMBERS,
    ),
    Case(
        id="case_128",
        description="Swaps the first and the last number and keeps the others.",
        program=send(
            SequenceMap(swapped_ends, indices, length(indices)).named(
                "target_index", "the index, first and last exchanged"
            )
        ),
        vocab=NUMBERS,
    ),
]
