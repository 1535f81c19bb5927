"""What went wrong between this machine and the Hub, in one sentence, and how long to wait until something has."""

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from httpx2 import Response

PATIENCE = 8.0
"""Seconds to wait for an answer of the Hub, and for each further piece of a body."""
PIECE = 1024
"""Bytes that count as a piece: less than that within the seconds above is silence."""

T = TypeVar("T")


def failures() -> tuple[type[Exception], ...]:
    """What asking the Hub may raise."""
    import httpx2  # the HTTP client of huggingface_hub, whose errors it lets through

    return (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError, RuntimeError)


def explained(error: Exception) -> str:
    """What went wrong and what to do, in one sentence."""
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    if isinstance(error, GatedRepoError):
        return "access to it has to be requested on its page on the Hub; then pass token=... or run `hf auth login`"
    if isinstance(error, RepositoryNotFoundError):
        return (
            "the Hub has no such model, or it is private; check the name, or pass a token that may read it (or set "
            "HF_TOKEN)"
        )
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
            wait = asked_wait(error.response)
            return f"the Hub refuses more requests for now (HTTP 429); wait {f'{wait} s' if wait else 'a few minutes'}"
        if status >= 500:
            return f"the Hub has trouble (HTTP {status}); try again later"
        return f"the Hub answered HTTP {status}: {first_line(error)}"
    if may_pass(error):
        return f"the Hub cannot be reached ({first_line(error)}); check the network; bundled models need none"
    return f"the download failed ({type(error).__name__}: {first_line(error)})"


def may_pass(error: Exception) -> bool:
    """Whether an error is about the connection or the state of the Hub, not about what was asked for."""
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    if isinstance(error, HfHubHTTPError):
        return error.response.status_code == 429 or error.response.status_code >= 500
    return isinstance(error, (httpx2.TransportError, TimeoutError, OfflineModeIsEnabled))


def asked_wait(response: "Response") -> int | None:
    """Seconds for which the Hub asks to be left alone; None if it does not say.

    huggingface.co says so in the header RateLimit, and only some of what stands before it in Retry-After.
    """
    from huggingface_hub.utils import parse_ratelimit_headers

    asked = response.headers.get("Retry-After", "")
    if asked.isdigit():
        return int(asked)
    limit = parse_ratelimit_headers(response.headers)
    # The header is there with every answer; only a limit that is used up is a reason to wait.
    return limit.reset_in_seconds if limit is not None and limit.remaining == 0 else None


def first_line(error: Exception) -> str:
    """The first line of an error's text; some of the library's go on for many."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def watched(work: Callable[[], T], seconds: float | None = None, received: Callable[[], int] = lambda: 0) -> T:
    """What `work` returns, or `TimeoutError` once it has received no further piece for that long (`PATIENCE` if None).

    Timeouts of sockets do not suffice: they count for each address of a host by itself and begin anew with each byte.
    """
    seconds = PATIENCE if seconds is None else seconds
    answers: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            answers.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    counted, deadline = 0, time.monotonic() + seconds
    while thread.is_alive() and time.monotonic() < deadline:
        thread.join(min(0.1, seconds))
        if received() >= counted + PIECE:
            counted, deadline = received(), time.monotonic() + seconds
    if errors:
        raise errors[0]
    if not answers:
        raise TimeoutError(f"no answer within {seconds:g} s")
    return answers[0]
