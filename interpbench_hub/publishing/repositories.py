"""What is to be published: the files of every repository, checked before the first byte goes out.

A model's repository holds its checkpoint folder, its card and the drawing of its circuit; a dataset's the splits of a
case and their card; the datasets `circuits` and `results` are tables about all models. Knows nothing of what the Hub
has.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

from interpbench_hub import manifest
from interpbench_hub.checkpoint import load_checkpoint
from interpbench_hub.collecting import case_of
from interpbench_hub.constants import CARD_FILE, NAMESPACE
from interpbench_hub.errors import CheckpointError, InterpBenchError, SettingError, unknown_name
from interpbench_hub.hub_errors import first_line
from interpbench_hub.manifest import load_manifest

Kind = Literal["model", "dataset"]

CIRCUITS = "circuits"
"""Name of the dataset that holds all circuits as tables."""
RESULTS = "results"
"""Name of the dataset that says how discovery methods do on the models."""

MAX_NOTE = 500
"""Most characters of a note in a Collection; the Hub refuses longer ones."""

_MODEL_FILES = re.compile(r"[a-z_]+\.(json|safetensors|svg|png)|README\.md|\.eval_results/[a-z_]+\.yaml")
_DATASET_FILES = re.compile(r"([a-z_]+/)?[a-z_]+(-\d{5}-of-\d{5})?\.parquet|README\.md")
_LICENCE = "cc-by-4.0"


@dataclass(frozen=True)
class File:
    """One file of a repository: its content, and the two hashes by which the Hub knows files."""

    content: bytes

    @cached_property
    def sha256(self) -> str:
        """What the Hub compares of files in large-file storage."""
        return hashlib.sha256(self.content).hexdigest()

    @cached_property
    def git_sha1(self) -> str:
        """What it compares of all others: the id of git's blob."""
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()


@dataclass(frozen=True)
class Repository:
    """A repository as it shall be."""

    kind: Kind
    id: str
    """`namespace/name`."""
    files: Mapping[str, File]
    """All of its files, by their paths in it."""
    note: str
    """What it is, in the Collection."""

    def __str__(self) -> str:
        return f"{self.kind} {self.id}"

    @property
    def size(self) -> int:
        return sum(len(file.content) for file in self.files.values())


def chosen_models(names: Sequence[str] | None) -> list[str]:
    """The bundled models that `names` stand for: all of them for None; for a case, its model and that model's twins."""
    models = load_manifest()["models"]
    if names is None:
        return list(models)
    chosen: dict[str, None] = {}
    for name in names:
        given = name.removeprefix(f"{NAMESPACE}/")
        if given not in models:
            raise unknown_name("model", name, models, hint="only bundled models are published")
        chosen |= dict.fromkeys(model for model in models if given in (model, case_of(model)))
    return list(chosen)


def makers(
    models: Sequence[str], *, namespace: str, data: Path, with_tables: bool
) -> dict[str, Callable[[], Repository]]:
    """What makes each repository of these bundled models, by its name: theirs, their cases', and the tables about all.

    Datasets that are not in the folder `data` are built there. A maker raises `CheckpointError` or another
    `InterpBenchError` that lists everything wrong with its repository.
    """
    made: dict[str, Callable[[], Repository]] = {}
    for model in models:
        made[f"model {model}"] = partial(model_repository, model, namespace)
    for case in dict.fromkeys(map(case_of, models)):
        made[f"dataset {case}"] = partial(dataset_repository, case, namespace, data)
    if with_tables:
        made[f"dataset {CIRCUITS}"] = partial(circuits_repository, namespace)
        made[f"dataset {RESULTS}"] = partial(results_repository, namespace)
    return made


def model_repository(model: str, namespace: str) -> Repository:
    """A bundled model's repository: its files, each with the checksum of the manifest, its card, its drawing."""
    from model_cards.model_card import card_files

    entry = load_manifest()["models"][model]
    folder = manifest.COLLECTION / model
    checkpoint = load_checkpoint(folder)
    if checkpoint.certificate is None:
        raise CheckpointError(f"{folder} has no certificate; run `interpbench certify` on its run and bundle it anew")
    files = {name: File((folder / name).read_bytes()) for name in entry["files"]}
    faults = [
        f"{name} is not the file that the manifest lists; reinstall the package or bundle the model anew"
        for name, file in files.items()
        if file.sha256 != entry["files"][name]
    ]
    files |= {name: File(content) for name, content in card_files(model, folder, namespace=namespace).items()}
    case = checkpoint.config.case
    note = f"{_description(case)} Grade {entry['grade']}, {len(checkpoint.circuit)} edges."
    repository = Repository("model", f"{namespace}/{model}", files, _shortened(note))
    _check(repository, faults, _MODEL_FILES)
    return repository


