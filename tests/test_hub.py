"""Names and folders: local, bundled with checksums, and a Hub that refuses, fails, hangs or is not there."""

import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from interpbench_hub import hub
from interpbench_hub.checkpoint import Checkpoint, save_checkpoint
from interpbench_hub.constants import CERTIFICATE_FILE, CIRCUIT_FILE, CONFIG_FILE, MANIFEST_FILE, WEIGHTS_FILE
from interpbench_hub.errors import CheckpointError, DownloadError, SettingError, UnknownNameError

FILES = (CONFIG_FILE, CIRCUIT_FILE)
COMMIT = "c0ffee" + "0" * 34


class FakeHub:
    """A Hub with one repository, on this machine: what it holds, how it answers, what it was asked."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.failure: tuple[int, dict[str, str]] | None = None
        self.requests: list[str] = []
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                fake.answer(self)

            do_GET = do_HEAD

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        self.requests.append(f"{request.command} {request.path}")
        if self.failure is not None:
            self.send(request, *self.failure)
            return
        if request.path.startswith("/api/models/"):
            listing = {"id": "someone/model", "siblings": [{"rfilename": name} for name in self.files]}
            self.send(request, 200, {}, json.dumps(listing).encode())
            return
        match = re.fullmatch(r"/someone/model/resolve/(?P<revision>[^/]+)/(?P<file>.+)", request.path)
        if match is None:
            self.send(request, 404, {"X-Error-Code": "RepoNotFound"})
        elif match["revision"] not in ("main", "v1", COMMIT):
            self.send(request, 404, {"X-Error-Code": "RevisionNotFound"})
        elif match["file"] not in self.files:
            self.send(request, 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        else:
            data = self.files[match["file"]]
            headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha256(data).hexdigest()}"'}
            self.send(request, 200, headers, data)

    @staticmethod
    def send(request: BaseHTTPRequestHandler, status: int, headers: dict[str, str], data: bytes = b"") -> None:
        request.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            request.send_header(name, value)
        request.end_headers()
        if request.command == "GET":
            request.wfile.write(data)


@pytest.fixture
def fake_hub(certified_folder: Path) -> Iterator[FakeHub]:
    fake = FakeHub()
    fake.files = {path.name: path.read_bytes() for path in certified_folder.iterdir()}
    yield fake
    fake.server.shutdown()
    fake.server.server_close()


@pytest.fixture
def collection(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, certified_folder: Path, checkpoint: Checkpoint) -> Path:
    """A bundled collection of two models in place of the package's own."""
    folder = tmp_path / "collection"
    folder.mkdir()
    shutil.copytree(certified_folder, folder / "case_30")
    save_checkpoint(checkpoint, folder / "case_4")
    hub.write_manifest(folder)
    monkeypatch.setattr(hub, "COLLECTION", folder)
    monkeypatch.chdir(tmp_path)
    return folder


# -- folders -----------------------------------------------------------------------------------------------------------


def test_a_folder_is_found_by_its_path(monkeypatch, certified_folder):
    monkeypatch.chdir(certified_folder.parent)
    monkeypatch.setenv("HOME", str(certified_folder.parent))
    name = certified_folder.name
    for path in (
        certified_folder,
        str(certified_folder),
        f"./{name}",
        f"../{certified_folder.parent.name}/{name}",
        name,
    ):
        assert hub.resolve(path, files=FILES).resolve() == certified_folder
    assert hub.resolve(f"~/{name}", files=FILES) == certified_folder
    assert hub.resolve(Path(name), files=FILES) == Path(name)


def test_a_folder_with_one_slash_in_its_path_is_found_if_a_checkpoint_lies_there(monkeypatch, certified_folder):
    monkeypatch.chdir(certified_folder.parent.parent)
    path = f"{certified_folder.parent.name}/{certified_folder.name}"
    assert hub.resolve(path, files=FILES).resolve() == certified_folder


def test_a_folder_without_the_file_asked_for_says_so(certified_folder):
    (certified_folder / CIRCUIT_FILE).unlink()
    with pytest.raises(
        CheckpointError, match=r"circuit\.json: the file is missing; the folder holds certificate\.json"
    ):
        hub.resolve(certified_folder, files=FILES)


