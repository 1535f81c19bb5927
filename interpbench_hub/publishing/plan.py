"""What has to change on the Hub: each repository as it is there, compared with what it shall be.

Only reads from the Hub. Nothing is remembered between runs: what is left to do always follows from what the Hub has, so
that a run that was killed at any point is taken up by the next one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from interpbench_hub.errors import PublishError
from interpbench_hub.publishing.repositories import Repository

if TYPE_CHECKING:
    from huggingface_hub import HfApi

KEPT = (".gitattributes",)
"""Files that the Hub itself puts into a repository."""

State = Literal["new", "changed", "untagged", "unchanged"]


@dataclass(frozen=True)
class Remote:
    """A repository as it is on the Hub."""

    head: str
    """The newest commit of its main branch."""
    files: Mapping[str, str]
    """Git's SHA-1 of each file, or the SHA-256 of those in large-file storage."""
    tags: Mapping[str, str]
    """The commit of each tag."""

    @classmethod
    def read(cls, api: "HfApi", kind: str, repo_id: str) -> "Remote | None":
        """The repository, or None if the Hub has none that this token can see."""
        from huggingface_hub import RepoFile
        from huggingface_hub.errors import RepositoryNotFoundError

        try:
            refs = api.list_repo_refs(repo_id, repo_type=kind)
        except RepositoryNotFoundError:
            return None
        head = next((branch.target_commit for branch in refs.branches if branch.name == "main"), None)
        if head is None:
            raise PublishError(f"{kind} {repo_id} has no branch main, into which everything is published; make one")
        # Read at the commit, not the branch: another publisher may be at work.
        entries = api.list_repo_tree(repo_id, recursive=True, revision=head, repo_type=kind)
        files = {
            entry.path: entry.lfs.sha256 if entry.lfs else entry.blob_id
            for entry in entries
            if isinstance(entry, RepoFile)
        }
        return cls(head, files, {tag.name: tag.target_commit for tag in refs.tags})


@dataclass(frozen=True)
class Change:
    """What has to happen to one repository."""

    repository: Repository
    remote: Remote | None
    tag: str
    added: tuple[str, ...]
    """Files to write: new ones and those whose content differs."""
    deleted: tuple[str, ...]
    """Files on the Hub that do not belong there."""

    @classmethod
    def of(cls, repository: Repository, remote: Remote | None, tag: str) -> "Change":
        there = remote.files if remote else {}
        added = [name for name, file in repository.files.items() if there.get(name) not in (file.sha256, file.git_sha1)]
        deleted = [name for name in there if name not in repository.files and name not in KEPT]
        return cls(repository, remote, tag, tuple(sorted(added)), tuple(sorted(deleted)))

    @property
    def state(self) -> State:
        if self.remote is None:
            return "new"
        if self.added or self.deleted:
            return "changed"
        return "unchanged" if self.remote.tags.get(self.tag) == self.remote.head else "untagged"

    @property
    def moves_tag(self) -> bool:
        """Whether the tag of this version stands at another commit than the one it will have to."""
        if self.remote is None or self.tag not in self.remote.tags:
            return False
        return self.state in ("changed", "untagged")

    @property
    def n_bytes(self) -> int:
        """Bytes to send."""
        return sum(len(self.repository.files[name].content) for name in self.added)

    @property
    def summary(self) -> str:
        """What is different, in a few words; nothing of a new repository, where everything is."""
        if self.state == "new":
            return ""
        if self.state == "untagged":
            return f"tag {self.tag}"
        return ", ".join((*self.added, *(f"without {name}" for name in self.deleted)))
