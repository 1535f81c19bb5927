"""Loading by name: the same numbers in TransformerLens, errors before work, and a door that opens quickly."""

import doctest
import json
import re
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import interpbench_hub
from interpbench_hub import checkpoint as checkpoint_module
from interpbench_hub import (
    collecting,
    drawing,
    hub,
    load_certificate,
    load_circuit,
    load_model,
    loader,
    manifest,
    validation,
    verification,
)
from interpbench_hub.cases import get_case
from interpbench_hub.checkpoint import Vocab, load_checkpoint, save_checkpoint
from interpbench_hub.constants import CERTIFICATE_FILE, CIRCUIT_FILE, CONFIG_FILE, WEIGHTS_FILE
from interpbench_hub.errors import CheckpointError, DownloadError, SettingError, UnknownNameError
from interpbench_hub.loader import load_case
from interpbench_hub.transformer import Transformer

SHAPES = [
    {},
    {"attention_dir": "causal", "act_fn": "gelu_new", "normalization_type": "LN", "d_mlp": 24},
    {"n_layers": 3, "n_heads": 2, "d_head": 5, "act_fn": "relu", "eps": 1e-3, "normalization_type": "LN"},
]


@pytest.fixture
def folder(tmp_path, checkpoint) -> Path:
    return save_checkpoint(checkpoint, tmp_path / "model")


# -- the model ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_a_loaded_model_computes_what_was_saved(tmp_path, make_checkpoint, shape):
    checkpoint = make_checkpoint(seed=3, **shape)
    model = load_model(save_checkpoint(checkpoint, tmp_path / "model"))
    own = Transformer(checkpoint.config.transformer)
    own.load_state_dict(checkpoint.weights)
    tokens = torch.randint(0, 6, (7, 10), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model(tokens), own(tokens), atol=1e-5, rtol=0)


def test_the_hooks_of_single_edges_are_on(folder, checkpoint):
    model = load_model(folder)
    assert model.cfg.use_attn_result
    assert model.cfg.use_split_qkv_input
    assert model.cfg.use_hook_mlp_in
    _, cache = model.run_with_cache(torch.zeros(2, 5, dtype=torch.long))
    shape = checkpoint.config.transformer
    for hook in ("attn.hook_result", "hook_q_input", "hook_k_input", "hook_v_input"):
        assert cache[f"blocks.1.{hook}"].shape == (2, 5, shape.n_heads, shape.d_model)
    assert cache["blocks.0.hook_mlp_in"].shape == (2, 5, shape.d_model)
    # What an edge carries is what the hooks see.
    run = Transformer(shape)
    run.load_state_dict(checkpoint.weights)
    senders = run.run(torch.zeros(2, 5, dtype=torch.long)).senders
    heads = cache["blocks.0.attn.hook_result"].permute(2, 0, 1, 3)
    torch.testing.assert_close(heads, senders[2 : 2 + shape.n_heads], atol=1e-5, rtol=0)


def test_the_configuration_is_carried_over(tmp_path, make_checkpoint):
    checkpoint = make_checkpoint(**SHAPES[2])
    cfg = load_model(save_checkpoint(checkpoint, tmp_path / "model")).cfg
    for name, value in checkpoint.config.transformer.to_dict().items():
        assert getattr(cfg, name) == value, name
    assert str(cfg.device) == "cpu"
    assert cfg.dtype == torch.float32
    assert cfg.positional_embedding_type == "standard"
    assert not cfg.default_prepend_bos


@pytest.mark.parametrize("dtype", [torch.float64, "float64", "torch.float64"])
def test_a_model_takes_the_dtype_asked_for(folder, dtype):
    model = load_model(folder, dtype=dtype)
    assert model.cfg.dtype == torch.float64
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float64}
    assert model(torch.zeros(1, 4, dtype=torch.long)).dtype == torch.float64


