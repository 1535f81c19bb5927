"""Indirect Object Identification as a case: what training, certificates and datasets ask of any case.

`ioi` and `ioi_full` differ in their causal model alone; sentences, vocabulary and answers are the same.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, cast

from interpbench_hub.cases.case import Case
from interpbench_hub.cases.pairs import Split
from interpbench_hub.certificate import Counterfactual
from interpbench_hub.errors import CaseError
from interpbench_hub.ioi.circuits import FULL, SIMPLE, HeadReads, alignment_of, graph_of
from interpbench_hub.ioi.templates import AGAIN, FIRST, OBJECT, PLACE, SECOND, TAIL, TEMPLATES, VOCAB
from interpbench_hub.ioi.words import COUNTERFACTUALS, NAMES, NOBODY, OBJECTS, PLACES
from interpbench_hub.rasp.alignment import Alignment
from interpbench_hub.rasp.language import SOp, Value
from interpbench_hub.rasp.variables import Graph

if TYPE_CHECKING:
    from interpbench_hub.ioi.sentences import SentencePairs
    from interpbench_hub.rasp.causal_model import CausalModel


@dataclass(frozen=True)
class IoiProgram:
    """The task as a function: words of a sentence, without BOS, to what it goes on with after the last of them."""

    is_causal: bool = True

    def __call__(self, tokens: Sequence[Value]) -> list[Value]:
        """The answer in the last place, None before it: what other positions go on with is the language's business.

        >>> IoiProgram()("Then , Mary and John went to the store . John gave a drink to".split())[-1]
        'Mary'
        """
        said = {token for token in tokens if token in _IS_NAME}
        again = tokens[-1 - TAIL] if len(tokens) > TAIL else None
        others = sorted(said - {again})
        answer = others[0] if again in said and len(others) == 1 else NOBODY
        return [None] * (len(tokens) - 1) + [answer] if tokens else []

    def __str__(self) -> str:
        return (
            f"The one name said besides that {TAIL} positions before the end; {NOBODY!r} if there are several, or none."
        )


_IS_NAME = frozenset(NAMES)


_MIXTURE: tuple[Counterfactual, ...] = (*COUNTERFACTUALS, "name_swap", "resample", "resample")


@dataclass(frozen=True, eq=False)
class IoiCase(Case):
    """A case of sentences: its causal model is given by heads, not by a program."""

    heads: dict[str, HeadReads] = field(default_factory=dict, repr=False)
    """The layer of every head variable and what it reads."""

    def _check_program(self) -> None:
        if not self.heads:
            raise CaseError(f"case {self.id}: heads is empty; give the head variables of the causal model")

    @cached_property
    def graph(self) -> Graph:
        return graph_of(self.heads)

    @cached_property
    def alignment(self) -> Alignment:
        return alignment_of(self.heads, seed=self.id)

    @cached_property
    def high_level(self) -> "CausalModel":
        from interpbench_hub.ioi.high_level import IoiModel

        return IoiModel(self.graph, self.alignment)

    @property
    def d_model(self) -> int:
        # Every head writes names. What one receiver reads and another must not takes dimensions of its own, or names
        # that training never shows together are mistaken for others: two at the end of a sentence in `ioi`, four in
        # `ioi_full`.
        return 64 * max(1, round(len(self.heads) / 6))

    @property
    def normalization_type(self) -> Literal["LN"]:
        return "LN"

    @property
    def edge_siit(self) -> Mapping[str, Any]:
        # Six layers offer many routes around the circuit, and a hundred names many pairs to tell apart. Let go before
        # every head has learnt its part, a circuit loses to those routes. All names are as rare as each other. Behind
        # LayerNorm heads can take larger steps: at step 500 `ioi` has 79 % of its exchanged edges right, not 64 %. In
        # wide streams they cannot: at step 150 they are twice as far from what they should attend to.
        # And in them the name that stands at a query shines through what the circuit brings there: of the wrong answers
        # that exchanges of `a0.h1` gave in `ioi_full`, five in six were the base's name, seen where none should be.
        own = {"attention_rate": 6.0} if self.d_model == 64 else {"interchanged_weight": 1.0}
        # Names that no sentence of training has together are told apart where the queries of one meet another's keys,
        # and nowhere else: a cool-down that takes this away forgets them.
        apart = {"crossed_rows": 4, "lasting_attention": True}
        return {"isolated_steps": max(800, 100 * len(self.heads)), "rare_share": 0.0} | apart | own

    @property
    def is_language(self) -> bool:
        return True

    @property
    def counterfactuals(self) -> tuple[Counterfactual, ...]:
        return COUNTERFACTUALS

    def pair_sampler(
        self,
        *,
        seed: int | str,
        split: Split | None = None,
        related: float = 0.0,
        counterfactual: Counterfactual | None = None,
    ) -> "SentencePairs":
        """Draws pairs of sentences: see `SentencePairs`. Most are related anyway; a share `related` has other words.

        Unless a counterfactual is asked for, three in seven sources are unrelated, as they leave most to get wrong, and
        two have the names exchanged: these tell a circuit that carries names from one that carries where they stand,
        which is easier to learn.
        """
        from interpbench_hub.ioi.sentences import SentencePairs

        return SentencePairs(self, seed, split, (counterfactual,) if counterfactual else _MIXTURE, related)

    def sample(self, rng: random.Random, n_tokens: int) -> list[Value]:
        """A sentence of `n_tokens` words, or the nearest shorter length that any template has."""
        lengths = sorted({len(template) for template in TEMPLATES})
        length = max((length for length in lengths if length <= n_tokens), default=lengths[0])
        template = rng.choice([template for template in TEMPLATES if len(template) == length])
        first, second = rng.sample(NAMES, 2)
        filling = {FIRST: first, SECOND: second, AGAIN: rng.choice((first, second))}
        filling |= {PLACE: rng.choice(PLACES), OBJECT: rng.choice(OBJECTS)}
        return [filling.get(word, word) for word in template]

    @property
    def n_inputs(self) -> int:
        """Number of different sentences."""
        # Either of two names is said again.
        n_namings = 2 * len(NAMES) * (len(NAMES) - 1)
        return n_namings * sum(
            len(PLACES) ** (PLACE in words) * len(OBJECTS) ** (OBJECT in words) for words in TEMPLATES
        )


def _case(case_id: str, description: str, heads: dict[str, HeadReads]) -> IoiCase:
    lengths = [len(template) for template in TEMPLATES]
    return IoiCase(
        id=case_id,
        description=description,
        program=cast("SOp", IoiProgram()),
        vocab=VOCAB,
        min_len=min(lengths) + 1,
        max_len=max(lengths) + 1,
        causal=True,
        heads=heads,
    )


IOI = _case(
    "ioi",
    "Indirect object identification: the sentence goes on with the name that was not said twice.",
    SIMPLE,
)
IOI_FULL = _case(
    "ioi_full",
    "Indirect object identification by the larger circuit: previous-token, induction, duplicate-token and "
    "S-inhibition heads, two name movers and a backup that compares them.",
    FULL,
)
CASES = (IOI, IOI_FULL)
