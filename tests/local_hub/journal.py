"""What a Hub was asked, in order."""

import re
import threading
from dataclasses import dataclass

WRITING_METHODS = ("POST", "PUT", "PATCH", "DELETE")

# These are sent with POST but change nothing.
READ_LIKE = re.compile(r"/api/validate-yaml|.*/preupload/.*|.*/paths-info/.*|.*/info/lfs/objects/(batch|verify)")


@dataclass
class Request:
    """One request: `path` is decoded and without the query; `status` is None until and unless it is answered."""

    method: str
    path: str
    token: str | None
    status: int | None = None
    query: str = ""

    @property
    def is_write(self) -> bool:
        """Whether it asks for a change, granted or not."""
        return self.method in WRITING_METHODS and READ_LIKE.fullmatch(self.path) is None


class Journal:
    """A list of requests that many threads add to."""

    def __init__(self) -> None:
        self._requests: list[Request] = []
        self._lock = threading.Lock()

    def add(self, request: Request) -> None:
        """Note a request, when it arrives."""
        with self._lock:
            self._requests.append(request)

    def all(self) -> list[Request]:
        """All requests so far, oldest first."""
        with self._lock:
            return list(self._requests)

    def clear(self) -> None:
        """Forget all requests."""
        with self._lock:
            self._requests.clear()
