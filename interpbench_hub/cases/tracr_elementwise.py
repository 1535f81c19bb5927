"""Cases of the 2024 benchmark that treat numbers one at a time: no attention, only maps of token and index."""

import math
from collections.abc import Callable
from typing import Any

from interpbench_hub.cases.case import Case
from interpbench_hub.cases.vocabs import Vocab, floats, integers
from interpbench_hub.rasp.language import Map, SequenceMap, SOp, indices, tokens

NUMBERS = integers(0, 10)

FIBONACCI = [0, 1]
while len(FIBONACCI) < 21:
    FIBONACCI.append(FIBONACCI[-1] + FIBONACCI[-2])


def _case(
    number: int,
    description: str,
    program: SOp,
    *,
    vocab: Vocab = NUMBERS,
    max_len: int = 10,
    published: bool = True,
    notes: str = "",
) -> Case:
    return Case(
        id=f"case_{number}",
        description=description,
        program=program,
        vocab=vocab,
        max_len=max_len,
        causal=True,
        was_published_2024=published,
        notes=notes,
    )


def _each(
    number: int, description: str, function: Callable[[Any], Any], name: str, meaning: str, **fields: Any
) -> Case:
    """A case whose whole program is one map of the token."""
    return _case(number, description, Map(function, tokens).named(name, meaning), **fields)


# -- functions too long for a lambda -----------------------------------------------------------------------------------


def cube_root(x: float) -> float:
    """The real cube root, with the sign of x."""
    return math.copysign(abs(x) ** (1 / 3), x)


def prime_factors(x: int) -> set[int]:
    """The distinct prime factors; none for 0 and 1."""
    factors, divisor = set(), 2
    while x > 1:
        while x % divisor == 0:
            factors.add(divisor)
            x //= divisor
        divisor += 1
    return factors


def is_prime(x: int) -> bool:
    """Whether x is prime."""
    return prime_factors(x) == {x}


def next_prime(x: int) -> int:
    """The smallest prime that is not below x."""
    while not is_prime(x):
        x += 1
    return x


def reflect_between_2_and_7(x: int) -> int:
    """x bounced off walls at 2 and 7."""
    # There and back is a round of ten steps: five upwards from 2, five downwards from 7.
    step = (x - 2) % 10
    return 2 + step if step <= 5 else 12 - step


# -- programs of several maps ------------------------------------------------------------------------------------------


def _double_minus_index() -> SOp:
    twice = SequenceMap(lambda x, y: (x, y), tokens, tokens).named("token_twice", "the token, paired with itself")
    triple = SequenceMap(lambda x, y: (*x, y), twice, indices).named("triple", "the token twice, then the index")
    return Map(lambda x: x[0] + x[1] - x[2], triple).named("difference", "twice the token minus the index")