def test_a_model_saved_in_half_precision_computes_in_single(tmp_path, checkpoint):
    weights = {name: tensor.half().float() for name, tensor in checkpoint.weights.items()}
    folder = save_checkpoint(replace(checkpoint, weights=weights), tmp_path / "half")
    assert (folder / WEIGHTS_FILE).stat().st_size < 3 * sum(tensor.numel() for tensor in weights.values()) + 4000
    model = load_model(folder)
    assert model.cfg.dtype == torch.float32
    for name, parameter in model.named_parameters():
        assert parameter.dtype == torch.float32 and torch.equal(parameter, weights[name]), name
    own = Transformer(checkpoint.config.transformer)
    own.load_state_dict(load_checkpoint(folder).weights)
    tokens = torch.randint(0, 6, (7, 10), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model(tokens), own(tokens), atol=1e-5, rtol=0)
    assert {parameter.dtype for parameter in load_model(folder, dtype="float16").parameters()} == {torch.float16}


def test_loading_says_nothing_and_draws_no_random_numbers(folder):
    state = torch.random.get_rng_state()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = load_model(folder)
    assert [str(warning.message) for warning in caught] == []
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not model.training


def test_each_load_gives_a_model_of_its_own(folder):
    first, second = load_model(folder), load_model(folder)
    with torch.no_grad():
        first.embed.W_E += 1
    assert not torch.equal(first.embed.W_E, second.embed.W_E)


def test_loading_adds_little_to_the_import_of_transformer_lens(folder):
    load_model(folder)
    times = []
    for _ in range(3):
        start = time.perf_counter()
        load_model(folder)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.1


# -- options -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["cuda:99", "tpu", "meta", "", "mps:7", "cpu:x", 3.5])
def test_a_device_that_is_not_there_is_reported_before_anything_is_loaded(device):
    with pytest.raises(SettingError, match=r"device .*(this machine has cpu|a model lives on cpu)"):
        load_model("no such name", device=device)


@pytest.mark.parametrize("dtype", ["float31", "int64", torch.int64, torch.complex64, "float", 32, "cuda"])
def test_a_dtype_that_cannot_be_is_reported_before_anything_is_loaded(dtype):
    with pytest.raises(SettingError, match=r"dtype is .*one of float32, float64, bfloat16, float16"):
        load_model("no such name", dtype=dtype)


@pytest.mark.parametrize("load", [load_model, load_circuit, load_certificate, load_case])
def test_all_loaders_share_names_and_options(load, tmp_path):
    with pytest.raises(UnknownNameError, match="unknown model 'case_9999'"):
        load("case_9999")
    with pytest.raises(DownloadError, match="someone/model at revision 'v1': not in the cache"):
        load("someone/model", revision="v1", cache_dir=tmp_path, token="hf_x", local_files_only=True)
    with pytest.raises(SettingError, match="exclude each other"):
        load("case_3", force_download=True, local_files_only=True)
    with pytest.raises(TypeError, match="colour"):
        load("case_3", colour="red")


# -- circuit, certificate, case ----------------------------------------------------------------------------------------


def test_circuit_certificate_and_case_come_with_the_model(certified_folder):
    checkpoint = load_checkpoint(certified_folder)
    assert load_circuit(certified_folder) == checkpoint.circuit
    assert load_certificate(str(certified_folder)) == checkpoint.certificate
    assert load_case(certified_folder) is get_case("case_3")


def test_bundled_models_are_loaded_by_id(monkeypatch, tmp_path, certified_folder):
    certified_folder.rename(tmp_path / "case_77")
    manifest.write_manifest(tmp_path)
    monkeypatch.setattr(manifest, "COLLECTION", tmp_path)
    monkeypatch.chdir("/")
    for name in ("case_77", "interpbench/case_77"):
        assert load_model(name)(torch.zeros(1, 4, dtype=torch.long)).shape == (1, 4, 1)
        assert load_circuit(name, local_files_only=True).case == "case_3"
        assert load_certificate(name).grade == "path"
    weights = tmp_path / "case_77" / WEIGHTS_FILE
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(CheckpointError, match=r"model\.safetensors: SHA-256 is"):
        load_model("case_77")


def test_a_circuit_of_another_model_is_refused(certified_folder):
    path = certified_folder / CIRCUIT_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | {"n_heads": 5}))
    with pytest.raises(
        CheckpointError, match="the circuit is one of 2 layers of 5 heads, the transformer has 2 layers of 4"
    ):
        load_circuit(certified_folder)


