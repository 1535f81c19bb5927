"""Downloads: what is fetched and kept, and a Hub that refuses, fails, hangs, breaks off or is not there."""

import os
import subprocess
import sys
import threading
import time

import pytest

from interpbench_hub import hub, hub_errors
from interpbench_hub.constants import CERTIFICATE_FILE, CIRCUIT_FILE, CONFIG_FILE, WEIGHTS_FILE
from interpbench_hub.errors import DownloadError
from tests.fake_hub import COMMIT, FakeHub, dead_endpoint, kept

FILES = (CONFIG_FILE, CIRCUIT_FILE)


# -- what is fetched ---------------------------------------------------------------------------------------------------


def test_only_the_files_asked_for_are_fetched(fake_hub, tmp_path, certified_folder):
    fake_hub.files["pytorch_model.bin"] = b"\x80"
    folder = hub.resolve("someone/model", files=FILES, endpoint=fake_hub.url, cache_dir=tmp_path / "cache")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        name: (certified_folder / name).read_bytes() for name in FILES
    }
    fetched = {request.rpartition("/")[2] for request in fake_hub.requests}
    assert fetched == set(FILES)
    assert not any(request.startswith("GET /api") for request in fake_hub.requests)


def test_what_was_fetched_once_is_found_when_the_hub_is_gone(fake_hub, tmp_path):
    options = {"files": FILES, "endpoint": fake_hub.url, "cache_dir": tmp_path / "cache"}
    folder = hub.resolve("someone/model", **options)
    for failure in (None, (503, {}), (429, {})):
        fake_hub.failure = failure
        assert hub.resolve("someone/model", **options) == folder
    options["endpoint"] = dead_endpoint()
    assert hub.resolve("someone/model", **options) == folder
    assert hub.resolve("someone/model", local_files_only=True, **options) == folder
    assert hub.resolve("someone/model", revision=COMMIT, **options) == folder
    with pytest.raises(DownloadError, match="cannot be reached"):
        hub.resolve("someone/model", force_download=True, **options)


def test_a_commit_that_is_cached_needs_no_request(fake_hub, tmp_path):
    options = {"files": FILES, "endpoint": fake_hub.url, "cache_dir": tmp_path / "cache", "revision": COMMIT}
    folder = hub.resolve("someone/model", **options)
    assert folder.name == COMMIT
    fake_hub.requests.clear()
    assert hub.resolve("someone/model", **options) == folder
    assert fake_hub.requests == []
    assert hub.resolve("someone/model", force_download=True, **options) == folder
    assert fake_hub.requests != []


def test_a_changed_file_is_fetched_again(fake_hub, tmp_path):
    options = {"files": FILES, "endpoint": fake_hub.url, "cache_dir": tmp_path / "cache"}
    hub.resolve("someone/model", **options)
    path = hub.resolve("someone/model", **options) / CONFIG_FILE
    path.unlink()
    assert hub.resolve("someone/model", **options) / CONFIG_FILE == path
    assert path.read_bytes() == fake_hub.files[CONFIG_FILE]


def test_without_requests_only_the_cache_counts(fake_hub, tmp_path):
    with pytest.raises(DownloadError, match=r"someone/model: not in the cache of this machine; load it once without"):
        hub.resolve(
            "someone/model", files=FILES, endpoint=fake_hub.url, cache_dir=tmp_path / "cache", local_files_only=True
        )
    assert fake_hub.requests == []


def test_a_cache_is_one_that_the_hubs_own_client_reads_and_fills(fake_hub, options, monkeypatch):
    from huggingface_hub import hf_hub_download, scan_cache_dir, try_to_load_from_cache

    folder = hub.resolve("someone/model", **options)
    cache = options["cache_dir"]
    for file in FILES:
        assert try_to_load_from_cache("someone/model", file, cache_dir=cache) == str(folder / file)
        path = hf_hub_download("someone/model", file, cache_dir=cache, endpoint=fake_hub.url)
        assert path == str(folder / file)
    (repo,) = scan_cache_dir(cache).repos
    assert [file.file_name for revision in repo.revisions for file in sorted(revision.files, key=str)] == [*FILES[::-1]]
    # The other way round: what it has fetched need not be fetched again.
    hf_hub_download("someone/model", CERTIFICATE_FILE, cache_dir=cache, endpoint=fake_hub.url)
    fake_hub.requests.clear()
    assert hub.resolve("someone/model", **options | {"files": (CERTIFICATE_FILE,)}) == folder
    assert not [request for request in fake_hub.requests if request.startswith("GET")]
    hub.resolve("someone/model", **options | {"files": (CERTIFICATE_FILE,)}, force_download=True)
    assert (folder / CERTIFICATE_FILE).read_bytes() == fake_hub.files[CERTIFICATE_FILE]