def _digit_sum() -> SOp:
    tens = Map(lambda x: x // 10, tokens).named("tens", "the token's first digit of two")
    ones = Map(lambda x: x % 10, tokens).named("ones", "the token's last digit")
    return SequenceMap(lambda x, y: x + y, tens, ones).named("digit_sum", "the sum of the token's digits")


def _add_one_at_odd_indices() -> SOp:
    is_odd = Map(lambda x: x % 2, indices).named("is_odd", "1 at odd indices, else 0")
    return SequenceMap(lambda x, y: x + y, tokens, is_odd).named("incremented", "the token, plus one at odd indices")


def _zero_every_third() -> SOp:
    is_third = Map(lambda x: 1 if (x + 1) % 3 == 0 else 0, indices).named("is_third", "1 at every third index, else 0")
    return SequenceMap(lambda x, y: 0 if y else x, tokens, is_third).named("kept", "the token, 0 at every third index")


def _zero_at_even_indices() -> SOp:
    marker = Map(lambda x: 0 if x % 2 == 0 else -1, indices).named("marker", "0 at even indices, -1 at odd ones")
    return SequenceMap(lambda x, y: x if y == -1 else 0, tokens, marker).named("kept", "the token, 0 at even indices")


def _clip_between_2_and_7() -> SOp:
    low = Map(lambda x: 2, tokens).named("low", "the lower bound, 2")
    high = Map(lambda x: 7, tokens).named("high", "the upper bound, 7")
    raised = SequenceMap(lambda x, y: y if x < 2 else x, tokens, low).named("raised", "the token, at least 2")
    return SequenceMap(lambda x, y: y if x > 7 else x, raised, high).named("clipped", "the token, from 2 to 7")


CASES = [
    _each(8, "Copies each number.", lambda x: x, "copy", "the token itself"),
    _case(
        15,
        "Doubles each number and subtracts its index.",
        _double_minus_index(),
        vocab=integers(0, 4),
        max_len=5,
    ),
    _case(40, "Adds up the digits of each number.", _digit_sum(), vocab=integers(0, 28)),
    _each(
        41,
        "Takes the absolute value of each number.",
        lambda x: x if x >= 0 else -x,
        "absolute",
        "the token without its sign",
        vocab=integers(-10, 9),
    ),
    _each(
        43,
        "Replaces each number x by the x-th Fibonacci number, counted from F(0) = 0.",
        lambda x: FIBONACCI[x] if x < len(FIBONACCI) else 0,
        "fibonacci",
        "the Fibonacci number at the place the token says",
        vocab=integers(0, 19),
    ),
    _each(46, "Subtracts one from each number.", lambda x: x - 1, "minus_one", "the token minus one"),
    _case(
        48,
        "Adds its index to each number.",
        (tokens + indices).named("plus_index", "the token plus its index"),
        published=False,
    ),
    _each(
        49,
        "Lowers each number to a multiple of three.",
        lambda x: x - x % 3,
        "lowered",
        "the largest multiple of 3 not above",
    ),
    _each(
        50,
        "Takes the hyperbolic cosine of each number.",
        math.cosh,
        "hyperbolic_cosine",
        "the token's hyperbolic cosine",
    ),
    _each(
        51,
        "Marks each Fibonacci number with 1 and every other number with 0.",
        lambda x: 1 if x in FIBONACCI[:16] else 0,
        "is_fibonacci",
        "1 if the token is a Fibonacci number, else 0",
        vocab=integers(0, 99),
    ),
    _each(52, "Takes the square root of each number.", lambda x: x**0.5, "square_root", "the token's square root"),
    _case(53, "Adds one to each number at an odd index.", _add_one_at_odd_indices()),
    _each(
        54,
        "Takes the hyperbolic tangent of each number.",
        math.tanh,
        "hyperbolic_tangent",
        "the token's hyperbolic tangent",
    ),
    _each(55, "Takes the hyperbolic sine of each number.", math.sinh, "hyperbolic_sine", "the token's hyperbolic sine"),
    _case(56, "Sets every third number to zero and keeps the others.", _zero_every_third()),
    _each(60, "Adds one to each number.", lambda x: x + 1, "plus_one", "the token plus one"),
    _each(62, "Takes the factorial of each number.", math.factorial, "token_factorial", "the token's factorial"),
    _each(64, "Cubes each number.", lambda x: x**3, "cube", "the token to the third power"),
    _each(65, "Takes the cube root of each number.", cube_root, "root", "the token's cube root"),
    _each(
        66,
        "Rounds each number to the nearest whole number, halves upwards.",
        lambda x: int(x + 0.5),
        "rounded",
        "the whole number nearest to the token",
        vocab=floats(0, 5),
    ),
    _each(
        68,
        "Raises each number to a multiple of three.",
        lambda x: x + (3 - x % 3) % 3,
        "raised",
        "the smallest multiple of 3 that is not below the token",
    ),
    _each(
        69,
        "Takes the sign of each number: 0 for zero and 1 for the rest.",
        lambda x: (x > 0) - (x < 0),
        "sign",
        "-1, 0 or 1 by the token's sign",
        notes="The vocabulary has no negative numbers, so -1 never occurs.",
    ),
    _each(70, "Takes the cosine of each number of radians.", math.cos, "cosine", "the token's cosine"),
    _each(72, "Negates each number.", lambda x: -x, "negated", "minus the token", vocab=integers(-10, 9)),
    _each(73, "Takes the sine of each number of radians.", math.sin, "sine", "the token's sine"),
    _each(75, "Doubles each number.", lambda x: 2 * x, "doubled", "twice the token"),
    _case(
        76,
        "Sets each number at an even index to zero and keeps the others.",
        _zero_at_even_indices(),
        published=False,
    ),
    _each(77, "Takes the tangent of each number of radians.", math.tan, "tangent", "the token's tangent"),
    _each(
        79,
        "Marks each prime with 1 and every other number with 0.",
        lambda x: 1 if is_prime(x) else 0,
        "primality",
        "1 if the token is prime, else 0",
    ),
    _each(80, "Subtracts two from each number.", lambda x: x - 2, "minus_two", "the token minus two"),
    _each(83, "Triples each number.", lambda x: 3 * x, "tripled", "three times the token"),
    _each(84, "Takes the arctangent of each number.", math.atan, "arctangent", "the token's arctangent"),
    _each(85, "Squares each number.", lambda x: x**2, "squared", "the token squared"),
    _each(
        86,
        "Marks 2, 4 and 8 with 1 and every other number, 1 included, with 0.",
        lambda x: 1 if x > 1 and x.bit_count() == 1 else 0,
        "is_power_of_two",
        "1 if the token is two to the power of at least one, else 0",
        notes="1, which is two to the power of zero, is not counted.",
    ),
    _each(
        87,
        "Marks each number from 3 upwards with 1 and every smaller one with 0.",
        lambda x: 1 if x >= 3 else 0,
        "is_large",
        "1 if the token is at least 3, else 0",
    ),
    _each(
        91,
        "Sets each number below 3 to zero and keeps the others.",
        lambda x: 0 if x < 3 else x,
        "kept",
        "the token, 0 below 3",
    ),
    _each(
        95,
        "Counts the distinct prime factors of each number, none for 0 and 1.",
        lambda x: len(prime_factors(x)),
        "n_prime_factors",
        "how many primes divide the token",
        vocab=integers(0, 29),
    ),
    _each(
        101,
        "Marks each perfect square with 1 and every other number with 0.",
        lambda x: 1 if math.isqrt(x) ** 2 == x else 0,
        "is_square",
        "1 if the token is a perfect square, else 0",
        vocab=integers(0, 29),
    ),
    _each(
        102,
        "Reflects each number off the bounds 2 and 7 until it lies between them.",
        reflect_between_2_and_7,
        "reflected",
        "the token bounced into the range from 2 to 7",
        vocab=integers(-20, 19),
    ),
    _each(104, "Takes the exponential of each number.", math.exp, "exponential", "e to the power of the token"),
    _each(
        105,
        "Replaces each number by the smallest prime that is not below it.",
        next_prime,
        "prime",
        "the smallest prime that is not below the token",
        vocab=integers(0, 29),
        notes="The 2024 text said the next prime after the number, but its program keeps a prime.",
    ),
    _case(
        106,
        "Sets every number to zero but the one at index 1.",
        SequenceMap(lambda x, y: x if y == 1 else 0, tokens, indices).named("kept", "the token at index 1, else 0"),
    ),
    _each(
        107,
        "Wraps each number around into the range from 2 to 6.",
        lambda x: (x - 2) % 5 + 2,
        "wrapped",
        "the token plus or minus fives, from 2 to 6",
        vocab=integers(-15, 14),
        published=False,
    ),
    _each(
        114,
        "Takes the decimal logarithm of each number.",
        lambda x: math.log(x, 10),
        "logarithm",
        "the token's logarithm to the base 10",
        vocab=integers(1, 10),
    ),
    _each(121, "Takes the arcsine of each number.", math.asin, "arcsine", "the token's arcsine", vocab=floats(-1, 1)),
    _each(
        122,
        "Marks each multiple of three with 1 and every other number with 0.",
        lambda x: 1 if x % 3 == 0 else 0,
        "is_multiple",
        "1 if 3 divides the token, else 0",
        vocab=integers(0, 29),
    ),
    _each(
        123,
        "Takes the arccosine of each number.",
        math.acos,
        "arccosine",
        "the token's arccosine",
        vocab=floats(-1, 1),
    ),
    _case(
        130,
        "Clips each number to the range from 2 to 7.",
        _clip_between_2_and_7(),
        vocab=integers(-15, 14),
        notes="Two comparisons that nothing reads in the 2024 program are left out.",
    ),
]
