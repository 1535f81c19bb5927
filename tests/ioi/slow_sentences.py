"""The causal models of IOI on one sentence, position by position: an oracle for the package's own on batches."""

from interpbench_hub.circuit import LOGITS, Edge
from interpbench_hub.ioi.case import IoiCase
from interpbench_hub.ioi.templates import TAIL
from interpbench_hub.ioi.words import NAMES, NOBODY
from interpbench_hub.rasp.variables import Read

UNCLEAR = "more than one name"


def slow_values(
    case: IoiCase,
    words: list,
    source: dict | None = None,
    swapped: set | None = None,
    selected: dict[str, list] | None = None,
) -> dict[str, list]:
    """Every variable of one sentence, position by position; reads in `swapped` take the source's values.

    `selected` receives the keys that each head selects, query by query: None where an unclear name decides.
    """
    selected = {} if selected is None else selected
    n_words = len(words)
    values: dict[str, list] = {"tokens": [word if word in NAMES else None for word in words], "indices": [0] * n_words}
    of_tokens = {(v.name, read) for v in case.graph.variables for read in v.reads if read.variable == "tokens"}
    for variable in case.graph.variables[2:]:

        def slot(letter: str | None, variable=variable) -> list[list]:
            found = []
            for read in (read for read in variable.reads if read.slot == letter):
                is_swapped = source and (variable.name, read) in (swapped or ())
                held = source[read.variable] if source and is_swapped else values[read.variable]
                # Several names left over are none in a plain sentence, and to an answer that they are brought to.
                is_none = source is None or (is_swapped and variable.name == "answer")
                if read.variable.startswith("name_mover") and is_none:
                    held = [None if value == UNCLEAR else value for value in held]
                found.append(held)
            return found

        name, result = variable.name, []
        looked_at = selected.setdefault(name, [])
        for here in range(n_words):
            if name.startswith("previous_token"):
                result.append(slot("v")[0][here - 1] if here >= 1 else None)
                looked_at.append([here - 1] if here >= 1 else [])
                continue
            if name.startswith("s_inhibition"):
                result.append(slot("v")[0][here - TAIL] if here >= TAIL else None)
                looked_at.append([here - TAIL] if here >= TAIL else [])
                continue
            if name == "answer":
                (said,) = (vote[here] for vote in slot(None))
                if source and of_tokens <= (swapped or set()) and len(source["tokens"]) != here + 1:
                    # All of another sentence, cut short.
                    said = UNCLEAR
                result.append(NOBODY if said is None else said)
                continue
            (asked,), (keys,) = (query[here] for query in slot("q")), slot("k")
            if asked == UNCLEAR or (asked is not None and UNCLEAR in keys[: here + 1]):
                looked_at.append(None)
                result.append(UNCLEAR)
                continue
            is_mover = name.startswith("name_mover")
            chosen = [
                at
                for at in range(here + 1)
                if None not in (asked, keys[at]) and (keys[at] != asked if is_mover else keys[at] == asked)
            ]
            looked_at.append(chosen)
            held = [slot("v")[0][at] for at in chosen]
            result.append(UNCLEAR if len(set(held)) > 1 else held[0] if held else None)
        values[name] = result
    return values


def reads_of(case: IoiCase, edge: Edge) -> set[tuple[str, Read]]:
    """What an edge of the circuit carries: reader and read; nothing reads the position."""
    node_of = case.alignment.node_of
    return {
        (variable.name, read)
        for variable in case.graph.variables
        for read in variable.reads
        if (node_of[read.variable], node_of.get(variable.name, LOGITS), read.slot)
        == (edge.source, edge.target, edge.slot)
    }
