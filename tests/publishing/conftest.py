"""A local Hub, a collection of three bundled models in place of the package's own, and their datasets."""

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from dataset_builders import build_dataset
from interpbench_hub import manifest
from interpbench_hub.publishing import Outcome, account, publish
from tests.local_hub import LocalHub

BUNDLED = manifest.COLLECTION
MODELS = ("case_3", "case_10", "bigram_share")
TOKEN = "hf_owner"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[LocalHub]:
    users = {TOKEN: "owner", "hf_reader": "owner", "hf_stranger": "stranger"}
    with LocalHub(tmp_path / "hub", users, {"owner": ["interpbench"]}, read_only=["hf_reader"]) as hub:
        yield hub


@pytest.fixture(scope="session")
def built_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The datasets of the three cases, as they are published."""
    folder = tmp_path_factory.mktemp("data")
    for case in MODELS:
        build_dataset(case, folder)
    return folder


@pytest.fixture
def data(built_data: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built_data, tmp_path / "data"))


@pytest.fixture
def collection(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A collection of three models, which tests may spoil."""
    folder = tmp_path / "collection"
    for model in MODELS:
        shutil.copytree(BUNDLED / model, folder / model)
    manifest.write_manifest(folder)
    monkeypatch.setattr(manifest, "COLLECTION", folder)
    return folder


@pytest.fixture
def put(hub: LocalHub, collection: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Outcome]]:
    """`publish` to the local Hub, without waits between tries."""
    monkeypatch.setattr(account, "WAITS", (0.0, 0.0, 0.0))
    options: dict[str, Any] = {"token": TOKEN, "endpoint": hub.url, "data": data}
    return partial(publish, **options)
