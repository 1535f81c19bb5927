"""From the name of a model to a local folder: a path, a bundled checkpoint, or a repository on the Hugging Face Hub.

Owns the rules for names and where each is looked for; `manifest` has what is bundled, `download` fetches.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

from interpbench_hub import hub_errors
from interpbench_hub.constants import CONFIG_FILE, LIBRARY_NAME, NAMESPACE
from interpbench_hub.download import Download
from interpbench_hub.errors import DownloadError, SettingError, UnknownNameError, unknown_name
from interpbench_hub.hub_errors import explained, failures, watched
from interpbench_hub.manifest import COLLECTION as COLLECTION
from interpbench_hub.manifest import bundled_folder, load_manifest, natural_order
from interpbench_hub.validation import read_bytes

SOURCES = ("bundled", "hub")
"""Where `list_models` may look."""

_PART = r"[A-Za-z0-9_]+(?:[.-][A-Za-z0-9_]+)*"
_NAME = re.compile(rf"(?:(?P<namespace>{_PART})/)?(?P<id>{_PART})")
_NAME_RULE = (
    "a model is named by its id (case_3), by namespace/id on the Hub (letters, digits, '_', and single '-' or '.' "
    "between them), or by the path of an existing folder"
)


class HubOptions(TypedDict, total=False):
    """Options that everything which takes the name of a model shares."""

    revision: str | None
    """Branch, tag or commit on the Hub; `main` if not given."""
    cache_dir: str | Path | None
    """Where downloads are kept; the Hub's own cache if not given."""
    token: str | bool | None
    """Access token for private repositories; the one of `hf auth login` if not given."""
    force_download: bool
    """Fetch from the Hub even what is bundled or cached."""
    local_files_only: bool
    """Use what is on this machine and make no request."""


def resolve(
    name_or_path: str | Path,
    *,
    files: Sequence[str],
    optional: Sequence[str] = (),
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
    endpoint: str | None = None,
) -> Path:
    """The folder that holds `files` of a model, and those of `optional` that the model has; fetched if need be.

    A folder on this machine comes first; then the bundled collection (`case_3` or `interpbench/case_3`, unless a
    revision or a forced download is asked for), where every file is checked against the manifest; then the Hub, where
    files of the published revision that the manifest describes (`version_tag()`) are checked against it as well.
    Raises `UnknownNameError` for names that cannot be, `CheckpointError` for folders that lack a file or fail their
    checksum, `DownloadError` for whatever goes wrong with the Hub, within ten seconds of silence.
    """
    if force_download and local_files_only:
        raise SettingError("force_download and local_files_only exclude each other; give one of them")
    folder = local_folder(name_or_path)
    if folder is not None:
        for file in files:
            if not (folder / file).is_file():
                read_bytes(folder / file)  # says what is wrong
        return folder
    namespace, model_id = split_name(name_or_path)
    if namespace in (None, NAMESPACE):
        models = load_manifest()["models"]
        if model_id in models and revision is None and not force_download:
            there = models[model_id]["files"]
            return bundled_folder(model_id, (*files, *(file for file in optional if file in there)))
        if namespace is None and model_id not in models:
            raise unknown_name("model", model_id, models, hint=f"list_models() lists those bundled; {_NAME_RULE}")
    download = Download(
        f"{namespace or NAMESPACE}/{model_id}", revision=revision, cache_dir=cache_dir, token=token, endpoint=endpoint
    )
    return download.folder(files, optional=optional, force=force_download, offline=local_files_only)


def local_folder(name_or_path: str | Path) -> Path | None:
    """The folder a path stands for; None where the text is to be read as a name."""
    text = str(name_or_path)
    # One slash may be a namespace's, so such a text is a path only if a checkpoint lies there.
    is_path = isinstance(name_or_path, Path) or text.startswith((".", "~", "/")) or "\\" in text or text.count("/") > 1
    try:
        folder = Path(text).expanduser()
        if folder.is_dir() and (is_path or (folder / CONFIG_FILE).is_file()):
            return folder
        if is_path and folder.is_file():
            raise UnknownNameError(f"{text!r} is a file; give the folder of a checkpoint")
    except (OSError, ValueError, RuntimeError):  # too long, a null byte, no home: no path at all
        return None
    return None


def split_name(name: str | Path) -> tuple[str | None, str]:
    """Namespace (None if there is none) and id of a model's name; raises `UnknownNameError` for what is no name.

    >>> split_name("case_3"), split_name("interpbench/case_3")
    ((None, 'case_3'), ('interpbench', 'case_3'))
    """
    match = _NAME.fullmatch(str(name))
    if match is None or isinstance(name, Path) or len(name) > 96:
        raise UnknownNameError(f"{str(name)!r} is neither a folder nor the name of a model; {_NAME_RULE}")
    return match["namespace"], match["id"]


def list_models(
    source: str = "bundled",
    *,
    namespace: str = NAMESPACE,
    token: str | bool | None = None,
    endpoint: str | None = None,
) -> list[str]:
    """Names of models, each of which `load_model` takes.

    Args:
        source: `bundled` for the ids of those that come with the package, or `hub` for `namespace/id` of the
            repositories of a namespace on the Hugging Face Hub that hold models of this package.
        namespace: The user or organisation on the Hub.
        token: Access token, with which private repositories are listed too; the one of `hf auth login` if None.
        endpoint: Another Hub than the usual one.

    Raises:
        UnknownNameError: No such source, or a namespace that cannot be.
        DownloadError: The Hub cannot be reached or refuses.

    >>> all(isinstance(model, str) for model in list_models())
    True
    """
    if source not in SOURCES:
        raise unknown_name("source of models", source, SOURCES)
    if source == "bundled":
        return list(load_manifest()["models"])
    if not isinstance(namespace, str) or re.fullmatch(_PART, namespace) is None:
        raise UnknownNameError(
            f"{namespace!r} is no namespace of the Hub: letters, digits, '_', and single '-' or '.' between them"
        )
    try:
        names = watched(lambda: _published(namespace, token, endpoint))
    except failures() as error:
        raise DownloadError(f"models of {namespace} on the Hub: {explained(error)}") from error
    return sorted(names, key=natural_order)


def _published(namespace: str, token: str | bool | None, endpoint: str | None) -> list[str]:
    from huggingface_hub import HfApi, get_session
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

    api = HfApi(endpoint=endpoint, token=token, library_name=LIBRARY_NAME)
    # The library asks again for half a minute where the Hub refuses, so refusals are found out before.
    answer = get_session().get(
        f"{api.endpoint}/api/models",
        params={"author": namespace, "filter": LIBRARY_NAME, "limit": 1},
        headers=build_hf_headers(token=token, library_name=LIBRARY_NAME),
        timeout=hub_errors.PATIENCE / 2,
    )
    hf_raise_for_status(answer)
    return [model.id for model in api.list_models(author=namespace, filter=LIBRARY_NAME)]
