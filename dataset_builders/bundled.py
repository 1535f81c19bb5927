"""The models of a collection as their files describe them: what the circuits dataset and its card are made from."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interpbench_hub import manifest
from interpbench_hub.constants import CERTIFICATE_FILE, CONFIG_FILE, WEIGHTS_FILE
from interpbench_hub.errors import CheckpointError
from interpbench_hub.validation import read_json

if TYPE_CHECKING:
    from interpbench_hub.cases.case import Case
    from interpbench_hub.certificate import Certificate, Grade
    from interpbench_hub.checkpoint import CheckpointConfig
    from interpbench_hub.circuit import Circuit


@dataclass(frozen=True)
class BundledModel:
    """Everything about one model of a collection but its weights."""

    id: str
    case: "Case"
    config: "CheckpointConfig"
    circuit: "Circuit"
    certificate: "Certificate | None"
    """None if the model was never measured."""
    entry: dict[str, Any]
    """What the manifest says of the model."""

    @property
    def grade(self) -> "Grade":
        return self.entry["grade"]

    @property
    def weights_sha256(self) -> str:
        return self.entry["files"][WEIGHTS_FILE]

    @cached_property
    def attempt(self) -> dict[str, Any]:
        """The attempt that made the model; empty where the manifest lists none."""
        return next((attempt for attempt in self.entry["attempts"] if attempt["chosen"]), {})


def bundled_models(collection: Path | None = None) -> list[BundledModel]:
    """The models of a collection (by default the bundled one) in the order of its manifest.

    Raises `CheckpointError` for files that are not whole, that do not belong together or to the manifest.
    """
    from interpbench_hub.checkpoint import load_config
    from interpbench_hub.loader import load_case, load_certificate, load_circuit

    models = []
    for model_id, entry in manifest.load_manifest(collection)["models"].items():
        folder = (collection or manifest.COLLECTION) / model_id
        certificate = load_certificate(folder) if CERTIFICATE_FILE in entry["files"] else None
        model = BundledModel(model_id, load_case(folder), load_config(folder), load_circuit(folder), certificate, entry)
        if certificate is not None and certificate.weights_sha256 != model.weights_sha256:
            raise CheckpointError(
                f"{folder / CERTIFICATE_FILE}: measured on weights with SHA-256 {certificate.weights_sha256[:12]}..., "
                f"the collection's manifest names {model.weights_sha256[:12]}...; write the manifest anew"
            )
        models.append(model)
    return models


def ids_of_case(case_id: str, collection: Path | None = None) -> list[str]:
    """Ids of the models of a case that a collection has, such as `case_3` and `case_3_siit`."""
    folder = collection or manifest.COLLECTION
    # An id begins with its case's, but so may that of another case.
    near = [model_id for model_id in manifest.load_manifest(collection)["models"] if model_id.startswith(case_id)]
    return [model_id for model_id in near if read_json(folder / model_id / CONFIG_FILE, "config")["case"] == case_id]
