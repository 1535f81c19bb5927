"""Cases that move and edit text: rotations, marks that delete or double letters."""

from interpbench_hub.cases import samplers
from interpbench_hub.cases.case import Case
from interpbench_hub.cases.common import count_of, covers, length, up_to_here, wrapped
from interpbench_hub.rasp.language import (
    Aggregate,
    Comparison,
    Map,
    Select,
    SequenceMap,
    SOp,
    indices,
    tokens,
)

WITH_X = ("a", "b", "c", "x")
WITH_DASH = ("a", "b", "c", "-")
FLAGGED = ("a", "a+", "a-", "b", "b+", "b-")
"""A letter and its flag: + doubles it, - deletes it, none keeps it."""
LONGEST_EDIT = 6
"""Most tokens of an input of flagged letters."""


def _rotate_by_count() -> SOp:
    n_x = count_of("x", "n_x", "how many letters are x")
    shifted = (indices - n_x).named("shifted", "the index minus the number of x")
    source = wrapped(shifted, length(indices), "source_index")
    return Aggregate(Select(indices, source, Comparison.EQ), tokens).named(
        "rotated", "the letter that the rotation brings here"
    )


def _edit_flags() -> SOp:
    kept = SequenceMap(lambda x, y: None if "-" in x else y, tokens, indices).named(
        "kept_index", "the index where the letter is not deleted"
    )
    doubled = SequenceMap(lambda x, y: y if "+" in x else None, tokens, indices).named(
        "doubled_index", "the index where the letter is doubled"
    )
    n_kept = up_to_here(kept, "n_kept", "how many letters so far are not deleted")
    n_doubled = up_to_here(doubled, "n_doubled", "how many letters so far are doubled")
    end = (n_kept + n_doubled).named("end", "how long the edited text is after this letter")
    block = SequenceMap(_block, end, tokens).named(
        "block", "where the letter goes in the edited text: from and before which index"
    )
    letter = Map(lambda x: x[0], tokens).named("letter", "the letter without its flag")
    return Aggregate(covers(block), letter).named("edited", "the letter at this index of the edited text")


def _block(end: int, token: str) -> tuple[int, int] | None:
    start = end - (2 if "+" in token else 1)
    return None if "-" in token or not 0 <= start < LONGEST_EDIT else (start, end)


def _delete_flags() -> SOp:
    # The first token has no predecessor and is taken for its own; a dash deletes nothing that is not gone already.
    before = Select(indices, indices, lambda key, query: query == key + 1 or key == query == 0)
    previous = Aggregate(before, tokens).named("previous", "the token one place before; the first for itself")
    is_kept = SequenceMap(lambda x, y: "-" not in (x, y), tokens, previous).named(
        "is_kept", "whether this is a letter and no dash stands before it"
    )
    kept = SequenceMap(lambda x, y: y if x else None, is_kept, indices).named(
        "kept_index", "the index where a letter is kept"
    )
    n_kept = up_to_here(kept, "n_kept", "how many letters so far are kept")
    target = SequenceMap(lambda x, y: y - 1 if x and y else None, is_kept, n_kept).named(
        "target_index", "where the letter goes in the edited text"
    )
    return Aggregate(Select(target, indices, Comparison.EQ), tokens).named(
        "edited", "the letter at this index of the edited text"
    )


CASES = [
    Case(
        id="rotate_by_count",
        description="Moves all letters as many places to the right as there are letters x, around the input.",
        program=_rotate_by_count(),
        vocab=WITH_X,
        max_len=7,
        sampler=samplers.with_share(WITH_X, ["x"]),
    ),
    Case(
        id="edit_flags",
        description="Doubles each letter with a + and deletes each with a -, closing gaps; undefined after the end.",
        program=_edit_flags(),
        vocab=FLAGGED,
        max_len=LONGEST_EDIT + 1,
        sampler=samplers.with_share(FLAGGED, ["a+", "b+"], ["a-", "b-"]),
        notes="What does not fit into the length of the input is cut off.",
    ),
    Case(
        id="delete_flags",
        description="Deletes dashes and the letter after each, and closes the gaps; undefined after the end.",
        program=_delete_flags(),
        vocab=WITH_DASH,
        max_len=8,
        sampler=samplers.with_share(WITH_DASH, ["a", "b", "c"]),
    ),
]
