"""Compiled transformers have the layers, heads and MLPs that Tracr gives the same programs.

tests/data/tracr_structure.json holds what Tracr (Lindner et al. 2023, arXiv:2301.05062) makes of them. No case departs
from it: the layers are the same, and so are the number and kind of the variables each layer's heads and MLP write.
"""

import json
from pathlib import Path

import pytest

from interpbench_hub.cases import get_case
from interpbench_hub.rasp.compiler import compile_to_transformer, smallest_alignment
from interpbench_hub.rasp.variables import Graph, Variable

STRUCTURE: dict[str, list[str]] = json.loads(
    (Path(__file__).parents[1] / "data" / "tracr_structure.json").read_text(encoding="utf-8")
)["cases"]


def letter(graph: Graph, variable: Variable) -> str:
    """A for an aggregate, F for the head of a selector width, W for the width itself, M for any other map."""
    if variable.kind != "map":
        return "F" if variable.kind == "fraction" else "A"
    return "W" if graph[variable.reads[0].variable].kind == "fraction" else "M"


def structure(graph: Graph) -> list[str]:
    """What each layer's heads and its MLP compute, as letters."""
    alignment = smallest_alignment(graph)
    heads, mlps = ([""] * alignment.n_layers for _ in range(2))
    for variable in graph.variables:
        node = alignment.node_of[variable.name]
        if node.layer is not None:
            (heads if node.is_head else mlps)[node.layer] += letter(graph, variable)
    return ["".join(sorted(head)) + "|" + "".join(sorted(mlp)) for head, mlp in zip(heads, mlps, strict=True)]


@pytest.mark.parametrize("case_id", STRUCTURE)
def test_layers_compute_what_tracr_computes_there(case_id: str) -> None:
    assert structure(get_case(case_id).graph) == STRUCTURE[case_id]


@pytest.mark.parametrize("case_id", STRUCTURE)
def test_weights_fill_the_heads_and_mlps_tracr_fills(case_id: str) -> None:
    model = compile_to_transformer(case_id)
    expected = [layer.split("|") for layer in STRUCTURE[case_id]]
    assert model.cfg.n_layers == len(expected)
    assert model.cfg.n_heads == max([1, *(len(heads) for heads, _ in expected)])
    for block, (heads, mlp) in zip(model.blocks, expected, strict=True):
        is_used = block.attn.W_O.detach().abs().sum((1, 2)) > 0
        # Heads are numbered from 0; those a layer does not need stay empty.
        assert is_used.tolist() == [head < len(heads) for head in range(model.cfg.n_heads)]
        assert bool(block.mlp.W_out.detach().abs().sum() > 0) == bool(mlp)
