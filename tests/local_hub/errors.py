"""The Hub's refusals: a status, a message, and the code in X-Error-Code that clients tell them apart by."""

from typing import Any

# The client turns a 401 without this code into an error about a repository only for addresses with https. The local Hub
# has none, so it sends the code in all cases.
REPOSITORY_NOT_FOUND = "RepoNotFound"
REVISION_NOT_FOUND = "RevisionNotFound"
ENTRY_NOT_FOUND = "EntryNotFound"


class HubError(Exception):
    """An answer with an error status; `content` and `headers` join what all such answers have."""

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        *,
        content: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status
        self.message = message
        self.code = code
        self.content = content or {}
        self.headers = headers or {}


def invalid_credentials() -> HubError:
    """The refusal of a token that no user has; the client knows it by this very message."""
    return HubError(401, "Invalid credentials in Authorization header")


def login_required() -> HubError:
    """The refusal of a request without a token that needs one."""
    return HubError(401, "Invalid username or password.")


def repository_not_found(is_known_user: bool) -> HubError:
    """What strangers see of a private repository, and everybody of one that is not there."""
    return HubError(404 if is_known_user else 401, "Repository not found", REPOSITORY_NOT_FOUND)
