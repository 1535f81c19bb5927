"""Whether two cases compute the same function once their tokens and outputs are renamed."""

from itertools import permutations, product

import torch
from torch import Tensor

from interpbench_hub.cases import Case

N_INPUTS = 48
N_CONFIRMING = 2_000
"""Inputs by which two cases that look alike on the first ones are compared again."""


def common_lengths(first: Case, second: Case) -> list[int]:
    """The shortest and the longest number of tokens that inputs of both cases may have."""
    shortest = max(first.min_len, second.min_len) - 1
    longest = min(first.max_len, second.max_len) - 1
    return [] if shortest > longest else sorted({shortest, longest})


def run(case: Case, codes: Tensor) -> Tensor:
    """Output codes of inputs [batch, pos] of one length."""
    return case.high_level.run(codes, torch.full((len(codes),), codes.shape[1]))[case.graph.output.name]


def one_to_one(first: Tensor, second: Tensor) -> bool:
    """Whether equal outputs of one go with equal outputs of the other, so that renaming turns one into the other."""
    joint = torch.stack([first.reshape(-1), second.reshape(-1)], 1).unique(dim=0)
    return len(joint) == len(first.unique()) == len(second.unique())


def same_up_to_names(first: Case, second: Case) -> bool:
    """Whether some renaming of tokens and some of outputs turns one case into the other, as far as inputs show."""
    size = len(first.vocab)
    lengths = common_lengths(first, second)
    if not lengths or size != len(second.vocab):
        return False
    n_tokens = lengths[-1]
    inputs = _inputs(size, n_tokens, N_INPUTS)
    wanted = run(second, inputs)
    renamings = torch.tensor(list(permutations(range(size))))
    # [renaming, input, pos] in one batch.
    found = run(first, renamings[:, inputs].reshape(-1, n_tokens)).reshape(len(renamings), *inputs.shape)
    for renaming, outputs in zip(renamings, found, strict=True):
        if one_to_one(outputs, wanted) and _confirmed(first, second, renaming, torch.arange(size), lengths):
            return True
    return False


def is_part_of(first: Case, second: Case) -> bool:
    """Whether one case is another one with fewer tokens, as far as inputs show; outputs may have other names."""
    lengths = common_lengths(first, second)
    if not lengths or not set(first.vocab) <= set(second.vocab):
        return False
    of_first = torch.arange(len(first.vocab))
    of_second = torch.tensor([second.token_ids[token] for token in first.vocab])
    return _confirmed(first, second, of_first, of_second, lengths, N_INPUTS) and _confirmed(
        first, second, of_first, of_second, lengths
    )


def _confirmed(
    first: Case, second: Case, of_first: Tensor, of_second: Tensor, lengths: list[int], count: int = N_CONFIRMING
) -> bool:
    results = []
    for n_tokens in lengths:
        inputs = _inputs(len(of_first), n_tokens, count)
        results.append((run(first, of_first[inputs]).reshape(-1), run(second, of_second[inputs]).reshape(-1)))
    return one_to_one(torch.cat([a for a, _ in results]), torch.cat([b for _, b in results]))


def _inputs(size: int, n_tokens: int, count: int) -> Tensor:
    """All inputs of places in a vocabulary of `size` where there are at most `count`, else so many random ones."""
    if size**n_tokens <= count:
        return torch.tensor(list(product(range(size), repeat=n_tokens)))
    generator = torch.Generator().manual_seed(size * 100 + n_tokens)
    return torch.randint(size, (count, n_tokens), generator=generator)
