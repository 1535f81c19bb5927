"""From a program to its variables: what is computed, from what, and every value it can take.

Owns the rules by which expressions become variables, those of Tracr's compiler: a map of a map is one map, a
selector width is an attention head (the fraction of attention BOS keeps) followed by an MLP (the width), constants
are folded into whatever reads them. Knows nothing of layers, heads or batches.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import product
from typing import Any

from interpbench_hub.circuit import Slot
from interpbench_hub.errors import ProgramError
from interpbench_hub.rasp import language as rasp
from interpbench_hub.rasp.evaluator import apply, in_order, selects
from interpbench_hub.rasp.language import Encoding, Value
from interpbench_hub.rasp.printing import expression, unique_names
from interpbench_hub.rasp.value_sets import is_finite, means_of, value_set, without_near_copies
from interpbench_hub.rasp.variables import Graph, Read, Variable, VariableKind

MAX_COMBINATIONS = 2_000_000
"""Most combinations of input values a SequenceMap is tabulated over."""


def build_graph(
    program: rasp.SOp, vocab: Sequence[Value], min_tokens: int, max_tokens: int, *, causal: bool = False
) -> Graph:
    """The variables of `program` on inputs of `min_tokens` to `max_tokens` tokens (without BOS) from `vocab`.

    Raises `ProgramError`, naming the variable, for what cannot be carried by a transformer: a numerical variable
    that is undefined somewhere, is selected by or enters a non-linear SequenceMap; a value set that explodes.
    """
    return _Builder(vocab, min_tokens, max_tokens, causal).build(program)


class _Builder:
    def __init__(self, vocab: Sequence[Value], min_tokens: int, max_tokens: int, causal: bool) -> None:
        self.vocab, self.min_tokens, self.max_tokens, self.causal = tuple(vocab), min_tokens, max_tokens, causal
        self.variables: dict[str, Variable] = {}
        self.variable_of: dict[rasp.SOp, Variable] = {}
        self.constant_of: dict[rasp.SOp, Value] = {}

    def build(self, program: rasp.SOp) -> Graph:
        order = in_order(program)
        self.names = unique_names([sop for sop in order if not isinstance(sop, rasp.Full)])
        for sop in order:
            self._check(sop)
            if not self._fold(sop):
                self.variable_of[sop] = self._variable(sop)
        if program in self.constant_of:
            raise ProgramError(f"the program's output {program.name!r} is the constant {self.constant_of[program]!r}")
        output = self.variable_of[program]
        needed = self._needed(output)
        variables = tuple(variable for name, variable in self.variables.items() if name in needed)
        return Graph(variables, output, self.vocab, self.min_tokens, self.max_tokens, self.causal)

    def _needed(self, output: Variable) -> set[str]:
        # Fusing maps leaves inner maps that nobody reads any more.
        needed, open_ = {output.name}, [output]
        while open_:
            for read in open_.pop().reads:
                if read.variable not in needed:
                    needed.add(read.variable)
                    open_.append(self.variables[read.variable])
        return needed

    # -- what cannot be compiled ---------------------------------------------------------------------------------

    def _check(self, sop: rasp.SOp) -> None:
        name = self.names.get(sop, sop.name)
        match sop:
            case rasp.Aggregate():
                self._check_selector(sop.selector, name)
                if sop.encoding != sop.sop.encoding:
                    raise ProgramError(
                        f"variable {name!r} is {sop.encoding} but averages the {sop.sop.encoding} {sop.sop.name!r}; "
                        "an aggregate is encoded as what it averages"
                    )
                if sop.encoding == "categorical" and sop.default is not None:
                    raise ProgramError(
                        f"variable {name!r} is a categorical Aggregate with default {sop.default!r}; attention on "
                        "nothing carries no class, so its default is None (map None away afterwards)"
                    )
                if sop.encoding == "numerical" and (sop.default is None or sop.default != 0):
                    raise ProgramError(
                        f"variable {name!r} is a numerical Aggregate with default {sop.default!r}; attention on BOS "
                        "carries 0, so its default is 0"
                    )
            case rasp.SelectorWidth():
                self._check_selector(sop.selector, name)
            case rasp.LinearSequenceMap():
                for child in sop.children:
                    if child.encoding != "numerical" and child not in self.constant_of:
                        raise ProgramError(
                            f"variable {name!r} is a LinearSequenceMap of {child.name!r}, which is categorical; wrap "
                            "it in numerical(...)"
                        )
            case rasp.SequenceMap():
                for child in sop.children:
                    if child.encoding == "numerical" and child not in self.constant_of:
                        raise ProgramError(
                            f"variable {name!r} is a SequenceMap of the numerical {child.name!r}; only linear "
                            "functions of numerical variables compile: use LinearSequenceMap, or a Map to categories"
                        )

    def _check_selector(self, selector: rasp.Select, name: str) -> None:
        for role, sop in (("keys", selector.keys), ("queries", selector.queries)):
            if sop.encoding == "numerical" and sop not in self.constant_of:
                raise ProgramError(
                    f"variable {name!r} selects by the numerical {sop.name!r} as {role}; a Select compares "
                    "categorical values: wrap it in categorical(...) or Map it to classes"
                )

    # -- constants ---------------------------------------------------------------------------------------------------

    def _fold(self, sop: rasp.SOp) -> bool:
        """Whether `sop` is the same constant everywhere; then it is no variable."""
        if isinstance(sop, rasp.Full):
            self.constant_of[sop] = sop.value
        elif isinstance(sop, rasp.Map | rasp.SequenceMap) and all(c in self.constant_of for c in sop.children):
            value = apply(sop, *(self.constant_of[child] for child in sop.children))
            if value is None:
                raise ProgramError(f"variable {self.names[sop]!r} is undefined everywhere")
            self.constant_of[sop] = value
        else:
            return False
        return True

    # -- variables ---------------------------------------------------------------------------------------------------

    def _variable(self, sop: rasp.SOp) -> Variable:
        match sop:
            case rasp.Tokens():
                return self._add(sop, "tokens", values=self.vocab)
            case rasp.Indices():
                return self._add(sop, "indices", values=range(self.max_tokens), is_positional=True)
            case rasp.Map() | rasp.SequenceMap():
                return self._map(sop)
            case rasp.SelectorWidth():
                return self._width(sop)
            case rasp.Aggregate():
                return self._aggregate(sop)
        raise ProgramError(f"{sop!r} is not part of the RASP language; build programs from interpbench_hub.rasp")

    def _add(
        self,
        sop: rasp.SOp,
        kind: VariableKind,
        *,
        values: Iterable[Value],
        name: str | None = None,
        reads: tuple[Read, ...] = (),
        may_be_undefined: bool = False,
        is_positional: bool = False,
        encoding: Encoding | None = None,
        meaning: str | None = None,
        text: str | None = None,
        **rest: Any,
    ) -> Variable:
        name = name or self.names[sop]
        encoding = encoding or sop.encoding
        # Inputs keep the vocabulary's order, and what merely passes values on keeps theirs: codes stay the same.
        keeps_order = kind in ("tokens", "indices") or (kind == "aggregate" and encoding == "categorical")
        values = value_set(values, name, keeps_order)
        text = text or expression(sop, self.names)
        if encoding == "numerical":
            if may_be_undefined:
                raise ProgramError(
                    f"variable {name!r} is numerical but undefined for some inputs; a number cannot stand for None, "
                    "so map every input to a number or make the variable categorical"
                )
            for value in values:
                if not isinstance(value, int | float) or not is_finite(value):
                    raise ProgramError(f"variable {name!r} is numerical but takes the value {value!r}")
            if not keeps_order:
                values = without_near_copies(values)
        variable = Variable(
            name,
            kind,
            reads,
            values,
            may_be_undefined,
            encoding,
            is_positional or (len(values) == 1 and not may_be_undefined),
            sop.meaning or text if meaning is None else meaning,
            text,
            **rest,
        )
        self.variables[name] = variable
        return variable

    def _map(self, sop: rasp.Map | rasp.SequenceMap) -> Variable:
        # Arguments that are constants or read the same variable are folded into the function.
        slots: list[int | None] = []
        arguments: list[Variable] = []
        functions: list[Callable[[Value], Value]] = []
        for child in sop.children:
            if child in self.constant_of:
                slots.append(None)
                functions.append(lambda _, value=self.constant_of[child]: value)
                continue
            variable, inner = self.variable_of[child], _identity
            # A map of a map is one MLP; a map of a selector width or of a SequenceMap is another one after it.
            if isinstance(sop, rasp.Map) and isinstance(child, rasp.Map):
                assert variable.function is not None
                inner, variable = variable.function, self.variables[variable.reads[0].variable]
            if variable not in arguments:
                arguments.append(variable)
            slots.append(arguments.index(variable))
            functions.append(inner)

        def function(*values: Value) -> Value:
            given = [f(None if slot is None else values[slot]) for slot, f in zip(slots, functions, strict=True)]
            return apply(sop, *given)

        name = self.names[sop]
        size = math.prod(len(variable.classes) for variable in arguments)
        if size > MAX_COMBINATIONS:
            raise ProgramError(
                f"variable {name!r} combines {' x '.join(str(len(v.classes)) for v in arguments)} values; at most "
                f"{MAX_COMBINATIONS} combinations can be tabulated, so split it into smaller steps"
            )
        # A table instead of functions that call functions: fused maps may be hundreds deep.
        inputs = product(*(variable.classes for variable in arguments))
        table = {values: function(*values) for values in inputs}
        results = table.values()
        return self._add(
            sop,
            "map",
            values=[value for value in results if value is not None],
            reads=tuple(Read(variable.name) for variable in arguments),
            may_be_undefined=any(value is None for value in results),
            is_positional=all(variable.is_positional for variable in arguments),
            function=lambda *values: table[values] if values in table else function(*values),
        )

    def _head_parts(self, selector: rasp.Select) -> tuple[tuple[Read, ...], tuple[tuple[Slot, Value], ...]]:
        reads: list[Read] = []
        constants: list[tuple[Slot, Value]] = []
        parts: tuple[tuple[Slot, rasp.SOp], ...] = (("q", selector.queries), ("k", selector.keys))
        for slot, sop in parts:
            if sop in self.constant_of:
                constants.append((slot, self.constant_of[sop]))
            else:
                reads.append(Read(self.variable_of[sop].name, slot))
        return tuple(reads), tuple(constants)

    def _width(self, sop: rasp.SelectorWidth) -> Variable:
        reads, constants = self._head_parts(sop.selector)
        name = self.names[sop]
        fraction_name = f"{name}_fraction"
        while fraction_name in self.names.values():
            fraction_name += "_"
        fraction = self._add(
            sop,
            "fraction",
            name=fraction_name,
            values=range(self.max_tokens + 1),
            reads=reads,
            constants=constants,
            selects=partial(selects, sop),
            encoding="numerical",
            meaning=f"share of attention that BOS keeps, 1 / (1 + {name})",
        )
        return self._add(
            sop,
            "map",
            values=range(self.max_tokens + 1),
            reads=(Read(fraction.name),),
            function=_identity,
        )

    def _aggregate(self, sop: rasp.Aggregate) -> Variable:
        reads, constants = self._head_parts(sop.selector)
        name = self.names[sop]
        empty = self._may_be_empty(sop)
        undefined = False
        if sop.sop in self.constant_of:
            constants = (*constants, ("v", self.constant_of[sop.sop]))
            values: list[Value] = [self.constant_of[sop.sop]]
        else:
            inner = self.variable_of[sop.sop]
            reads = (*reads, Read(inner.name, "v"))
            undefined = inner.may_be_undefined
            values = list(inner.values)
            if sop.encoding == "numerical":
                values = means_of(values, self.max_tokens, name)
        if sop.encoding == "numerical" and empty:
            values.append(0)
        return self._add(
            sop,
            "aggregate",
            values=values,
            reads=reads,
            constants=constants,
            may_be_undefined=undefined or (empty and sop.encoding == "categorical"),
            selects=partial(selects, sop),
            default=sop.default,
        )

    def _may_be_empty(self, sop: rasp.Aggregate) -> bool:
        """Whether some query can select nothing, in an ordinary run or under an interchange of keys or queries."""

        def possible(sop: rasp.SOp, position: int) -> Sequence[Value]:
            if sop in self.constant_of:
                return (self.constant_of[sop],)
            variable = self.variable_of[sop]
            if variable.is_positional:
                return (self._at_position(variable, position),)
            return variable.classes

        for length in range(self.min_tokens, self.max_tokens + 1):
            for at in range(length):
                in_reach = [possible(sop.selector.keys, key) for key in range(at + 1 if self.causal else length)]
                for query in possible(sop.selector.queries, at):
                    if not any(all(selects(sop, key, query) for key in keys) for keys in in_reach):
                        return True
        return False

    def _at_position(self, variable: Variable, position: int) -> Value:
        """Value of a positional variable, which only maps of indices are."""
        if variable.kind == "indices":
            return position
        if len(variable.classes) == 1:
            return variable.classes[0]
        assert variable.function is not None
        return variable.function(*(self._at_position(self.variables[r.variable], position) for r in variable.reads))


def _identity(value: Value) -> Value:
    return value
