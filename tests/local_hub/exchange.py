"""A request as endpoints see it, their answer, and the table of endpoints."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.message import Message
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlencode

from tests.local_hub.accounts import Account, Accounts
from tests.local_hub.errors import HubError, login_required
from tests.local_hub.store import Store

if TYPE_CHECKING:
    from tests.local_hub.collection_routes import Shelf

TRUE = ("true", "1")


@dataclass
class Answer:
    """A response. `kept` cuts the body after the headers promised all of it; None sends all."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    kept: int | None = None
    is_dropped: bool = False

    @classmethod
    def json(cls, content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> "Answer":
        """An answer in JSON; dates, which YAML has, become text."""
        body = json.dumps(content, default=str).encode()
        return cls(status, body, {"Content-Type": "application/json; charset=utf-8", **(headers or {})})

    @classmethod
    def error(cls, error: HubError) -> "Answer":
        """The Hub's way to refuse: the message in the body and in a header, the code in another."""
        headers = {"X-Error-Message": error.message.encode("ascii", "replace").decode(), **error.headers}
        if error.code is not None:
            headers["X-Error-Code"] = error.code
        return cls.json({"error": error.message, **error.content}, error.status, headers)


@dataclass
class Call:
    """A request, who sent it, and what it is about."""

    method: str
    path: str
    query: Mapping[str, list[str]]
    headers: Message
    body: bytes
    address: str
    store: Store
    shelf: "Shelf"
    accounts: Accounts
    page_size: int
    account: Account | None = None

    @property
    def user(self) -> Account:
        """The account, where there must be one."""
        if self.account is None:
            raise login_required()
        return self.account

    def json(self) -> dict[str, Any]:
        """The body, where it must be a JSON object."""
        try:
            content = json.loads(self.body or b"{}")
        except ValueError as error:
            raise HubError(400, f"The body is not JSON: {error}") from error
        if not isinstance(content, dict):
            raise HubError(400, "The body is not a JSON object")
        return content

    def value(self, name: str, default: str = "") -> str:
        """The last value that the query has for a name."""
        return self.query.get(name, [default])[-1]

    def flag(self, name: str) -> bool:
        """Whether the query has a name with a value that stands for true."""
        return self.value(name).lower() in TRUE

    def page(self, items: list[Any]) -> Answer:
        """One page of a list, with a Link header to the next where there is more."""
        try:
            start, limit = int(self.value("cursor", "0")), int(self.value("limit", str(self.page_size)))
        except ValueError as error:
            raise HubError(400, f"cursor and limit must be numbers: {error}") from error
        if limit < 1:
            raise HubError(400, f'"limit" must be greater than or equal to 1, got {limit}')
        end = start + min(limit, self.page_size)
        headers = {"X-Total-Count": str(len(items))}
        if end < len(items):
            query = urlencode({**self.query, "cursor": [str(end)]}, doseq=True)
            headers["Link"] = f'<{self.address}{self.path}?{query}>; rel="next"'
        return Answer.json(items[start:end], headers=headers)


Endpoint = Callable[..., Answer]


class Router:
    """Endpoints by method and path; named groups of the pattern become arguments of the endpoint."""

    def __init__(self) -> None:
        self.routes: list[tuple[str, re.Pattern[str], Endpoint]] = []

    def on(self, method: str, pattern: str) -> Callable[[Endpoint], Endpoint]:
        """Register the decorated function for a method and the paths that match all of a pattern."""

        def register(endpoint: Endpoint) -> Endpoint:
            self.routes.append((method, re.compile(pattern), endpoint))
            return endpoint

        return register

    def answer(self, call: Call) -> Answer:
        """Let the endpoint of a call answer it; HEAD goes where GET goes."""
        method = "GET" if call.method == "HEAD" else call.method
        for route_method, pattern, endpoint in self.routes:
            match = pattern.fullmatch(call.path)
            if match is not None and method == route_method:
                return endpoint(call, **{name: unquote(text) for name, text in match.groupdict("").items()})
        raise HubError(404, f"Sorry, we can't find the page you are looking for: {call.method} {call.path}")
