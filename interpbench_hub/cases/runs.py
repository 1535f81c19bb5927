"""Cases about repetitions: how long runs of equal letters are, and at which distance letters come again."""

from interpbench_hub.cases import samplers
from interpbench_hub.cases.case import Case
from interpbench_hub.cases.common import count_of, earlier_token, frac_prevs, shift_by, up_to_here
from interpbench_hub.cases.vocabs import letters
from interpbench_hub.rasp.language import (
    Aggregate,
    Comparison,
    LinearSequenceMap,
    Select,
    SelectorWidth,
    SequenceMap,
    SOp,
    indices,
    tokens,
)


def starts_run() -> SOp:
    """Whether a new run starts at each position; undefined at the first."""
    previous = shift_by(1, tokens).named("previous", "the letter one place before")
    return (tokens != previous).named("starts", "whether a new run starts here; undefined at the first letter")


def _current_run() -> SOp:
    run = count_of(True, "run_number", "the number of this run, the first being 0", over=starts_run())
    return SelectorWidth(Select(run, run, Comparison.EQ)).named("run_length", "how long the run is up to here")


def _run_encoding() -> SOp:
    start = SequenceMap(lambda x, y: y if x else None, starts_run(), indices).named(
        "start_index", "the index where a new run starts"
    )
    run = up_to_here(start, "run_number", "the number of this run, the first being 0")
    size = SelectorWidth(Select(run, run, Comparison.EQ)).named("run_length", "how long this run is")
    return Aggregate(Select(run, indices, Comparison.EQ), size).named(
        "listed_length", "how long the run is whose number is this index"
    )


def _repeats(back: int) -> SOp:
    """Whether the letter equals the one `back` places before, as a fraction of the positions so far."""
    source = earlier_token(back, f"letter_{back}_before", f"the letter {back} before, at least the first")
    repeats = (tokens == source).named(f"repeats_{back}", f"whether the letter equals the one {back} before")
    return frac_prevs(repeats).named(
        f"share_{back}", f"the fraction of letters so far that equal the one {back} before"
    )


CASES = [
    Case(
        id="current_run",
        description="Counts the letters of the current run of equal letters up to each position.",
        program=_current_run(),
        vocab=letters(3),
        max_len=8,
        causal=True,
        sampler=samplers.sticky(letters(3)),
    ),
    Case(
        id="run_encoding",
        description="Lists how long the runs of equal letters are, in their order; undefined after the last run.",
        program=_run_encoding(),
        vocab=letters(3),
        max_len=7,
        sampler=samplers.sticky(letters(3)),
    ),
    Case(
        id="period_contrast",
        description="Subtracts the share of letters so far that repeat the last but one from that repeating the last.",
        program=LinearSequenceMap(_repeats(1), _repeats(2), 1, -1).named(
            "contrast", "repetitions at distance one minus those at distance two, as fractions"
        ),
        vocab=letters(3),
        min_len=6,
        max_len=8,
        causal=True,
        sampler=samplers.mixture(
            samplers.sticky(letters(3)), samplers.alternating("a", "bc"), samplers.alternating("b", "ca")
        ),
        notes="Where no letter stands that far before, the first letter is taken instead.",
    ),
]
