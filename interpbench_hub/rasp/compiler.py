"""From a program to a transformer with hand-set weights that computes it exactly, as Tracr builds them.

Owns the assembly: which variable goes into which node and how large the transformer is. The weights of single
variables are made by `weights`, the directions of the residual stream by `residual`. The idea and the constructions
are Tracr's (Lindner et al. 2023, arXiv:2301.05062); the result is a TransformerLens model, without JAX.
"""

import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from interpbench_hub.circuit import EMBED, POS_EMBED, Node
from interpbench_hub.errors import SettingError
from interpbench_hub.rasp.alignment import Alignment, layer_of_variables, prescribed_circuit
from interpbench_hub.rasp.graph import build_graph
from interpbench_hub.rasp.language import SOp, Value
from interpbench_hub.rasp.residual import Layout, vector, width
from interpbench_hub.rasp.variables import Graph, Variable

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Parameter
    from transformer_lens import HookedTransformer

    from interpbench_hub.cases.case import Case
    from interpbench_hub.rasp.weights import HeadWeights, MapWeights

UNDEFINED_LOGIT = 0.5
"""Logit of the class `<undefined>`: between the 1 of a value that is there and the 0 of all others."""


def compile_to_transformer(
    program: "Case | SOp | str",
    *,
    vocab: Sequence[Value] | None = None,
    min_len: int | None = None,
    max_len: int | None = None,
    causal: bool | None = None,
    n_heads: int | None = None,
    n_layers: int | None = None,
    alignment: Alignment | None = None,
) -> "HookedTransformer":
    """A transformer that computes a program exactly, its weights set by hand.

    `program` is a case, the id of one, or a bare program; a bare one needs its `vocab`. `min_len` and `max_len` (both
    count BOS) and `causal` are by default those of the case; for a bare program 4, 10 and False. Token ids are places
    in the vocabulary, then come BOS, which every input starts with, and PAD. Logits are the classes of the output in
    their order, `<undefined>` last if the program can be undefined; a numerical program has one output, its value.

    The transformer has just the layers and heads it needs, unless `n_heads` or `n_layers` ask for more, or an
    `alignment` says which node computes what (`case.alignment` is that of the trained model).

    >>> import torch
    >>> from interpbench_hub.rasp import tokens
    >>> model = compile_to_transformer(tokens == "x", vocab=("a", "x"))
    >>> model(torch.tensor([[2, 0, 1, 1]])).argmax(-1)[0, 1:].tolist()
    [0, 1, 1]
    """
    graph = _graph_of(program, vocab, min_len, max_len, causal)
    alignment = _sized(graph, alignment or smallest_alignment(graph), n_heads, n_layers)
    return _model(graph, alignment)


def smallest_alignment(graph: Graph) -> Alignment:
    """The alignment Tracr would choose: no layer or head to spare, heads numbered from 0 in each layer."""
    layers = layer_of_variables(graph)
    n_heads_in: dict[int, int] = {}
    node_of: dict[str, Node] = {}
    for variable in graph.variables:
        match variable.kind:
            case "tokens":
                node_of[variable.name] = EMBED
            case "indices":
                node_of[variable.name] = POS_EMBED
            case "map":
                node_of[variable.name] = Node.of_mlp(layers[variable.name])
            case _:
                layer = layers[variable.name]
                node_of[variable.name] = Node.of_head(layer, n_heads_in.get(layer, 0))
                n_heads_in[layer] = n_heads_in.get(layer, 0) + 1
    return Alignment(max([0, *layers.values()]) + 1, max([1, *n_heads_in.values()]), node_of)


