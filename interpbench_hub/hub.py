"""From the name of a model to a local folder: a path, a bundled checkpoint, or a repository on the Hugging Face Hub.

Owns the rules for names, the manifest of the bundled collection and what is said when a download fails. Only the
files asked for are fetched, one by one, and never a pickle.
"""

import hashlib
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypedDict, TypeVar

from interpbench_hub.checkpoint import check_certificate, format_json, load_certificate_file, load_config
from interpbench_hub.constants import (
    CERTIFICATE_FILE,
    CONFIG_FILE,
    MANIFEST_FILE,
    NAMESPACE,
    SCHEMA_VERSION,
    WEIGHTS_FILE,
)
from interpbench_hub.errors import (
    CheckpointError,
    DownloadError,
    InterpBenchError,
    SettingError,
    UnknownNameError,
    unknown_name,
)
from interpbench_hub.validation import read_bytes, read_json

COLLECTION = Path(__file__).parent / "collection"
"""The bundled checkpoints, one folder each, and their manifest."""

PATIENCE = 8.0
"""Seconds to wait for the Hub's first word about a file."""

_PART = r"[A-Za-z0-9_]+(?:[.-][A-Za-z0-9_]+)*"
_NAME = re.compile(rf"(?:(?P<namespace>{_PART})/)?(?P<id>{_PART})")
_NAME_RULE = (
    "a model is named by its id (case_3), by namespace/id on the Hub (letters, digits, '_', and single '-' or '.' "
    "between them), or by the path of an existing folder"
)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_PICKLES = (".bin", ".pth", ".pt", ".pkl", ".pickle", ".ckpt")

T = TypeVar("T")


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
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
    endpoint: str | None = None,
) -> Path:
    """The folder that holds `files` of a model, fetched from the Hub if need be.

    A folder on this machine comes first; then the bundled collection (`case_3` or `interpbench/case_3`, unless a
    revision or a forced download is asked for), where every file is checked against the manifest; then the Hub.
    Raises `UnknownNameError` for names that cannot be, `CheckpointError` for folders that lack a file or fail their
    checksum, `DownloadError` for whatever goes wrong with the Hub, within ten seconds if it cannot be reached.
    """
    if force_download and local_files_only:
        raise SettingError("force_download and local_files_only exclude each other; give one of them")
    folder = _local_folder(name_or_path)
    if folder is not None:
        for file in files:
            if not (folder / file).is_file():
                read_bytes(folder / file)  # says what is wrong
        return folder
    match = _NAME.fullmatch(str(name_or_path))
    if match is None or isinstance(name_or_path, Path) or len(name_or_path) > 96:
        raise UnknownNameError(f"{str(name_or_path)!r} is neither a folder nor the name of a model; {_NAME_RULE}")
    namespace, model_id = match["namespace"], match["id"]
    if namespace in (None, NAMESPACE):
        models = load_manifest()["models"]
        if model_id in models and revision is None and not force_download:
            return _bundled_folder(model_id, files, models[model_id]["files"])
        if namespace is None and model_id not in models:
            raise unknown_name("model", model_id, models, hint=f"list_models() lists those bundled; {_NAME_RULE}")
    return _Download(f"{namespace or NAMESPACE}/{model_id}", revision, cache_dir, token, endpoint).folder(
        files, force=force_download, offline=local_files_only
    )


def _local_folder(name_or_path: str | Path) -> Path | None:
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


# -- the bundled collection --------------------------------------------------------------------------------------------


def list_models() -> list[str]:
    """Ids of the models that come with the package; `load_model` takes each of them.

    >>> all(isinstance(model, str) for model in list_models())
    True
    """
    return list(load_manifest()["models"])


def load_manifest(collection: Path | None = None) -> dict[str, Any]:
    """The content of a collection's `manifest.json` (by default the bundled one's); no models if there is none."""
    path = (collection or COLLECTION) / MANIFEST_FILE
    if not path.exists():
        return {"schema_version": SCHEMA_VERSION, "models": {}}
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
    from interpbench_hub import __version__

    collection = Path(collection)
    known = {name: entry["attempts"] for name, entry in load_manifest(collection)["models"].items()}
    known |= attempts or {}
    folders = [entry for entry in collection.iterdir() if entry.is_dir() and not entry.name.startswith((".", "_"))]
    models = {
        folder.name: _manifest_entry(folder) | {"attempts": known.get(folder.name, [])}
        for folder in sorted(folders, key=_natural_order)
    }
    manifest = {"schema_version": SCHEMA_VERSION, "package_version": __version__, "models": models}
    path = collection / MANIFEST_FILE
    unfinished = path.with_name(f".{MANIFEST_FILE}.new")
    unfinished.write_text(format_json(manifest), encoding="utf-8")
    unfinished.replace(path)
    return path


