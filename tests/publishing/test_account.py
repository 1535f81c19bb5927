"""Patience with the Hub: what is tried again, after how long, and what is said when it does not help."""

import json

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
    # A second more than asked for, in case it was rounded.
    assert waits == [31, 4, 16]
    attempts = Attempts(refusal(429, {"Retry-After": "3600"}))
    with pytest.raises(PublishError, match="the Hub refuses more requests for now") as refused:
        reader.patiently(attempts)
    assert attempts.count == 1 and refused.value.is_busy


def test_the_wait_that_the_hub_asks_for_in_its_own_header_is_kept(reader, waits):
    used_up = refusal(429, {"RateLimit": '"api";r=0;t=287', "RateLimit-Policy": '"fixed window";"api";q=1000;w=300'})
    something_else = refusal(429, {"RateLimit": '"api";r=12;t=287'})
    assert reader.patiently(Attempts(used_up, something_else)) == "done"
    assert waits == [288, 4]


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


def test_a_connection_that_was_there_is_waited_for(reader, waits):
    assert reader.patiently(Attempts()) == "done"
    assert reader.patiently(Attempts(httpx2.ReadTimeout("too long"), ConnectionResetError("reset"))) == "done"
    assert waits == [1, 4]
    with pytest.raises(PublishError, match=r"the Hub cannot be reached \(too long\)") as lost:
        reader.patiently(Attempts(*[httpx2.ReadTimeout("too long")] * 4))
    assert lost.value.is_lost


def test_a_page_of_html_instead_of_an_answer_is_tried_again(reader, waits):
    unreadable = json.JSONDecodeError("Expecting value", "<html>", 0)
    assert reader.patiently(Attempts(unreadable)) == "done"
    with pytest.raises(PublishError, match=r"the Hub's answer cannot be read \(Expecting value"):
        reader.patiently(Attempts(*[unreadable] * 4))


@pytest.mark.parametrize(
    "error",
    [
        ValueError("Invalid metadata in README.md.\n- no such licence"),
        PermissionError("no such licence"),
        RuntimeError("no such licence"),
        httpx2.TooManyRedirects("no such licence"),
    ],
)
def test_whatever_else_the_library_raises_is_an_error_about_one_repository(reader, waits, error):
    with pytest.raises(PublishError, match=rf"it could not be sent \({type(error).__name__}: .*no such licence\)"):
        reader.patiently(Attempts(error))
    assert waits == []


def test_errors_of_uploading_threads_are_looked_into(reader, waits):
    wrapped = RuntimeError("Error while uploading 'model.safetensors' to the Hub.")
    wrapped.__cause__ = refusal(503)
    assert reader.patiently(Attempts(wrapped)) == "done"
    assert waits == [1.0]


@pytest.mark.parametrize("kind", ["user", "org"])
def test_a_fine_grained_token_may_publish_to_what_it_is_about(reader, kind):
    scope = {"entity": {"type": kind, "name": "interpbench"}, "permissions": ["repo.write"]}
    model = {"entity": {"type": "model", "name": "elsewhere/x"}, "permissions": ["repo.write"]}
    token = {"role": "fineGrained", "fineGrained": {"global": [], "scoped": [model, scope]}}
    # The Hub may leave organisations out of `orgs` for such tokens.
    who = {"name": "owner", "orgs": [], "auth": {"accessToken": token}}
    reader._check(who, is_reader=False)
    reader.namespace = "elsewhere"
    with pytest.raises(PublishError, match="owner's, who may publish to owner, interpbench, but not to 'elsewhere'"):
        reader._check(who, is_reader=False)
