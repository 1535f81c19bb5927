"""Samplers: how inputs are drawn where uniform tokens starve an output class or a branch of the program.

A sampler is called with a random generator and a number of tokens and returns that many tokens. It makes one draw;
mixtures first draw which of their parts to use. All works at any length from 1 up and depends on the generator only,
through `random()` alone, the one method whose numbers Python promises to keep from version to version.
"""

import random
from collections.abc import Callable, Mapping, Sequence

from interpbench_hub.cases.case import Sampler
from interpbench_hub.rasp.language import Value

Rng = random.Random


def _below(rng: Rng, count: int) -> int:
    return int(rng.random() * count)


def _pick(rng: Rng, options: Sequence[Value]) -> Value:
    return options[_below(rng, len(options))]


def _distinct(rng: Rng, options: Sequence[Value], count: int) -> list[Value]:
    """`count` of the options in random order, each at most once; all of them if there are fewer."""
    left = list(options)
    return [left.pop(_below(rng, len(left))) for _ in range(min(count, len(left)))]


def _one_redrawn(rng: Rng, sequence: list[Value], vocab: Sequence[Value]) -> list[Value]:
    sequence[_below(rng, len(sequence))] = _pick(rng, vocab)
    return sequence


# -- parts -------------------------------------------------------------------------------------------------------------


def uniform(vocab: Sequence[Value]) -> Sampler:
    """Every token independently, all equally likely."""
    return lambda rng, n: [_pick(rng, vocab) for _ in range(n)]


def mixture(*parts: Sampler) -> Sampler:
    """One of the parts, all equally likely; name a part twice to make it twice as likely.

    >>> sampler = mixture(uniform("ab"), uniform("yz"))
    >>> sampler(random.Random(1), 4)
    ['b', 'b', 'a', 'a']
    """
    return lambda rng, n: _pick(rng, parts)(rng, n)


def from_subset(vocab: Sequence[Value]) -> Sampler:
    """Uniform tokens from a random few of the vocabulary: one token, two, or up to as many as the input is long."""

    def draw(rng: Rng, n: int) -> list[Value]:
        few = _distinct(rng, vocab, 1 + _below(rng, min(n, len(vocab))))
        return [_pick(rng, few) for _ in range(n)]

    return draw


def from_window(vocab: Sequence[Value]) -> Sampler:
    """Uniform tokens from a random few that are neighbours in the vocabulary: as few as in `from_subset`."""

    def draw(rng: Rng, n: int) -> list[Value]:
        size = 1 + _below(rng, min(n, len(vocab)))
        start = _below(rng, len(vocab) - size + 1)
        return [_pick(rng, vocab[start : start + size]) for _ in range(n)]

    return draw


def from_share(vocab: Sequence[Value], chosen: Sequence[Value]) -> Sampler:
    """Tokens that are among the `chosen` with a probability that is itself drawn: any share of them is as likely."""
    others = [token for token in vocab if token not in chosen]

    def draw(rng: Rng, n: int) -> list[Value]:
        share = rng.random()
        return [_pick(rng, chosen if rng.random() < share else others) for _ in range(n)]

    return draw


def with_favourite(vocab: Sequence[Value]) -> Sampler:
    """One random token in any share of the places, the others uniform."""
    return lambda rng, n: from_share(vocab, [_pick(rng, vocab)])(rng, n)


def in_order(vocab: Sequence[Value], *, descending: bool = False, redrawn: bool = False) -> Sampler:
    """Uniform tokens put in the vocabulary's order or its reverse; with `redrawn`, one of them drawn again after."""
    place = {token: number for number, token in enumerate(vocab)}

    def draw(rng: Rng, n: int) -> list[Value]:
        sequence = sorted((_pick(rng, vocab) for _ in range(n)), key=place.__getitem__, reverse=descending)
        return _one_redrawn(rng, sequence, vocab) if redrawn else sequence

    return draw


def in_runs(vocab: Sequence[Value], *, descending: bool = False) -> Sampler:
    """Distinct tokens (as far as there are) in a random number of runs, each in order or each in reverse order."""
    place = {token: number for number, token in enumerate(vocab)}

    def draw(rng: Rng, n: int) -> list[Value]:
        sequence = _distinct(rng, vocab, n)
        sequence += [_pick(rng, vocab) for _ in range(n - len(sequence))]
        cuts = sorted(_below(rng, n + 1) for _ in range(_below(rng, n)))
        runs = [sequence[start:end] for start, end in zip([0, *cuts], [*cuts, n], strict=True)]
        return [token for run in runs for token in sorted(run, key=place.__getitem__, reverse=descending)]

    return draw


