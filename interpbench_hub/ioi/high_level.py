"""The causal model of Indirect Object Identification on batches of sentences, with node and path interchange.

Does for the variables of `circuits` what `rasp.high_level.HighLevelModel` does for those of a program, with the same
interface and the same codes.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from interpbench_hub.circuit import EMBED
from interpbench_hub.ioi.circuits import role_of
from interpbench_hub.ioi.templates import TAIL
from interpbench_hub.ioi.words import NAMES, NOBODY
from interpbench_hub.rasp.alignment import Alignment
from interpbench_hub.rasp.causal_model import SELECTED, UNCLEAR, CausalModel, Slots, Values
from interpbench_hub.rasp.variables import Graph, Read, Variable

_N_NAMES = len(NAMES)
NONE, AMBIGUOUS = _N_NAMES, _N_NAMES + 1
"""Codes of a head's variable that is no name: undefined, or different names at once."""


class IoiModel(CausalModel):
    """The variables on batches of token codes [batch, pos] (no BOS), padded on the right.

    The answer exists at each sentence's last position; elsewhere its code is *ambiguous*, which is no target and no
    evidence. Where an interchange makes a head find different words, so is the answer, as in programs. A name mover
    that finds several names in a plain sentence says none to what it is written for, and to the answer wherever it is
    brought; brought to a head that compares names, what it says is ambiguous, for a mixture of names is half of each.
    And where an interchange brings all tokens of a sentence that ends elsewhere, the answer is ambiguous, too.
    """

    def __init__(self, graph: Graph, alignment: Alignment, *, device: torch.device | str = "cpu") -> None:
        super().__init__(graph, alignment, device=device)
        self._nobody = graph.output.code(NOBODY)
        self._from_tokens = [place for edge, place in self.edge_index.items() if edge.source == EMBED]

    def selects_alike(self, head: Variable) -> bool:
        """Whether a head looks at positions only."""
        return role_of(head.name) in ("previous_token", "s_inhibition")

    def selects_nothing(self, head: Variable) -> bool:
        """Whether a head never selects a key: none is like that."""
        return False

    def selects(self, head: Variable, compared: Slots, lengths: Tensor, width: int) -> Tensor:
        match role_of(head.name):
            case "previous_token":
                chosen = _before(width, 1, lengths.device)
            case "s_inhibition":
                chosen = _before(width, TAIL, lengths.device)
            case "name_mover":
                chosen = _other(compared["q"], compared["k"])
            case _:
                chosen = _equal(compared["q"], compared["k"])
        found, reachable = chosen.to(torch.uint8) * SELECTED, _reachable(width, lengths)
        if "q" in compared:
            found = found.masked_fill(_unclear(compared, reachable)[:, :, None], UNCLEAR)
        return found * reachable

    def output(self, values: Values, source: Values, edges: Tensor) -> Tensor:
        own = values[self.graph.output.name]
        # With all its tokens from a sentence that ends elsewhere this is that sentence cut short, and how it goes on
        # there is the language's business.
        goes_on = source[self.graph.output.name][:, : own.shape[1]] == self.output_ambiguous
        is_other = edges[:, self._from_tokens].all(1)
        return own.masked_fill(is_other[:, None] & goes_on, self.output_ambiguous)

    def _run(self, tokens: Tensor, lengths: Tensor, source: Values | None, edges: Tensor | None) -> Values:
        batch, width = tokens.shape
        reachable = _reachable(width, lengths)
        values: Values = {}
        for variable in self.graph.variables:
            slots = self.slots(variable, values, source, edges)
            match role_of(variable.name):
                case "tokens":
                    result = tokens.masked_fill(torch.arange(width, device=tokens.device) >= lengths[:, None], 0)
                case "indices":
                    result = torch.arange(width, device=tokens.device).expand(batch, width)
                case "previous_token":
                    result = _moved(slots["v"], 1)
                case "s_inhibition":
                    result = _moved(slots["v"], TAIL)
                case "duplicate_token" | "induction" | "backup_name_mover":
                    result = _found(_equal, slots, reachable)
                case "name_mover":
                    result = _found(_other, slots, reachable)
                case _:
                    result = self._answer(slots[None], lengths)
            values[variable.name] = result
        return values

    def read(self, reader: Variable, read: Read, values: Values, source: Values | None, edges: Tensor | None) -> Tensor:
        if role_of(read.variable) == "name_mover":
            # A head that tells a hundred names apart in a few dozen dimensions cannot help attending to some of those
            # left more than to others. In a plain sentence several are none, whatever their shares.
            if source is None:
                values = _with_several_as_none(values, read.variable)
            elif reader is self.graph.output:
                source = _with_several_as_none(source, read.variable)
        codes = super().read(reader, read, values, source, edges)
        # Heads look at names; a word that is none is to them as nothing.
        return codes.clamp(max=NONE) if read.variable == "tokens" else codes

    def _answer(self, said: Tensor, lengths: Tensor) -> Tensor:
        """The name that the last mover says [batch, pos], nobody if it says none, at each sentence's end."""
        name = said.masked_fill(said == NONE, self._nobody).masked_fill(said == AMBIGUOUS, self.output_ambiguous)
        is_end = torch.arange(said.shape[1], device=said.device) == lengths[:, None] - 1
        return name.masked_fill(~is_end, self.output_ambiguous)