def _manifest_entry(folder: Path) -> dict[str, Any]:
    load_config(folder)
    files = sorted(entry for entry in folder.iterdir() if entry.is_file() and not entry.name.startswith("."))
    sums = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    grade = "none"
    if CERTIFICATE_FILE in sums:
        certificate = load_certificate_file(folder)
        check_certificate(certificate, sums.get(WEIGHTS_FILE, "none"), file=folder / CERTIFICATE_FILE)
        grade = certificate.grade
    return {"grade": grade, "files": sums}


def _natural_order(folder: Path) -> list[tuple[int, str]]:
    """case_3 before case_21."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", folder.name)]


def _bundled_folder(model_id: str, files: Sequence[str], sums: dict[str, str]) -> Path:
    folder = COLLECTION / model_id
    for file in files:
        if file not in sums:
            raise CheckpointError(f"{folder / file}: not part of the bundled model, which has {', '.join(sums)}")
        found = hashlib.sha256(read_bytes(folder / file)).hexdigest()
        if found != sums[file]:
            raise CheckpointError(
                f"{folder / file}: SHA-256 is {found[:12]}..., the collection's {MANIFEST_FILE} says "
                f"{sums[file][:12]}...; the file was changed after it was published; reinstall the package"
            )
    return folder


# -- the Hub -----------------------------------------------------------------------------------------------------------


class _Download:
    """Files of one revision of one repository, from the cache or the Hub."""

    def __init__(
        self,
        repo_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        token: str | bool | None,
        endpoint: str | None,
    ) -> None:
        self.repo_id, self.revision, self.token, self.endpoint = repo_id, revision or "main", token, endpoint
        self.cache_dir = None if cache_dir is None else Path(cache_dir).expanduser()
        self.what = repo_id if revision is None else f"{repo_id} at revision {revision!r}"

    def folder(self, files: Sequence[str], *, force: bool, offline: bool) -> Path:
        """The folder that holds all of `files`."""
        import httpx2  # the HTTP client of huggingface_hub, whose errors it lets through
        from huggingface_hub.errors import XetDownloadError

        cached = None if force else self._cached(files)
        # A commit never changes, so what is cached of it needs no question to the Hub.
        if cached is not None and (offline or _COMMIT.fullmatch(self.revision)):
            return cached
        if offline:
            raise DownloadError(
                f"{self.what}: not in the cache of this machine; load it once without local_files_only{self._near()}"
            )
        try:
            return self._fetch(files, force=force)
        except (httpx2.HTTPError, httpx2.InvalidURL, XetDownloadError, OSError, ValueError, RuntimeError) as error:
            if isinstance(error, InterpBenchError):
                raise
            if cached is not None and _may_pass(error):
                return cached
            raise DownloadError(f"{self.what}: {self._explain(error)}{self._near()}") from error

    def _cached(self, files: Sequence[str]) -> Path | None:
        """The cached folder, if it holds every file."""
        from huggingface_hub import try_to_load_from_cache

        folders = set()
        for file in files:
            path = try_to_load_from_cache(self.repo_id, file, cache_dir=self.cache_dir, revision=self.revision)
            if not isinstance(path, str):
                return None
            folders.add(Path(path).parent)
        return folders.pop() if len(folders) == 1 else None

    def _fetch(self, files: Sequence[str], *, force: bool) -> Path:
        from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
        from huggingface_hub.errors import RemoteEntryNotFoundError

        commits = {}
        for file in files:
            url = hf_hub_url(self.repo_id, file, revision=self.revision, endpoint=self.endpoint)
            try:
                commits[file] = _within(
                    PATIENCE,
                    lambda url=url: (
                        get_hf_file_metadata(
                            url, token=self.token, timeout=PATIENCE / 2, endpoint=self.endpoint
                        ).commit_hash
                    ),
                )
            except RemoteEntryNotFoundError as error:
                raise DownloadError(f"{self.what}: {self._missing(file)}") from error
        folders = set()
        for file in files:
            known = try_to_load_from_cache(self.repo_id, file, cache_dir=self.cache_dir, revision=commits[file])
            path = hf_hub_download(
                self.repo_id,
                file,
                revision=self.revision,
                cache_dir=self.cache_dir,
                token=self.token,
                endpoint=self.endpoint,
                etag_timeout=PATIENCE,
                # Forcing what is not there changes nothing but this: the library then gives up at once where it would
                # otherwise retry a silent server for half a minute.
                force_download=force or not isinstance(known, str),
            )
            folders.add(Path(path).parent)
        if len(folders) > 1:
            raise DownloadError(f"{self.what}: changed on the Hub while being fetched; try again")
        return folders.pop()

    def _missing(self, file: str) -> str:
        """What to say of a repository without one of our files."""
        from huggingface_hub import HfApi

        api = HfApi(endpoint=self.endpoint, token=self.token)
        try:
            info = _within(PATIENCE / 4, lambda: api.model_info(self.repo_id, revision=self.revision, timeout=2))
            names = [sibling.rfilename for sibling in info.siblings or []]
        except Exception:  # only an extra, whatever stands in its way
            names = []
        pickles = [name for name in names if name.endswith(_PICKLES)]
        if pickles and WEIGHTS_FILE not in names:
            return (
                f"its weights are pickles ({', '.join(pickles[:3])}); no pickle is ever opened, because that runs "
                f"the code in it; a checkpoint has {WEIGHTS_FILE}"
            )
        held = f"; it holds {', '.join(names[:8])}" if names else ""
        return f"the repository has no {file}{held}; check that it is a checkpoint of this package"

    def _explain(self, error: Exception) -> str:
        """What went wrong and what to do, in one sentence."""
        from huggingface_hub.errors import (
            GatedRepoError,
            HfHubHTTPError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )

        if isinstance(error, GatedRepoError):
            return "access to it has to be requested on its page on the Hub; then pass token=... or run `hf auth login`"
        if isinstance(error, RepositoryNotFoundError):
            return "the Hub has no such model, or it is private; check the name, or pass a token that may read it"
        if isinstance(error, RevisionNotFoundError):
            return "it has no such revision; give one of its branches, tags or full commit hashes"
        if isinstance(error, HfHubHTTPError):
            status = error.response.status_code
            if status in (401, 403):
                return (
                    f"the Hub refused (HTTP {status}): the model is private or the token may not read it; check the "
                    "name, or run `hf auth login`"
                )
            if status == 429:
                wait = error.response.headers.get("Retry-After")
                return (
                    f"the Hub refuses more requests for now (HTTP 429); wait {f'{wait} s' if wait else 'a few minutes'}"
                )
            if status >= 500:
                return f"the Hub has trouble (HTTP {status}); try again later"
            return f"the Hub answered HTTP {status}: {_first_line(error)}"
        advice = "with local_files_only=True only what is cached is used, and bundled models need no network"
        if _may_pass(error):
            return f"the Hub cannot be reached ({_first_line(error)}) and it is not cached; check the network; {advice}"
        return f"download failed ({type(error).__name__}: {_first_line(error)}); {advice}"

    def _near(self) -> str:
        """Bundled models whose names are similar, for a name of our own namespace that leads nowhere."""
        namespace, _, model_id = self.repo_id.partition("/")
        known = load_manifest()["models"]
        near = get_close_matches(model_id, known, n=3) if namespace == NAMESPACE and model_id not in known else []
        return f"; bundled models with similar names: {', '.join(near)}" if near else ""


def _may_pass(error: Exception) -> bool:
    """Whether an error is about the connection or the state of the Hub, not about what was asked for."""
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    if isinstance(error, HfHubHTTPError):
        return error.response.status_code == 429 or error.response.status_code >= 500
    return isinstance(error, (httpx2.TransportError, TimeoutError, OfflineModeIsEnabled))


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _within(seconds: float, ask: Callable[[], T]) -> T:
    """What `ask` returns, or `TimeoutError`: timeouts of sockets count for each address of a host by itself."""
    answers: list[T] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            answers.append(ask())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not answers:
        raise TimeoutError(f"no answer within {seconds:g} s")
    return answers[0]
