"""What the cases that are new here compute, in plain Python: one function of the tokens a case, without any RASP."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

Outputs = list[Any]
Oracle = Callable[[list[Any]], Outputs]


def two_hop(row: list[int]) -> Outputs:
    outputs = []
    for number in row:
        for _ in range(2):
            number = row[number % len(row)]
        outputs.append(number)
    return outputs


def leap(row: list[int]) -> Outputs:
    outputs = []
    for place in range(len(row)):
        for _ in range(4):
            place += row[place]
            while place < 0:
                place += len(row)
            while place >= len(row):
                place -= len(row)
        outputs.append(place)
    return outputs


def induction(row: list[str]) -> Outputs:
    outputs: Outputs = []
    after: dict[str, str] = {}
    for at, letter in enumerate(row):
        if at:
            after[row[at - 1]] = letter
        outputs.append(after.get(letter))
    return outputs


def first_follower(row: list[str]) -> Outputs:
    outputs: Outputs = []
    after: dict[str, str] = {}
    for at, letter in enumerate(row):
        if at:
            after.setdefault(row[at - 1], letter)
        outputs.append(after.get(letter))
    return outputs


def bigram_share(row: list[str]) -> Outputs:
    outputs = []
    for at, letter in enumerate(row):
        followers = [right for left, right in pairwise(row[: at + 1]) if left == letter]
        outputs.append(followers.count("x") / len(followers) if followers else 0)
    return outputs


def rotate_by_count(row: list[str]) -> Outputs:
    outputs = list(row)
    for _ in range(row.count("x")):
        outputs.insert(0, outputs.pop())
    return outputs


def padded(outputs: Outputs, size: int) -> Outputs:
    return (outputs + [None] * size)[:size]


def edit_flags(row: list[str]) -> Outputs:
    text = ""
    for token in row:
        if token.endswith("+"):
            text += token[0] * 2
        elif not token.endswith("-"):
            text += token
    return padded(list(text), len(row))


def delete_flags(row: list[str]) -> Outputs:
    text, deletes = [], False
    for token in row:
        if token != "-" and not deletes:
            text.append(token)
        deletes = token == "-"
    return padded(text, len(row))


def most_frequent(row: list[str]) -> Outputs:
    return [max("abc", key=row.count)] * len(row)


def majority(row: list[str]) -> Outputs:
    outputs: Outputs = []
    for end in range(1, len(row) + 1):
        part = sorted(row[:end])
        middle = part[end // 2]
        outputs.append(middle if part.count(middle) > end - part.count(middle) else None)
    return outputs


def count_of_counts(row: list[str]) -> Outputs:
    return [sum(row.count(other) == row.count(letter) for other in row) for letter in row]


def repeat_share(row: list[int]) -> Outputs:
    outputs = []
    for number in row:
        below = [other for other in row if not other > number]
        outputs.append(len([other for other in below if row.count(other) >= 2]) / len(below))
    return outputs


def peer_share(row: list[str]) -> Outputs:
    outputs = []
    for letter in row:
        peers = "".join(other for other in row if row.count(other) == row.count(letter))
        outputs.append(peers.count("a") / len(peers))
    return outputs


def sort_distinct(row: list[int]) -> Outputs:
    return padded(sorted(set(row)), len(row))


def sort_by_count(row: list[str]) -> Outputs:
    return sorted(row, key=lambda letter: (-row.count(letter), letter))


def spread_around(row: list[int]) -> Outputs:
    outputs = []
    for number in row:
        upper = [other / 2 for other in row if other >= number]
        lower = [other / 2 for other in row if other <= number]
        outputs.append(sum(upper) / len(upper) - sum(lower) / len(lower))
    return outputs


def current_run(row: list[str]) -> Outputs:
    outputs, length = [], 0
    for at, letter in enumerate(row):
        length = length + 1 if at and row[at - 1] == letter else 1
        outputs.append(length)
    return outputs


def run_encoding(row: list[str]) -> Outputs:
    lengths: Outputs = []
    for at, letter in enumerate(row):
        if at and letter == row[at - 1]:
            lengths[-1] += 1
        else:
            lengths.append(1)
    return padded(lengths, len(row))


def comparison_chain(row: list[str]) -> Outputs:
    outputs, holds = [], True
    for at in range(len(row)):
        if at >= 2 and row[at - 2].isdigit() and not row[at - 1].isdigit() and row[at].isdigit():
            difference = int(row[at - 2]) - int(row[at])
            holds = holds and row[at - 1] == ("<" if difference < 0 else ">" if difference else "=")
        outputs.append(holds)
    return outputs


def trend(row: list[int]) -> Outputs:
    outputs, total = [], 0
    for at, number in enumerate(row):
        if at and number > row[at - 1]:
            total += 1
        elif at and number < row[at - 1]:
            total -= 1
        outputs.append(total / (at + 1))
    return outputs


def period_contrast(row: list[str]) -> Outputs:
    outputs, total = [], 0
    for at, letter in enumerate(row):
        last = row[at - 1] if at >= 1 else row[0]
        last_but_one = row[at - 2] if at >= 2 else row[0]
        total += int(letter == last) - int(letter == last_but_one)
        outputs.append(total / (at + 1))
    return outputs


def local_surge(row: list[str]) -> Outputs:
    outputs = []
    for at in range(len(row)):
        near = row[max(at - 1, 0) : at + 2]
        outputs.append(near.count("x") / len(near) - row.count("x") / len(row))
    return outputs


def depth_rank(row: list[str]) -> Outputs:
    depths: list[int] = []
    outputs = []
    for token in row:
        change = 1 if token == "(" else -1 if token == ")" else 0
        depths.append((depths[-1] if depths else 0) + change)
        outputs.append(len([depth for depth in depths if depth >= depths[-1]]))
    return outputs


def dyck_2(row: list[str]) -> Outputs:
    outputs: Outputs = []
    for at, token in enumerate(row):
        if token in "([":
            outputs.append("opens")
            continue
        # Back to the bracket that is left over when everything in between has been paired.
        surplus, partner = 1, None
        for before in reversed(row[:at]):
            surplus += -1 if before in "([" else 1
            if surplus == 0:
                partner = before
                break
        outputs.append(None if partner is None else "closes" if partner + token in ("()", "[]") else "clashes")
    return outputs


def average_depth(row: list[str]) -> Outputs:
    outputs, depth, total = [], 0, 0.0
    for at, token in enumerate(row):
        depth += 1 if token == "(" else -1 if token == ")" else 0
        total += 0 if depth <= 0 else 0.5 if depth == 1 else 1
        outputs.append(total / (at + 1))
    return outputs


def surplus_share(row: list[str]) -> Outputs:
    outputs, total = [], 0
    for end in range(1, len(row) + 1):
        opens, closes = row[:end].count("("), row[:end].count(")")
        if opens != closes:
            total += 1 if opens > closes else -1
        outputs.append(total / end)
    return outputs


def modular_sum(row: list[int]) -> Outputs:
    return [sum(row[: at + 1]) % 4 for at in range(len(row))]


def remainder(row: list[int]) -> Outputs:
    return [int("".join(map(str, row[: at + 1])), 3) % 4 for at in range(len(row))]


def carry_addition(row: list[str]) -> Outputs:
    first = int("".join(column[0] for column in reversed(row)), 2)
    second = int("".join(column[1] for column in reversed(row)), 2)
    return [(first + second) >> place & 1 for place in range(len(row))]


ORACLES: dict[str, Oracle] = {
    oracle.__name__: oracle
    for oracle in (
        *(two_hop, leap, induction, first_follower, bigram_share),
        *(rotate_by_count, edit_flags, delete_flags),
        *(most_frequent, majority, count_of_counts, repeat_share, peer_share),
        *(sort_distinct, sort_by_count, spread_around),
        *(current_run, run_encoding, period_contrast),
        *(comparison_chain, trend, local_surge),
        *(depth_rank, dyck_2, average_depth, surplus_share),
        *(modular_sum, remainder, carry_addition),
    )
}
"""By case id, in the order of registration."""
