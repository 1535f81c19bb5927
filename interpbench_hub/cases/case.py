"""A case: a program with its vocabulary, lengths and sampler, and the encoding of its inputs and outputs."""

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from interpbench_hub.certificate import Counterfactual
from interpbench_hub.circuit import Circuit
from interpbench_hub.constants import BOS, PAD
from interpbench_hub.errors import CaseError
from interpbench_hub.rasp.alignment import MAX_COUNTED, Alignment, align, prescribed_circuit
from interpbench_hub.rasp.graph import build_graph
from interpbench_hub.rasp.language import SOp, Value
from interpbench_hub.rasp.variables import Graph, VariableKind

if TYPE_CHECKING:
    import torch

    from interpbench_hub.cases.pairs import PairSource, Split
    from interpbench_hub.rasp.causal_model import CausalModel

Sampler = Callable[[random.Random, int], list[Value]]
"""Draws one sequence: `sampler(rng, n)` returns `n` tokens (BOS not among them)."""
Tier = Literal["elementwise", "single-head", "multi-head", "deep"]

_ID = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")


_ORDERING: Mapping[str, Any] = {"pairwise_weight": 50.0, "spread_weight": 20.0, "lasting_attention": True}
"""Help in training for heads that count among many values: see `Case.edge_siit`."""


