"""What a model card is about: a certified checkpoint, its case, where both lie on the Hub, and the card's metadata."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interpbench_hub import manifest
from interpbench_hub.certificate import Certificate
from interpbench_hub.checkpoint import (
    CheckpointConfig,
    check_certificate,
    check_circuit,
    load_certificate_file,
    load_circuit_file,
    load_config,
    weights_sha256,
)
from interpbench_hub.circuit import Circuit
from interpbench_hub.constants import CERTIFICATE_FILE, CIRCUIT_FILE, LIBRARY_NAME, NAMESPACE, WEIGHTS_FILE
from interpbench_hub.loader import load_case
from model_cards.results import eval_results

if TYPE_CHECKING:
    from huggingface_hub import ModelCardData

    from interpbench_hub.cases import Case

LICENCE = "cc-by-4.0"


@dataclass(frozen=True, eq=False)
class Subject:
    """A certified checkpoint under the name it has, or is to get, on the Hub."""

    model_id: str
    namespace: str
    folder: Path
    config: CheckpointConfig
    circuit: Circuit
    certificate: Certificate
    sha256: str
    """Of the weights file."""
    attempts: tuple[dict[str, Any], ...]
    """The attempts behind a bundled model, as the manifest lists them; none where nobody counted."""
    is_bundled: bool
    case: "Case"

    @classmethod
    def load(cls, model_id: str, folder: Path | None = None, namespace: str = NAMESPACE) -> "Subject":
        """Raises `CheckpointError` if the folder is not whole, or has no certificate about its weights."""
        folder = manifest.COLLECTION / model_id if folder is None else Path(folder)
        config, circuit, certificate = load_config(folder), load_circuit_file(folder), load_certificate_file(folder)
        shape, sha256 = config.transformer, weights_sha256(folder)
        check_circuit(circuit, shape.n_layers, shape.n_heads, config.case, file=folder / CIRCUIT_FILE)
        check_certificate(certificate, sha256, file=folder / CERTIFICATE_FILE)
        entry = manifest.load_manifest()["models"].get(model_id)
        # The manifest speaks about the bundled weights; a folder may hold others under the same name.
        is_bundled = entry is not None and entry["files"].get(WEIGHTS_FILE) == sha256
        attempts = tuple(entry["attempts"]) if entry is not None and is_bundled else ()
        case = load_case(folder)
        return cls(model_id, namespace, folder, config, circuit, certificate, sha256, attempts, is_bundled, case)

    @property
    def repository(self) -> str:
        return f"{self.namespace}/{self.model_id}"

    @property
    def dataset(self) -> str:
        """The repository of the case's data."""
        return f"{self.namespace}/{self.case.id}"

    @property
    def is_certified(self) -> bool:
        """Whether the certificate confirms the circuit edge by edge."""
        return self.certificate.grade in ("path", "edge")

    @property
    def is_of_sentences(self) -> bool:
        """Whether the task is Indirect Object Identification: inputs are sentences, and no program is behind them."""
        from interpbench_hub.ioi.case import IoiCase

        return isinstance(self.case, IoiCase)

    @cached_property
    def data(self) -> "ModelCardData":
        """The card's metadata."""
        from huggingface_hub import ModelCardData

        recipe = self.config.provenance.recipe
        tags = ["mechanistic-interpretability", "circuit-analysis", "transformers", "benchmark"]
        tags += ["known-circuit"] if self.is_certified else []
        tags += ["siit"] if recipe in ("edge-siit", "siit") else []
        tags += ["indirect-object-identification" if self.is_of_sentences else "tracr"]
        tags += ["transformer-lens", "safetensors"]
        return ModelCardData(
            library_name=LIBRARY_NAME,
            license=LICENCE,
            tags=tags,
            datasets=[self.dataset],
            model_name=self.model_id,
            eval_results=eval_results(self.certificate, self.repository, self.dataset),
        )