def _graph_of(
    program: "Case | SOp | str",
    vocab: Sequence[Value] | None,
    min_len: int | None,
    max_len: int | None,
    causal: bool | None,
) -> Graph:
    # Cases are made of programs: the import must not run the other way when modules load.
    from interpbench_hub.cases import Case, get_case

    if isinstance(program, str):
        program = get_case(program)
    if not isinstance(program, SOp | Case):
        raise SettingError(f"program is {program!r}; give a case, the id of a case or a RASP program")
    if isinstance(program, SOp):
        if vocab is None:
            raise SettingError(
                f"program {program.name!r} has no vocabulary of its own; give vocab=, its tokens in order"
            )
        shortest, longest, masked = 4, 10, False
    elif not isinstance(program.program, SOp):
        raise SettingError(
            f"case {program.id} has no RASP program to compile: its causal model is given by what its heads read; "
            f'train a model of it, or take one with load_model("{program.id}")'
        )
    elif vocab is min_len is max_len is causal is None:
        return program.graph
    else:
        vocab = program.vocab if vocab is None else vocab
        shortest, longest, masked = program.min_len, program.max_len, program.causal
        program = program.program
    shortest = min(shortest, max_len or shortest) if min_len is None else min_len
    longest = max(longest, shortest) if max_len is None else max_len
    if not 2 <= shortest <= longest:
        raise SettingError(
            f"lengths {shortest} to {longest} are no range; they count BOS, so the shortest is at least 2"
        )
    return build_graph(program, vocab, shortest - 1, longest - 1, causal=masked if causal is None else causal)


def _sized(graph: Graph, alignment: Alignment, n_heads: int | None, n_layers: int | None) -> Alignment:
    """The alignment in a transformer of the size asked for, once it is known to fit the graph."""
    missing = [variable.name for variable in graph.variables if variable.name not in alignment.node_of]
    if missing:
        raise SettingError(f"the alignment has no node for variable {missing[0]!r}; align the graph of this program")
    for what, least, given in (("heads", alignment.n_heads, n_heads), ("layers", alignment.n_layers, n_layers)):
        if given is not None and given < least:
            raise SettingError(f"n_{what} is {given}; this program needs at least {least} {what}")
    node_of = {variable.name: alignment.node_of[variable.name] for variable in graph.variables}
    sized = Alignment(n_layers or alignment.n_layers, n_heads or alignment.n_heads, node_of)
    for variable in graph.variables:
        node = node_of[variable.name]
        fits = {"tokens": node == EMBED, "indices": node == POS_EMBED, "map": node.is_mlp}.get(
            variable.kind, node.is_head
        )
        if not fits:
            raise SettingError(f"the alignment puts variable {variable.name!r} into {node}, which cannot compute it")
        if node.is_head and len(sized.variables_of[node]) > 1:
            both = " and ".join(map(repr, sized.variables_of[node]))
            raise SettingError(f"the alignment puts {both} into {node}; a head computes one variable")
    # Refuses an alignment by which a node would read one that comes after it.
    prescribed_circuit(graph, sized)
    return sized


class _Parts(NamedTuple):
    """Weights of every variable that is computed, by the node that computes it."""

    heads: "dict[Node, tuple[Variable, HeadWeights]]"
    mlps: "dict[Node, list[tuple[Variable, MapWeights]]]"


def _parts(graph: Graph, alignment: Alignment) -> _Parts:
    from interpbench_hub.rasp import weights

    parts = _Parts({}, {})
    at_bos: dict[str, Tensor] = {}
    for variable in graph.variables:
        node = alignment.node_of[variable.name]
        if node.is_head:
            parts.heads[node] = (variable, weights.head_weights(graph, variable, at_bos))
        neurons = weights.map_weights(graph, variable) if node.is_mlp else None
        if neurons is not None:
            parts.mlps.setdefault(node, []).append((variable, neurons))
        at_bos[variable.name] = weights.value_at_bos(variable, at_bos, neurons)
    return parts


def _model(graph: Graph, alignment: Alignment) -> "HookedTransformer":
    import torch

    layout, parts = Layout(graph), _parts(graph, alignment)
    model = _empty_model(graph, alignment, layout, parts)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for parameter in parameters.values():
            parameter.zero_()
        _fill_ends(parameters, graph, layout)
        for node, (variable, head) in parts.heads.items():
            _fill_head(parameters, f"blocks.{node.layer}.attn", node.head or 0, variable, head, layout)
        for node, maps in parts.mlps.items():
            _fill_mlp(parameters, f"blocks.{node.layer}.mlp", maps, layout)
    model.set_use_attn_result(True)
    model.set_use_split_qkv_input(True)
    model.set_use_hook_mlp_in(True)
    return model.eval()