def test_optional_files_are_fetched_if_they_are_there(fake_hub, options):
    fake_hub.files["README.md"] = b"# card"
    options["optional"] = ("README.md", "other.json")
    folder = hub.resolve("someone/model", **options)
    assert {path.name for path in folder.iterdir()} == {*FILES, "README.md"}
    assert hub.resolve("someone/model", **options, local_files_only=True) == folder


@pytest.mark.parametrize(("token", "sent"), [("hf_abc", "Bearer hf_abc"), (False, None)])
def test_the_token_goes_with_every_request(fake_hub, options, token, sent):
    hub.resolve("someone/model", **options, token=token)
    assert len(fake_hub.tokens) == 4 and set(fake_hub.tokens) == {sent}


def test_large_files_come_from_elsewhere_and_the_token_stays_with_the_hub(fake_hub, options):
    storage = FakeHub()
    try:
        storage.files = fake_hub.files
        fake_hub.storage = storage.url.replace("127.0.0.1", "localhost")
        options["files"] = (CONFIG_FILE, WEIGHTS_FILE)
        folder = hub.resolve("someone/model", **options, token="hf_abc")
        assert (folder / WEIGHTS_FILE).read_bytes() == fake_hub.files[WEIGHTS_FILE]
        assert storage.requests == [f"GET /storage/{WEIGHTS_FILE}"] and storage.tokens == [None]
        storage.cut = 10
        with pytest.raises(DownloadError, match=r"model\.safetensors broke off after 10 of \d+ bytes"):
            hub.resolve("someone/model", **options, force_download=True)
    finally:
        storage.close()


def test_another_folder_for_the_cache_is_used(fake_hub, options, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = hub.resolve("someone/model", **options | {"cache_dir": "~/elsewhere"})
    assert folder.is_relative_to(tmp_path / "elsewhere")
    assert not (tmp_path / "cache").exists()


def test_a_cache_that_cannot_be_written_is_reported(options, tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(DownloadError, match=r"^someone/model: the download failed \((FileExists|NotADirectory)Error"):
        hub.resolve("someone/model", **options)


# -- a Hub that refuses ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        ((401, {"X-Error-Code": "RepoNotFound"}), "no such model, or it is private; check the name, or pass a token"),
        ((401, {}), r"refused \(HTTP 401\): .*; check the name, or run `hf auth login`"),
        ((403, {}), r"refused \(HTTP 403\): the model is private or the token may not read it"),
        ((403, {"X-Error-Code": "GatedRepo"}), "access to it has to be requested on its page"),
        ((404, {"X-Error-Code": "RepoNotFound"}), "no such model, or it is private"),
        ((404, {"X-Error-Code": "RevisionNotFound"}), "no such revision; give one of its branches"),
        ((404, {"X-Error-Code": "EntryNotFound"}), r"the repository has no config\.json"),
        ((404, {}), "the Hub answered HTTP 404"),
        ((400, {}), "the Hub answered HTTP 400"),
        ((429, {}), r"refuses more requests for now \(HTTP 429\); wait a few minutes"),
        ((429, {"Retry-After": "300"}), r"\(HTTP 429\); wait 300 s"),
        ((429, {"RateLimit": '"resolvers";r=0;t=55'}), r"\(HTTP 429\); wait 55 s"),
        ((429, {"RateLimit": '"resolvers";r=9;t=55'}), r"\(HTTP 429\); wait a few minutes"),
        ((500, {}), r"the Hub has trouble \(HTTP 500\); try again later"),
        ((503, {"Retry-After": "300"}), r"the Hub has trouble \(HTTP 503\)"),
        ((504, {}), r"the Hub has trouble \(HTTP 504\)"),
        ((200, {}), "the download failed: the answer names no commit"),
        ((200, {"X-Repo-Commit": "../../elsewhere"}), "the download failed: the answer names no commit"),
    ],
)
def test_each_refusal_is_explained_at_once(fake_hub, tmp_path, within, failure, message):
    fake_hub.failure = failure
    with within(5), pytest.raises(DownloadError, match=f"^someone/model: .*{message}"):
        hub.resolve("someone/model", files=FILES, endpoint=fake_hub.url, cache_dir=tmp_path / "cache")


