"""Files of one revision of one repository on the Hub, from the cache of this machine or fetched.

Bodies are fetched here and not by `hf_hub_download`: it tries a body that stalls for over a minute, one that is cut
off each time for ever, and holds a lock all the while which the next call waits for. They are kept in the cache of
huggingface_hub, in its layout for file systems without links, so that its other tools find them.
"""

import hashlib
import re
import secrets
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from interpbench_hub import hub_errors
from interpbench_hub.constants import LIBRARY_NAME, NAMESPACE, WEIGHTS_FILE
from interpbench_hub.errors import DownloadError, InterpBenchError
from interpbench_hub.hub_errors import explained, failures, first_line, may_pass, watched
from interpbench_hub.manifest import check_sum, load_manifest, pinned_sums

if TYPE_CHECKING:
    from huggingface_hub import HfFileMetadata

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PICKLES = (".bin", ".pth", ".pt", ".pkl", ".pickle", ".ckpt")


class Download:
    """Files of one revision of one repository."""

    def __init__(
        self,
        repo_id: str,
        *,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        token: str | bool | None = None,
        endpoint: str | None = None,
    ) -> None:
        self.repo_id, self.revision, self.token, self.endpoint = repo_id, revision or "main", token, endpoint
        self.cache_dir = None if cache_dir is None else Path(cache_dir).expanduser()
        self.what = repo_id if revision is None else f"{repo_id} at revision {revision!r}"
        self.sums = pinned_sums(repo_id, self.revision)
        """SHA-256 that files must have, where the bundled manifest knows it."""

    def folder(self, files: Sequence[str], *, optional: Sequence[str] = (), force: bool, offline: bool) -> Path:
        """The folder that holds all of `files`, and those of `optional` which the repository has."""
        cached = None if force else self._cached(files)
        # A commit never changes, so what is cached of it needs no question to the Hub.
        is_settled = _COMMIT.fullmatch(self.revision) is not None and self._cached((*files, *optional)) is not None
        if cached is not None and (offline or is_settled):
            return self._intact(cached, (*files, *optional))
        if offline:
            raise DownloadError(
                f"{self.what}: not in the cache of this machine; load it once without local_files_only{self._near()}"
            )
        try:
            known = watched(lambda: self._ask(files, optional))
        except failures() as error:
            if cached is not None and may_pass(error):
                return self._intact(cached, (*files, *optional))
            self._fail(error)
        try:
            return self._fetch(known, force=force)
        except failures() as error:
            self._fail(error)

    def _fail(self, error: Exception) -> NoReturn:
        if isinstance(error, InterpBenchError):
            raise error
        raise DownloadError(f"{self.what}: {explained(error)}{self._near()}") from error

    # -- what is here ----------------------------------------------------------------------------------------------

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

    def _intact(self, folder: Path, files: Iterable[str]) -> Path:
        """A folder of the cache, after checking that its files are those that were published."""
        for file in files:
            if file in self.sums and (folder / file).is_file():
                remedy = "the cached file is not the published one; fetch it again with force_download=True (--force)"
                check_sum(folder / file, self.sums[file], remedy)
        return folder

    # -- what the Hub says -------------------------------------------------------------------------------------------

    def _ask(self, files: Sequence[str], optional: Sequence[str]) -> "dict[str, HfFileMetadata]":
        """What the Hub knows of each file."""
        from huggingface_hub import get_hf_file_metadata, hf_hub_url
        from huggingface_hub.errors import RemoteEntryNotFoundError

        known = {}
        for file in (*files, *optional):
            url = hf_hub_url(self.repo_id, file, revision=self.revision, endpoint=self.endpoint)
            try:
                known[file] = get_hf_file_metadata(
                    url,
                    token=self.token,
                    timeout=hub_errors.PATIENCE / 2,
                    endpoint=self.endpoint,
                    library_name=LIBRARY_NAME,
                )
            except RemoteEntryNotFoundError as error:
                if file in files:
                    raise DownloadError(f"{self.what}: {self._missing(file)}") from error
        return known

    def _missing(self, file: str) -> str:
        """What to say of a repository without one of our files."""
        from huggingface_hub import HfApi

        api = HfApi(endpoint=self.endpoint, token=self.token)
        try:
            # Called while the answer about the files is waited for, which leaves less time than usual.
            patience = hub_errors.PATIENCE / 4
            info = watched(lambda: api.model_info(self.repo_id, revision=self.revision, timeout=patience), patience)
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

    def _near(self) -> str:
        """Bundled models whose names are similar, for a name of our own namespace that leads nowhere."""
        namespace, _, model_id = self.repo_id.partition("/")
        known = load_manifest()["models"]
        near = get_close_matches(model_id, known, n=3) if namespace == NAMESPACE and model_id not in known else []
        return f"; bundled models with similar names: {', '.join(near)}" if near else ""

    # -- what is fetched -----------------------------------------------------------------------------------------------

    def _fetch(self, known: "dict[str, HfFileMetadata]", *, force: bool) -> Path:
        """Fetch the files that are not there yet; they enter the cache together, once all are whole."""
        from huggingface_hub import constants
        from huggingface_hub.file_download import repo_folder_name

        commits = {entry.commit_hash for entry in known.values()}
        if len(commits) > 1:
            raise DownloadError(f"{self.what}: changed on the Hub while being fetched; try again")
        commit = commits.pop()
        # It becomes the name of a folder, so it must not lead elsewhere.
        if commit is None or _COMMIT.fullmatch(commit) is None:
            raise DownloadError(f"{self.what}: the download failed: the answer names no commit, as a Hub's does")
        store = Path(self.cache_dir or constants.HF_HUB_CACHE) / repo_folder_name(
            repo_id=self.repo_id, repo_type="model"
        )
        snapshot = store / "snapshots" / commit
        wanted = [file for file in known if force or not (snapshot / file).is_file()]
        self._intact(snapshot, [file for file in known if file not in wanted])
        if wanted:
            store.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".fetching-", dir=store, ignore_cleanup_errors=True) as staging:
                for file in wanted:
                    self._fetch_file(file, commit, known[file], Path(staging) / file)
                snapshot.mkdir(parents=True, exist_ok=True)
                for file in wanted:
                    (Path(staging) / file).replace(snapshot / file)
        if self.revision != commit:
            # A cache that cannot be written still serves what it holds.
            with suppress(OSError):
                _write_reference(store / "refs" / self.revision, commit)
        return snapshot

    def _fetch_file(self, file: str, commit: str, known: "HfFileMetadata", place: Path) -> None:
        """Fetch one file, which must be what the Hub and, where it knows the file, the manifest say."""
        import httpx2
        from huggingface_hub import hf_hub_url

        url = hf_hub_url(self.repo_id, file, revision=commit, endpoint=self.endpoint)
        body = _Body(url, self.token, place)
        size = "an unknown number of" if known.size is None else known.size
        try:
            watched(body.fetch, received=lambda: body.received)
        except (httpx2.TransportError, TimeoutError) as error:
            body.is_given_up = True
            raise DownloadError(
                f"{self.what}: {file} broke off after {body.received} of {size} bytes ({first_line(error)}); nothing "
                "of it was kept; check the network and try again"
            ) from error
        if known.size is not None and body.received != known.size:
            raise DownloadError(
                f"{self.what}: {file} has {body.received} bytes where the Hub announced {size}; nothing of it was "
                "kept; try again"
            )
        # Large files are known by their SHA-256, small ones by other sums.
        if known.etag is not None and _SHA256.fullmatch(known.etag) and body.sha256.hexdigest() != known.etag:
            raise DownloadError(
                f"{self.what}: {file} was changed on its way: SHA-256 is {body.sha256.hexdigest()[:12]}..., the Hub "
                f"says {known.etag[:12]}...; nothing of it was kept; try again"
            )
        if file in self.sums:
            remedy = (
                "the Hub serves another file than was published; nothing of it was kept; leave the revision out to use "
                "the bundled model, and please report it"
            )
            check_sum(place, self.sums[file], remedy, what=f"{self.what}: {file}")


class _Body:
    """A body on its way into a file."""

    def __init__(self, url: str, token: str | bool | None, place: Path) -> None:
        self.url, self.token, self.place = url, token, place
        self.received = 0
        self.sha256 = hashlib.sha256()
        self.is_given_up = False

    def fetch(self) -> None:
        from huggingface_hub import get_session
        from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

        # Sizes and sums are those of the file, not of a compressed form of it.
        headers = build_hf_headers(token=self.token, library_name=LIBRARY_NAME) | {"Accept-Encoding": "identity"}
        with get_session().stream("GET", self.url, headers=headers, timeout=hub_errors.PATIENCE) as response:
            if response.is_error:
                response.read()
                hf_raise_for_status(response)
            with self.place.open("wb") as file:
                for piece in response.iter_bytes():
                    if self.is_given_up:
                        return
                    file.write(piece)
                    self.sha256.update(piece)
                    self.received += len(piece)


def _write_reference(path: Path, commit: str) -> None:
    if path.is_file() and path.read_text() == commit:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
    unfinished.write_text(commit)
    unfinished.replace(path)
