"""Faults that tests order: errors, delays, lost answers, damaged files, code that runs in the midst of a request."""

import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from tests.local_hub.exchange import Answer

# Gets None before the request is handled, afterwards the answer; what it returns is sent instead, None changes nothing.
Effect = Callable[[Answer | None], Answer | None]


@dataclass
class Fault:
    """An effect on some requests: `times` of those that match (None: all of them) after the first `after`."""

    effect: Effect
    method: str | None
    path: re.Pattern[str]
    after: int
    times: int | None
    handled: bool
    seen: int = 0

    def strikes(self, method: str, path: str) -> bool:
        """Whether this request is one to act on; counts those that match."""
        if self.method not in (None, method) or self.path.search(path) is None:
            return False
        self.seen += 1
        return self.seen > self.after and (self.times is None or self.seen <= self.after + self.times)


class Faults:
    """The faults of a Hub. Methods take the same arguments about which requests they mean:

    `path` is a regular expression found anywhere in the decoded path, `method` an HTTP method or None for all, `times`
    how many of the matching requests it strikes (None: all), `after` how many of them it lets pass first. With
    `handled=False` a fault strikes before the Hub has done what it was asked to, with `handled=True` afterwards: only
    the answer is lost.
    """

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self._healed = threading.Event()

    def fail(
        self,
        path: str = "",
        *,
        method: str | None = None,
        status: int = 503,
        headers: Mapping[str, str] | None = None,
        message: str = "A fault ordered by a test",
        times: int | None = 1,
        after: int = 0,
        handled: bool = False,
    ) -> None:
        """Answer with an error."""
        answer = Answer.json({"error": message}, status, headers)
        self._add(lambda _: replace(answer), path, method, times, after, handled)

    def drop(
        self,
        path: str = "",
        *,
        method: str | None = None,
        times: int | None = 1,
        after: int = 0,
        handled: bool = False,
    ) -> None:
        """Close the connection without an answer."""
        self._add(lambda _: Answer(is_dropped=True), path, method, times, after, handled)

    def hang(
        self,
        path: str = "",
        *,
        seconds: float,
        method: str | None = None,
        times: int | None = 1,
        after: int = 0,
        handled: bool = False,
    ) -> None:
        """Wait before going on, or until the Hub is healed or closed."""
        healed = self._healed

        def wait(_: Answer | None) -> None:
            healed.wait(seconds)

        self._add(wait, path, method, times, after, handled)

    def before(
        self,
        path: str = "",
        *,
        call: Callable[[], object],
        method: str | None = None,
        times: int | None = 1,
        after: int = 0,
        handled: bool = False,
    ) -> None:
        """Call a function in the thread of the request, which then goes on."""

        def run(_: Answer | None) -> None:
            call()

        self._add(run, path, method, times, after, handled)

    def truncate(
        self, path: str = "", *, keep: int, method: str | None = "GET", times: int | None = 1, after: int = 0
    ) -> None:
        """Announce the whole answer, send the first bytes of it and close the connection."""

        def cut(answer: Answer | None) -> Answer | None:
            return None if answer is None else replace(answer, kept=keep)

        self._add(cut, path, method, times, after, handled=True)

    def corrupt(self, path: str = "", *, method: str | None = "GET", times: int | None = 1, after: int = 0) -> None:
        """Change one byte in the middle of the answer."""

        def flip(answer: Answer | None) -> Answer | None:
            if answer is None or not answer.body:
                return None
            body = bytearray(answer.body)
            body[len(body) // 2] ^= 1
            return replace(answer, body=bytes(body))

        self._add(flip, path, method, times, after, handled=True)

    def heal(self) -> None:
        """Remove all faults; requests that hang go on."""
        with self._lock:
            self._faults.clear()
            self._healed.set()
            self._healed = threading.Event()

    def striking(self, method: str, path: str) -> list[Fault]:
        """The faults that strike a request, which counts it; once for each request."""
        with self._lock:
            return [fault for fault in self._faults if fault.strikes(method, path)]

    def _add(self, effect: Effect, path: str, method: str | None, times: int | None, after: int, handled: bool) -> None:
        with self._lock:
            self._faults.append(Fault(effect, method, re.compile(path), after, times, handled))