def test_an_unknown_revision_is_named(fake_hub, tmp_path):
    with pytest.raises(DownloadError, match="someone/model at revision 'v9': it has no such revision"):
        hub.resolve("someone/model", files=FILES, revision="v9", endpoint=fake_hub.url, cache_dir=tmp_path / "cache")


def test_a_repository_of_pickles_is_refused_as_such(fake_hub, tmp_path):
    options = {"endpoint": fake_hub.url, "cache_dir": tmp_path / "cache"}
    for pickled in ("pytorch_model.bin", "case_3/ll_model.pth"):
        fake_hub.files = {CONFIG_FILE: b"{}", pickled: b"\x80"}
        with pytest.raises(DownloadError, match=rf"its weights are pickles \({pickled}\); no pickle is ever opened"):
            hub.resolve("someone/model", files=(CONFIG_FILE, WEIGHTS_FILE), **options)
    assert not any(request.endswith((".bin", ".pth")) for request in fake_hub.requests)


def test_a_repository_of_something_else_says_what_it_holds(fake_hub, tmp_path):
    fake_hub.files = {"README.md": b"", "model.onnx": b""}
    with pytest.raises(DownloadError, match=r"has no config\.json; it holds README\.md, model\.onnx"):
        hub.resolve("someone/model", files=FILES, endpoint=fake_hub.url, cache_dir=tmp_path / "cache")


@pytest.mark.parametrize(("status", "message"), [(404, "HTTP 404"), (429, "HTTP 429"), (503, "HTTP 503")])
def test_a_refusal_after_the_first_word_is_an_error_and_not_an_older_file(fake_hub, options, status, message):
    folder = hub.resolve("someone/model", **options)
    (folder / CIRCUIT_FILE).unlink()
    fake_hub.failure, fake_hub.broken = (status, {}), {"GET"}
    with pytest.raises(DownloadError, match=f"^someone/model: .*{message}"):
        hub.resolve("someone/model", **options)
    fake_hub.heal()
    assert hub.resolve("someone/model", **options) == folder


def test_a_file_that_changes_on_its_way_is_refused(fake_hub, options):
    data = fake_hub.files[CIRCUIT_FILE]
    fake_hub.answers[CIRCUIT_FILE] = data.replace(b"case_3", b"case_4", 1)
    with pytest.raises(
        DownloadError, match=r"circuit\.json was changed on its way: SHA-256 is .*the Hub says .*try again"
    ):
        hub.resolve("someone/model", **options)
    assert kept(options["cache_dir"]) == []
    fake_hub.heal()
    assert (hub.resolve("someone/model", **options) / CIRCUIT_FILE).read_bytes() == data


# -- a body that does not come -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [0, 1, 500])
@pytest.mark.parametrize("sends_length", [True, False])
def test_a_body_that_breaks_off_leaves_nothing_and_the_next_try_succeeds(fake_hub, options, within, cut, sends_length):
    fake_hub.cut, fake_hub.sends_length = cut, sends_length
    with (
        within(5),
        pytest.raises(DownloadError, match=r"^someone/model: config\.json (broke off after|has) \d+ .*try again"),
    ):
        hub.resolve("someone/model", **options)
    assert kept(options["cache_dir"]) == []
    with pytest.raises(DownloadError, match="not in the cache"):
        hub.resolve("someone/model", **options, local_files_only=True)
    fake_hub.heal()
    with within(5):
        folder = hub.resolve("someone/model", **options)
    assert {file: (folder / file).read_bytes() for file in FILES} == {file: fake_hub.files[file] for file in FILES}


@pytest.mark.parametrize("cut", [0, 700])
def test_a_body_that_stalls_is_given_up_and_the_next_try_succeeds(fake_hub, options, within, monkeypatch, cut):
    monkeypatch.setattr(hub_errors, "PATIENCE", 0.6)
    fake_hub.cut, fake_hub.stalls = cut, True
    with within(3), pytest.raises(DownloadError, match=rf"config\.json broke off after {cut} of \d+ bytes .*try again"):
        hub.resolve("someone/model", **options)
    assert kept(options["cache_dir"]) == []
    fake_hub.heal()
    with within(3):
        folder = hub.resolve("someone/model", **options)
    assert (folder / CONFIG_FILE).read_bytes() == fake_hub.files[CONFIG_FILE]


