"""Who publishes, and how the Hub is spoken to: one token, one namespace, patience with a Hub that is busy."""

import time
from collections.abc import Callable
from functools import partial
from json import JSONDecodeError
from typing import NoReturn, TypeVar

from interpbench_hub.constants import DISTRIBUTION
from interpbench_hub.errors import InterpBenchError, PublishError
from interpbench_hub.hub_errors import asked_wait, first_line, watched
from interpbench_hub.publishing.plan import Remote

WAITS = (1.0, 4.0, 16.0)
"""Seconds between tries when the Hub is busy or fails, unless it says how long to wait."""
LONGEST_WAIT = 330.0
"""Seconds beyond which we do not wait, even if the Hub asks for it: the next call goes on where this one stopped.

The Hub counts requests anew every five minutes, and all repositories take more than it allows in one such window.
"""

_CONFLICTS = (409, 412)
"""HTTP statuses of what somebody else has just changed."""

T = TypeVar("T")


class Account:
    """A token's access to one namespace of the Hub.

    Raises `PublishError`, within ten seconds, if the Hub cannot be reached or the token may not write there; a reader
    needs no token.
    """

    def __init__(self, namespace: str, token: str | None, endpoint: str | None, *, is_reader: bool = False) -> None:
        from huggingface_hub import HfApi, get_token

        from interpbench_hub import __version__

        self.namespace = namespace
        self._was_reached = False
        token = token or get_token()
        self.api = HfApi(endpoint, token or False, library_name=DISTRIBUTION, library_version=__version__)
        if token is None and not is_reader:
            raise PublishError(
                f"no access token to publish to {namespace!r} with; run `hf auth login`, or set HF_TOKEN to a token "
                "that may write there (https://huggingface.co/settings/tokens)"
            )
        if token is not None:
            self._check(self._translated(lambda: watched(self.api.whoami)), is_reader)

    def _check(self, who: dict, is_reader: bool) -> None:
        if is_reader:
            return
        access = who.get("auth", {}).get("accessToken", {})
        names = dict.fromkeys([who["name"], *(org["name"] for org in who.get("orgs", [])), *_scope(access)])
        if self.namespace not in names:
            raise PublishError(
                f"the token is {who['name']}'s, who may publish to {', '.join(names)}, but not to {self.namespace!r}; "
                "give one of these as namespace, or another token"
            )
        if access.get("role") == "read":
            raise PublishError(
                f"the token of {who['name']} may only read; make one that may write at "
                "https://huggingface.co/settings/tokens"
            )

    def read(self, kind: str, repo_id: str) -> Remote | None:
        """A repository as it is on the Hub; None if there is none."""
        return self.patiently(lambda: Remote.read(self.api, kind, repo_id))

    def patiently(self, do: Callable[[], T]) -> T:
        """What `do` returns, called anew after a while if the Hub is busy, fails, or has just been changed.

        So it is if the connection breaks, where there was one. `do` must start from what the Hub has, each time.
        """
        for wait in WAITS:
            try:
                return self._translated(do)
            except PublishError as error:
                may_pass = error.wait is not None or (error.is_lost and self._was_reached)
                asked = error.wait or 0.0
                if not may_pass or asked > LONGEST_WAIT:
                    raise
                time.sleep(max(wait, asked))
        return self._translated(do)

    def _translated(self, do: Callable[[], T]) -> T:
        """What `do` returns; what goes wrong with the Hub as a `PublishError`."""
        import httpx2  # the HTTP client of huggingface_hub, whose errors it lets through
        from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

        try:
            result = do()
        except InterpBenchError:
            raise
        except HfHubHTTPError as error:
            status, wait = error.response.status_code, None
            if status == 429 or status >= 500 or status in _CONFLICTS:
                # One second more, for what was rounded.
                asked = asked_wait(error.response)
                wait = 0.0 if asked is None else asked + 1.0
            raise PublishError(
                f"{_MEANINGS.get(status, 'the Hub refused')} (HTTP {status}: {_reason(error)})",
                wait=wait,
                is_busy=status == 429,
            ) from error
        except OfflineModeIsEnabled as error:
            raise PublishError("HF_HUB_OFFLINE is set; unset it to publish", is_lost=True) from error
        except (httpx2.TransportError, TimeoutError, ConnectionError) as error:
            text = f"the Hub cannot be reached ({first_line(error)}); check the network and call again: it goes on"
            raise PublishError(text, is_lost=True) from error
        except JSONDecodeError as error:
            raise PublishError(f"the Hub's answer cannot be read ({first_line(error)})", wait=0.0) from error
        except (httpx2.HTTPError, OSError, RuntimeError, ValueError) as error:
            # The library wraps so what goes wrong in its threads, while large files are uploaded.
            if isinstance(error, RuntimeError) and isinstance(error.__cause__, Exception):
                return self._translated(partial(_raise, error.__cause__))
            # Storage (xet) raises these as they are, and so does the library for a card that the Hub refuses.
            text = " ".join(str(error).split())
            raise PublishError(f"it could not be sent ({type(error).__name__}: {text})") from error
        self._was_reached = True
        return result


def _scope(access: dict) -> list[str]:
    """Users and organisations that a fine-grained token is about: these the Hub may leave out of its user's."""
    scoped = access.get("fineGrained", {}).get("scoped", [])
    return [scope["entity"]["name"] for scope in scoped if scope["entity"].get("type") in ("user", "org")]


def _raise(error: Exception) -> NoReturn:
    raise error


_MEANINGS = {
    401: "the token is not valid",
    403: "the token may not do this",
    404: "it is not there any more",
    409: "somebody else has just changed it",
    412: "somebody else has just changed it",
    429: "the Hub refuses more requests for now",
}


def _reason(error: Exception) -> str:
    message = getattr(error, "server_message", None)
    return next(iter(message.splitlines()), "") if message else first_line(error)
