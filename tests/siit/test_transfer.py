"""Transfer: what another model's nodes compute, nodes that hold the same variables compute after it."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from interpbench_hub.cases import get_case
from interpbench_hub.checkpoint import Checkpoint, Output, Value, load_checkpoint
from interpbench_hub.circuit import Circuit, Node, Role
from interpbench_hub.constants import MODEL_FILES
from interpbench_hub.hub import resolve
from interpbench_hub.siit.sizes import transformer_config
from interpbench_hub.siit.transfer import counterparts, transferred
from interpbench_hub.transformer import Transformer

CLASSES = ("x", "y", "z")
TOKENS = torch.tensor([[4, 0, 1, 2, 3], [4, 3, 3, 0, 1]])

Make = Callable[..., Checkpoint]


def circuit_of(n_layers: int, n_heads: int, held: dict[str, str]) -> Circuit:
    """A circuit of such nodes without edges: `{"a0.h1": "count"}`."""
    roles = {Node(name): Role(tuple(variables.split())) for name, variables in held.items()}
    return Circuit(n_layers, n_heads, [], roles)


def random_model(make_checkpoint: Make, circuit: Circuit, seed: int, classes: tuple[Value, ...] = CLASSES, **shape):
    """A checkpoint of a model of the circuit's size, all its weights and biases drawn at random."""
    output = Output("categorical", classes) if classes else Output("regression")
    made = make_checkpoint(output=output, n_layers=circuit.n_layers, n_heads=circuit.n_heads, **shape)
    generator = torch.Generator().manual_seed(seed)
    weights = {name: torch.randn(weight.shape, generator=generator) for name, weight in made.weights.items()}
    return replace(made, weights=weights, circuit=circuit)


def started(model: Checkpoint, origin: Checkpoint) -> Transformer:
    """The model as it starts from the origin."""
    begun = Transformer(model.config.transformer)
    begun.load_state_dict(transferred(model.weights, model.circuit, model.config.output.classes, origin))
    return begun


def run_of(checkpoint: Checkpoint, **replaced: Tensor):
    model = Transformer(checkpoint.config.transformer)
    model.load_state_dict(checkpoint.weights | replaced)
    return model.run(TOKENS)


