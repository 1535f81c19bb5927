"""How many dimensions a head needs to count how many of many values are smaller.

python benchmarks/ordering.py [45 90 99]

Scores of queries and keys are fitted by themselves: a code for each value and the head's two matrices, by Adam, such
that smaller values all score 0 and the rest -6 or less. A model has to learn the same table and all else besides.
"""

import sys

import torch

WIDTHS = (64, 72, 96, 128)
STEPS = (4000, 12_000)
RATE = 1e-2
NEVER = -6.0
"""Score below which a key gets next to no attention, where BOS scores 0."""


def worst_scores(n_values: int, width: int, steps: int) -> tuple[float, float]:
    """What is most off among keys to be selected, and the highest score of all others, of a table in `width`."""
    torch.manual_seed(0)
    place = torch.arange(n_values)
    is_smaller = place < place[:, None]
    codes, queries, keys = (
        (torch.randn(rows, width) * width**-0.5).requires_grad_() for rows in (n_values, width, width)
    )
    optimizer = torch.optim.Adam([codes, queries, keys])
    scores = torch.zeros(n_values, n_values)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = RATE * (1 - step / steps)
        scores = (codes @ queries) @ (codes @ keys).T
        loss = scores[is_smaller].square().mean() + (scores[~is_smaller] - NEVER).relu().square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    scores = scores.detach()
    return float(scores[is_smaller].abs().max()), float(scores[~is_smaller].max())


def main(numbers: list[int]) -> None:
    """A row for each number of values and width."""
    torch.set_num_threads(1)
    columns = [f"after {steps}: worst, next" for steps in STEPS]
    print("| values | dimensions | " + " | ".join(columns) + " |\n|" + "---|" * (2 + len(columns)))
    for n_values in numbers:
        for width in WIDTHS:
            found = [worst_scores(n_values, width, steps) for steps in STEPS]
            cells = [f"{worst:.3f}, {highest:.1f}" for worst, highest in found]
            print(f"| {n_values} | {width} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main([int(number) for number in sys.argv[1:]] or [45, 90, 99])
