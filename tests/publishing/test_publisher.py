"""Publishing to a local Hub: what arrives, what a second call does, and what comes of every way it can go wrong."""

import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dataset_builders.circuits import circuits_files
from dataset_builders.folders import dataset_files
from dataset_builders.results import results_files
from interpbench_hub import load_certificate, load_circuit, manifest
from interpbench_hub.errors import DownloadError, PublishError, SettingError, UnknownNameError
from interpbench_hub.hub import resolve
from interpbench_hub.publishing import Outcome
from interpbench_hub.publishing.hub_collection import TITLE
from model_cards.model_card import card_files
from tests.local_hub import LocalHub

MODELS = ("case_3", "case_10", "bigram_share")
TAG = manifest.version_tag()
EVERYTHING = {
    *(("model", f"interpbench/{model}") for model in MODELS),
    *(("dataset", f"interpbench/{model}") for model in MODELS),
    ("dataset", "interpbench/circuits"),
    ("dataset", "interpbench/results"),
}


def statuses(outcomes: list[Outcome]) -> dict[str, str]:
    return {outcome.what: outcome.status for outcome in outcomes}


def assert_published(hub: LocalHub, collection: Path, data: Path) -> None:
    """Everything is there, bytes as they are here, in one commit after the Hub's own, tagged and listed."""
    assert set(hub.repositories()) == EVERYTHING
    for kind, name in EVERYTHING:
        held = hub.files(kind, name)
        held.pop(".gitattributes")
        short = name.removeprefix("interpbench/")
        if kind == "model":
            expected = {path.name: path.read_bytes() for path in (collection / short).iterdir()}
            expected |= card_files(short, collection / short)
        elif short == "circuits":
            expected = circuits_files()
        elif short == "results":
            expected = results_files()
        else:
            expected = dataset_files(data / short)
        assert held.keys() == expected.keys()
        assert held == expected
        assert len(hub.commits(kind, name)) == 2
        assert hub.files(kind, name, TAG).keys() == {*held, ".gitattributes"}
        assert list(hub.tags(kind, name)) == [TAG]
    (listed,) = hub.collections()
    assert listed["title"] == TITLE
    assert {(item["type"], item["id"]) for item in listed["items"]} == EVERYTHING


# -- what arrives ------------------------------------------------------------------------------------------------------


def test_all_arrives_byte_for_byte_in_one_commit_each(hub, put, collection, data):
    outcomes = put()
    assert set(statuses(outcomes).values()) == {"created"}
    assert len(outcomes) == len(EVERYTHING) + 1
    assert_published(hub, collection, data)
    for outcome in outcomes[:-1]:
        kind, name = outcome.what.split()
        sizes = {path: len(content) for path, content in hub.files(kind, name).items() if path != ".gitattributes"}
        assert (outcome.n_files, outcome.n_bytes) == (len(sizes), sum(sizes.values()))


def test_a_second_call_writes_nothing(hub, put, collection, data):
    put()
    hub.clear_requests()
    outcomes = put()
    assert set(statuses(outcomes).values()) == {"unchanged"}
    assert hub.writes() == []
    assert_published(hub, collection, data)


def test_what_was_published_loads_as_it_was(hub, put, tmp_path):
    put()
    for model in MODELS:
        options = {"cache_dir": tmp_path / "cache", "endpoint": hub.url, "revision": TAG}
        files = tuple(manifest.load_manifest()["models"][model]["files"])
        folder = resolve(f"interpbench/{model}", files=files, **options)
        assert str(load_circuit(folder)) == str(load_circuit(model))
        assert load_certificate(folder) == load_certificate(model)


def test_a_pinned_revision_stays_what_it_was(hub, put, tmp_path, monkeypatch, collection):
    put()
    before = hub.files("model", "interpbench/case_3", TAG)
    monkeypatch.setattr("interpbench_hub.publishing.publisher.version_tag", lambda: "v99.0.0")
    retouch(collection, "case_3")
    put()
    assert hub.files("model", "interpbench/case_3", TAG) == before
    assert hub.files("model", "interpbench/case_3") != before
    assert set(hub.tags("model", "interpbench/case_3")) == {TAG, "v99.0.0"}


def test_the_collection_starts_with_the_circuits_and_has_notes(hub, put):
    put()
    (listed,) = hub.collections()
    ids = [(item["type"], item["id"].removeprefix("interpbench/")) for item in listed["items"]]
    assert ids == [
        ("dataset", "circuits"),
        ("dataset", "results"),
        ("model", "bigram_share"),
        ("dataset", "bigram_share"),
        ("model", "case_3"),
        ("dataset", "case_3"),
        ("model", "case_10"),
        ("dataset", "case_10"),
    ]
    notes = [item["note"] for item in listed["items"]]
    assert all(notes)
    assert len(listed["description"]) <= 150
    assert "Grade path, 6 edges" in notes[4]