@pytest.mark.parametrize("normalization_type", [None, "LN"])
def test_heads_that_hold_the_same_write_the_same_wherever_they_are_in_their_layer(make_checkpoint, normalization_type):
    there = circuit_of(2, 3, {"a0.h1": "one", "m0": "two", "a1.h0": "three"})
    here = circuit_of(2, 3, {"a0.h2": "one", "m0": "two", "a1.h2": "three"})
    origin, model = (
        random_model(make_checkpoint, circuit, seed, normalization_type=normalization_type)
        for circuit, seed in ((there, 1), (here, 2))
    )
    found = counterparts(there, here)
    assert {str(node): str(other) for node, other in found.items()} == {
        "a0.h0": "a0.h0",
        "a0.h1": "a0.h2",
        "a0.h2": "a0.h1",
        "m0": "m0",
        "a1.h0": "a1.h1",
        "a1.h1": "a1.h2",
        "a1.h2": "a1.h0",
        "m1": "m1",
    }
    senders = model.config.transformer.senders
    before, after = run_of(origin), started(model, origin).run(TOKENS)
    for node, other in found.items():
        written, was = after.senders[senders.index(node)], before.senders[senders.index(other)]
        torch.testing.assert_close(written, was, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(after.logits, before.logits, rtol=1e-4, atol=1e-4)


def test_heads_outside_that_find_no_place_are_as_if_they_wrote_nothing(make_checkpoint):
    there = circuit_of(2, 4, {"a0.h3": "one", "a1.h1": "two", "m1": "three"})
    here = circuit_of(2, 2, {"a0.h0": "one", "a1.h1": "two", "m1": "three"})
    origin, model = (random_model(make_checkpoint, circuit, seed) for circuit, seed in ((there, 1), (here, 2)))
    silent = {}
    for layer, heads in ((0, (1, 2)), (1, (2, 3))):
        name = f"blocks.{layer}.attn.W_O"
        silent[name] = origin.weights[name].clone()
        silent[name][list(heads)] = 0.0
    logits = started(model, origin).run(TOKENS).logits
    torch.testing.assert_close(logits, run_of(origin, **silent).logits, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(logits, run_of(origin).logits, atol=1e-2)


def test_what_the_origin_does_not_have_stays_as_it_was_drawn(make_checkpoint):
    there = circuit_of(2, 2, {"a0.h0": "one", "m0": "other", "a1.h0": "more", "m1": "more"})
    here = circuit_of(3, 4, {"a0.h0": "one", "m0": "two", "a1.h0": "three", "a1.h1": "four"})
    origin = random_model(make_checkpoint, there, 1)
    model = random_model(make_checkpoint, here, 2, ("x", "y", "u", "v"))
    taken = transferred(model.weights, here, ("x", "y", "u", "v"), origin)
    for name, weight in taken.items():
        if ".attn." in name and not name.endswith("b_O"):
            # In layer 0 a head of the circuit and one outside find another, in layer 1 the first one outside.
            for head, mine in enumerate(weight):
                place = {("0", 0): 0, ("0", 1): 1, ("1", 2): 1}.get((name.split(".")[1], head))
                other = model.weights[name][head] if place is None else origin.weights[name][place]
                assert torch.equal(mine, other), (name, head)
        elif name in ("embed.W_E", "pos_embed.W_pos", "blocks.0.attn.b_O", "blocks.1.attn.b_O"):
            assert torch.equal(weight, origin.weights[name])
        else:
            assert torch.equal(weight, model.weights[name]), name
    assert all(weight.data_ptr() != model.weights[name].data_ptr() for name, weight in taken.items())


@pytest.mark.parametrize(
    ("classes", "mine", "is_taken"),
    [(CLASSES, CLASSES, True), (CLASSES, ("z", "y", "x"), False), ((), (), True), ((), ("x",), False)],
)
def test_the_unembedding_is_taken_where_outputs_mean_the_same(make_checkpoint, classes, mine, is_taken):
    circuit = circuit_of(2, 2, {"m0": "one"})
    origin, model = random_model(make_checkpoint, circuit, 1, classes), random_model(make_checkpoint, circuit, 2, mine)
    taken = transferred(model.weights, circuit, mine, origin)
    for name in ("unembed.W_U", "unembed.b_U"):
        assert torch.equal(taken[name], (origin if is_taken else model).weights[name])


def test_an_mlp_needs_one_variable_in_common():
    there = circuit_of(1, 2, {"a0.h0": "one", "m0": "two three"})
    assert Node("m0") in counterparts(there, circuit_of(1, 2, {"m0": "three four"}))
    assert Node("m0") not in counterparts(there, circuit_of(1, 2, {"m0": "one"}))
    # One in the circuit and one outside do not go together.
    assert Node("m0") not in counterparts(there, circuit_of(1, 2, {"a0.h0": "one"}))


@st.composite
def circuits(draw: st.DrawFn) -> Circuit:
    n_layers, n_heads = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    nodes = [Node.of_mlp(layer) for layer in range(n_layers)]
    nodes += [Node.of_head(layer, head) for layer in range(n_layers) for head in range(n_heads)]
    inside = draw(st.lists(st.sampled_from(nodes), unique=True))
    # As in any graph, no two nodes hold the same variable.
    names = draw(st.permutations([f"v{number}" for number in range(20)]))
    return circuit_of(n_layers, n_heads, {node.name: name for node, name in zip(inside, names, strict=False)})


@given(circuits(), circuits())
def test_counterparts_are_of_one_kind_and_layer_and_no_two_nodes_share_one(there, here):
    found = counterparts(there, here)
    assert len(set(found.values())) == len(found)
    for node, other in found.items():
        assert (node.layer, node.is_head, node.is_mlp) == (other.layer, other.is_head, other.is_mlp)
        assert (node in here.roles) == (other in there.roles)
        assert node not in here.roles or here.roles[node].variables == there.roles[other].variables
    assert counterparts(here, here) == {node: node for node in here.node_universe if node.is_head or node.is_mlp}


def test_a_case_with_one_more_map_begins_with_all_but_this():
    """Case 97 is case 98 whose output one more MLP divides each number by."""
    origin, case = load_checkpoint(resolve("case_98", files=MODEL_FILES)), get_case("case_97")
    drawn = Transformer(transformer_config(case), seed=3).state_dict()
    taken = transferred(drawn, case.circuit, case.classes, origin)
    fresh = {name for name in taken if torch.equal(taken[name], drawn[name]) and drawn[name].any()}
    assert fresh == {"blocks.2.mlp.W_in", "blocks.2.mlp.W_out", "unembed.W_U"}
    others = [name for name in taken if not name.startswith(("blocks.2.mlp.", "unembed."))]
    assert all(torch.equal(taken[name], origin.weights[name]) for name in others)
