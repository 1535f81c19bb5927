"""Model cards: metadata and files, read back by the Hub's own client; checkpoints that get no card."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard, ModelCardData

from interpbench_hub.checkpoint import Checkpoint, save_checkpoint
from interpbench_hub.errors import CheckpointError
from interpbench_hub.manifest import COLLECTION
from model_cards.model_card import card_files, model_card
from model_cards.subject import Subject

Make = Callable[..., Any]


@pytest.mark.parametrize("model", ["case_3", "case_21", "bigram_share"])
def test_the_metadata_reads_back_as_what_was_put_in(model: str) -> None:
    read, put_in = ModelCard(model_card(model)).data, Subject.load(model).data
    assert read.to_dict() == put_in.to_dict()
    assert isinstance(read, ModelCardData)
    assert read.eval_results == put_in.eval_results
    assert read.model_name == model
    assert str(ModelCard(model_card(model))) == model_card(model)


def test_files_are_the_card_its_pictures_and_the_results_and_always_the_same() -> None:
    files = card_files("case_3")
    assert list(files) == ["README.md", "circuit.svg", "circuit.png", ".eval_results/certificate.yaml"]
    assert files["README.md"].decode() == model_card("case_3")
    assert files["circuit.svg"].decode().startswith("<svg ")
    assert card_files("case_3", COLLECTION / "case_3") == files


def test_without_the_png_the_card_shows_the_svg() -> None:
    files = card_files("case_3", picture=False)
    assert "circuit.png" not in files
    assert "circuit.png" not in files["README.md"].decode()
    assert "edges](circuit.svg)](circuit.svg)" in files["README.md"].decode()


def test_another_namespace_is_named_everywhere() -> None:
    files = card_files("case_3", namespace="someone", picture=False)
    for name in ("README.md", ".eval_results/certificate.yaml"):
        text = files[name].decode()
        assert "someone/case_3" in text
        assert "interpbench/case_3" not in text
    assert "comes with the package" not in files["README.md"].decode()


def test_a_checkpoint_without_certificate_gets_no_card(tmp_path: Path, checkpoint: Checkpoint) -> None:
    folder = save_checkpoint(checkpoint, tmp_path / "bare")
    with pytest.raises(CheckpointError, match=r"certificate\.json"):
        model_card("case_3", folder)


def test_a_certificate_of_other_weights_is_refused(
    tmp_path: Path, certified_folder: Path, make_checkpoint: Make
) -> None:
    save_checkpoint(make_checkpoint(seed=1), tmp_path / "other")
    (tmp_path / "other" / "model.safetensors").replace(certified_folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="measured on weights with SHA-256"):
        model_card("case_3", certified_folder)
