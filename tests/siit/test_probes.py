"""Probes: their loss against a plain loop over positions, and which variables have one."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from interpbench_hub.cases import Case, get_case
from interpbench_hub.cases.pairs import PairSampler
from interpbench_hub.rasp import Map, tokens
from interpbench_hub.siit import probes as probing
from interpbench_hub.siit.pair_run import to_ids
from interpbench_hub.siit.probes import Probes
from interpbench_hub.siit.sizes import transformer_config
from interpbench_hub.transformer import Transformer

CPU = torch.device("cpu")
# Numbers alone; classes with undefined ones; a selector width; several heads.
CASE_IDS = ("case_3", "case_13", "case_7", "case_21")


def probes_of(case: Case) -> Probes:
    """Probes with no parameter left at zero."""
    probes = Probes(case, transformer_config(case), seed=0, device=CPU)
    with torch.no_grad():
        probes.flat.add_(0.1 * torch.randn(probes.flat.shape, generator=torch.Generator().manual_seed(1)))
    return probes


def maps_of(case: Case, probes: Probes) -> dict[str, tuple[Tensor, Tensor]]:
    """Weight [d_model, width] and bias [width] of each variable's probe, as they lie one after the other."""
    d_model, at, maps = transformer_config(case).d_model, 0, {}
    for variable in probes.variables:
        width = 1 if variable.encoding == "numerical" else len(variable.classes)
        block = probes.flat[at : at + (d_model + 1) * width].reshape(d_model + 1, width)
        maps[variable.name] = block[:-1], block[-1]
        at += block.numel()
    assert at == probes.flat.numel()
    return maps


def slow_loss(case: Case, probes: Probes, senders: Tensor, values: dict[str, list[list[Any]]]) -> Tensor:
    """Reading each variable's `values` [row][position] (... where there is nothing to read) off its node."""
    total, config = torch.zeros(()), transformer_config(case)
    for name, (weight, bias) in maps_of(case, probes).items():
        variable, losses = case.graph[name], []
        node = config.senders.index(case.alignment.node_of[name])
        numbers = torch.tensor([float(value) for value in variable.values if variable.encoding == "numerical"])
        for row, values_of_row in enumerate(values[name]):
            for place, value in enumerate(values_of_row):
                if value is ...:
                    continue
                read = senders[node, row, 1 + place] @ weight + bias
                if variable.encoding == "numerical":
                    mean = numbers.mean()
                    deviation = ((numbers - mean) ** 2).mean().sqrt()
                    losses.append((read[0] - (float(value) - mean) / deviation) ** 2)
                else:
                    losses.append(F.cross_entropy(read, torch.tensor(variable.classes.index(value))))
        total = total + sum(losses, torch.zeros(())) / max(len(losses), 1)
    return total


@pytest.mark.parametrize("case_id", CASE_IDS)
def test_the_loss_on_inputs_is_that_of_a_loop_over_their_positions(case_id):
    case = get_case(case_id)
    probes, model = probes_of(case), Transformer(transformer_config(case))
    inputs, lengths = PairSampler(case, seed=1).inputs(9)
    run = model.run(to_ids(case, inputs, lengths), lengths + 1)
    codes = case.high_level.run(inputs, lengths)
    there = torch.arange(inputs.shape[1]) < lengths[:, None]
    names = [variable.name for variable in probes.variables]
    found = probes.loss(run.senders, torch.stack([codes[name] for name in names], dim=1), there)

    values: dict[str, list[list[Any]]] = {name: [] for name in names}
    for row, n in zip(inputs, lengths.tolist(), strict=True):
        alone = case.high_level.run(row[None, :n], torch.tensor([n]))
        for name in names:
            # An undefined number is none to read.
            undefined = ... if case.graph[name].encoding == "numerical" else None
            of_code = (*case.graph[name].values, undefined)
            values[name].append([of_code[code] for code in alone[name][0].tolist()])
    expected = slow_loss(case, probes, run.senders, values)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)

    def gradients(loss: Tensor) -> tuple[Tensor, ...]:
        assert model.flat.grad is not None
        model.flat.grad.zero_()
        (of_probes,) = torch.autograd.grad(loss, [probes.flat], retain_graph=True)
        loss.backward(retain_graph=True)
        probes.flat.grad = None
        return of_probes, model.flat.grad.clone()

    for one, other in zip(gradients(found), gradients(expected), strict=True):
        assert bool(one.any())
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case_id", CASE_IDS)
def test_codes_that_say_nothing_and_positions_that_are_not_there_do_not_count(case_id):
    case = get_case(case_id)
    probes, config = probes_of(case), transformer_config(case)
    generator = torch.Generator().manual_seed(0)
    rows, width = 6, 5
    senders = torch.randn(len(config.senders), rows, 1 + width, config.d_model, generator=generator, requires_grad=True)
    there = torch.rand(rows, width, generator=generator) < 0.7
    codes = torch.stack(
        [torch.randint(v.ambiguous + 1, (rows, width), generator=generator) for v in probes.variables], dim=1
    )
    values: dict[str, list[list[Any]]] = {}
    for place, variable in enumerate(probes.variables):
        read = variable.values if variable.encoding == "numerical" else variable.classes
        values[variable.name] = [
            [read[code] if real and code < len(read) else ... for code, real in zip(of_row, of_there, strict=True)]
            for of_row, of_there in zip(codes[:, place].tolist(), there.tolist(), strict=True)
        ]
    found = probes.loss(senders, codes, there)
    torch.testing.assert_close(found, slow_loss(case, probes, senders, values), rtol=1e-5, atol=1e-5)
    found.backward()
    assert senders.grad is not None
    assert not bool(senders.grad[:, :, 0].any()), "BOS is read"
    assert not bool(senders.grad[:, :, 1:][:, ~there].any()), "padding is read"
    nodes = {config.senders.index(case.alignment.node_of[variable.name]) for variable in probes.variables}
    assert set(torch.where(senders.grad.flatten(1).any(1))[0].tolist()) == nodes


