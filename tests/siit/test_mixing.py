"""MLPs on inputs put together from two rows: which ones, what they should hold, and what their loss is."""

from typing import Any

import pytest
import torch
from torch import Tensor

from interpbench_hub.cases import Case, get_case
from interpbench_hub.circuit import Edge, Node
from interpbench_hub.siit.mixing import Mixing
from interpbench_hub.siit.pair_run import to_ids
from interpbench_hub.siit.probes import Probes
from interpbench_hub.siit.sizes import transformer_config
from interpbench_hub.transformer import Transformer
from tests.slow_model import AMBIGUOUS, SlowModel

CPU = torch.device("cpu")
# Two heads; an embedding and a head, undefined values; several MLPs, one of which reads two MLPs; numbers.
CASE_IDS = ("case_4", "case_13", "modular_sum", "trend")


def mixing_of(case: Case, probed: set[str] | None = None) -> Mixing:
    probes = Probes(case, transformer_config(case), seed=0, device=CPU)
    names = {variable.name for variable in probes.variables}
    return Mixing(case, transformer_config(case), names if probed is None else names & probed)


def edges_of(mixing: Mixing) -> list[Edge]:
    """The edges of every column of a mask, in its order."""
    circuit = list(mixing.case.high_level.circuit)
    return [circuit[place] for mlp in mixing.mlps for place in mlp.edges]


def test_mlps_that_read_several_nodes_are_mixed_and_no_others():
    def described(case_id: str) -> list[tuple[str, list[str]]]:
        mixing = mixing_of(get_case(case_id))
        edges = edges_of(mixing)
        assert len(edges) == mixing.n_edges
        targets = list(dict.fromkeys(edge.target for edge in edges))
        assert [f"m{mlp.layer}" for mlp in mixing.mlps] == [str(target) for target in targets]
        return [(str(node), [str(edge.source) for edge in edges if edge.target == node]) for node in targets]

    assert described("modular_sum") == [("m0", ["a0.h1", "a0.h2", "a0.h3"]), ("m2", ["m0", "m1"])]
    # One node alone, or one besides the position, which is the same in every row.
    assert described("case_3") == described("case_9") == described("case_8") == described("ioi") == []
    assert mixing_of(get_case("modular_sum"), set()).mlps == []


def mixed_rows(mixing: Mixing, n_rows: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs, their lengths, and a mask."""
    inputs, lengths = mixing.case.pair_sampler(seed=seed).inputs(n_rows)
    generator = torch.Generator().manual_seed(seed)
    return inputs, lengths, torch.rand(n_rows, mixing.n_edges, generator=generator) < 0.5


@pytest.mark.parametrize("case_id", CASE_IDS)
def test_codes_are_what_the_slow_model_makes_of_the_edges(case_id):
    case = get_case(case_id)
    mixing, slow = mixing_of(case), SlowModel.of(case)
    inputs, lengths, mixed = mixed_rows(mixing, 40)
    values = case.high_level.run(inputs, lengths)
    found = mixing.codes(inputs, lengths, {name: codes.roll(1, 0) for name, codes in values.items()}, mixed)
    assert found.shape == (40, mixing.n_variables, inputs.shape[1])
    words = [[case.vocab[token] for token in row[:n]] for row, n in zip(inputs.tolist(), lengths.tolist(), strict=True)]
    n_compared = n_changed = 0
    for row in range(40):
        if len(words[row - 1]) < len(words[row]):
            continue
        at = column = 0
        for mlp in mixing.mlps:
            columns = range(at, at + len(mlp.edges))
            edges = [str(edge) for place, edge in enumerate(edges_of(mixing)) if place in columns and mixed[row, place]]
            held, alone = slow.values(words[row], words[row - 1], edges), slow.values(words[row])
            for name in mlp.variables:
                codes = found[row, column, : len(words[row])].tolist()
                assert codes == [code_of(case, name, value) for value in held[name]], (name, edges)
                n_changed += held[name] != alone[name]
                n_compared += 1
                column += 1
            at += len(mlp.edges)
    assert n_compared > 10 and n_changed > 5


def code_of(case: Case, name: str, value: Any) -> int:
    variable = case.graph[name]
    return variable.ambiguous if value is AMBIGUOUS else variable.code(value)


@pytest.mark.parametrize("case_id", CASE_IDS)
def test_the_loss_is_that_of_the_probes_after_an_exchange_of_the_edges(case_id):
    case = get_case(case_id)
    config = transformer_config(case)
    model, mixing = Transformer(config, seed=2), mixing_of(case)
    with torch.no_grad():
        model.flat.add_(0.1 * torch.randn(model.flat.shape, generator=torch.Generator().manual_seed(1)))
    probes = Probes(case, config, seed=0, device=CPU)
    inputs, lengths, mixed = mixed_rows(mixing, 12, seed=3)
    there = torch.arange(inputs.shape[1]) < lengths[:, None]
    values = case.high_level.run(inputs, lengths)
    codes = mixing.codes(inputs, lengths, {name: each.roll(1, 0) for name, each in values.items()}, mixed)
    run = model.run(to_ids(case, inputs, lengths), lengths + 1)
    found = mixing.loss(model, probes, run, mixed, codes, there)

    expected, column, names = torch.zeros(()), 0, [variable.name for variable in probes.variables]
    for mlp in mixing.mlps:
        node = Node.of_mlp(mlp.layer)
        masks = torch.zeros(12, len(config.receivers), len(config.senders), dtype=torch.bool)
        for place, edge in enumerate(edges_of(mixing)):
            if edge.target == node:
                receiver, sender = config.edge_places[edge]
                masks[:, receiver, sender] = mixed[:, place]
        before = run.senders.roll(1, 1)
        _, written = model.interchange_run(run.senders, before, masks, lengths + 1)
        for name in mlp.variables:
            # All other variables have no code that counts.
            alone = torch.full((12, len(names), inputs.shape[1]), 10**6)
            alone[:, names.index(name)] = codes[:, column]
            column += 1
            senders = {config.senders.index(sender): run.senders[0] for sender in config.senders}
            senders[config.senders.index(node)] = written[config.senders.index(node)]
            expected = expected + probes.loss(senders, alone, there & there.roll(1, 0))
    assert float(found.detach()) > 0
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    gradients = []
    for loss in (found, expected):
        assert model.flat.grad is not None
        model.flat.grad.zero_()
        loss.backward(retain_graph=True)
        gradients.append(model.flat.grad.clone())
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-5)
