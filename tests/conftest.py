"""What all tests share: a quiet, isolated Hub client, one torch thread, and small hand-made checkpoints."""

import atexit
import os
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

# huggingface_hub reads these once, when it is imported: no reports, no user's cache or token, plain HTTP.
os.environ |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
for _name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN", "HF_ENDPOINT", "HF_HUB_CACHE"):
    os.environ.pop(_name, None)
# So that the same steps give the same bits in every test of a process: see `siit.machine`.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
_hf_home = tempfile.TemporaryDirectory(prefix="interpbench-hf-")
atexit.register(_hf_home.cleanup)
os.environ["HF_HOME"] = _hf_home.name

import pytest  # noqa: E402
import torch  # noqa: E402

from interpbench_hub import manifest  # noqa: E402
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
from interpbench_hub.constants import CIRCUIT_FILE, CONFIG_FILE  # noqa: E402
from interpbench_hub.transformer import Transformer, TransformerConfig  # noqa: E402
from tests.fake_hub import FakeHub  # noqa: E402

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


@pytest.fixture
def fake_hub(certified_folder: Path) -> Iterator[FakeHub]:
    """A Hub on this machine that holds the certified folder as someone/model."""
    fake = FakeHub()
    fake.files = {path.name: path.read_bytes() for path in certified_folder.iterdir()}
    yield fake
    fake.close()


@pytest.fixture
def options(fake_hub: FakeHub, tmp_path: Path) -> dict[str, Any]:
    """What `resolve` needs to fetch the small files of someone/model from there."""
    return {"files": (CONFIG_FILE, CIRCUIT_FILE), "endpoint": fake_hub.url, "cache_dir": tmp_path / "cache"}


@pytest.fixture
def hub_of_the_library(fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    """The Hub on this machine in place of the one that is asked where no other is named."""
    from huggingface_hub import constants

    # Both, as if HF_ENDPOINT had been set when the library was imported.
    monkeypatch.setattr(constants, "ENDPOINT", fake_hub.url)
    template = fake_hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    return fake_hub


@pytest.fixture
def collection(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, certified_folder: Path, checkpoint: Checkpoint) -> Path:
    """A bundled collection of two models in place of the package's own."""
    folder = tmp_path / "collection"
    folder.mkdir()
    shutil.copytree(certified_folder, folder / "case_30")
    save_checkpoint(checkpoint, folder / "case_4")
    manifest.write_manifest(folder)
    monkeypatch.setattr(manifest, "COLLECTION", folder)
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.fixture
def within() -> Callable[[float], AbstractContextManager[None]]:
    """`with within(5):` fails if its block takes longer than five seconds."""

    @contextmanager
    def limit(seconds: float) -> Iterator[None]:
        start = time.monotonic()
        yield
        assert time.monotonic() - start < seconds

    return limit


@pytest.fixture
def silent_endpoint() -> Iterator[str]:
    """A port of this machine that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