def dataset_repository(case: str, namespace: str, data: Path) -> Repository:
    """The repository of a case's dataset, built if need be."""
    from dataset_builders.folders import build_dataset, dataset_files

    folder = build_dataset(case, data)
    files = {name: File(content) for name, content in dataset_files(folder, namespace=namespace).items()}
    note = _shortened(f"Inputs, outputs, variables and counterfactuals: {_description(case)}")
    repository = Repository("dataset", f"{namespace}/{case}", files, note)
    _check(repository, [], _DATASET_FILES)
    return repository


def circuits_repository(namespace: str) -> Repository:
    """The repository of all circuits as tables, whose card is the front page of the collection."""
    from dataset_builders.circuits import circuits_files

    files = {name: File(content) for name, content in circuits_files(namespace=namespace).items()}
    note = "Every circuit of the collection as tables: edges, nodes, edges outside, models. Start here."
    repository = Repository("dataset", f"{namespace}/{CIRCUITS}", files, note)
    _check(repository, [], _DATASET_FILES)
    return repository


def results_repository(namespace: str) -> Repository:
    """The repository of how circuit discovery methods do on the bundled models."""
    from dataset_builders.results import results_files

    files = {name: File(content) for name, content in results_files(namespace=namespace).items()}
    note = "How circuit discovery methods do on every certified model: scores, costs, leaderboard."
    repository = Repository("dataset", f"{namespace}/{RESULTS}", files, note)
    _check(repository, [], _DATASET_FILES)
    return repository


# -- checks ------------------------------------------------------------------------------------------------------------


def _check(repository: Repository, faults: Iterable[str], allowed: re.Pattern[str]) -> None:
    """Raises `CheckpointError` with everything that is wrong with a repository."""
    found = list(faults)
    for name, file in repository.files.items():
        if not allowed.fullmatch(name):
            found.append(f"{name} is no file that a {repository.kind} repository may hold")
        if not file.content:
            found.append(f"{name} is empty")
        if name.endswith(".parquet"):
            found += _parquet_faults(name, file.content)
    if CARD_FILE in repository.files:
        found += card_faults(repository.kind, repository.files[CARD_FILE].content, repository.files)
    else:
        found.append(f"it has no {CARD_FILE}")
    if found:
        raise CheckpointError(f"{repository} cannot be published: {'; '.join(found)}")


def card_faults(kind: Kind, content: bytes, files: Iterable[str]) -> list[str]:
    """What the Hub, or a reader of the card, would object to: metadata, data files, pictures and links."""
    import yaml
    from huggingface_hub import DatasetCard, ModelCard

    try:
        text = content.decode()
        card = (ModelCard if kind == "model" else DatasetCard)(text, ignore_metadata_errors=False)
        # As it stands: the library's classes mend some of what the Hub refuses.
        metadata: dict[str, Any] = yaml.safe_load(text.split("---")[1])
    except Exception as error:  # whatever the YAML parser and the classes of metadata raise
        return [f"the metadata of {CARD_FILE} cannot be read ({first_line(error)})"]
    faults = []
    if metadata.get("license") != _LICENCE:
        faults.append(f"the licence in {CARD_FILE} is {metadata.get('license')!r} instead of {_LICENCE!r}")
    tags = metadata.get("tags")
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        faults.append(f"the tags in {CARD_FILE} are {tags!r} instead of a list of words")
    there = set(files)
    for config in metadata.get("configs", []):
        for data_file in config["data_files"]:
            if data_file["path"] not in there:
                faults.append(f"{CARD_FILE} names the data file {data_file['path']}, which is not there")
    for link in re.findall(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"", card.text):
        target = link[0] or link[1]
        if not target.startswith(("https://", "#")) and target not in there:
            faults.append(f"{CARD_FILE} links to {target}, which is not there")
    return faults


def _parquet_faults(name: str, content: bytes) -> list[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows = pq.ParquetFile(pa.BufferReader(content)).metadata.num_rows
    except (pa.ArrowInvalid, OSError) as error:
        return [f"{name} is no parquet file ({error})"]
    return [] if rows else [f"{name} has no rows"]


def checked_namespace(namespace: str) -> str:
    """The namespace, if there can be one of this name."""
    if not re.fullmatch(r"[A-Za-z0-9](?:[A-Za-z0-9]|[-_.](?=[A-Za-z0-9]))*", namespace):
        raise SettingError(
            f"namespace {namespace!r} is no name of a user or an organisation; give one such as {NAMESPACE}"
        )
    return namespace


# -- helpers -----------------------------------------------------------------------------------------------------------


def _description(case: str) -> str:
    from interpbench_hub.cases import get_case

    try:
        return get_case(case).description
    except InterpBenchError:  # a case of the user's own that is not registered here
        return f"The case {case}."


def _shortened(note: str) -> str:
    return note if len(note) <= MAX_NOTE else f"{note[: MAX_NOTE - 1]}…"