def test_nothing_to_read_at_all_is_no_loss():
    case = get_case("case_13")
    probes, config = probes_of(case), transformer_config(case)
    senders = torch.ones(len(config.senders), 2, 4, config.d_model)
    codes = torch.zeros(2, len(probes.variables), 3, dtype=torch.long)
    assert float(probes.loss(senders, codes, torch.zeros(2, 3, dtype=torch.bool)).detach()) == 0


def test_what_the_program_computes_is_probed_and_what_it_is_given_is_not():
    case = get_case("case_21")
    computed = [v.name for v in case.graph.variables if v.kind not in ("tokens", "indices")]
    assert [variable.name for variable in probes_of(case).variables] == computed


def test_variables_of_too_many_classes_have_no_probe(monkeypatch):
    case = get_case("case_21")
    sizes = {v.name: len(v.classes) for v in case.graph.variables if v.reads and v.encoding == "categorical"}
    numbers = {v.name for v in case.graph.variables if v.reads and v.encoding == "numerical"}
    assert len(set(sizes.values())) > 1 and numbers
    fewest = min(sizes.values())
    monkeypatch.setattr(probing, "MAX_CLASSES", fewest)
    # A number takes one output however many values it has.
    kept = {name for name, size in sizes.items() if size == fewest} | numbers
    assert {variable.name for variable in probes_of(case).variables} == kept


@pytest.mark.parametrize(
    "case",
    [
        Case("copied", "The tokens themselves.", tokens, ("a", "b")),
        Case("many_values", "Shuffles many tokens.", Map(lambda x: x * 7 % 139, tokens), tuple(range(139))),
    ],
    ids=["nothing computed", "too many classes"],
)
def test_a_case_may_have_no_probe(case):
    probes, config = Probes(case, transformer_config(case), seed=0, device=CPU), transformer_config(case)
    assert not probes.variables and probes.flat.shape == (0,)
    senders = torch.ones(len(config.senders), 2, 4, config.d_model)
    loss = probes.loss(senders, torch.zeros(2, 0, 3, dtype=torch.long), torch.ones(2, 3, dtype=torch.bool))
    assert float(loss) == 0


def test_a_seed_decides_the_first_weights():
    case = get_case("case_13")
    config = transformer_config(case)
    first, again, other = (Probes(case, config, seed=seed, device=CPU).flat for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    weights, biases = zip(*maps_of(case, Probes(case, config, seed=0, device=CPU)).values(), strict=True)
    deviation = torch.cat([weight.flatten() for weight in weights]).std()
    assert float(deviation.detach()) * config.d_model**0.5 == pytest.approx(1, rel=0.15)
    assert not any(bool(bias.any()) for bias in biases)


def test_in_sentences_undefined_values_count_as_much_as_all_others_together():
    case = get_case("ioi")
    probes, config = probes_of(case), transformer_config(case)
    generator = torch.Generator().manual_seed(0)
    senders = torch.randn(len(config.senders), 3, 8, config.d_model, generator=generator)
    there = torch.arange(7) < torch.tensor([[7], [5], [6]])
    codes = torch.full((3, len(probes.variables), 7), 100)
    codes[0, :, 2], codes[1, :, 4], codes[2, :, 5] = 7, 9, 101
    losses: dict[str, list[list[float]]] = {}
    for place, variable in enumerate(probes.variables):
        d, width = probes._shapes[place]
        start = sum(math.prod(shape) for shape in probes._shapes[:place])
        weight = probes.flat[start : start + d * width].view(d, width)
        node = config.senders.index(case.alignment.node_of[variable.name])
        groups: list[list[float]] = [[], []]
        for row, at in there.nonzero().tolist():
            code = int(codes[row, place, at])
            if code != variable.ambiguous:
                read = senders[node, row, 1 + at] @ weight[:-1] + weight[-1]
                groups[code == variable.undefined].append(F.cross_entropy(read, torch.tensor(code)).item())
        losses[variable.name] = groups
    expected = sum(sum(sum(group) / len(group) for group in groups) / 2 for groups in losses.values())
    assert all(len(defined) == 2 and len(undefined) == 15 for defined, undefined in losses.values())
    assert probes.loss(senders, codes, there).item() == pytest.approx(expected, rel=1e-5)