@dataclass(frozen=True, eq=False)
class Case:
    """One benchmark item. Everything else about it (variables, alignment, circuit) follows from these fields."""

    id: str
    """Lower-case words joined by underscores: `case_3`, `induction`."""
    description: str
    """What the program computes, in one sentence."""
    program: SOp
    """The output expression; call it with a list of tokens (without BOS). That of a causal case is read causally."""
    vocab: tuple[Value, ...]
    """Every token an input may hold; token ids are their places here."""
    min_len: int = 4
    """Shortest input, BOS counted."""
    max_len: int = 10
    """Longest input, BOS counted."""
    causal: bool = False
    """Whether positions see only those before them (the program then means its causal reading)."""
    sampler: Sampler | None = None
    """Draws inputs where uniform ones starve a class or a branch; None draws tokens uniformly."""
    was_published_2024: bool = False
    """Whether the 2024 release has a trained model of this case."""
    notes: str = field(default="", repr=False)
    """Where the case departs from the 2024 benchmark, and why."""

    def __post_init__(self) -> None:
        if not isinstance(self.id, str) or _ID.fullmatch(self.id) is None:
            raise CaseError(f"case id {self.id!r} is not lower-case words joined by underscores, such as case_3")
        self._check_program()
        if not 2 <= self.min_len <= self.max_len:
            raise CaseError(
                f"case {self.id}: lengths {self.min_len} to {self.max_len} are no range; they count BOS, "
                "so the shortest is at least 2"
            )
        try:
            is_vocab = isinstance(self.vocab, tuple) and len(set(self.vocab)) == len(self.vocab) >= 2
        except TypeError:
            is_vocab = False
        if not is_vocab:
            raise CaseError(f"case {self.id}: vocab is a tuple of at least two tokens, each once, got {self.vocab!r}")
        if None in self.vocab or BOS in self.vocab or PAD in self.vocab:
            raise CaseError(f"case {self.id}: vocab holds None, {BOS} or {PAD}, which have meanings of their own")
        if self.program.is_causal != self.causal:
            object.__setattr__(self, "program", self.program.read_causally(self.causal))

    def _check_program(self) -> None:
        if not isinstance(self.program, SOp):
            raise CaseError(f"case {self.id}: program is {self.program!r}; give the output s-op of a RASP program")

    # -- what follows from the program ---------------------------------------------------------------------------

    @cached_property
    def graph(self) -> Graph:
        """The program's variables, with their value sets."""
        return build_graph(self.program, self.vocab, self.min_len - 1, self.max_len - 1, causal=self.causal)

    @cached_property
    def alignment(self) -> Alignment:
        """Which node of the low-level model implements which variables."""
        return align(self.graph, seed=self.id)

    @cached_property
    def high_level(self) -> "CausalModel":
        """The causal model on batches, with interchange."""
        from interpbench_hub.rasp.high_level import HighLevelModel

        return HighLevelModel(self.graph, self.alignment)

    @cached_property
    def circuit(self) -> Circuit:
        """The edges the program prescribes, each with its kind (`varying`, `constant`, `inert`)."""
        from interpbench_hub.cases.kinds import with_kinds

        return with_kinds(self, prescribed_circuit(self.graph, self.alignment, case=self.id))

    @property
    def categorical(self) -> bool:
        """Whether outputs are classes; else they are numbers, one regression output."""
        return self.graph.output.encoding == "categorical"

    @cached_property
    def n_attention_heads(self) -> int:
        """Number of heads in the circuit."""
        return sum(node.is_head for node in self.alignment.variables_of)

    @cached_property
    def n_heads_in_a_row(self) -> int:
        """Most heads on one path through the circuit."""
        heads: dict[str, int] = {}
        for variable in self.graph.variables:
            below = max((heads[read.variable] for read in variable.reads), default=0)
            heads[variable.name] = below + (variable.kind in ("fraction", "aggregate"))
        return heads[self.graph.output.name]

    @property
    def tier(self) -> Tier:
        """Difficulty: `elementwise` uses no attention, `single-head` one head, `multi-head` several.

        `deep` cases have a path through at least three heads, one after another.
        """
        if self.n_heads_in_a_row >= 3:
            return "deep"
        return ("elementwise", "single-head", "multi-head")[min(self.n_attention_heads, 2)]

    @property
    def tags(self) -> dict[str, object]:
        """What the case can be chosen by: tier, heads, edges, varying edges, whether 2024 published it."""
        return {
            "tier": self.tier,
            "n_attention_heads": self.n_attention_heads,
            "n_edges": len(self.circuit),
            "n_varying_edges": len(self.circuit.of_kind("varying")),
            "causal": self.causal,
            "categorical": self.categorical,
            "was_published_2024": self.was_published_2024,
        }

    # -- inputs ----------------------------------------------------------------------------------------------------

    @property
    def bos_id(self) -> int:
        return len(self.vocab)

    @property
    def pad_id(self) -> int:
        return len(self.vocab) + 1

    @property
    def d_vocab(self) -> int:
        """Number of token ids: the vocabulary, then BOS, then PAD."""
        return len(self.vocab) + 2

    @cached_property
    def token_ids(self) -> dict[Value, int]:
        """Id of each token of the vocabulary, then BOS and PAD."""
        return {token: place for place, token in enumerate((*self.vocab, BOS, PAD))}

    def encode(self, sequences: Sequence[Sequence[Value]]) -> "torch.Tensor":
        """Token ids of equally long sequences (without BOS), BOS put first: LongTensor [batch, pos].

        >>> from interpbench_hub import get_case
        >>> get_case("case_3").encode([["a", "x", "c"]]).tolist()
        [[4, 0, 3, 2]]
        """
        import torch

        lengths = {len(sequence) for sequence in sequences}
        if len(lengths) > 1:
            raise CaseError(
                f"case {self.id}: sequences have lengths {sorted(lengths)}; one batch has one length, so encode "
                "each length by itself"
            )
        for sequence in sequences:
            if not self.min_len <= len(sequence) + 1 <= self.max_len:
                raise CaseError(
                    f"case {self.id}: a sequence has {len(sequence)} tokens; it takes {self.min_len - 1} to "
                    f"{self.max_len - 1} (BOS is added here)"
                )
        # BOS and PAD are in token_ids for whoever decodes ids; they are no tokens an input may hold.
        known = self.token_ids
        try:
            rows = [[self.bos_id, *(known[token] for token in sequence)] for sequence in sequences]
        except (KeyError, TypeError) as error:
            raise CaseError(
                f"case {self.id}: {error} is not a token; the vocabulary is {', '.join(map(repr, self.vocab))}"
            ) from error
        width = next(iter(lengths), 0) + 1
        ids = torch.tensor(rows, dtype=torch.long).reshape(len(rows), width)
        if bool((ids[:, 1:] >= self.bos_id).any()):
            raise CaseError(f"case {self.id}: {BOS} and {PAD} are no tokens of an input; encode puts BOS first itself")
        return ids

    # -- outputs ---------------------------------------------------------------------------------------------------

    @property
    def classes(self) -> tuple[Value, ...]:
        """Output values by class id, None for `<undefined>`; empty for a regression case."""
        return self.graph.output.classes if self.categorical else ()

    @property
    def d_vocab_out(self) -> int:
        """Number of outputs a position: the classes, or 1 for regression."""
        return len(self.classes) if self.categorical else 1

    def decode(self, logits: "torch.Tensor") -> list[list[Value]]:
        """Outputs a model's logits [batch, pos, d_vocab_out] stand for, BOS dropped; None where undefined."""
        if logits.ndim != 3 or logits.shape[-1] != self.d_vocab_out:
            raise CaseError(
                f"case {self.id}: logits have shape {tuple(logits.shape)}; expected [batch, pos, {self.d_vocab_out}]"
            )
        if not self.categorical:
            return logits[:, 1:, 0].tolist()
        return [[self.classes[place] for place in row] for row in logits[:, 1:].argmax(-1).tolist()]

    # -- training ------------------------------------------------------------------------------------------------------

    @property
    def d_model(self) -> int | None:
        """Width of the residual stream of the transformer the case is trained in; None: as the rule for all cases."""
        return None

    @property
    def normalization_type(self) -> Literal["LN"] | None:
        """Normalisation of the transformer the case is trained in: none."""
        return None

    def n_compared(self, kind: VariableKind) -> int:
        """The most values that a head of a kind must tell apart, of its queries or of its keys; 0 if none must."""
        variables = self.graph.variables
        return self.graph.n_compared(v for v in variables if v.kind == kind and not self.high_level.selects_alike(v))

    @property
    def edge_siit(self) -> Mapping[str, Any]:
        """Fields in which Edge-SIIT's recipe differs for this case: of those that sort dozens of values, else none."""
        # To count how many of dozens of values are smaller, a head must give all of them the same score and none to
        # the next larger one, to a few hundredths. Rows bring that together too seldom, and a cool-down without it
        # forgets: after 10,000 steps `case_22` had 4.5 % of its exchanged keys wrong.
        return _ORDERING if self.n_compared("fraction") > MAX_COUNTED else {}

    @property
    def is_language(self) -> bool:
        """Whether outputs are next tokens, so that a model can learn the language of the inputs besides the task."""
        return False

    # -- sampling --------------------------------------------------------------------------------------------------

    def sample(self, rng: random.Random, n_tokens: int) -> list[Value]:
        """One input of `n_tokens` tokens (BOS not counted), from the case's sampler."""
        if self.sampler is not None:
            return self.sampler(rng, n_tokens)
        return [self.vocab[int(rng.random() * len(self.vocab))] for _ in range(n_tokens)]

    @property
    def counterfactuals(self) -> tuple[Counterfactual, ...]:
        """What source inputs can be to their bases; a certificate measures each by itself."""
        return ("resample",)

    def pair_sampler(
        self,
        *,
        seed: int | str,
        split: "Split | None" = None,
        related: float = 0.0,
        counterfactual: Counterfactual | None = None,
    ) -> "PairSource":
        """Draws pairs of inputs, and inputs by themselves: see `PairSampler`.

        `counterfactual` is one of the case's, or None for all in equal shares.
        """
        from interpbench_hub.cases.pairs import PairSampler

        return PairSampler(self, seed=seed, split=split, related=related)

    @property
    def n_inputs(self) -> int:
        """Size of the input space: all sequences of all lengths."""
        return sum(len(self.vocab) ** length for length in range(self.min_len - 1, self.max_len))
