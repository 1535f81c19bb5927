"""The causal models of Indirect Object Identification as graphs of variables, and the heads that implement them.

After the circuit of Wang et al. 2022 (arXiv:2211.00593): heads that notice the name said twice, heads that carry it
to the end of the sentence and keep it from being said again, heads that move the other name there. `ioi` has one head
for each of these, as the 2024 benchmark's simplified circuit; `ioi_full` has several, and finds the name said twice in
a second way, by previous-token and induction heads.

Heads of one kind do not stand in for one another: the last head says a name only if all of them agree. A circuit with
spare parts has edges whose interchange changes nothing, and nobody can certify, or find, an edge like that.
"""

import random

from interpbench_hub.circuit import EMBED, POS_EMBED, Node
from interpbench_hub.ioi.templates import TAIL, TEMPLATES, VOCAB
from interpbench_hub.ioi.words import NAMES, NOBODY
from interpbench_hub.rasp.alignment import Alignment
from interpbench_hub.rasp.variables import Graph, Read, Variable

N_LAYERS, N_HEADS = 6, 4

ANSWER = "answer"
"""The output: what the sentence goes on with. It lives in the logits."""

_MEANINGS = {
    "previous_token": "the name one position before",
    "duplicate_token": "this name, read off all its mentions so far",
    "induction": "the name before the position that follows an earlier mention of this name: the name again",
    "s_inhibition": f"the name said twice, {TAIL} positions before: not to be said again",
    "name_mover": "the one name said so far that no S-inhibition names; none if several are left",
    "backup_name_mover": "the name that the first name mover chose where the second chose what the first does here",
    ANSWER: f"the name that the last mover says, {NOBODY!r} if it says none",
}

HeadReads = tuple[int, tuple[Read, ...]]
"""The layer of a head variable, and what it reads."""


def _moves(v: str) -> tuple[Read, ...]:
    """What a head reads that looks at positions only."""
    return (Read(v, "v"),)


def _finds(q: str = "tokens", k: str = "tokens", v: str = "tokens") -> tuple[Read, ...]:
    """What a head reads that looks for names."""
    return (Read(q, "q"), Read(k, "k"), Read(v, "v"))


SIMPLE: dict[str, HeadReads] = {
    "duplicate_token": (1, _finds()),
    "s_inhibition": (3, _moves("duplicate_token")),
    "name_mover": (4, _finds("s_inhibition")),
}
"""The heads of `ioi`."""

FULL: dict[str, HeadReads] = {
    "previous_token_1": (0, _moves("tokens")),
    "previous_token_2": (0, _moves("tokens")),
    "duplicate_token_1": (0, _finds()),
    # A wrong name in all that a head reads would go unnoticed.
    "duplicate_token_2": (1, _finds("duplicate_token_1")),
    "duplicate_token_3": (2, _finds("duplicate_token_2")),
    "induction_1": (1, _finds("tokens", "previous_token_1", "previous_token_2")),
    "induction_2": (2, _finds("induction_1", "previous_token_2", "previous_token_2")),
    "s_inhibition_1": (3, _moves("duplicate_token_3")),
    "s_inhibition_2": (3, _moves("induction_2")),
    # Each after an S-inhibition of its own. To leave out a name that one query in two holds, a head must tell half a
    # name from other names' likeness, which is nearly as large.
    "name_mover_1": (4, _finds("s_inhibition_1")),
    "name_mover_2": (4, _finds("s_inhibition_2")),
    # One head compares them. Votes that the logits add up would have to be told from one vote less, where a head's
    # softmax tells a match from none. Its keys are those of the second, which alone says nothing before the end: no
    # name has been said twice there.
    "backup_name_mover": (5, _finds("name_mover_1", "name_mover_2", "name_mover_1")),
}
"""The heads of `ioi_full`."""


def role_of(variable: str) -> str:
    """What a variable does, without its number.

    >>> role_of("induction_2")
    'induction'
    """
    name, _, number = variable.rpartition("_")
    return name if number.isdigit() else variable


def graph_of(heads: dict[str, HeadReads]) -> Graph:
    """The variables: the inputs, the heads' (a name, or None), and the answer, which is a word."""
    tokens = _variable("tokens", "tokens", (), VOCAB, "the token")
    positions = tuple(range(max(map(len, TEMPLATES))))
    indices = _variable("indices", "indices", (), positions, "the position", is_positional=True)
    found = [
        _variable(name, "aggregate", reads, NAMES, _MEANINGS[role_of(name)], may_be_undefined=True)
        for name, (_, reads) in heads.items()
    ]
    *_, last = heads
    answer = _variable(ANSWER, "map", (Read(last),), VOCAB, _MEANINGS[ANSWER])
    lengths = [len(template) for template in TEMPLATES]
    return Graph((tokens, indices, *found, answer), answer, VOCAB, min(lengths), max(lengths), causal=True)


def alignment_of(heads: dict[str, HeadReads], *, seed: str) -> Alignment:
    """Each head variable in a head drawn at random from its layer; the answer is the logits' own."""
    rng = random.Random(f"interpbench alignment {seed}")
    node_of = {"tokens": EMBED, "indices": POS_EMBED}
    for layer in range(N_LAYERS):
        names = [name for name, (at, _) in heads.items() if at == layer]
        for name, head in zip(names, rng.sample(range(N_HEADS), len(names)), strict=True):
            node_of[name] = Node.of_head(layer, head)
    return Alignment(N_LAYERS, N_HEADS, node_of)


def _variable(
    name: str,
    kind: str,
    reads: tuple[Read, ...],
    values: tuple[object, ...],
    meaning: str,
    *,
    may_be_undefined: bool = False,
    is_positional: bool = False,
) -> Variable:
    return Variable(
        name=name,
        kind=kind,  # type: ignore[arg-type]
        reads=reads,
        values=values,
        may_be_undefined=may_be_undefined,
        encoding="categorical",
        is_positional=is_positional,
        meaning=meaning,
        text=name,
    )