def test_a_note_that_has_changed_is_corrected_and_foreign_items_stay(hub, put, monkeypatch):
    put()
    monkeypatch.setattr("interpbench_hub.publishing.repositories._description", lambda case: f"About {case}.")
    hub.clear_requests()
    outcomes = put(models=["case_3"])
    assert statuses(outcomes)[f"collection interpbench/{TITLE}"] == "updated"
    notes = {(item["type"], item["id"]): item["note"] for item in hub.collections()[0]["items"]}
    assert notes["model", "interpbench/case_3"].startswith("About case_3.")
    assert len(notes) == len(EVERYTHING)


def test_everything_goes_to_the_namespace_asked_for(hub, put):
    put(namespace="owner", models=["case_3"])
    assert set(hub.repositories()) == {("model", "owner/case_3"), ("dataset", "owner/case_3")}
    card = hub.files("model", "owner/case_3")["README.md"].decode()
    assert 'load_model("owner/case_3")' in card
    assert "interpbench/case_3" not in card.partition("---\n\n")[0]


# -- what has changed --------------------------------------------------------------------------------------------------


def retouch(collection: Path, model: str) -> None:
    """Another commit in the provenance of a model: its config and its card change, nothing else."""
    path = collection / model / "config.json"
    text = path.read_text()
    config = json.loads(text)
    path.write_text(text.replace(config["provenance"]["commit"], "0" * 40))
    manifest.write_manifest(collection)


def test_what_has_changed_under_the_same_version_is_refused_unless_the_tag_may_move(hub, put, collection, data):
    put()
    retouch(collection, "case_3")
    hub.clear_requests()
    with pytest.raises(PublishError, match=rf"has tag {TAG} already, with other content, of model interpbench/case_3"):
        put()
    assert hub.writes() == []
    outcomes = {outcome.what: outcome for outcome in put(move_tag=True)}
    changed = outcomes["model interpbench/case_3"]
    assert (changed.status, changed.detail) == ("updated", "README.md, config.json")
    assert outcomes["dataset interpbench/case_3"].status == "unchanged"
    files = hub.files("model", "interpbench/case_3", TAG)
    assert files["config.json"] == (collection / "case_3" / "config.json").read_bytes()


def test_a_file_that_does_not_belong_there_is_deleted(hub, put, collection, data):
    from huggingface_hub import HfApi

    put()
    api = HfApi(hub.url, token="hf_owner")
    api.upload_file(path_or_fileobj=b"x", path_in_repo="old.bin", repo_id="interpbench/case_3")
    outcome = next(outcome for outcome in put(move_tag=True) if outcome.what == "model interpbench/case_3")
    assert (outcome.status, outcome.detail, outcome.n_files) == ("updated", "without old.bin", 1)
    assert "old.bin" not in hub.files("model", "interpbench/case_3")
    assert ".gitattributes" in hub.files("model", "interpbench/case_3")


def test_a_missing_tag_is_set_without_a_commit(hub, put, collection, data):
    from huggingface_hub import HfApi

    put()
    HfApi(hub.url, token="hf_owner").delete_tag("interpbench/case_3", tag=TAG)
    assert statuses(put())["model interpbench/case_3"] == "tagged"
    assert_published(hub, collection, data)


def test_some_models_bring_the_circuits_and_the_collection_up_to_date_only_if_they_are_there(hub, put):
    outcomes = put(models=["case_3"])
    assert list(statuses(outcomes)) == ["model interpbench/case_3", "dataset interpbench/case_3"]
    assert hub.collections() == []
    put()
    assert "dataset interpbench/circuits" in statuses(put(models=["case_10"]))


def test_a_dry_run_says_what_would_be_done_and_does_nothing(hub, put):
    planned = put(dry_run=True)
    assert hub.repositories() == [] and hub.collections() == [] and hub.writes() == []
    assert planned == put()
    assert set(statuses(put(dry_run=True)).values()) == {"unchanged"}


def test_a_dry_run_needs_no_token(hub, put):
    assert set(statuses(put(dry_run=True, token=None)).values()) == {"created"}


def test_private_repositories_are_seen_with_a_token_only(hub, put, tmp_path):
    put(private=True)
    for kind, name in EVERYTHING:
        assert hub.repository(kind, name).is_private
    assert hub.collections()[0]["private"]
    where = {"endpoint": hub.url, "revision": "main", "cache_dir": tmp_path / "cache", "files": ("config.json",)}
    with pytest.raises(DownloadError, match="private"):
        resolve("interpbench/case_3", token=False, **where)
    assert resolve("interpbench/case_3", token="hf_owner", **where).is_dir()


