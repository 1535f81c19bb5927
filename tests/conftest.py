"""What all tests share: a quiet, isolated Hub client, one torch thread, and small hand-made checkpoints."""

import atexit
import os
import signal
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

# huggingface_hub reads these once, when it is imported: no reports, no user's cache or token, plain HTTP.
os.environ |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
for _name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN", "HF_ENDPOINT", "HF_HUB_CACHE"):
    os.environ.pop(_name, None)
_hf_home = tempfile.TemporaryDirectory(prefix="interpbench-hf-")
atexit.register(_hf_home.cleanup)
os.environ["HF_HOME"] = _hf_home.name

import pytest  # noqa: E402
import torch  # noqa: E402

from interpbench_hub.certificate import Certificate, Effect, Entry  # noqa: E402
from interpbench_hub.checkpoint import (  # noqa: E402
    Checkpoint,
    CheckpointConfig,
    Output,
    Provenance,
    Vocab,
    save_checkpoint,
    weights_sha256,
)
from interpbench_hub.circuit import Circuit, Edge, Node, Role  # noqa: E402
from interpbench_hub.transformer import Transformer, TransformerConfig  # noqa: E402

# Who starts the tests in the background of a script leaves Ctrl-C ignored, here and in all processes the tests start;
# tests of interruptions need it as it is at a terminal.
if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Test processes run side by side; several threads each would fight over the cores.
torch.set_num_threads(1)

PROVENANCE = Provenance(
    recipe="none",
    seed=0,
    steps=0,
    package_version="0.1.0",
    commit=None,
    wall_seconds=1.5,
    cpu_seconds=1.25,
    hardware="a test",
    torch_version="2.13.0",
    python_version="3.11.7",
    created="2026-11-21",
)


@pytest.fixture
def make_checkpoint() -> Callable[..., Checkpoint]:
    """Makes checkpoints of case_3 with random weights; keywords change the output and the transformer's shape."""

    def make(*, seed: int = 0, output: Output = Output("regression"), **shape: Any) -> Checkpoint:  # noqa: B008
        defaults: dict[str, Any] = {
            "n_layers": 2,
            "n_heads": 4,
            "d_model": 12,
            "d_head": 3,
            "d_mlp": 16,
            "d_vocab": 6,
            "d_vocab_out": len(output.classes) or 1,
            "n_ctx": 10,
            "attention_dir": "bidirectional",
        }
        transformer = TransformerConfig(**(defaults | shape))
        config = CheckpointConfig(
            case="case_3",
            transformer=transformer,
            vocab=Vocab(("a", "b", "c", "x"), 4, 5),
            output=output,
            min_len=4,
            max_len=10,
            provenance=PROVENANCE,
        )
        edges = [
            Edge(Node("embed"), Node("m0"), kind="varying", effect=0.5),
            Edge(Node("m0"), Node("a1.h0"), "v", kind="varying"),
            Edge(Node("pos_embed"), Node("a1.h0"), "k", kind="constant"),
            Edge(Node("a1.h0"), Node("logits"), kind="inert"),
        ]
        roles = {Node("m0"): Role(("is_x",), "whether the token is x"), Node("a1.h0"): Role(("fraction",))}
        circuit = Circuit(transformer.n_layers, transformer.n_heads, edges, roles, case="case_3")
        return Checkpoint(config, Transformer(transformer, seed=seed).state_dict(), circuit)

    return make


@pytest.fixture
def checkpoint(make_checkpoint: Callable[..., Checkpoint]) -> Checkpoint:
    """A small random checkpoint without a certificate."""
    return make_checkpoint()


@pytest.fixture
def make_certificate() -> Callable[..., Certificate]:
    """Makes certificates in which everything passes; keywords replace fields."""

    def make(**changed: Any) -> Certificate:
        whole = {
            "case": "case_3",
            "weights_sha256": "0" * 64,
            "seed": 7,
            "n_pairs": 10_000,
            "n_pairs_single": 2000,
            "is_exhaustive": False,
            "is_held_out": True,
            "package_version": "0.1.0",
            "behaviour": (Entry("all", None, 10_000, 10_000),),
            "node_interchange": (Entry("m0", "resample", 2000, 2000),),
            "edge_interchange": (Entry("embed->m0", "resample", 2000, 2000),),
            "node_strict": tuple(Entry("m1", kind, 2000, 2000) for kind in ("resample", "zero", "mean")),
            "edge_strict": tuple(Entry("embed->m1", kind, 2000, 2000) for kind in ("resample", "zero", "mean")),
            "complement": tuple(Entry("all", kind, 10_000, 10_000) for kind in ("resample", "zero", "mean")),
            "effect": (Effect("embed->m0", 2000, 900, 905),),
        }
        return Certificate(**(whole | changed))

    return make


@pytest.fixture
def certified_folder(tmp_path: Path, checkpoint: Checkpoint, make_certificate: Callable[..., Certificate]) -> Path:
    """A saved checkpoint with a certificate about its weights."""
    folder = save_checkpoint(checkpoint, tmp_path / "certified")
    certificate = make_certificate(weights_sha256=weights_sha256(folder))
    return save_checkpoint(Checkpoint(checkpoint.config, checkpoint.weights, checkpoint.circuit, certificate), folder)
