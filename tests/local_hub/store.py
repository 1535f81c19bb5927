"""What a Hub keeps: repositories and their history in memory, the bytes of files in a folder."""

import hashlib
import json
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from tests.local_hub.accounts import Account
from tests.local_hub.errors import REVISION_NOT_FOUND, HubError, login_required, repository_not_found

KINDS = ("model", "dataset", "space")
MAX_REGULAR_SIZE = 10 * 2**20
POINTER_SIZE = 130

# The large files of both kinds of repositories, as the .gitattributes of a new one on the Hub lists them, in short.
LARGE_SUFFIXES = (".safetensors", ".parquet", ".arrow", ".bin", ".pt", ".pth", ".npz", ".npy", ".gz", ".zip")
GIT_ATTRIBUTES = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LARGE_SUFFIXES).encode()


def now() -> str:
    """The time as the Hub writes it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def git_oid(data: bytes) -> str:
    """The id that git gives to a file of these bytes."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def object_id(*parts: str) -> str:
    """An id of 24 hexadecimal digits, as the Hub gives to all it keeps."""
    return hashlib.sha1("\0".join(parts).encode()).hexdigest()[:24]


@dataclass(frozen=True)
class File:
    """A file of a commit; `oid` is git's id of its bytes, or of the pointer that stands for a large file."""

    sha256: str
    size: int
    oid: str
    is_large: bool

    @property
    def etag(self) -> str:
        """What clients compare: the SHA-256 of large files, git's id of others."""
        return self.sha256 if self.is_large else self.oid


@dataclass(frozen=True)
class Commit:
    """All files of a repository at one time."""

    oid: str
    files: Mapping[str, File]
    title: str
    description: str
    date: str
    author: str
    parent: str | None


@dataclass
class Repository:
    """A repository: branches and tags point to commits by their ids."""

    kind: str
    name: str
    is_private: bool
    created: str = field(default_factory=now)
    modified: str = field(default_factory=now)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    commits: dict[str, Commit] = field(default_factory=dict)

    @property
    def namespace(self) -> str:
        """The user or organization it belongs to."""
        return self.name.split("/")[0]

    @property
    def url_path(self) -> str:
        """Where its page would be, below the Hub's address."""
        return self.name if self.kind == "model" else f"{self.kind}s/{self.name}"

    def at(self, revision: str) -> Commit:
        """The commit that a branch, a tag or the first digits of a commit's id name."""
        revision = re.sub("^refs/(heads|tags)/", "", revision)
        oid = self.branches.get(revision) or self.tags.get(revision)
        if oid is None and re.fullmatch("[0-9a-f]{7,40}", revision):
            oid = next((commit for commit in self.commits if commit.startswith(revision)), None)
        if oid is None:
            raise HubError(404, f"Invalid rev id: {revision}", REVISION_NOT_FOUND)
        return self.commits[oid]

    def history(self, revision: str) -> list[Commit]:
        """A commit and all before it, newest first."""
        commits = [self.at(revision)]
        while (parent := commits[-1].parent) is not None:
            commits.append(self.commits[parent])
        return commits

    def add_commit(
        self, files: Mapping[str, File], title: str, description: str = "", *, author: str, branch: str = "main"
    ) -> Commit:
        """Put a commit with these files, and no others, on top of a branch."""
        parent = self.branches.get(branch)
        content = json.dumps([self.name, parent, sorted((path, file.oid) for path, file in files.items()), title])
        oid = hashlib.sha1(f"{content} {time.time_ns()} {len(self.commits)}".encode()).hexdigest()
        commit = Commit(oid, dict(files), title, description, now(), author, parent)
        self.commits[oid] = commit
        self.branches[branch] = oid
        self.modified = commit.date
        return commit


class Blobs:
    """The bytes of files in a folder, each once, named by its SHA-256."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def put(self, data: bytes) -> str:
        """Keep bytes; return their SHA-256."""
        sha256 = hashlib.sha256(data).hexdigest()
        if sha256 not in self:
            part = self.folder / f"{sha256}.{threading.get_ident()}.part"
            part.write_bytes(data)
            part.replace(self.folder / sha256)
        return sha256

    def __contains__(self, sha256: str) -> bool:
        return (self.folder / sha256).is_file()

    def read(self, sha256: str) -> bytes:
        """The bytes with this SHA-256."""
        return (self.folder / sha256).read_bytes()

    def regular_file(self, data: bytes) -> File:
        """Keep bytes as a file that git holds itself."""
        return File(self.put(data), len(data), git_oid(data), is_large=False)

    def large_file(self, sha256: str) -> File:
        """A file that was uploaded before; git holds a pointer to it."""
        size = (self.folder / sha256).stat().st_size
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n"
        return File(sha256, size, git_oid(pointer.encode()), is_large=True)


class Store:
    """All repositories. Whoever reads or changes them holds `lock`."""

    def __init__(self, root: Path) -> None:
        self.blobs = Blobs(root / "blobs")
        self.lock = threading.RLock()
        self.repositories: dict[tuple[str, str], Repository] = {}

    def create(self, kind: str, name: str, *, is_private: bool, author: str) -> Repository:
        """A new repository with the one file that the Hub puts into each."""
        repository = Repository(kind, name, is_private)
        files = {".gitattributes": self.blobs.regular_file(GIT_ATTRIBUTES)}
        repository.add_commit(files, "initial commit", author=author)
        self.repositories[kind, name] = repository
        return repository

    def is_visible(self, repository: Repository, account: Account | None) -> bool:
        """Whether an account, or somebody without one, may know of a repository."""
        return not repository.is_private or (account is not None and account.may_read(repository.namespace))

    def readable(self, kind: str, name: str, account: Account | None) -> Repository:
        """A repository that the account may read; all others do not exist for it."""
        repository = self.repositories.get((kind, name))
        if repository is None or not self.is_visible(repository, account):
            raise repository_not_found(is_known_user=account is not None)
        return repository

    def writable(self, kind: str, name: str, account: Account | None) -> Repository:
        """A repository that the account may change."""
        if account is None:
            raise login_required()
        repository = self.readable(kind, name, account)
        account.require_write(repository.namespace, kind)
        return repository
