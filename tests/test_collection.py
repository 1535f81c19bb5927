"""The bundled collection: every model is whole, and computes its program on the recorded samples."""

import json
from pathlib import Path

import pytest
import torch

from interpbench_hub.certificate import TOLERANCE
from interpbench_hub.hub import list_models
from interpbench_hub.loader import load_case, load_certificate, load_circuit, load_model

VECTORS = Path(__file__).parent / "data" / "vectors"


@pytest.mark.parametrize("name", list_models())
def test_a_bundled_model_computes_its_program_on_every_recorded_sample(name):
    case, model = load_case(name), load_model(f"interpbench/{name}")
    samples = json.loads((VECTORS / f"{case.id}.json").read_text(encoding="utf-8"))["samples"]
    assert {len(sample["input"]) for sample in samples} == set(range(case.min_len - 1, case.max_len))
    for sample in samples:
        with torch.no_grad():
            (output,) = case.decode(model(case.encode([sample["input"]])))
        expected = case.program(sample["input"])
        if case.categorical:
            assert output == expected == sample["output"]
        else:
            assert output == pytest.approx(expected, abs=TOLERANCE)
            assert expected == sample["output"]


@pytest.mark.parametrize("name", list_models())
def test_a_bundled_circuit_is_the_cases_with_measured_effects(name):
    circuit, case = load_circuit(name), load_case(name)
    assert circuit == case.circuit.with_effects({edge: edge.effect for edge in circuit if edge.effect is not None})
    assert all((edge.effect is not None) == (edge.kind == "varying") for edge in circuit)
    assert load_certificate(name).grade in ("edge", "path")