def distinct(vocab: Sequence[Value], *, n_repeats: int = 0) -> Sampler:
    """Tokens that all differ (as far as there are), `n_repeats` of them then replaced by others of the input."""

    def draw(rng: Rng, n: int) -> list[Value]:
        sequence = _distinct(rng, vocab, n)
        sequence += [_pick(rng, vocab) for _ in range(n - len(sequence))]
        for _ in range(n_repeats):
            sequence[_below(rng, n)] = _pick(rng, sequence)
        return sequence

    return draw


# -- samplers by what they exist for -----------------------------------------------------------------------------------


def few_distinct(vocab: Sequence[Value]) -> Sampler:
    """For counts: uniform, a few tokens only, or one token in any share, so that all counts occur."""
    return mixture(uniform(vocab), from_subset(vocab), with_favourite(vocab))


def ranges(vocab: Sequence[Value]) -> Sampler:
    """For extremes and medians: inputs from any part of the vocabulary, so that a small maximum occurs."""
    return mixture(uniform(vocab), from_subset(vocab), from_window(vocab))


def with_share(vocab: Sequence[Value], *groups: Sequence[Value]) -> Sampler:
    """For fractions: uniform, or any share of the tokens of one of the groups."""
    return mixture(uniform(vocab), *(from_share(vocab, group) for group in groups))


def mostly_from(vocab: Sequence[Value], chosen: Sequence[Value]) -> Sampler:
    """For "all tokens are such": all, all but (mostly) one, or any share of them are among the `chosen`."""
    others = [token for token in vocab if token not in chosen]

    def all_but_one(rng: Rng, n: int) -> list[Value]:
        return _one_redrawn(rng, [_pick(rng, chosen) for _ in range(n)], others)

    return mixture(uniform(chosen), all_but_one, from_share(vocab, chosen))


def sorted_runs(vocab: Sequence[Value], *, descending: bool = False) -> Sampler:
    """For "the input is sorted": sorted, sorted but for one token, anything from sorted to the opposite, uniform."""
    return mixture(
        uniform(vocab),
        in_order(vocab, descending=descending),
        in_order(vocab, descending=descending, redrawn=True),
        in_runs(vocab, descending=not descending),
    )


def one_repeat(vocab: Sequence[Value]) -> Sampler:
    """For "some token repeats": all different, all different but one, a few tokens only."""
    return mixture(distinct(vocab), distinct(vocab, n_repeats=1), few_distinct(vocab))


def nearly_constant(vocab: Sequence[Value]) -> Sampler:
    """For "all tokens are equal": all equal, all equal but one, a few tokens only."""

    def constant(rng: Rng, n: int) -> list[Value]:
        return [_pick(rng, vocab)] * n

    def constant_but_one(rng: Rng, n: int) -> list[Value]:
        return _one_redrawn(rng, constant(rng, n), vocab)

    return mixture(constant, constant_but_one, few_distinct(vocab))


def large_first(vocab: Sequence[Value]) -> Sampler:
    """For large results: three of four inputs start with the vocabulary's last token."""

    def last_first(rng: Rng, n: int) -> list[Value]:
        return [vocab[-1], *(_pick(rng, vocab) for _ in range(n - 1))]

    return mixture(uniform(vocab), last_first, last_first, last_first)


def last_two_equal(vocab: Sequence[Value]) -> Sampler:
    """For "the last two are equal": they are in about half the inputs; the rest is uniform."""

    def repeated_end(rng: Rng, n: int) -> list[Value]:
        sequence = [_pick(rng, vocab) for _ in range(n)]
        sequence[-1] = sequence[max(n - 2, 0)]
        return sequence

    return mixture(uniform(vocab), repeated_end)


