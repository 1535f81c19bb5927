"""Programs that several cases share: counting, shifting, sorting, brackets, tokens at given places.

Each function builds new variables, so two calls are two heads; to read one result twice, call once and keep it.
"""

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

from interpbench_hub.rasp.language import (
    Aggregate,
    Comparison,
    Full,
    LinearSequenceMap,
    Map,
    Select,
    SelectorWidth,
    SequenceMap,
    SOp,
    Value,
    indices,
    numerical,
    tokens,
)


def length(over: SOp = tokens) -> SOp:
    """How many tokens the input has; `over` is what the counting head reads as keys and queries."""
    return SelectorWidth(Select(over, over, Comparison.TRUE)).named("length", "the number of tokens in the input")


def hist() -> SOp:
    """How often the token at each position occurs in the input."""
    same = Select(tokens, tokens, Comparison.EQ)
    return SelectorWidth(same).named("count", "how often this token occurs in the input")


def frac_prevs(condition: SOp) -> SOp:
    """The fraction of positions up to and including this one where `condition` holds, a number."""
    so_far = Select(indices, indices, Comparison.LEQ)
    return Aggregate(so_far, numerical(condition), default=0).named(
        "fraction", f"the fraction of positions so far where {condition.name} holds"
    )


def pair_balance(sop: SOp, opening: str, closing: str, suffix: str = "") -> SOp:
    """The fraction of `opening` so far minus the fraction of `closing` so far; `suffix` ends every name."""
    is_open = (sop == opening).named(f"is_open{suffix}", f"whether the token is {opening}")
    is_close = (sop == closing).named(f"is_close{suffix}", f"whether the token is {closing}")
    opens = frac_prevs(is_open).named(f"opens{suffix}", f"the fraction of {opening} so far")
    closes = frac_prevs(is_close).named(f"closes{suffix}", f"the fraction of {closing} so far")
    return LinearSequenceMap(opens, closes, 1, -1).named(
        f"balance{suffix}", f"the fraction of {opening} so far minus that of {closing}"
    )


def shuffle_dyck(pairs: Sequence[str]) -> SOp:
    """Whether every kind of bracket in `pairs` is balanced by itself; kinds may interleave freely."""
    negatives, zeros = [], []
    for number, (opening, closing) in enumerate(pairs, 1):
        balance = pair_balance(tokens, opening, closing, suffix=f"_{number}")
        negatives.append(
            (balance < 0).named(f"is_negative_{number}", f"whether more {closing} than {opening} came so far")
        )
        zeros.append((balance == 0).named(f"is_zero_{number}", f"whether as many {opening} as {closing} came so far"))
    some_negative = reduce(
        lambda a, b: (a | b).named("some_negative", "whether some kind closed more than it opened"), negatives
    )
    any_negative = Map(lambda x: x, some_negative).named("any_negative", "the same, as a number")
    everywhere = Select(indices, indices, Comparison.TRUE)
    has_negative = Aggregate(everywhere, numerical(any_negative), default=0).named(
        "share_negative", "the share of positions where some kind closed more than it opened"
    )
    all_zero = reduce(lambda a, b: (a & b).named("all_zero", "whether every kind has closed all it opened"), zeros)
    last_index = (length() - 1).named("last_index", "the index of the last token")
    last_zero = Aggregate(Select(indices, last_index, Comparison.EQ), all_zero).named(
        "last_zero", "whether every kind has closed all it opened by the end"
    )
    never_negative = (~has_negative).named("never_negative", "whether no kind ever closed more than it opened")
    return (last_zero & never_negative).named("is_balanced", "whether all brackets are balanced")


def count_of(value: Value, name: str, meaning: str, *, over: SOp = tokens) -> SOp:
    """How many positions of the input hold `value`; in a causal case, how many so far."""
    return SelectorWidth(Select(over, Full(value), Comparison.EQ)).named(name, meaning)


def earlier_token(back: int, name: str, meaning: str) -> SOp:
    """The token `back` places before, or the first one where none stands so far before."""
    earlier = Select(
        indices, indices, lambda key, query: key == max(query - back, 0), text=f"key == max(query - {back}, 0)"
    )
    return Aggregate(earlier, tokens).named(name, meaning)


def covers(block: SOp) -> Select:
    """Selects the positions whose `block`, a first index and the one after the last, holds this index."""
    return Select(
        block, indices, lambda key, query: key is not None and key[0] <= query < key[1], text="key[0] <= query < key[1]"
    )


def up_to_here(places: SOp, name: str, meaning: str) -> SOp:
    """How many of the `places` (indices, undefined for those that do not count) are not after each position."""
    return SelectorWidth(Select(places, indices, Comparison.LEQ)).named(name, meaning)


def wrapped(place: SOp, n_tokens: SOp, name: str) -> SOp:
    """A place counted around the input: beyond the last token comes the first again."""
    # An input has at least one token; the guard keeps values that never occur out of the table.
    return SequenceMap(lambda x, y: x % max(y, 1), place, n_tokens, text="x % y").named(
        name, f"{place.name} counted around the input"
    )


