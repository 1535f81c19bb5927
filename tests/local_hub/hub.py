"""`LocalHub`: what tests start, look into and break."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.local_hub.accounts import Accounts
from tests.local_hub.faults import Faults
from tests.local_hub.journal import Request
from tests.local_hub.server import Server
from tests.local_hub.store import Repository, Store


class LocalHub(Faults):
    """A Hugging Face Hub on loopback, in this process, while the `with` block lasts.

    `users` has the name of the user for each token, `orgs` the organizations of users by name: a list of those they may
    write to, or a mapping to the role in each. Tokens in `read_only` may change nothing. Lists come in pages of
    `page_size`. Clients send large files without a token, by PUT to /large-files/ and the SHA-256. Faults are ordered
    with `fail`, `drop`, `hang`, `truncate`, `corrupt` and `before`, see `Faults`.
    """

    def __init__(
        self,
        root: Path,
        users: Mapping[str, str],
        orgs: Mapping[str, Sequence[str] | Mapping[str, str]] | None = None,
        *,
        read_only: Collection[str] = (),
        page_size: int = 1000,
    ) -> None:
        super().__init__()
        self.store = Store(Path(root))
        self._server = Server(self.store, Accounts(users, orgs or {}, read_only), self, page_size)
        self.url = self._server.address

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.heal()
        self._server.stop()
        # An error in here would look to the client like one of the Hub, which it may well survive.
        if error is None and self._server.errors:
            raise AssertionError("the local Hub failed") from self._server.errors[0]

    @property
    def requests(self) -> list[Request]:
        """All requests so far, oldest first."""
        return self._server.journal.all()

    def writes(self) -> list[Request]:
        """The requests that asked for a change, granted or not."""
        return [request for request in self.requests if request.is_write]

    def clear_requests(self) -> None:
        """Forget the requests so far."""
        self._server.journal.clear()

    def repository(self, kind: str, name: str) -> Repository:
        """A repository, whoever may see it: whether it is private, its commits and their files."""
        with self.store.lock:
            return self.store.repositories[kind, name]

    def repositories(self) -> list[tuple[str, str]]:
        """The kind and the name of each repository, in the order of creation."""
        with self.store.lock:
            return list(self.store.repositories)

    def files(self, kind: str, name: str, revision: str = "main") -> dict[str, bytes]:
        """The bytes of each file, among them the .gitattributes that the Hub puts into each repository."""
        with self.store.lock:
            commit = self.repository(kind, name).at(revision)
            return {path: self.store.blobs.read(file.sha256) for path, file in sorted(commit.files.items())}

    def tags(self, kind: str, name: str) -> dict[str, str]:
        """The commit of each tag."""
        with self.store.lock:
            return dict(self.repository(kind, name).tags)

    def commits(self, kind: str, name: str, revision: str = "main") -> list[str]:
        """The titles of the commits, newest first; the last is the Hub's own."""
        with self.store.lock:
            return [commit.title for commit in self.repository(kind, name).history(revision)]

    def collections(self) -> list[dict[str, Any]]:
        """Each collection: slug, title, description, owner, private, and items with type, id and note."""
        with self.store.lock:
            return [
                {
                    "slug": collection.slug,
                    "title": collection.title,
                    "description": collection.description,
                    "owner": collection.owner,
                    "private": collection.is_private,
                    "items": [{"type": item.kind, "id": item.name, "note": item.note} for item in collection.items],
                }
                for collection in self._server.shelf.collections
            ]