def _empty_model(graph: Graph, alignment: Alignment, layout: Layout, parts: _Parts) -> "HookedTransformer":
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    config = HookedTransformerConfig(
        n_layers=alignment.n_layers,
        n_heads=alignment.n_heads,
        d_model=layout.d_model,
        # The largest head and the largest MLP set the size of all; what the others do not use stays zero.
        d_head=max([1, *(max(len(head.k.bias), len(head.v.bias)) for _, head in parts.heads.values())]),
        d_mlp=max([1, *(sum(len(weights.b_in) for _, weights in maps) for maps in parts.mlps.values())]),
        n_ctx=graph.max_tokens + 1,
        d_vocab=len(graph.vocab) + 2,
        d_vocab_out=len(graph.output.classes) if graph.output.encoding == "categorical" else 1,
        act_fn="relu",
        normalization_type=None,
        attention_dir="causal" if graph.causal else "bidirectional",
        positional_embedding_type="standard",
        use_attn_scale=True,
        init_weights=False,
        device="cpu",
    )
    with warnings.catch_warnings():
        # The dependency is pinned below 4.0.
        warnings.filterwarnings(
            "ignore", r"HookedTransformer is deprecated and will be removed in 4\.0", DeprecationWarning
        )
        return HookedTransformer(config)


def _fill_ends(parameters: "dict[str, Parameter]", graph: Graph, layout: Layout) -> None:
    """The embeddings and the logits."""
    embed, pos_embed = parameters["embed.W_E"], parameters["pos_embed.W_pos"]
    for variable in graph.variables:
        # BOS and PAD, the last two ids, embed to zero; the token with index i stands at position i + 1.
        if variable.kind == "tokens":
            embed[:-2, layout.rows[variable.name]] = embed.new_tensor([vector(variable, t) for t in graph.vocab])
        elif variable.kind == "indices":
            places = [vector(variable, index) for index in range(graph.max_tokens)]
            pos_embed[1:, layout.rows[variable.name]] = pos_embed.new_tensor(places)
    pos_embed[0, layout.bos] = 1
    unembed, n_values = parameters["unembed.W_U"], width(graph.output)
    unembed[layout.rows[graph.output.name], :n_values] = unembed.new_ones(n_values).diag()
    parameters["unembed.b_U"][n_values:] = UNDEFINED_LOGIT


def _fill_head(
    parameters: "dict[str, Parameter]",
    block: str,
    head: int,
    variable: Variable,
    weights: "HeadWeights",
    layout: Layout,
) -> None:
    # Scores are divided by the root of d_head.
    scale = math.sqrt(parameters[f"{block}.W_Q"].shape[-1])
    for letter, reading, factor in (("Q", weights.q, scale), ("K", weights.k, 1.0), ("V", weights.v, 1.0)):
        weight, size = parameters[f"{block}.W_{letter}"][head], len(reading.bias)
        if reading.variable is not None:
            weight[layout.rows[reading.variable], :size] = (factor * reading.weight).float()
        weight[layout.bos, :size] = (factor * reading.bos).float()
        parameters[f"{block}.b_{letter}"][head, :size] = (factor * reading.bias).float()
    parameters[f"{block}.W_O"][head, : len(weights.v.bias), layout.rows[variable.name]] = weights.out.float()


def _fill_mlp(
    parameters: "dict[str, Parameter]", block: str, maps: "Sequence[tuple[Variable, MapWeights]]", layout: Layout
) -> None:
    """The neurons of each map of a layer, one map after the other."""
    start = 0
    for variable, weights in maps:
        neurons = slice(start, start + len(weights.b_in))
        start = neurons.stop
        row = 0
        for read in variable.reads:
            rows = layout.rows[read.variable]
            size = rows.stop - rows.start
            parameters[f"{block}.W_in"][rows, neurons] = weights.w_in[row : row + size].float()
            row += size
        parameters[f"{block}.b_in"][neurons] = weights.b_in.float()
        parameters[f"{block}.W_out"][neurons, layout.rows[variable.name]] = weights.w_out.float()
        parameters[f"{block}.b_out"][layout.rows[variable.name]] = weights.b_out.float()