# -- who may publish ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("token", "message"),
    [
        (None, "no access token to publish to 'interpbench' with; run `hf auth login`"),
        ("hf_wrong", "the token is not valid"),
        ("hf_reader", "the token of owner may only read"),
        ("hf_stranger", "the token is stranger's, who may publish to stranger, but not to 'interpbench'"),
    ],
)
def test_a_token_that_may_not_publish_is_refused_before_anything_is_built(hub, put, token, message, data):
    for path in data.glob("*/*"):
        path.unlink()
    with pytest.raises(PublishError, match=message) as refused:
        put(token=token)
    assert "hf_" not in str(refused.value)
    assert hub.writes() == []
    assert not list(data.glob("*/*"))


def test_names_that_cannot_be_are_refused(put):
    with pytest.raises(UnknownNameError, match=r"unknown model 'case_33'.*nearest: case_3"):
        put(models=["case_33"])
    with pytest.raises(SettingError, match="namespace 'a/b' is no name"):
        put(namespace="a/b")


# -- a Hub that fails --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/repos/create", 503),
        ("/commit/main$", 429),
        ("/commit/main$", 500),
        ("/tag/", 503),
        ("/large-files/", 503),
        ("/refs$", 502),
    ],
)
def test_what_fails_in_passing_is_tried_again(hub, put, collection, data, path, status):
    hub.fail(path, status=status, times=2)
    assert set(statuses(put()).values()) == {"created"}
    assert_published(hub, collection, data)


@pytest.mark.parametrize("path", ["/api/repos/create", "/commit/main$", "/tag/", "/api/collections$", "/items$"])
def test_a_lost_answer_leads_to_no_second_commit(hub, put, collection, data, path):
    """The Hub has done what it was asked to, but says that it failed."""
    hub.fail(path, method="POST", status=503, handled=True)
    outcomes = put()
    assert set(statuses(outcomes).values()) == {"created"}
    assert outcomes[-1].n_files == len(EVERYTHING)
    assert_published(hub, collection, data)


def test_one_repository_that_fails_does_not_keep_the_others_from_being_published(hub, put, collection, data):
    hub.fail("/api/models/interpbench/case_10/commit", status=400, times=None, message="no such luck")
    outcomes = {outcome.what: outcome for outcome in put()}
    failed = [outcome for outcome in outcomes.values() if outcome.status == "failed"]
    assert [outcome.what for outcome in failed] == ["model interpbench/case_10"]
    assert "HTTP 400: no such luck" in failed[0].detail
    listed = {item["id"] for item in hub.collections()[0]["items"] if item["type"] == "model"}
    assert listed == {"interpbench/case_3", "interpbench/bigram_share"}
    hub.heal()
    assert {what for what, status in statuses(put()).items() if status != "unchanged"} == {
        "model interpbench/case_10",
        f"collection interpbench/{TITLE}",
    }
    assert_published(hub, collection, data)


def test_what_the_hub_asks_to_wait_for_longer_than_minutes_is_left_to_the_next_call(hub, put, collection, data):
    hub.fail("/api/models/interpbench/case_10/commit", status=429, headers={"Retry-After": "3600"}, times=None)
    outcomes = put()
    # In the order of publishing, case_3 is the second model.
    assert [outcome.what for outcome in outcomes if outcome.status == "created"][:2] == [
        "model interpbench/bigram_share",
        "model interpbench/case_3",
    ]
    refused, *rest = [outcome for outcome in outcomes if outcome.status == "failed"]
    assert "refuses more requests for now (HTTP 429" in refused.detail
    assert len(rest) == 5 and all("not tried" in outcome.detail for outcome in rest)
    hub.heal()
    put()
    assert_published(hub, collection, data)


def test_what_the_storage_raises_is_the_failure_of_one_repository(hub, put, monkeypatch):
    """With xet, errors of sending large files are those of another library."""
    from huggingface_hub import HfApi

    send = HfApi.create_commit

    def refuse(api, repo_id, *given, **options):
        if repo_id == "interpbench/case_10":
            raise PermissionError("CAS: access denied")
        return send(api, repo_id, *given, **options)

    monkeypatch.setattr(HfApi, "create_commit", refuse)
    failed = {outcome.what: outcome.detail for outcome in put() if outcome.status == "failed"}
    assert failed.keys() == {"model interpbench/case_10", "dataset interpbench/case_10"}
    assert "it could not be sent (PermissionError: CAS: access denied)" in failed["model interpbench/case_10"]