# -- names that cannot be ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        "..",
        "../nowhere",
        "a/../b",
        "interpbench/..",
        "interpbench/case_3/..",
        "a\\b",
        "/nowhere/at/all",
        "a/b/c",
        "a//b",
        "/a",
        "a/",
        "a/b/",
        "-a/b",
        "a/b--c",
        "a/b..c",
        "a/.b",
        "näme",
        "a b",
        "a\0b",
        "a/b\n",
        "https://huggingface.co/a/b",
        "x" * 97,
        "x" * 5000,
        Path("nowhere"),
        Path("some/nowhere"),
    ],
)
def test_names_that_cannot_be_are_refused_before_any_request(collection, name, fake_hub):
    with pytest.raises((UnknownNameError, CheckpointError), match=r"a model is named by|no such folder|is missing"):
        hub.resolve(name, files=FILES, endpoint=fake_hub.url)
    assert fake_hub.requests == []


def test_a_file_is_no_checkpoint(certified_folder):
    with pytest.raises(UnknownNameError, match="is a file; give the folder"):
        hub.resolve(str(certified_folder / CONFIG_FILE), files=FILES)


def test_an_unknown_id_lists_those_near_it(collection):
    with pytest.raises(UnknownNameError, match=r"unknown model 'case_3'; nearest: case_30, case_4.*list_models\(\)"):
        hub.resolve("case_3", files=FILES)


def test_two_contrary_options_are_refused(collection):
    with pytest.raises(SettingError, match="exclude each other"):
        hub.resolve("case_4", files=FILES, force_download=True, local_files_only=True)


# -- the bundled collection --------------------------------------------------------------------------------------------


def test_bundled_models_are_found_with_and_without_the_namespace(collection, fake_hub):
    assert hub.list_models() == ["case_4", "case_30"]
    for name in ("case_30", "interpbench/case_30"):
        assert hub.resolve(name, files=FILES, endpoint=fake_hub.url, local_files_only=True) == collection / "case_30"
        assert hub.resolve(name, files=FILES, endpoint=fake_hub.url) == collection / "case_30"
    assert fake_hub.requests == []


@pytest.mark.parametrize("options", [{"revision": "v2"}, {"force_download": True}])
def test_a_revision_or_a_forced_download_goes_past_the_bundled_models(collection, fake_hub, tmp_path, options):
    with pytest.raises(DownloadError, match=r"interpbench/case_30.*: the Hub has no such model"):
        hub.resolve("case_30", files=FILES, endpoint=fake_hub.url, cache_dir=tmp_path / "cache", **options)
    assert fake_hub.requests


def test_the_manifest_lists_every_file_and_the_grade(collection):
    manifest = hub.load_manifest()
    assert {name: model["grade"] for name, model in manifest["models"].items()} == {"case_4": "none", "case_30": "path"}
    assert set(manifest["models"]["case_30"]["files"]) == {CONFIG_FILE, CIRCUIT_FILE, WEIGHTS_FILE, CERTIFICATE_FILE}
    for model, entry in manifest["models"].items():
        for name, sha256 in entry["files"].items():
            assert hashlib.sha256((collection / model / name).read_bytes()).hexdigest() == sha256
    first = (collection / MANIFEST_FILE).read_bytes()
    assert hub.write_manifest(collection).read_bytes() == first


@pytest.mark.parametrize("name", [CONFIG_FILE, CIRCUIT_FILE])
def test_a_bundled_file_that_was_changed_is_refused(collection, name):
    path = collection / "case_30" / name
    path.write_bytes(path.read_bytes().replace(b"case_3", b"case_4", 1))
    with pytest.raises(CheckpointError, match=rf"{name}: SHA-256 is .*, the collection's manifest\.json says"):
        hub.resolve("case_30", files=FILES)


def test_a_bundled_file_that_is_gone_is_named(collection):
    (collection / "case_30" / CIRCUIT_FILE).unlink()
    with pytest.raises(CheckpointError, match=r"circuit\.json: the file is missing"):
        hub.resolve("case_30", files=FILES)
    with pytest.raises(CheckpointError, match=r"certificate\.json: not part of the bundled model, which has circuit"):
        hub.resolve("case_4", files=(CERTIFICATE_FILE,))


def test_a_changed_manifest_is_refused(collection):
    path = collection / MANIFEST_FILE
    path.write_text(path.read_text().replace('"grade"', '"mark"'))
    with pytest.raises(
        CheckpointError, match=r"manifest\.json: at models\.case_4: .*unknown key 'mark'|missing key 'grade'"
    ):
        hub.list_models()


def test_without_a_manifest_nothing_is_bundled(monkeypatch, tmp_path):
    monkeypatch.setattr(hub, "COLLECTION", tmp_path)
    assert hub.list_models() == []
    with pytest.raises(UnknownNameError, match="unknown model 'case_3'"):
        hub.resolve("case_3", files=FILES)


