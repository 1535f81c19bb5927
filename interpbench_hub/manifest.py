"""The collection that comes with the package, and its manifest: which models there are and the checksum of every file.

Owns the rule that a file whose checksum the manifest names has that checksum, wherever the file lies.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from interpbench_hub.checkpoint import check_certificate, format_json, load_certificate_file, load_config
from interpbench_hub.constants import CERTIFICATE_FILE, MANIFEST_FILE, NAMESPACE, SCHEMA_VERSION, WEIGHTS_FILE
from interpbench_hub.errors import CheckpointError
from interpbench_hub.validation import read_bytes, read_json

COLLECTION = Path(__file__).parent / "collection"
"""The bundled checkpoints, one folder each, and their manifest. This is the one place that counts."""


def load_manifest(collection: Path | None = None) -> dict[str, Any]:
    """The content of a collection's `manifest.json` (by default the bundled one's); no models if there is none."""
    path = (collection or COLLECTION) / MANIFEST_FILE
    if not path.exists():
        return {"schema_version": SCHEMA_VERSION, "package_version": _package_version(), "models": {}}
    manifest = read_json(path, "manifest")
    for entry in manifest["models"].values():
        entry.setdefault("attempts", [])
    return manifest


def write_manifest(collection: str | Path, attempts: Mapping[str, list[dict[str, Any]]] | None = None) -> Path:
    """Write `manifest.json` of a folder of checkpoint folders: grade and SHA-256 of every file of each model.

    `attempts` are those that led to some of the models, under their ids; the others keep what the manifest says.
    Raises `CheckpointError` if a folder is no checkpoint or its certificate is not about its weights, or if the
    manifest there is broken.
    """
    collection = Path(collection)
    known = {name: entry["attempts"] for name, entry in load_manifest(collection)["models"].items()}
    known |= attempts or {}
    folders = [entry for entry in collection.iterdir() if entry.is_dir() and not entry.name.startswith((".", "_"))]
    models = {
        folder.name: _entry(folder) | {"attempts": known.get(folder.name, [])}
        for folder in sorted(folders, key=lambda folder: natural_order(folder.name))
    }
    manifest = {"schema_version": SCHEMA_VERSION, "package_version": _package_version(), "models": models}
    path = collection / MANIFEST_FILE
    unfinished = path.with_name(f".{MANIFEST_FILE}.new")
    unfinished.write_text(format_json(manifest), encoding="utf-8")
    unfinished.replace(path)
    return path


def version_tag(package_version: str | None = None) -> str:
    """Name of the tag under which a version of the package publishes its collection; this package's if None.

    >>> version_tag("0.1.0")
    'v0.1.0'
    """
    return f"v{package_version or _package_version()}"


def bundled_folder(model_id: str, files: Iterable[str]) -> Path:
    """The folder of a bundled model, after checking that `files` of it are what the manifest says."""
    sums = load_manifest()["models"][model_id]["files"]
    folder = COLLECTION / model_id
    for file in files:
        if file not in sums:
            raise CheckpointError(f"{folder / file}: not part of the bundled model, which has {', '.join(sums)}")
        check_sum(folder / file, sums[file], "the file was changed after it was published; reinstall the package")
    return folder


def pinned_sums(repo_id: str, revision: str) -> dict[str, str]:
    """SHA-256 of each file of a published model of ours, at the one revision that the bundled manifest describes.

    Nothing is known of any other repository or revision.
    """
    namespace, _, model_id = repo_id.partition("/")
    manifest = load_manifest()
    is_pinned = namespace == NAMESPACE and revision == version_tag(manifest["package_version"])
    return manifest["models"][model_id]["files"] if is_pinned and model_id in manifest["models"] else {}


def check_sum(path: Path, expected: str, remedy: str, *, what: str | None = None) -> None:
    """Raise `CheckpointError` unless a file has this SHA-256; the message names `what`, or the path."""
    found = hashlib.sha256(read_bytes(path)).hexdigest()
    if found != expected:
        raise CheckpointError(
            f"{what or path}: SHA-256 is {found[:12]}..., the collection's {MANIFEST_FILE} says {expected[:12]}...; "
            f"{remedy}"
        )


def natural_order(name: str) -> list[tuple[int, str]]:
    """A key to sort names by, case_3 before case_21.

    >>> sorted(["case_21", "case_3"], key=natural_order)
    ['case_3', 'case_21']
    """
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _entry(folder: Path) -> dict[str, Any]:
    load_config(folder)
    files = sorted(entry for entry in folder.iterdir() if entry.is_file() and not entry.name.startswith("."))
    sums = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    grade = "none"
    if CERTIFICATE_FILE in sums:
        certificate = load_certificate_file(folder)
        check_certificate(certificate, sums.get(WEIGHTS_FILE, "none"), file=folder / CERTIFICATE_FILE)
        grade = certificate.grade
    return {"grade": grade, "files": sums}


def _package_version() -> str:
    from interpbench_hub import __version__

    return __version__
