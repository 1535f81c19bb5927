"""The vocabularies of the cases: letters, ranges of numbers and the fixed word lists, each sorted.

The word lists are data: they are what the 2024 benchmark drew once at random.
"""

from collections.abc import Iterable
from string import ascii_lowercase

Vocab = tuple[object, ...]

WORDS = ("J", "LB", "TPSI", "V", "b", "no", "oCLrZaW", "poiVg")
"""The eight words most word cases use, one to seven letters long."""

LONG_WORDS = (
    *("MbJmTPSI", "SBvrj", "UDIh", "Wvgfy", "bVrp"),
    *("fJsONxK", "fLBcbfno", "iVgRV", "oCLrZaW", "wwMq"),
)
"""Ten words of at least four letters."""

MANY_LONG_WORDS = (
    *("ADUdRPP", "CHChpo", "DaUUq", "GFfWd", "GprQ", "JaRUhR", "JkqHMBn", "LoaeT", "MOkI", "MbJmTPSI"),
    *("MeyyMDH", "MuFb", "SBvrj", "TecQo", "UDIh", "WUSmTtzQ", "WlGgOtOG", "WrXPvhsB", "Wvgfy", "YEZAm"),
    *("bVrp", "dzUv", "eWIXiiQ", "fJsONxK", "fLBcbfno", "fogyrD", "gQBw", "iVgRV", "jOkY", "kDyrO"),
    *("kxwnQr", "mjxWkIXH", "nIiUKKE", "nPFzPD", "oCLrZaW", "oRuXXdoc", "oecv", "pKff", "pmmI", "qVLBLzxo"),
    *("qipVJ", "vbLJ", "wwMq", "xZtp", "zrenKT"),
)
"""Forty-five words of at least four letters."""

BRACKETS = ("(", ")", "x", "{", "}")
"""Round and curly brackets, and a letter that is neither."""

BLUE_BOOK, SMILE, TEAR = EMOJI = ("\N{BLUE BOOK}", "\N{SMILING FACE WITH SMILING EYES}", "\N{CRYING FACE}")
"""Three emoji, in the order of their code points."""


def letters(count: int) -> tuple[str, ...]:
    """The first `count` lower-case letters.

    >>> letters(3)
    ('a', 'b', 'c')
    """
    return tuple(ascii_lowercase[:count])


def integers(low: int, high: int) -> tuple[int, ...]:
    """The whole numbers from `low` to `high`, both included.

    >>> integers(-1, 2)
    (-1, 0, 1, 2)
    """
    return tuple(range(low, high + 1))


def numerals(count: int) -> tuple[str, ...]:
    """The whole numbers below `count` written as text, sorted as text.

    >>> numerals(12)
    ('0', '1', '10', '11', '2', '3', '4', '5', '6', '7', '8', '9')
    """
    return tuple(sorted(str(number) for number in range(count)))


def floats(low: float, high: float, count: int = 20) -> tuple[float, ...]:
    """`count` evenly spaced numbers from `low` up to, and without, `high`.

    >>> floats(0, 5)[:3]
    (0.0, 0.25, 0.5)
    """
    # Rounding would be nicer to read, but the values are those of the 2024 benchmark to the last digit.
    return tuple(low + step * (high - low) / count for step in range(count))


def words_and(extra: Iterable[str]) -> tuple[str, ...]:
    """`WORDS` and the words given, sorted.

    >>> words_and(["-"])[:2]
    ('-', 'J')
    """
    return tuple(sorted({*WORDS, *extra}))
