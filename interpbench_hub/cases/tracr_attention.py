"""Cases of the 2024 benchmark with heads of a fixed pattern: running fractions, neighbours, one given position."""

from interpbench_hub.cases import samplers
from interpbench_hub.cases.case import Case
from interpbench_hub.cases.common import at_index, detect_pattern, frac_prevs, pair_balance, shift_by, shuffle_dyck
from interpbench_hub.cases.vocabs import BRACKETS, LONG_WORDS, WORDS, integers, letters
from interpbench_hub.rasp.language import Aggregate, Comparison, Map, Select, SequenceMap, SOp, indices, tokens

NUMBERS = integers(0, 10)


def previous() -> SOp:
    """The token one place before; undefined at index 0."""
    return shift_by(1, tokens).named("previous", "the token one place before")


def following() -> SOp:
    """The token one place after; undefined at the last index."""
    return shift_by(-1, tokens).named("following", "the token one place after")


def _fraction_of_x() -> SOp:
    return frac_prevs((tokens == "x").named("is_x", "whether the token is x"))


def _direction_flips() -> SOp:
    rises_here = SequenceMap(lambda x, y: y > x, previous(), tokens).named(
        "rises_here", "whether this number is larger than the one before"
    )
    rises_next = SequenceMap(lambda x, y: y > x, tokens, following()).named(
        "rises_next", "whether the next number is larger than this one"
    )
    return (rises_here != rises_next).named("flips", "whether a rise ends or begins here")


def _differs_from_neighbours() -> SOp:
    before = (previous() != tokens).named("differs_before", "whether the token differs from the one before")
    after = (tokens != following()).named("differs_after", "whether the token differs from the one after")
    return (before & after).named("differs", "whether the token differs from both neighbours")


def _compare_with_next() -> SOp:
    return SequenceMap(
        lambda x, y: "increasing" if x < y else "decreasing" if x > y else "constant", tokens, following()
    ).named("trend", "how the numbers go on from here")


def _length_by_attention() -> SOp:
    letters_in = Map(len, tokens).named("word_length", "the number of letters of the word")
    return Aggregate(Select(letters_in, letters_in, Comparison.EQ), letters_in).named(
        "mean_length", "the mean length of the words as long as this one, that is its length"
    )


def _zero_if_falling() -> SOp:
    # The first number has no predecessor and is compared with itself.
    before = Select(indices, indices, lambda key, query: query == key + 1 or key == query == 0)
    previous_or_first = Aggregate(before, tokens).named("previous", "the number before; the first for itself")
    return SequenceMap(lambda x, y: 0 if x < y else x, tokens, previous_or_first).named(
        "kept", "the number, 0 if it is smaller than the one before"
    )


def _add_previous() -> SOp:
    shifted = SequenceMap(lambda x, y: x if y > 0 else 0, previous(), indices).named(
        "previous_or_zero", "the number before, meant to be 0 at index 0"
    )
    return (tokens + shifted).named("total", "the number plus the one before")