def test_a_certificate_of_other_weights_is_refused(certified_folder, make_checkpoint):
    certificate = (certified_folder / CERTIFICATE_FILE).read_bytes()
    save_checkpoint(make_checkpoint(seed=1), certified_folder)
    (certified_folder / CERTIFICATE_FILE).write_bytes(certificate)
    with pytest.raises(CheckpointError, match="certify the model anew if the weights are meant to differ"):
        load_certificate(certified_folder)
    (certified_folder / WEIGHTS_FILE).unlink()
    assert load_certificate(certified_folder).grade == "path"


def test_a_model_that_was_never_certified_has_no_certificate(folder):
    with pytest.raises(CheckpointError, match=r"certificate\.json: the file is missing"):
        load_certificate(folder)


def test_a_case_that_is_not_registered_is_named(folder):
    path = folder / CONFIG_FILE
    path.write_text(path.read_text().replace('"case_3"', '"my_case"'))
    with pytest.raises(CheckpointError, match=r"trained for case 'my_case', which is not registered here; register it"):
        load_case(folder)
    assert load_model(folder).cfg.n_layers == 2


def test_a_case_with_other_tokens_is_refused(folder, checkpoint):
    config = replace(checkpoint.config, vocab=Vocab(("b", "a", "c", "x"), 4, 5))
    save_checkpoint(replace(checkpoint, config=config), folder)
    with pytest.raises(
        CheckpointError, match=r"the model's tokens \('b', 'a', 'c', 'x'\) are not those of case case_3"
    ):
        load_case(folder)


def test_damaged_weights_are_refused(folder):
    path = folder / WEIGHTS_FILE
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        load_model(folder)


# -- the public door ---------------------------------------------------------------------------------------------------


def test_every_public_name_can_be_had():
    for name in interpbench_hub.__all__:
        assert getattr(interpbench_hub, name) is not None
    assert len(interpbench_hub.__all__) <= 15
    assert interpbench_hub.__all__ == sorted(interpbench_hub.__all__)
    assert set(interpbench_hub.__all__) <= set(dir(interpbench_hub))
    assert re.fullmatch(r"\d+\.\d+.*|0\+unknown", interpbench_hub.__version__)


def test_the_type_checker_sees_the_same_names():
    source = Path(interpbench_hub.__file__).read_text()
    typed = re.findall(r"^    from (\S+) import (\w+) as \2$", source, flags=re.MULTILINE)
    assert {name: module for module, name in typed} == {
        name: f"interpbench_hub.{module}" for name, module in interpbench_hub._HOME.items()
    }
    assert sorted(interpbench_hub._HOME) == interpbench_hub.__all__


def test_an_unknown_public_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'load_modell'; public are Circuit, Edge"):
        _ = interpbench_hub.load_modell  # type: ignore[attr-defined]


def test_every_public_name_is_documented():
    for name in interpbench_hub.__all__:
        assert (getattr(interpbench_hub, name).__doc__ or "").strip(), name


@pytest.mark.parametrize(
    "module", [validation, checkpoint_module, hub, manifest, loader, drawing, collecting, verification]
)
def test_the_examples_in_the_docstrings_run(module):
    results = doctest.testmod(module)
    assert results.attempted > 0
    assert results.failed == 0


def in_a_new_process(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_importing_the_package_imports_nothing_heavy_and_is_quick():
    code = """
import sys, time
start = time.perf_counter()
import interpbench_hub
dir(interpbench_hub)
heavy = {"torch", "transformer_lens", "numpy", "scipy"}
print(time.perf_counter() - start, sorted(heavy & set(sys.modules)))
"""
    best = min(float(in_a_new_process(code).split()[0]) for _ in range(3))
    assert best < 0.3
    assert in_a_new_process(code).split()[1:] == ["[]"]


def test_circuits_and_certificates_are_read_without_torch(certified_folder):
    code = f"""
import sys, interpbench_hub
interpbench_hub.load_circuit({str(certified_folder)!r}).to_svg()
interpbench_hub.load_certificate({str(certified_folder)!r}).grade
interpbench_hub.list_models()
print("torch" in sys.modules, "huggingface_hub" in sys.modules)
"""
    assert in_a_new_process(code).split() == ["False", "False"]