def palindromes(vocab: Sequence[Value]) -> Sampler:
    """For mirror images: palindromes, palindromes with any share of tokens redrawn, uniform."""

    def mirrored(rng: Rng, n: int) -> list[Value]:
        half = [_pick(rng, vocab) for _ in range((n + 1) // 2)]
        return half + half[: n // 2][::-1]

    def partly_mirrored(rng: Rng, n: int) -> list[Value]:
        share = rng.random()
        return [_pick(rng, vocab) if rng.random() < share else token for token in mirrored(rng, n)]

    return mixture(uniform(vocab), mirrored, partly_mirrored)


def periodic(vocab: Sequence[Value]) -> Sampler:
    """For repetitions at a distance: a random block of different tokens over and over, with or without a flaw."""

    def repeated(rng: Rng, n: int) -> list[Value]:
        block = _distinct(rng, vocab, 1 + _below(rng, len(vocab)))
        return (block * n)[:n]

    def flawed(rng: Rng, n: int) -> list[Value]:
        return _one_redrawn(rng, repeated(rng, n), vocab)

    return mixture(uniform(vocab), repeated, flawed)


def alternating(first: Sequence[Value], second: Sequence[Value]) -> Sampler:
    """For "two kinds alternate": strictly, starting with either; with any share of flaws; uniform."""
    kinds = (first, second)

    def strict(rng: Rng, n: int) -> list[Value]:
        start = _below(rng, 2)
        return [_pick(rng, kinds[(start + at) % 2]) for at in range(n)]

    def flawed(rng: Rng, n: int) -> list[Value]:
        kind, share, sequence = _below(rng, 2), rng.random(), []
        for _ in range(n):
            sequence.append(_pick(rng, kinds[kind]))
            kind = kind if rng.random() < share else 1 - kind
        return sequence

    return mixture(uniform([*first, *second]), strict, flawed)


def balanced_brackets(vocab: Sequence[Value], pairs: Sequence[str]) -> Sampler:
    """For balance: balanced inputs, balanced but for one token, balanced ones backwards, any share of a bracket.

    Each of `pairs` is an opening and a closing bracket; the vocabulary's other tokens may stand anywhere.
    """
    fillers = [token for token in vocab if token not in "".join(pairs)]

    def balanced(rng: Rng, n: int) -> list[Value]:
        sequence: list[Value] = []
        depths = [0] * len(pairs)
        while len(sequence) < n:
            spare = n - len(sequence) - sum(depths)
            options: list[tuple[Value, int, int]] = []
            for kind, (opening, closing) in enumerate(pairs):
                options += [(opening, kind, 1)] * (spare >= 2) + [(closing, kind, -1)] * (depths[kind] > 0)
            options += [(filler, 0, 0) for filler in fillers if spare >= 1]
            token, kind, change = _pick(rng, options)
            depths[kind] += change
            sequence.append(token)
        return sequence

    def flawed(rng: Rng, n: int) -> list[Value]:
        return _one_redrawn(rng, balanced(rng, n), vocab)

    def backwards(rng: Rng, n: int) -> list[Value]:
        return balanced(rng, n)[::-1]

    brackets = [bracket for pair in pairs for bracket in pair]
    return mixture(with_share(vocab, *brackets), few_distinct(vocab), balanced, flawed, backwards)


def nested_brackets(pairs: Sequence[str]) -> Sampler:
    """For brackets that fit together: well nested beginnings, the same with closing brackets of any kind, uniform."""

    def nested(rng: Rng, n: int, *, is_mixed: bool = False) -> list[Value]:
        open_: list[str] = []
        sequence: list[Value] = []
        for _ in range(n):
            if open_ and rng.random() < 0.5:
                pair = open_.pop()
                sequence.append((_pick(rng, pairs) if is_mixed else pair)[1])
            else:
                open_.append(_pick(rng, pairs))
                sequence.append(open_[-1][0])
        return sequence

    def mixed(rng: Rng, n: int) -> list[Value]:
        return nested(rng, n, is_mixed=True)

    return mixture(uniform("".join(pairs)), nested, mixed)


def sticky(vocab: Sequence[Value]) -> Sampler:
    """For runs of equal tokens: each token repeats the one before with a probability that is itself drawn; uniform."""

    def draw(rng: Rng, n: int) -> list[Value]:
        share, sequence = rng.random(), [_pick(rng, vocab)]
        while len(sequence) < n:
            sequence.append(sequence[-1] if rng.random() < share else _pick(rng, vocab))
        return sequence

    return mixture(uniform(vocab), draw, draw)


def comparison_chains(numerals: Sequence[str], signs: Mapping[str, Callable[[str, str], bool]]) -> Sampler:
    """For "all comparisons are true": numerals and signs by turns, any or all true but mostly one; uniform.

    `signs` says of which numerals a sign is true.
    """
    vocab = [*numerals, *signs]

    def chain(rng: Rng, n: int) -> list[Value]:
        sequence: list[Value] = [_pick(rng, numerals)]
        while len(sequence) < n + 1:
            right = _pick(rng, numerals)
            sequence += [_pick(rng, [sign for sign, holds in signs.items() if holds(sequence[-1], right)]), right]
        start = _below(rng, 2)
        return sequence[start : start + n]

    def flawed(rng: Rng, n: int) -> list[Value]:
        return _one_redrawn(rng, chain(rng, n), vocab)

    def alternating_kinds(rng: Rng, n: int) -> list[Value]:
        start = _below(rng, 2)
        return [_pick(rng, (numerals, list(signs))[(start + at) % 2]) for at in range(n)]

    return mixture(uniform(vocab), flawed, alternating_kinds, alternating_kinds)