def test_only_whole_checkpoints_enter_a_manifest(collection):
    (collection / "case_5").mkdir()
    with pytest.raises(CheckpointError, match=r"case_5/config\.json: the file is missing"):
        hub.write_manifest(collection)
    (collection / "case_5").rmdir()
    weights = collection / "case_30" / WEIGHTS_FILE
    weights.write_bytes(weights.read_bytes() + b" ")
    with pytest.raises(CheckpointError, match="measured on weights with SHA-256"):
        hub.write_manifest(collection)


def test_what_the_package_bundles_is_what_its_manifest_says():
    for name in hub.list_models():
        files = tuple(hub.load_manifest()["models"][name]["files"])
        assert CONFIG_FILE in files
        assert hub.resolve(name, files=files) == hub.COLLECTION / name


# -- downloads ---------------------------------------------------------------------------------------------------------


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
        ((500, {}), r"the Hub has trouble \(HTTP 500\); try again later"),
        ((503, {"Retry-After": "300"}), r"the Hub has trouble \(HTTP 503\)"),
        ((504, {}), r"the Hub has trouble \(HTTP 504\)"),
        ((200, {}), "download failed"),
    ],
)
def test_each_refusal_is_explained_at_once(fake_hub, tmp_path, failure, message):
    fake_hub.failure = failure
    start = time.monotonic()
    with pytest.raises(DownloadError, match=f"^someone/model: .*{message}"):
        hub.resolve("someone/model", files=FILES, endpoint=fake_hub.url, cache_dir=tmp_path / "cache")
    assert time.monotonic() - start < 5


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


def test_an_unknown_model_of_our_namespace_lists_those_near_it(collection, fake_hub, tmp_path):
    with pytest.raises(DownloadError, match=r"no such model.*; bundled models with similar names: case_30, case_4"):
        hub.resolve("interpbench/case_3", files=FILES, endpoint=fake_hub.url, cache_dir=tmp_path / "cache")


# -- a Hub that is not there -------------------------------------------------------------------------------------------


def dead_endpoint() -> str:
    """A port of this machine on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


def test_a_dead_endpoint_is_reported_within_ten_seconds(tmp_path):
    start = time.monotonic()
    with pytest.raises(DownloadError, match=r"^someone/model: the Hub cannot be reached \(.*and it is not cached"):
        hub.resolve("someone/model", files=FILES, endpoint=dead_endpoint(), cache_dir=tmp_path / "cache")
    assert time.monotonic() - start < 10


def test_a_host_without_an_address_is_reported(tmp_path):
    with pytest.raises(DownloadError, match="cannot be reached"):
        hub.resolve("someone/model", files=FILES, endpoint="http://nowhere.invalid", cache_dir=tmp_path / "cache")


def test_an_endpoint_that_never_answers_is_given_up(monkeypatch, tmp_path):
    monkeypatch.setattr(hub, "PATIENCE", 0.6)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        start = time.monotonic()
        with pytest.raises(DownloadError, match="cannot be reached"):
            hub.resolve("someone/model", files=FILES, endpoint=endpoint, cache_dir=tmp_path / "cache")
        assert time.monotonic() - start < 5


def test_whatever_waits_longer_than_its_sockets_say_is_given_up():
    # A host with many addresses, or a name server that is silent, holds a socket longer than its timeout.
    start = time.monotonic()
    with pytest.raises(TimeoutError, match=r"no answer within 0\.2 s"):
        hub._within(0.2, lambda: time.sleep(30))
    assert time.monotonic() - start < 2
    assert hub.PATIENCE < 9


@pytest.mark.parametrize(
    ("variables", "message"),
    [({"HF_ENDPOINT": "dead"}, "the Hub cannot be reached"), ({"HF_HUB_OFFLINE": "1"}, "offline mode")],
)
def test_the_hubs_own_environment_variables_hold(tmp_path, variables, message):
    # Read when huggingface_hub is imported, hence the process of its own.
    environment = os.environ | {"HF_HOME": str(tmp_path)} | variables
    if "HF_ENDPOINT" in environment:
        environment["HF_ENDPOINT"] = dead_endpoint()
    code = "import interpbench_hub; interpbench_hub.load_circuit('someone/model')"
    start = time.monotonic()
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert time.monotonic() - start < 10
    last = run.stderr.strip().splitlines()[-1]
    assert "DownloadError: someone/model: " in last
    assert message in last
