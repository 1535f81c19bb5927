"""HTTP: reads requests, lets faults strike and endpoints answer, writes answers."""

import socket
import sys
import threading
import traceback
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast
from urllib.parse import parse_qs, unquote, urlsplit

from tests.local_hub import collection_routes, repository_routes, transfer_routes
from tests.local_hub.accounts import Accounts
from tests.local_hub.collection_routes import Shelf
from tests.local_hub.errors import HubError
from tests.local_hub.exchange import Answer, Call, Router
from tests.local_hub.faults import Faults
from tests.local_hub.journal import Journal, Request
from tests.local_hub.store import Store

router = Router()
for part in (repository_routes, transfer_routes, collection_routes):
    router.routes += part.router.routes


class Server(ThreadingHTTPServer):
    """Serves a store on loopback, each connection in a thread of its own."""

    daemon_threads = True
    # The default of 5 loses connections when many clients start at the same time.
    request_queue_size = 128

    def __init__(self, store: Store, accounts: Accounts, faults: Faults, page_size: int) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.store = store
        self.shelf = Shelf()
        self.accounts = accounts
        self.faults = faults
        self.page_size = page_size
        self.journal = Journal()
        self.errors: list[BaseException] = []
        self.address = f"http://127.0.0.1:{self.server_port}"
        self._connections: set[socket.socket] = set()
        self._connections_lock = threading.Lock()

    def start(self) -> None:
        """Serve until `stop`."""
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Close the port and all connections: a client that kept one open gets no more answers either."""
        self.shutdown()
        self.server_close()
        with self._connections_lock:
            for connection in self._connections:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Remember the connection, and answer in a thread."""
        with self._connections_lock:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Forget the connection, and close it."""
        with self._connections_lock:
            self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients may go away at any time, tests kill them; anything else is an error of the local Hub."""
        error = sys.exception()
        if error is not None and not isinstance(error, OSError):
            self.errors.append(error)

    def answer(self, call: Call, request: Request) -> Answer:
        """What to send: the answer of an endpoint or of a fault that stands in for it."""
        striking = self.faults.striking(request.method, request.path)
        for fault in striking:
            if not fault.handled and (replacement := fault.effect(None)) is not None:
                return replacement
        try:
            with self.store.lock:
                call.account = self.accounts.of(request.token)
                answer = router.answer(call)
        except HubError as error:
            answer = Answer.error(error)
        for fault in striking:
            if fault.handled:
                answer = fault.effect(answer) or answer
        return answer


class Handler(BaseHTTPRequestHandler):
    """One connection: requests one after the other."""

    protocol_version = "HTTP/1.1"
    # Headers and body are two writes; without this the second waits for the client's acknowledgement of the first.
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        """Answer a request of any method."""
        server = cast(Server, self.server)
        parts = urlsplit(self.path)
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        request = Request(
            self.command,
            unquote(parts.path),
            token.strip() if scheme.lower() == "bearer" else None,
            query=parts.query,
        )
        call = Call(
            method=self.command,
            path=parts.path,
            query=parse_qs(parts.query, keep_blank_values=True),
            headers=self.headers,
            body=self.read_body(),
            address=server.address,
            store=server.store,
            shelf=server.shelf,
            accounts=server.accounts,
            page_size=server.page_size,
        )
        server.journal.add(request)
        try:
            answer = server.answer(call, request)
        except Exception as error:
            # An error of the local Hub, or of a function that a test had it call: the test shall hear of it.
            server.errors.append(error)
            answer = Answer.json({"error": "".join(traceback.format_exception(error))}, 500)
        if answer.is_dropped:
            self.close_connection = True
            return
        # Before the client knows the answer, so that a test that looks afterwards finds it here.
        request.status = answer.status
        self.send(answer)

    do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

    def read_body(self) -> bytes:
        """All bytes of the request, of known length or in chunks."""
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.read_exactly(int(self.headers.get("Content-Length", "0")))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0] or b"0", 16):
            body += self.read_exactly(size)
            self.read_exactly(len(b"\r\n"))
        self.read_exactly(len(b"\r\n"))
        return body

    def read_exactly(self, size: int) -> bytes:
        """Bytes of the body. If the client goes away before all are there, the request does not count."""
        data = self.rfile.read(size)
        if len(data) < size:
            raise ConnectionError(f"the client sent {len(data)} of {size} bytes")
        return data

    def send(self, answer: Answer) -> None:
        """Write an answer, or the part of it that a fault leaves."""
        self.send_response(answer.status)
        for name, value in {**answer.headers, "Content-Length": str(len(answer.body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body[: answer.kept])
        if answer.kept is not None:
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""