def test_a_manifest_of_another_version_is_refused(hub, put, collection, monkeypatch):
    """Else those who load that version would have what we publish now checked against it."""
    text = (collection / "manifest.json").read_text()
    version = json.loads(text)["package_version"]
    (collection / "manifest.json").write_text(text.replace(f'"package_version": "{version}"', '"package_version": "9"'))
    with pytest.raises(PublishError, match=r"manifest of the bundled models is of version 9, the package of 0\."):
        put()
    assert hub.requests == []


def test_without_a_connection_the_rest_is_not_tried(hub, put, collection, data):
    hub.drop("/(commit|create|preupload|refs)", method=None, times=None, after=2 * len(EVERYTHING))
    outcomes = put()
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    assert failed
    assert "the Hub cannot be reached" in failed[0].detail
    assert all(outcome.detail.startswith("not tried") for outcome in failed[1:-1])
    hub.heal()
    put()
    assert_published(hub, collection, data)


def test_a_hub_that_fails_two_repositories_in_a_row_is_given_up(hub, put, collection, data):
    hub.fail("/commit/main$", status=503, times=None, after=1)
    details = [outcome.detail for outcome in put() if outcome.status == "failed"]
    assert [detail.startswith("not tried: ") for detail in details] == [False, False, *[True] * (len(EVERYTHING) - 3)]
    assert all("HTTP 503" in detail for detail in details)
    hub.heal()
    put()
    assert_published(hub, collection, data)


def test_a_hub_that_is_not_there_is_an_error_within_ten_seconds(put):
    with pytest.raises(PublishError, match="the Hub cannot be reached"):
        put(endpoint="http://127.0.0.1:9")


# -- what is not whole -------------------------------------------------------------------------------------------------


def test_nothing_goes_out_if_anything_is_not_whole_and_all_of_it_is_named(hub, put, collection, monkeypatch):
    weights = collection / "case_3" / "model.safetensors"
    damaged = bytearray(weights.read_bytes())
    damaged[-1] ^= 1
    weights.write_bytes(damaged)
    (collection / "case_10" / "circuit.json").write_text("{")
    with pytest.raises(PublishError, match="nothing was published") as refused:
        put()
    text = str(refused.value)
    assert "model case_3: " in text and "model case_10: " in text and "bigram_share" not in text
    assert hub.repositories() == [] and hub.writes() == []


# -- more than one at a time -------------------------------------------------------------------------------------------


def test_two_who_publish_at_once_end_with_one_commit_each(hub, put, collection, data):
    with ThreadPoolExecutor(2) as pool:
        outcomes = [future.result() for future in [pool.submit(put), pool.submit(put)]]
    assert all(outcome.status != "failed" for both in outcomes for outcome in both)
    assert_published(hub, collection, data)


def test_who_commits_just_before_us_is_noticed(hub, put, collection, data):
    """The other one publishes everything while our first commit is on its way."""
    others: list[list[Outcome]] = []

    def overtake() -> None:
        thread = threading.Thread(target=lambda: others.append(put()))
        thread.start()
        thread.join()

    hub.before("/commit/main$", call=overtake, times=1)
    assert all(outcome.status != "failed" for outcome in put())
    assert all(outcome.status != "failed" for outcome in others[0])
    assert_published(hub, collection, data)


# -- killed ------------------------------------------------------------------------------------------------------------

SCRIPT = """
import sys
from pathlib import Path
from interpbench_hub import manifest
from interpbench_hub.publishing import publish
manifest.COLLECTION = Path(sys.argv[1])
publish(data=sys.argv[2], token="hf_owner", endpoint=sys.argv[3])
"""


@pytest.mark.slow
@pytest.mark.parametrize("handled", [False, True])
@pytest.mark.parametrize(
    "path",
    ["/api/repos/create", "/large-files/", "/commit/main$", "/tag/", "/api/collections$", "/items$"],
)
def test_a_publisher_that_is_killed_is_taken_up_by_the_next(hub, put, collection, data, path, handled):
    """`handled`: it is killed after the Hub has done what it asked for, but before it hears of it."""
    command = [sys.executable, "-c", SCRIPT, str(collection), str(data), hub.url]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        hub.before(path, call=process.kill, after=1, times=1, handled=handled)
        process.wait(timeout=120)
    assert process.returncode == -9
    hub.heal()
    assert set(hub.repositories()) <= EVERYTHING
    assert all(outcome.status != "failed" for outcome in put())
    assert_published(hub, collection, data)
    hub.clear_requests()
    put()
    assert hub.writes() == []
