"""Cases about how often tokens occur: the most frequent one, majorities, counts of counts, shares by count."""

from interpbench_hub.cases import samplers
from interpbench_hub.cases.case import Case
from interpbench_hub.cases.common import count_of, frac_prevs, hist
from interpbench_hub.cases.vocabs import integers, letters
from interpbench_hub.rasp.language import (
    Aggregate,
    Comparison,
    Select,
    SelectorWidth,
    SequenceMap,
    SOp,
    numerical,
    tokens,
)

DIGITS = integers(0, 3)


def _most_frequent() -> SOp:
    n_a, n_b, n_c = (count_of(letter, f"n_{letter}", f"how many letters are {letter}") for letter in "abc")
    leader = SequenceMap(lambda x, y: ("a", x) if x >= y else ("b", y), n_a, n_b).named(
        "leader", "the more frequent of a and b, with its count"
    )
    return SequenceMap(lambda x, y: x[0] if x[1] >= y else "c", leader, n_c).named("winner", "the most frequent letter")


def _majority() -> SOp:
    over = []
    for letter in "abc":
        is_letter = (tokens == letter).named(f"is_{letter}", f"whether the letter is {letter}")
        share = frac_prevs(is_letter).named(f"share_{letter}", f"the fraction of {letter} so far")
        over.append((share > 0.5).named(f"over_{letter}", f"whether more than half of the letters so far are {letter}"))
    first = SequenceMap(lambda x, y: "a" if x else "b" if y else "c", over[0], over[1]).named(
        "candidate", "a or b if it has the majority, else c"
    )
    return SequenceMap(lambda x, y: x if x != "c" or y else None, first, over[2]).named(
        "majority", "the letter that makes up more than half of the letters so far"
    )


def _count_of_counts() -> SOp:
    count = hist()
    return SelectorWidth(Select(count, count, Comparison.EQ)).named(
        "n_alike", "how many tokens occur as often as this one"
    )


def _repeat_share() -> SOp:
    repeated = (hist() > 1).named("is_repeated", "whether the number occurs more than once")
    return Aggregate(Select(tokens, tokens, Comparison.LEQ), numerical(repeated), default=0).named(
        "share", "the fraction of the numbers up to this size that occur more than once"
    )


def _peer_share() -> SOp:
    is_a = (tokens == "a").named("is_a", "whether the letter is a")
    count = hist()
    return Aggregate(Select(count, count, Comparison.EQ), numerical(is_a), default=0).named(
        "share", "the fraction of a among the letters that occur as often as this one"
    )


CASES = [
    Case(
        id="most_frequent",
        description="Gives the most frequent letter at every position, the first in the alphabet if several are.",
        program=_most_frequent(),
        vocab=letters(3),
        max_len=7,
        sampler=samplers.few_distinct(letters(3)),
    ),
    Case(
        id="majority",
        description="Gives the letter that makes up more than half of the letters up to each position; else undefined.",
        program=_majority(),
        vocab=letters(3),
        max_len=8,
        causal=True,
        sampler=samplers.few_distinct(letters(3)),
    ),
    Case(
        id="count_of_counts",
        description="Counts how many letters occur as often as each one, copies of itself included.",
        program=_count_of_counts(),
        vocab=letters(4),
        max_len=8,
        sampler=samplers.few_distinct(letters(4)),
    ),
    Case(
        id="repeat_share",
        description="Gives the fraction of the numbers not larger than each that occur more than once.",
        program=_repeat_share(),
        vocab=DIGITS,
        max_len=7,
        sampler=samplers.mixture(samplers.uniform(DIGITS), samplers.distinct(DIGITS, n_repeats=1)),
    ),
    Case(
        id="peer_share",
        description="Gives the fraction of letters a among the letters that occur as often as each one.",
        program=_peer_share(),
        vocab=letters(4),
        max_len=8,
        sampler=samplers.with_share(letters(4), ["a"]),
    ),
]
