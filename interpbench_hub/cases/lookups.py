"""Cases that look things up: pointers to pointers, and what followed when the same token came before."""

from interpbench_hub.cases import samplers
from interpbench_hub.cases.case import Case
from interpbench_hub.cases.common import hist, length, shift_by, wrapped
from interpbench_hub.cases.vocabs import integers, letters
from interpbench_hub.rasp.language import (
    Aggregate,
    Comparison,
    Select,
    SequenceMap,
    SOp,
    indices,
    numerical,
    tokens,
)

POINTERS = integers(0, 6)
STEPS = (-1, 1, 2)
WITH_X = ("a", "b", "x")


def times_so_far() -> SOp:
    """How often the token has come, this time included; for causal cases."""
    return hist().named("times", "how often this token has come, this time included")


# -- pointers ----------------------------------------------------------------------------------------------------------


def _two_hop() -> SOp:
    n_tokens = length(indices)
    first = wrapped(tokens, n_tokens, "first_target")
    pointer = Aggregate(Select(indices, first, Comparison.EQ), tokens).named(
        "next_pointer", "the number where this one points"
    )
    second = wrapped(pointer, n_tokens, "second_target")
    return Aggregate(Select(indices, second, Comparison.EQ), tokens).named(
        "reached", "the number where the number points that this one points to"
    )


def _leap() -> SOp:
    goal = (indices + tokens).named("goal", "the index plus the step written here")
    one = wrapped(goal, length(indices), "after_one")
    two = Aggregate(Select(indices, one, Comparison.EQ), one).named("after_two", "the index reached after two steps")
    return Aggregate(Select(indices, two, Comparison.EQ), two).named("after_four", "the index reached after four steps")


# -- what followed before ----------------------------------------------------------------------------------------------


def _induction() -> SOp:
    times = times_so_far()
    occurrence = SequenceMap(lambda x, y: (x, y) if y else None, tokens, times).named(
        "occurrence", "the token with the number of times it has come"
    )
    wanted = SequenceMap(lambda x, y: (x, y - 1) if y > 1 else None, tokens, times).named(
        "wanted", "the occurrence of this token before this one"
    )
    followed = shift_by(1, occurrence).named("followed", "the occurrence one place before")
    return Aggregate(Select(followed, wanted, Comparison.EQ), tokens).named(
        "predicted", "the token that followed the last occurrence of this one"
    )


def _first_follower() -> SOp:
    first = SequenceMap(lambda x, y: x if y == 1 else None, tokens, times_so_far()).named(
        "first_seen", "the token where it comes for the first time"
    )
    followed = shift_by(1, first).named("followed", "the token one place before if it came for the first time there")
    return Aggregate(Select(followed, tokens, Comparison.EQ), tokens).named(
        "follower", "the token that followed the first occurrence of this one"
    )


def _bigram_share() -> SOp:
    is_x = (tokens == "x").named("is_x", "whether the token is x")
    previous = shift_by(1, tokens).named("previous", "the token one place before")
    return Aggregate(Select(previous, tokens, Comparison.EQ), numerical(is_x), default=0).named(
        "share", "how often x followed earlier occurrences of this token, as a fraction"
    )


CASES = [
    Case(
        id="two_hop",
        description="Follows two pointers: gives the number at the index that stands at the index each number names.",
        program=_two_hop(),
        vocab=POINTERS,
        max_len=8,
        notes="Indices are counted around the input, so that every number points somewhere.",
    ),
    Case(
        id="leap",
        description="Gives the index that four steps lead to, each as long as the number where it starts says.",
        program=_leap(),
        vocab=STEPS,
        max_len=8,
        notes="Steps go around the input: the first index follows the last.",
    ),
    Case(
        id="induction",
        description="Gives the letter that followed each letter's last occurrence before; undefined if there is none.",
        program=_induction(),
        vocab=letters(3),
        max_len=7,
        causal=True,
        sampler=samplers.mixture(samplers.periodic(letters(3)), samplers.few_distinct(letters(3))),
    ),
    Case(
        id="first_follower",
        description="Gives the letter that followed each letter's first occurrence; undefined at the first itself.",
        program=_first_follower(),
        vocab=letters(4),
        max_len=8,
        causal=True,
        sampler=samplers.mixture(samplers.periodic(letters(4)), samplers.few_distinct(letters(4))),
    ),
    Case(
        id="bigram_share",
        description="Gives the fraction of earlier occurrences of each letter that x followed; 0 where there is none.",
        program=_bigram_share(),
        vocab=WITH_X,
        min_len=5,
        max_len=8,
        causal=True,
        sampler=samplers.mixture(samplers.from_subset(WITH_X), samplers.with_share(WITH_X, ["x"])),
    ),
]
