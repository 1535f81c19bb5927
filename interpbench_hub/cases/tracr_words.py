"""Cases of the 2024 benchmark that treat words one at a time: no attention, only maps of token and index."""

import math
from collections.abc import Callable
from typing import Any

from interpbench_hub.cases.case import Case
from interpbench_hub.cases.vocabs import (
    BLUE_BOOK,
    EMOJI,
    MANY_LONG_WORDS,
    SMILE,
    TEAR,
    WORDS,
    Vocab,
    letters,
    numerals,
    words_and,
)
from interpbench_hub.rasp.language import Map, SequenceMap, SOp, indices, tokens

SPAM_KEYWORDS = ("free", "offer", "click", "now")
SENTIMENTS = {SMILE: "positive", TEAR: "negative", BLUE_BOOK: "neutral"}


def _case(
    number: int, description: str, program: SOp, *, vocab: Vocab = WORDS, published: bool = True, notes: str = ""
) -> Case:
    return Case(
        id=f"case_{number}",
        description=description,
        program=program,
        vocab=vocab,
        causal=True,
        was_published_2024=published,
        notes=notes,
    )


def _each(
    number: int, description: str, function: Callable[[Any], Any], name: str, meaning: str, **fields: Any
) -> Case:
    """A case whose whole program is one map of the token."""
    return _case(number, description, Map(function, tokens).named(name, meaning), **fields)


def vowel_ratio(word: str) -> float:
    """Vowels for each consonant, infinitely many if the word has no consonant."""
    vowels = sum(letter in "aeiou" for letter in word.lower())
    consonants = len(word) - vowels
    return vowels / consonants if consonants else math.inf


def alternating_case(word: str) -> str:
    """The word with letters in upper and lower case by turns, starting with upper."""
    return "".join(letter.lower() if place % 2 else letter.upper() for place, letter in enumerate(word))


def _mirrored_words() -> SOp:
    half = Map(lambda x: len(x) // 2, tokens).named("half", "half the word's length, rounded down")
    # Only the token's own half occurs, but an interchange of `half` pairs a word with any.
    mirrors = SequenceMap(lambda x, y: x[:y] == x[::-1][:y], tokens, half).named(
        "mirrors", "whether the first half is the last half backwards"
    )
    return SequenceMap(lambda x, y: x if y else None, tokens, mirrors).named(
        "kept", "the word if its halves mirror each other"
    )


CASES = [
    _case(
        10,
        "Keeps each word whose first half is its last half backwards and leaves the others undefined.",
        _mirrored_words(),
        vocab=words_and(["radar", "rotor"]),
        published=False,
        notes="A shift that nothing reads in the 2024 program is left out.",
    ),
    _each(
        20,
        "Labels the words offer, click and now as spam and every other word as not spam.",
        lambda x: "spam" if x in SPAM_KEYWORDS else "not spam",
        "label",
        "whether the word is a keyword of spam",
        vocab=words_and(["spam", "offer", "click", "now"]),
        notes="The word spam itself is no keyword; the keyword free is not in the vocabulary.",
    ),
    _each(
        23,
        "Keeps each word that reads the same backwards and leaves the others undefined.",
        lambda x: x if x == x[::-1] else None,
        "kept",
        "the word if it is a palindrome",
        vocab=words_and(["racecar", "noon"]),
        published=False,
    ),
    _case(
        26,
        "Repeats each letter as often as its index says, plus one.",
        SequenceMap(lambda x, y: x * (y + 1), tokens, indices).named("repeated", "the letter, index + 1 times"),
        vocab=letters(3),
    ),
    _each(
        28,
        "Spells each word backwards.",
        lambda x: x[::-1],
        "backwards",
        "the word spelt backwards",
        vocab=MANY_LONG_WORDS,
        published=False,
    ),
    _each(29, "Shortens each word to its first three letters.", lambda x: x[:3], "start", "the first three letters"),
    _each(
        30,
        "Tells whether each numeral lies between 10 and 20, both included.",
        lambda x: 10 <= int(x) <= 20 if x.isdigit() else False,
        "is_between",
        "whether the numeral is from 10 to 20",
        vocab=numerals(30),
    ),
    _each(
        31,
        "Tells whether each word is made of the letters of listen.",
        lambda x: sorted(x) == sorted("listen"),
        "is_anagram",
        "whether the word has the letters of listen",
        vocab=words_and(["listen"]),
    ),
    _each(
        33,
        "Tells whether each word has an even number of letters.",
        lambda x: len(x) % 2 == 0,
        "is_even",
        "whether the word's length is even",
    ),
    _each(
        34,
        "Divides the number of vowels of each word by its number of consonants.",
        vowel_ratio,
        "ratio",
        "vowels for each consonant",
    ),
    _each(
        35,
        "Spells each word in upper and lower case by turns, starting with upper case.",
        alternating_case,
        "alternating",
        "the word in upper and lower case by turns",
    ),
    _each(
        36,
        "Labels each emoji as positive, negative or neutral.",
        lambda x: SENTIMENTS.get(x, "neutral"),
        "sentiment",
        "the emoji's sentiment",
        vocab=EMOJI,
    ),
    _each(
        37,
        "Spells each word backwards unless it is nochange.",
        lambda x: x if x == "nochange" else x[::-1],
        "backwards",
        "the word spelt backwards",
        notes="The word nochange is not in the vocabulary, so every word is spelt backwards.",
    ),
    _each(
        90,
        "Replaces the word findme by a dash and keeps every other word.",
        lambda x: "-" if x == "findme" else x,
        "replaced",
        "the word, a dash for findme",
        vocab=words_and(["findme", "-"]),
    ),
]
