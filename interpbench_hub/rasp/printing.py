"""Programs as text: one line a variable, functions shown by their source."""

import ast
import linecache
import operator
from collections.abc import Callable
from functools import cache
from types import CodeType
from typing import Any

from interpbench_hub.rasp import language as rasp
from interpbench_hub.rasp.evaluator import in_order


def program_text(program: rasp.SOp) -> str:
    """The program, one assignment a line in the order of evaluation, with each variable's meaning as a comment."""
    order = [sop for sop in in_order(program) if not isinstance(sop, rasp.Full)]
    names = unique_names(order)
    steps = [sop for sop in order if not isinstance(sop, rasp.Tokens | rasp.Indices)]
    if not steps:
        return expression(program, names)
    lines = [(f"{names[sop]} = {expression(sop, names)}", sop.meaning) for sop in steps]
    width = min(max((len(text) for text, meaning in lines if meaning), default=0), 76)
    return "\n".join(f"{text:<{width}}  # {meaning}" if meaning else text for text, meaning in lines)


def unique_names(order: list[rasp.SOp]) -> dict[rasp.SOp, str]:
    """A name for each s-op: its own if no other has it, else numbered in order (`aggregate_1`, `aggregate_2`)."""
    count: dict[str, int] = {}
    for sop in order:
        count[sop.name] = count.get(sop.name, 0) + 1
    taken = {name for name, times in count.items() if times == 1}
    names: dict[rasp.SOp, str] = {}
    number: dict[str, int] = {}
    for sop in order:
        name = sop.name
        if count[name] > 1:
            while True:
                number[sop.name] = number.get(sop.name, 0) + 1
                name = f"{sop.name}_{number[sop.name]}"
                if name not in taken:
                    break
            taken.add(name)
        names[sop] = name
    return names


def expression(sop: rasp.SOp, names: dict[rasp.SOp, str]) -> str:
    """One s-op in terms of the names of those it reads."""

    def name(child: rasp.SOp) -> str:
        if isinstance(child, rasp.Full):
            return f"Full({child.value!r})"
        return names.get(child, child.name)

    match sop:
        case rasp.Full():
            return f"Full({sop.value!r})"
        case rasp.Map():
            text = f"Map({function_text(sop.function, sop.text, 'x')}, {name(sop.inner)})"
        case rasp.LinearSequenceMap():
            return f"LinearSequenceMap({name(sop.first)}, {name(sop.second)}, {sop.first_factor}, {sop.second_factor})"
        case rasp.SequenceMap():
            text = (
                f"SequenceMap({function_text(sop.function, sop.text, 'x, y')}, {name(sop.first)}, {name(sop.second)})"
            )
        case rasp.Aggregate():
            default = "" if sop.default is None else f", default={sop.default!r}"
            text = f"Aggregate({_select(sop.selector, name)}, {name(sop.sop)}{default})"
        case rasp.SelectorWidth():
            text = f"SelectorWidth({_select(sop.selector, name)})"
        case _:
            return sop.name
    return f"numerical({text})" if sop.encoding == "numerical" else text


def _select(selector: rasp.Select, name: Callable[[rasp.SOp], str]) -> str:
    if isinstance(selector.predicate, rasp.Comparison):
        predicate = selector.predicate.name
    else:
        predicate = function_text(selector.predicate, selector.text, "key, query")
    return f"Select({name(selector.keys)}, {name(selector.queries)}, {predicate})"


def function_text(function: Callable[..., Any], text: str | None, arguments: str) -> str:
    """A function as source: `text` if given, else a lambda's own source, else the function's name."""
    if text is not None:
        return f"lambda {arguments}: {text}"
    if getattr(function, "__name__", "") == "<lambda>":
        return _lambda_source(function.__code__) or "<lambda>"
    if getattr(operator, getattr(function, "__name__", ""), None) is function:
        return f"operator.{function.__name__}"
    return getattr(function, "__name__", repr(function))


@cache
def _lambda_source(code: CodeType) -> str | None:
    """Source of the lambda a code object was compiled from, found by the columns of its instructions."""
    # Bookkeeping instructions carry an empty span at column 0.
    spans = [span for span in code.co_positions() if None not in span and span[2] != span[3]]
    if not spans:
        return None
    first = min((start, column) for start, _, column, _ in spans)
    last = max((end, column) for _, end, _, column in spans)
    around = [
        node
        for node in _lambdas(code.co_filename)
        if node.lineno == code.co_firstlineno
        and (node.body.lineno, node.body.col_offset) <= first
        and (node.body.end_lineno, node.body.end_col_offset) >= last
    ]
    # Of nested lambdas around the same columns, ours is the innermost: the shortest.
    return min((ast.unparse(node) for node in around), key=len, default=None)


@cache
def _lambdas(filename: str) -> list[ast.Lambda]:
    """Every lambda of a source file; none where the source cannot be read (a console, a compressed package)."""
    try:
        tree = ast.parse("".join(linecache.getlines(filename)))
    except (SyntaxError, ValueError):
        return []
    return [node for node in ast.walk(tree) if isinstance(node, ast.Lambda)]