def test_a_file_that_breaks_off_takes_those_before_it_along(fake_hub, options):
    size = len(fake_hub.files[CONFIG_FILE])
    assert len(fake_hub.files[WEIGHTS_FILE]) > size
    fake_hub.cut = size
    with pytest.raises(DownloadError, match=rf"model\.safetensors broke off after {size} of"):
        hub.resolve("someone/model", **options | {"files": (CONFIG_FILE, WEIGHTS_FILE)})
    assert kept(options["cache_dir"]) == []


def test_a_forced_download_that_breaks_off_leaves_what_was_cached(fake_hub, options):
    folder = hub.resolve("someone/model", **options)
    before = {file: (folder / file).read_bytes() for file in FILES}
    fake_hub.cut = 10
    with pytest.raises(DownloadError, match="broke off"):
        hub.resolve("someone/model", **options, force_download=True)
    assert {file: (folder / file).read_bytes() for file in FILES} == before
    assert hub.resolve("someone/model", **options) == folder


def test_patience_with_bodies_is_less_than_ten_seconds_and_begins_anew_with_each_piece(within):
    assert hub_errors.PATIENCE < 9
    received = 0

    def trickle() -> str:
        nonlocal received
        for _ in range(8):
            time.sleep(0.1)
            received += hub_errors.PIECE
        return "done"

    assert hub_errors.watched(trickle, 0.4, lambda: received) == "done"
    # A byte now and then is no piece.
    received, stop = 0, threading.Event()

    def drip() -> None:
        nonlocal received
        while not stop.wait(0.05):
            received += 1

    with within(2), pytest.raises(TimeoutError, match=r"no answer within 0\.4 s"):
        hub_errors.watched(drip, 0.4, lambda: received)
    stop.set()


# -- a Hub that is not there -------------------------------------------------------------------------------------------


def test_a_dead_endpoint_is_reported_within_ten_seconds(tmp_path, within):
    with (
        within(10),
        pytest.raises(DownloadError, match=r"^someone/model: the Hub cannot be reached \(.*\); check the net"),
    ):
        hub.resolve("someone/model", files=FILES, endpoint=dead_endpoint(), cache_dir=tmp_path / "cache")


def test_a_host_without_an_address_is_reported(tmp_path):
    with pytest.raises(DownloadError, match="cannot be reached"):
        hub.resolve("someone/model", files=FILES, endpoint="http://nowhere.invalid", cache_dir=tmp_path / "cache")


def test_an_endpoint_that_never_answers_is_given_up(monkeypatch, tmp_path, within, silent_endpoint):
    monkeypatch.setattr(hub_errors, "PATIENCE", 0.6)
    with within(5), pytest.raises(DownloadError, match="cannot be reached"):
        hub.resolve("someone/model", files=FILES, endpoint=silent_endpoint, cache_dir=tmp_path / "cache")


def test_whatever_waits_longer_than_its_sockets_say_is_given_up(within):
    # A host with many addresses, or a name server that is silent, holds a socket longer than its timeout.
    with within(2), pytest.raises(TimeoutError, match=r"no answer within 0\.2 s"):
        hub_errors.watched(lambda: time.sleep(30), 0.2)


@pytest.mark.parametrize(
    ("variables", "message"),
    [({"HF_ENDPOINT": "dead"}, "the Hub cannot be reached"), ({"HF_HUB_OFFLINE": "1"}, "offline mode")],
)
def test_the_hubs_own_environment_variables_hold(tmp_path, within, variables, message):
    # Read when huggingface_hub is imported, hence the process of its own.
    environment = os.environ | {"HF_HOME": str(tmp_path)} | variables
    if "HF_ENDPOINT" in environment:
        environment["HF_ENDPOINT"] = dead_endpoint()
    code = "import interpbench_hub; interpbench_hub.load_circuit('someone/model')"
    with within(10):
        run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    last = run.stderr.strip().splitlines()[-1]
    assert "DownloadError: someone/model: " in last
    assert message in last