def sort_unique(values: SOp, keys: SOp) -> SOp:
    """`values` in ascending order of `keys`, which must all differ."""
    smaller = Select(keys, keys, Comparison.LT)
    target = SelectorWidth(smaller).named("target_index", "how many keys are smaller: where this value belongs")
    return Aggregate(Select(target, indices, Comparison.EQ), values).named("sorted_values", "the values in order")


def sort(values: SOp, keys: SOp, *, max_len: int, min_gap: float) -> SOp:
    """`values` in ascending order of `keys`, ties in the order of the input.

    Keys that differ must differ by at least `min_gap`, and `max_len` must be at least the number of tokens.
    """
    unique = SequenceMap(lambda x, y: x + min_gap * y / max_len, keys, indices, text=f"x + {min_gap} * y / {max_len}")
    return sort_unique(values, unique.named("unique_key", "the key plus a bit for the position, so that all differ"))


def shift_by(offset: int, sop: SOp) -> SOp:
    """`sop` moved `offset` places to the right (to the left if negative); undefined where nothing arrives."""
    places = "one place" if abs(offset) == 1 else f"{abs(offset)} places"
    sign, side = ("-", "after") if offset < 0 else ("+", "before")
    shifted = Select(
        indices, indices, lambda key, query: query == key + offset, text=f"query == key {sign} {abs(offset)}"
    )
    return Aggregate(shifted, sop).named(
        f"{sop.name}_{abs(offset)}_{side}", f"what {sop.name} is {places} {side} this one"
    )


def detect_pattern(sop: SOp, pattern: Sequence[object]) -> SOp:
    """Whether `pattern` ends at this position; undefined at the first `len(pattern) - 1` positions."""
    parts = []
    for back, wanted in enumerate(reversed(pattern)):
        number = len(pattern) - back
        found = (sop == wanted).named(f"is_part_{number}", f"whether the token is {wanted}")
        if back:
            found = shift_by(back, found).named(f"had_part_{number}", f"whether {wanted} stands {back} before")
        parts.append(found)
    matches = parts.pop()
    while parts:
        matches = (matches & parts.pop()).named(
            "starts" if parts else "matches",
            f"whether the {'first parts' if parts else 'parts'} of the pattern are in place",
        )
    return matches


def unique_token_extractor(sop: SOp) -> SOp:
    """The first occurrence of each token at its own place; undefined where a token came before."""
    placed = SequenceMap(lambda x, y: (x, y), sop, indices).named("placed_token", "the token with its index")
    same_before = Select(placed, placed, lambda key, query: key[0] == query[0] and key[1] <= query[1])
    count = SelectorWidth(same_before).named("count_so_far", "how often the token has come, this time included")
    first = SequenceMap(lambda x, y: y if x == 1 else -1, count, indices).named(
        "first_index", "the index where the token comes for the first time, else -1"
    )
    return Aggregate(Select(first, indices, Comparison.EQ), sop).named(
        "first_occurrence", "the token where it comes for the first time"
    )


def reverse(sop: SOp) -> SOp:
    """`sop` in reverse order."""
    from_end = (length() - indices).named("from_end", "the position counted from the end, the last being 1")
    mirror = (from_end - 1).named("mirror_index", "the index that mirrors this one")
    return Aggregate(Select(indices, mirror, Comparison.EQ), sop).named("reversed_values", "the input in reverse order")


def at_index(index: int, name: str) -> SOp:
    """The token at one index, everywhere."""
    place = Map(lambda x: index, indices, text=str(index)).named(f"index_{index}", f"{index} everywhere")
    return Aggregate(Select(indices, place, Comparison.EQ), tokens).named(name, f"the {name} token")


def last_token(n_tokens: SOp) -> SOp:
    """The last token, everywhere; `n_tokens` is the length."""
    index = (n_tokens - 1).named("last_index", "the index of the last token")
    return Aggregate(Select(indices, index, Comparison.EQ), tokens).named("last", "the last token")


def second_last_token(n_tokens: SOp) -> SOp:
    """The token before the last, everywhere; `n_tokens` is the length."""
    index = (n_tokens - 2).named("second_last_index", "the index of the token before the last")
    return Aggregate(Select(indices, index, Comparison.EQ), tokens).named("second_last", "the token before the last")


def compare_with_previous(function: Callable[[Any, Any], int], name: str, meaning: str) -> SOp:
    """A function of the number before and the number; the first number stands before itself."""
    before = Select(indices, indices, lambda key, query: key == query - 1 or key == query == 0)
    previous = Aggregate(before, tokens).named("previous", "the number before; the first for itself")
    return SequenceMap(function, previous, tokens).named(name, meaning)


def count_failures(holds: SOp) -> SOp:
    """At how many positions `holds` is 0."""
    zero = Map(lambda x: 0, indices).named("zero", "0 everywhere")
    return SelectorWidth(Select(holds, zero, Comparison.EQ)).named(
        "n_failures", f"at how many positions {holds.name} is 0"
    )