def _with_several_as_none(values: Values, name: str) -> Values:
    """Values of variables in which one that holds several names holds none."""
    return {**values, name: values[name].masked_fill(values[name] == AMBIGUOUS, NONE)}


def _moved(codes: Tensor, distance: int) -> Tensor:
    """Codes [batch, pos] of `distance` positions before, None where there is no such position."""
    moved = torch.full_like(codes, NONE)
    moved[:, distance:] = codes[:, : max(codes.shape[1] - distance, 0)]
    return moved


def _found(chooses: Callable[[Tensor, Tensor], Tensor], slots: Slots, reachable: Tensor) -> Tensor:
    """The name that stands in v at all reachable keys which a query chooses: None if there are none.

    Ambiguous if they hold different ones, and where it is unclear what is chosen.
    """
    chosen, v = chooses(slots["q"], slots["k"]) & reachable, slots["v"][:, None, :]
    low = torch.where(chosen, v, AMBIGUOUS + 1).amin(-1)
    high = torch.where(chosen, v, -1).amax(-1)
    result = torch.where(high < 0, NONE, torch.where(low < high, AMBIGUOUS, low))
    return result.masked_fill(_unclear(slots, reachable), AMBIGUOUS)


def _unclear(slots: Slots, reachable: Tensor) -> Tensor:
    """Whether what a query chooses hangs on an ambiguous name, its own or a key's: BoolTensor [batch, pos]."""
    q = slots["q"]
    keys = ((slots["k"] == AMBIGUOUS)[:, None, :] & reachable).any(-1)
    return (q == AMBIGUOUS) | ((q < _N_NAMES) & keys)


def _before(width: int, distance: int, device: torch.device) -> Tensor:
    """Whether a key stands `distance` positions before a query: BoolTensor [1, query, key]."""
    at = torch.arange(width, device=device)
    return (at[:, None] - at == distance)[None]


def _equal(q: Tensor, k: Tensor) -> Tensor:
    """Whether keys hold the name that queries hold: BoolTensor [batch, query, key]."""
    return (k[:, None, :] == q[:, :, None]) & (q < _N_NAMES)[:, :, None]


def _other(q: Tensor, k: Tensor) -> Tensor:
    """Whether keys hold a name other than that which queries hold: BoolTensor [batch, query, key]."""
    return (k[:, None, :] != q[:, :, None]) & (k < _N_NAMES)[:, None, :] & (q < _N_NAMES)[:, :, None]


def _reachable(width: int, lengths: Tensor) -> Tensor:
    """Keys that are no padding and not after the query: BoolTensor [batch, query, key]."""
    at = torch.arange(width, device=lengths.device)
    return (at <= at[:, None]) & (at < lengths[:, None, None])
