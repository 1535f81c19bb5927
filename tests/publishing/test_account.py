"""Patience with the Hub: what is tried again, after how long, and what is said when it does not help."""

import httpx2
import pytest
from huggingface_hub.errors import HfHubHTTPError

from interpbench_hub.errors import PublishError
from interpbench_hub.publishing import account
from interpbench_hub.publishing.account import WAITS, Account


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> Account:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    return Account("interpbench", None, "http://127.0.0.1:9", is_reader=True)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds waited, without waiting."""
    waited: list[float] = []
    monkeypatch.setattr(account.time, "sleep", waited.append)
    return waited


def refusal(status: int, headers: dict[str, str] | None = None) -> HfHubHTTPError:
    request = httpx2.Request("POST", "http://127.0.0.1:9/api/repos/create")
    response = httpx2.Response(status, headers=headers, request=request)
    return HfHubHTTPError("first line\nsecond line", response=response)


class Attempts:
    """Raises one error after the other, then returns a value."""

    def __init__(self, *errors: Exception) -> None:
        self.errors, self.count = list(errors), 0

    def __call__(self) -> str:
        self.count += 1
        if self.errors:
            raise self.errors.pop(0)
        return "done"


def test_what_works_at_once_is_called_once(reader, waits):
    attempts = Attempts()
    assert reader.patiently(attempts) == "done"
    assert (attempts.count, waits) == (1, [])


@pytest.mark.parametrize("status", [409, 412, 429, 500, 502, 503])
def test_what_may_pass_is_tried_four_times_with_growing_waits(reader, waits, status):
    assert reader.patiently(Attempts(*[refusal(status)] * 3)) == "done"
    assert waits == list(WAITS)
    with pytest.raises(PublishError, match=f"HTTP {status}: first line"):
        reader.patiently(Attempts(*[refusal(status)] * 4))


def test_the_hub_may_ask_for_a_longer_wait_but_not_for_a_shorter_one_or_hours(reader, waits):
    asked = [refusal(429, {"Retry-After": seconds}) for seconds in ("30", "2", "0")]
    assert reader.patiently(Attempts(*asked)) == "done"
    assert waits == [30, 4, 16]
    attempts = Attempts(refusal(429, {"Retry-After": "3600"}))
    with pytest.raises(PublishError, match="the Hub refuses more requests for now"):
        reader.patiently(attempts)
    assert attempts.count == 1


def test_a_date_to_wait_for_counts_as_no_number(reader, waits):
    attempts = Attempts(refusal(503, {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}))
    assert reader.patiently(attempts) == "done"
    assert waits == [1.0]


@pytest.mark.parametrize(
    ("status", "message"),
    [(400, "the Hub refused"), (401, "the token is not valid"), (403, "the token may not do this"), (404, "not there")],
)
def test_what_would_not_pass_is_not_tried_again(reader, waits, status, message):
    attempts = Attempts(refusal(status))
    with pytest.raises(PublishError, match=message) as refused:
        reader.patiently(attempts)
    assert (attempts.count, waits, refused.value.is_lost) == (1, [], False)


def test_a_lost_connection_is_not_waited_for(reader, waits):
    attempts = Attempts(httpx2.ConnectError("connection refused"))
    with pytest.raises(PublishError, match=r"the Hub cannot be reached \(connection refused\)") as lost:
        reader.patiently(attempts)
    assert lost.value.is_lost and attempts.count == 1


def test_errors_of_uploading_threads_are_looked_into(reader, waits):
    wrapped = RuntimeError("Error while uploading 'model.safetensors' to the Hub.")
    wrapped.__cause__ = refusal(503)
    assert reader.patiently(Attempts(wrapped)) == "done"
    assert waits == [1.0]
    with pytest.raises(RuntimeError, match="of our own"):
        reader.patiently(Attempts(RuntimeError("of our own")))