CASES = [
    Case(
        id="case_1",
        description="Tells whether each letter equals the one two places before; undefined at the first two.",
        program=(tokens == shift_by(2, tokens)).named("repeats", "whether the token equals the one two places before"),
        vocab=letters(5),
        causal=True,
        sampler=samplers.periodic(letters(5)),
        notes="The 2024 sampler used one and the same row for all its inputs without a repetition.",
    ),
    Case(
        id="case_3",
        description="Gives the fraction of tokens up to each position that are x.",
        program=_fraction_of_x(),
        vocab=("a", "b", "c", "x"),
        max_len=5,
        causal=True,
        was_published_2024=True,
    ),
    Case(
        id="case_4",
        description="Gives the fraction of opening minus the fraction of closing brackets up to each position.",
        program=pair_balance(tokens, "(", ")"),
        vocab=("(", ")", "a", "b", "c"),
        causal=True,
        sampler=samplers.with_share(("(", ")", "a", "b", "c"), ["("], [")"]),
        was_published_2024=True,
    ),
    Case(
        id="case_5",
        description="Tells whether round and curly brackets are each balanced, whichever way they interleave.",
        program=shuffle_dyck(["()", "{}"]),
        vocab=BRACKETS,
        sampler=samplers.balanced_brackets(BRACKETS, ["()", "{}"]),
        notes="The 2024 sampler of balanced inputs depended on the hash seed of the process; this one does not.",
    ),
    Case(
        id="case_6",
        description="Tells whether a rise ends or begins at each number; undefined at the first and the last.",
        program=_direction_flips(),
        vocab=integers(0, 9),
    ),
    Case(
        id="case_11",
        description="Gives the length of each word, as the mean length of all words that are as long.",
        program=_length_by_attention(),
        vocab=WORDS,
        causal=True,
        was_published_2024=True,
        notes="The 2024 text spoke of counting words, but the mean of equal lengths is the word's own length.",
    ),
    Case(
        id="case_12",
        description="Tells whether the letters abc end at each position; undefined at the first two.",
        program=detect_pattern(tokens, "abc"),
        vocab=letters(3),
        max_len=15,
        causal=True,
    ),
    Case(
        id="case_13",
        description="Tells whether the numbers increase, decrease or stay the same after each position.",
        program=_compare_with_next(),
        vocab=integers(0, 2),
        was_published_2024=True,
        notes="The last position is undefined.",
    ),
    Case(
        id="case_19",
        description="Keeps each letter that differs from the one before and leaves the others and the first undefined.",
        program=SequenceMap(lambda x, y: x if x != y else None, tokens, previous()).named(
            "kept", "the token if it differs from the one before"
        ),
        vocab=letters(3),
        max_len=15,
        causal=True,
        was_published_2024=True,
    ),
    Case(
        id="case_24",
        description="Copies each letter through an attention head that looks at its own position.",
        program=Aggregate(Select(indices, indices, Comparison.EQ), tokens).named("copy", "the token itself"),
        vocab=letters(3),
        causal=True,
        was_published_2024=True,
        notes="The 2024 text claimed that first occurrences are marked; the program copies.",
    ),
    Case(
        id="case_32",
        description="Tells whether each word differs from the one before; undefined at the first.",
        program=(tokens != previous()).named("differs", "whether the token differs from the one before"),
        vocab=LONG_WORDS,
        causal=True,
    ),
    Case(
        id="case_38",
        description="Tells whether each letter differs from both its neighbours; undefined at the first and the last.",
        program=_differs_from_neighbours(),
        vocab=letters(3),
    ),
    Case(
        id="case_39",
        description="Gives the fraction of letters up to each position that are x, in inputs of up to 59 letters.",
        program=_fraction_of_x(),
        vocab=letters(26),
        max_len=60,
        causal=True,
        sampler=samplers.with_share(letters(26), ["x"]),
        was_published_2024=True,
        notes="The 2024 inputs were uniform, so that fractions far from 1/26 hardly occurred in long ones.",
    ),
    Case(
        id="case_42",
        description="Gives the first letter at every position.",
        program=at_index(0, "first"),
        vocab=letters(10),
        causal=True,
    ),
    Case(
        id="case_57",
        description="Gives the second letter at every position.",
        program=at_index(1, "second"),
        vocab=letters(10),
    ),
    Case(
        id="case_92",
        description="Sets each number that is smaller than the one before to zero and keeps the others.",
        program=_zero_if_falling(),
        vocab=NUMBERS,
        causal=True,
    ),
    Case(
        id="case_118",
        description="Adds to each number the one before; undefined at the first.",
        program=_add_previous(),
        vocab=NUMBERS,
        notes="The program means to add 0 to the first number, but there the one before is undefined already.",
    ),
    Case(
        id="case_131",
        description="Gives the larger of each number and the one before; undefined at the first.",
        program=SequenceMap(lambda x, y: max(x, y), tokens, previous()).named(
            "larger", "the larger of this number and the one before"
        ),
        vocab=NUMBERS,
        causal=True,
        notes="The 2024 text said that the first number stays as it is, but it is undefined.",
    ),
]
