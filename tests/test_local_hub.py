"""The local Hub against the real clients: it understands them, and its answers mean to them what the Hub's do."""

import hashlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationCopy,
    CommitOperationDelete,
    HfApi,
    hf_hub_download,
    snapshot_download,
)
from huggingface_hub.errors import (
    BadRequestError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tests.local_hub import LocalHub

# huggingface_hub 2.4 sends large files, when not by xet, in a way that its own HTTP client calls deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes:DeprecationWarning")

MODEL = "interpbench/case_3"
CARD = "---\nlicense: cc-by-4.0\ntags:\n- circuit\n---\n\n# case_3\n"
WEIGHTS = bytes(range(256)) * 40
FILES = {"README.md": CARD.encode(), "circuit.json": b'{"edges": []}', "weights/model.safetensors": WEIGHTS}


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[LocalHub]:
    users = {"hf_owner": "interpbench", "hf_other": "someone", "hf_reader": "interpbench"}
    with LocalHub(tmp_path / "hub", users, {"someone": ["mechanists"]}, read_only={"hf_reader"}, page_size=3) as hub:
        yield hub


@pytest.fixture
def owner(hub: LocalHub) -> HfApi:
    return HfApi(endpoint=hub.url, token="hf_owner")


@pytest.fixture
def other(hub: LocalHub) -> HfApi:
    return HfApi(endpoint=hub.url, token="hf_other")


@pytest.fixture
def nobody(hub: LocalHub) -> HfApi:
    return HfApi(endpoint=hub.url, token=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, data in FILES.items():
        path = tmp_path / "files" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return tmp_path / "files"


@pytest.fixture
def model(owner: HfApi, folder: Path) -> str:
    owner.create_repo(MODEL)
    owner.upload_folder(repo_id=MODEL, folder_path=folder, commit_message="Add case_3")
    return MODEL


def add(path: str, data: bytes = b"data") -> CommitOperationAdd:
    return CommitOperationAdd(path, data)


def status_of(call: Callable[[], Any]) -> int:
    """The status with which the Hub refuses a call."""
    with pytest.raises(HfHubHTTPError) as caught:
        call()
    return caught.value.response.status_code


# -- files -------------------------------------------------------------------------------------------------------------


def test_what_is_uploaded_comes_back_to_the_byte(hub, owner, model, tmp_path):
    assert {name: data for name, data in hub.files("model", model).items() if name in FILES} == FILES
    assert hub.commits("model", model) == ["Add case_3", "initial commit"]
    found = Path(snapshot_download(model, endpoint=hub.url, token=False, cache_dir=tmp_path / "cache"))
    assert {name: (found / name).read_bytes() for name in FILES} == FILES
    assert set(owner.list_repo_files(model)) == {*FILES, ".gitattributes"}


def test_the_second_upload_of_a_folder_commits_nothing(hub, owner, model, folder):
    before = hub.commits("model", model)
    hub.clear_requests()
    owner.upload_folder(repo_id=model, folder_path=folder)
    assert hub.commits("model", model) == before
    assert hub.writes() == []
    assert any("/preupload/" in request.path for request in hub.requests)


def test_a_changed_file_is_the_only_one_sent(hub, owner, model, folder):
    (folder / "circuit.json").write_bytes(b"{}")
    hub.clear_requests()
    owner.upload_folder(repo_id=model, folder_path=folder, commit_message="Change the circuit")
    assert [request.path for request in hub.writes()] == [f"/api/models/{model}/commit/main"]
    assert hub.files("model", model)["circuit.json"] == b"{}"


def test_files_are_deleted_and_copied(hub, owner, model):
    operations = [
        CommitOperationCopy("weights/model.safetensors", "model.safetensors"),
        CommitOperationDelete("circuit.json"),
    ]
    owner.create_commit(model, operations, commit_message="Move files")
    owner.create_commit(model, [CommitOperationDelete("weights/")], commit_message="Delete a folder")
    assert set(hub.files("model", model)) == {".gitattributes", "README.md", "model.safetensors"}
    assert hub.files("model", model)["model.safetensors"] == WEIGHTS
    with pytest.raises(RemoteEntryNotFoundError, match="A file with this name doesn't exist"):
        owner.delete_file("circuit.json", model)


def test_trees_and_paths_show_files_and_folders(owner, model):
    assert {item.path for item in owner.list_repo_tree(model)} == {
        "README.md",
        "circuit.json",
        "weights",
        ".gitattributes",
    }
    assert {item.path for item in owner.list_repo_tree(model, recursive=True)} == {
        *FILES,
        "weights",
        ".gitattributes",
    }
    assert [item.path for item in owner.list_repo_tree(model, "weights")] == ["weights/model.safetensors"]
    weights, where = owner.get_paths_info(model, ["weights/model.safetensors", "weights", "nowhere"])
    assert weights.lfs.sha256 == hashlib.sha256(WEIGHTS).hexdigest()
    assert (weights.size, where.path) == (len(WEIGHTS), "weights")
    with pytest.raises(RemoteEntryNotFoundError):
        list(owner.list_repo_tree(model, "nowhere"))


def test_a_range_is_part_of_a_file(hub, model):
    url = f"{hub.url}/{model}/resolve/main/weights/model.safetensors"
    for header, part in (("0-9", WEIGHTS[:10]), ("100-", WEIGHTS[100:]), ("-7", WEIGHTS[-7:]), ("5-5", WEIGHTS[5:6])):
        response = httpx2.get(url, headers={"Range": f"bytes={header}"})
        assert (response.status_code, response.content) == (206, part)
        assert response.headers["Content-Range"].endswith(f"/{len(WEIGHTS)}")
    assert httpx2.get(url, headers={"Range": f"bytes={len(WEIGHTS)}-"}).status_code == 416
    head = httpx2.head(url)
    assert (head.status_code, head.content, head.headers["Content-Length"]) == (200, b"", str(len(WEIGHTS)))


def test_large_files_must_arrive_before_the_commit(hub, model):
    body = '{"key": "header", "value": {"summary": "x"}}\n{"key": "lfsFile", "value": {"path": "a", "oid": "%s"}}'
    response = httpx2.post(
        f"{hub.url}/api/models/{model}/commit/main",
        content=body % ("0" * 64),
        headers={"Authorization": "Bearer hf_owner"},
    )
    assert (response.status_code, "does not exist" in response.text) == (400, True)
    assert hub.commits("model", model)[0] == "Add case_3"
    wrong = httpx2.put(f"{hub.url}/large-files/{'0' * 64}", content=b"something else")
    assert wrong.status_code == 400


def test_a_commit_is_applied_whole_or_not_at_all(hub, owner, model):
    with pytest.raises(RemoteEntryNotFoundError):
        owner.create_commit(model, [add("new.txt"), CommitOperationDelete("nowhere")], commit_message="Half")
    assert "new.txt" not in hub.files("model", model)


# -- revisions ---------------------------------------------------------------------------------------------------------


def test_tags_stay_where_they_are_put(hub, owner, model):
    owner.create_tag(model, tag="v1")
    commit = owner.repo_info(model).sha
    owner.upload_file(path_or_fileobj=b"new", path_in_repo="circuit.json", repo_id=model)
    assert hub.tags("model", model) == {"v1": commit}
    assert [(tag.name, tag.target_commit) for tag in owner.list_repo_refs(model).tags] == [("v1", commit)]
    assert hub.files("model", model, "v1")["circuit.json"] == FILES["circuit.json"]
    assert owner.repo_info(model, revision="v1").sha == commit
    assert status_of(lambda: owner.create_tag(model, tag="v1")) == 409
    owner.create_tag(model, tag="v1", exist_ok=True)
    assert hub.tags("model", model) == {"v1": commit}
    owner.delete_tag(model, tag="v1")
    assert hub.tags("model", model) == {}
    with pytest.raises(RevisionNotFoundError):
        owner.delete_tag(model, tag="v1")


def test_branches_move_apart(hub, owner, model, tmp_path):
    owner.create_branch(model, branch="new/shape")
    owner.create_commit(model, [add("circuit.json", b"new")], commit_message="Try", revision="new/shape")
    assert hub.files("model", model)["circuit.json"] == FILES["circuit.json"]
    found = hf_hub_download(
        model, "circuit.json", revision="new/shape", endpoint=hub.url, token=False, cache_dir=tmp_path
    )
    assert Path(found).read_bytes() == b"new"
    assert status_of(lambda: owner.create_branch(model, branch="new/shape")) == 409
    owner.delete_branch(model, branch="new/shape")
    with pytest.raises(RevisionNotFoundError):
        owner.repo_info(model, revision="new/shape")


def test_a_stale_parent_is_refused(hub, owner, model):
    stale = owner.repo_info(model).sha
    owner.create_commit(model, [add("a")], commit_message="First", parent_commit=stale)
    late = lambda: owner.create_commit(model, [add("b")], commit_message="Second", parent_commit=stale)  # noqa: E731
    assert status_of(late) == 412
    assert hub.commits("model", model)[0] == "First"


def test_of_commits_at_the_same_time_on_one_parent_one_wins(hub, owner, model):
    parent = owner.repo_info(model).sha
    outcomes: list[int] = []

    def commit(index: int) -> None:
        try:
            owner.create_commit(model, [add(f"{index}")], commit_message=f"{index}", parent_commit=parent)
            outcomes.append(200)
        except HfHubHTTPError as error:
            outcomes.append(error.response.status_code)

    threads = [threading.Thread(target=commit, args=(index,)) for index in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == [200] + [412] * 5
    assert len(hub.commits("model", model)) == 3


def test_history_is_listed_newest_first_over_pages(hub, owner, model):
    for index in range(5):
        owner.create_commit(model, [add(f"{index}")], commit_message=f"Add {index}")
    titles = [commit.title for commit in owner.list_repo_commits(model)]
    assert titles == hub.commits("model", model) == [f"Add {index}" for index in range(4, -1, -1)] + titles[-2:]


@pytest.mark.parametrize(("revision", "name", "error"), [
    ("v9", "circuit.json", RevisionNotFoundError),
    ("main", "nowhere.json", RemoteEntryNotFoundError),
])  # fmt: skip
def test_what_is_not_there_has_its_own_error(hub, model, tmp_path, revision, name, error):
    with pytest.raises(error):
        hf_hub_download(model, name, revision=revision, endpoint=hub.url, token=False, cache_dir=tmp_path)


# -- who may do what ---------------------------------------------------------------------------------------------------


def test_whoami_tells_user_role_and_organizations(hub, owner, other):
    assert owner.whoami()["name"] == "interpbench"
    assert [(org["name"], org["roleInOrg"]) for org in other.whoami()["orgs"]] == [("mechanists", "write")]
    roles = [api.whoami()["auth"]["accessToken"]["role"] for api in (owner, HfApi(hub.url, token="hf_reader"))]
    assert roles == ["write", "read"]


def test_a_wrong_token_is_refused_even_for_reading(hub, model):
    wrong = HfApi(endpoint=hub.url, token="hf_wrong")
    for call in (wrong.whoami, lambda: wrong.repo_info(model), lambda: wrong.create_repo("interpbench/new")):
        with pytest.raises(HfHubHTTPError, match=r"Invalid (credentials|user token)") as caught:
            call()
        assert caught.value.response.status_code == 401
        assert not isinstance(caught.value, RepositoryNotFoundError)


def test_a_private_repository_is_not_there_for_others(hub, owner, other, nobody):
    owner.create_repo(MODEL, private=True)
    assert owner.repo_info(MODEL).private
    for api, status in ((other, 404), (nobody, 401)):
        with pytest.raises(RepositoryNotFoundError) as caught:
            api.repo_info(MODEL)
        assert caught.value.response.status_code == status
        assert list(api.list_models()) == []
        with pytest.raises(RepositoryNotFoundError):
            api.hf_hub_download(MODEL, ".gitattributes")
    with pytest.raises(RepositoryNotFoundError):
        other.create_commit(MODEL, [add("a")], commit_message="Break in")
    owner.update_repo_settings(MODEL, private=False)
    assert not nobody.repo_info(MODEL).private


def test_only_those_who_may_write_write(hub, owner, other, nobody, model):
    reader = HfApi(endpoint=hub.url, token="hf_reader")
    hub.clear_requests()
    for api, status in ((other, 403), (reader, 403), (nobody, 401)):
        assert status_of(lambda api=api: api.create_repo("interpbench/new")) == status
        assert status_of(lambda api=api: api.create_commit(model, [add("a")], commit_message="x")) == status
        assert status_of(lambda api=api: api.create_tag(model, tag="v1")) == status
        assert status_of(lambda api=api: api.delete_repo(model)) == status
        assert status_of(lambda api=api: api.create_collection("x", namespace="interpbench")) == status
    assert hub.repositories() == [("model", model)]
    assert len(hub.commits("model", model)) == 2
    assert {request.status for request in hub.writes()} == {401, 403}


def test_members_write_to_their_organization(hub, owner, other):
    other.create_repo("mechanists/case_3", private=True)
    other.create_commit("mechanists/case_3", [add("a")], commit_message="Add a")
    with pytest.raises(RepositoryNotFoundError):
        owner.repo_info("mechanists/case_3")
    assert status_of(lambda: owner.create_repo("mechanists/mine")) == 403


def test_a_repository_is_created_once(hub, owner):
    assert owner.create_repo(MODEL, repo_type="dataset").url == f"{hub.url}/datasets/{MODEL}"
    assert status_of(lambda: owner.create_repo(MODEL, repo_type="dataset")) == 409
    owner.create_repo(MODEL, repo_type="dataset", exist_ok=True)
    owner.create_repo(MODEL)
    assert hub.repositories() == [("dataset", MODEL), ("model", MODEL)]
    owner.delete_repo(MODEL)
    owner.delete_repo(MODEL, missing_ok=True)
    assert hub.repositories() == [("dataset", MODEL)]


# -- cards -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "yaml", "message"), [
    ("model", "license: [", "YAML metadata cannot be read"),
    ("model", "tags: [a]\ntags: [b]", "duplicated mapping key"),
    ("model", "- a", "metadata must be an object"),
    ("model", "license: my-own", '"license" must be one of'),
    ("model", "license: 4", '"license" must be one of'),
    ("model", "tags: circuit", '"tags" must be an array'),
    ("model", "tags: [a, 4]", r'"tags\[1\]" must be a string'),
    ("model", "pipeline_tag: [a]", '"pipeline_tag" must be a string'),
    ("model", "model-index: case_3", '"model-index" must be an array'),
    ("model", "model-index: [{results: []}]", r'"model-index\[0\].name" is required'),
    ("model", "model-index: [{name: a}]", r'"model-index\[0\].results" is required'),
    ("model", "model-index: [{name: a, results: [{task: {type: t}, dataset: {type: d, name: n}, metrics: [{}]}]}]",
     r'"model-index\[0\].results\[0\].metrics\[0\].value" is required'),
    ("dataset", "configs: [{data_files: a.parquet}]", r'"configs\[0\].config_name" is required'),
    ("dataset", "configs: [{config_name: a}]", r'"configs\[0\].data_files" is required'),
    ("dataset", "configs: [{config_name: a, data_files: [{path: a.parquet}]}]", r"data_files\[0\].split.* is required"),
])  # fmt: skip
def test_bad_metadata_is_refused(hub, owner, kind, yaml, message):
    owner.create_repo(MODEL, repo_type=kind)
    card = f"---\n{yaml}\n---\n"
    with pytest.raises(ValueError, match=f"(?s)Invalid metadata in README.md.*{message}"):
        owner.upload_file(path_or_fileobj=card.encode(), path_in_repo="README.md", repo_id=MODEL, repo_type=kind)
    # The commit itself refuses it too: clients that do not ask first get no further.
    owner._validate_yaml = lambda *_, **__: None
    with pytest.raises(BadRequestError, match=message):
        owner.upload_file(path_or_fileobj=card.encode(), path_in_repo="README.md", repo_id=MODEL, repo_type=kind)
    assert "README.md" not in hub.files(kind, MODEL)


def test_a_card_without_metadata_gets_a_warning(hub, owner):
    owner.create_repo(MODEL)
    with pytest.warns(UserWarning, match="empty or missing yaml metadata"):
        owner.upload_file(path_or_fileobj=b"# case_3\n", path_in_repo="README.md", repo_id=MODEL)


def test_good_metadata_is_taken_and_described(hub, owner):
    card = """---
library_name: interpbench
license: cc-by-4.0
tags: [circuit]
datasets: [interpbench/inputs]
model-index:
- name: case_3
  results:
  - task: {type: other}
    dataset: {type: interpbench/inputs, name: case_3}
    metrics: [{type: accuracy, value: 1.0}]
---
"""
    owner.create_repo(MODEL)
    owner.upload_file(path_or_fileobj=card.encode(), path_in_repo="README.md", repo_id=MODEL)
    info = owner.model_info(MODEL, files_metadata=True)
    assert {"interpbench", "circuit", "license:cc-by-4.0", "dataset:interpbench/inputs"} <= set(info.tags)
    assert info.card_data.license == "cc-by-4.0"
    assert info.card_data.eval_results[0].metric_value == 1.0
    assert {file.rfilename: file.size for file in info.siblings}["README.md"] == len(card)
    assert (info.downloads, info.private, info.created_at <= info.last_modified) == (0, False, True)
    assert owner.model_info(MODEL, expand=["sha"]).sha == info.sha


# -- lists -------------------------------------------------------------------------------------------------------------


def test_lists_come_in_pages(hub, owner, nobody):
    names = [f"interpbench/case_{number}" for number in range(8)]
    for name in names:
        owner.create_repo(name)
    owner.create_repo("interpbench/hidden", private=True)
    owner.create_repo("interpbench/case_3", repo_type="dataset")
    hub.clear_requests()
    assert [model.id for model in nobody.list_models()] == names
    assert [request.path for request in hub.requests] == ["/api/models"] * 3
    assert [model.id for model in nobody.list_models(limit=4)] == names[:4]
    assert [model.id for model in owner.list_models(author="interpbench", search="HID")] == ["interpbench/hidden"]
    assert list(owner.list_models(author="someone")) == []
    assert [dataset.id for dataset in nobody.list_datasets()] == ["interpbench/case_3"]


def test_lists_are_filtered_by_tags(owner, nobody, model):
    owner.create_repo("interpbench/plain")
    assert [found.id for found in nobody.list_models(filter="circuit")] == [model]
    assert list(nobody.list_models(filter=["circuit", "license:mit"])) == []
    (found,) = nobody.list_models(filter="circuit")
    assert (found.sha, found.card_data, found.siblings) == (None, None, None)
    (found,) = nobody.list_models(filter="circuit", full=True, cardData=True)
    assert found.card_data.license == "cc-by-4.0"
    assert len(found.siblings) == 4


# -- collections -------------------------------------------------------------------------------------------------------


def test_collections_are_made_once_and_changed(hub, owner, nobody, model):
    made = owner.create_collection("Certified circuits", description="Small models")
    assert made.slug.startswith("interpbench/certified-circuits-")
    with pytest.raises(HfHubHTTPError) as caught:
        owner.create_collection("Certified circuits")
    assert (caught.value.response.status_code, caught.value.response.json()["slug"]) == (409, made.slug)
    assert owner.create_collection("Certified circuits", exists_ok=True).slug == made.slug
    owner.add_collection_item(made.slug, model, "model", note="Grade edge")
    assert status_of(lambda: owner.add_collection_item(made.slug, model, "model")) == 409
    (item,) = nobody.get_collection(made.slug).items
    assert (item.item_id, item.note, item.position) == (model, "Grade edge", 0)
    owner.update_collection_item(made.slug, item.item_object_id, note="Grade path")
    assert hub.collections()[0]["items"] == [{"type": "model", "id": model, "note": "Grade path"}]
    renamed = owner.update_collection_metadata(made.slug, title="Circuits", private=True)
    assert renamed.slug != made.slug
    assert owner.get_collection(made.slug).slug == renamed.slug
    assert status_of(lambda: nobody.get_collection(renamed.slug)) == 404
    owner.delete_collection_item(made.slug, item.item_object_id)
    assert hub.collections()[0]["items"] == []
    owner.delete_collection(made.slug)
    owner.delete_collection(made.slug, missing_ok=True)
    assert hub.collections() == []


def test_lists_of_collections_show_few_items(owner, other, nobody):
    slug = owner.create_collection("Circuits").slug
    owner.create_collection("Hidden", private=True)
    other.create_collection("Circuits", namespace="mechanists")
    for number in range(6):
        owner.create_repo(f"interpbench/case_{number}", private=number == 5)
        owner.add_collection_item(slug, f"interpbench/case_{number}", "model")
    (listed,) = nobody.list_collections(owner="interpbench")
    assert (listed.slug, len(listed.items)) == (slug, 4)
    assert len(nobody.get_collection(slug).items) == 5
    assert len(owner.get_collection(slug).items) == 6
    assert [found.title for found in owner.list_collections(owner="interpbench")] == ["Circuits", "Hidden"]
    (org,) = nobody.list_collections(owner="mechanists")
    assert org.owner == {"name": "mechanists", "type": "org"}


def test_texts_of_collections_are_short(owner, model):
    assert status_of(lambda: owner.create_collection("Circuits", description="x" * 151)) == 400
    slug = owner.create_collection("Circuits", description="x" * 150).slug
    assert status_of(lambda: owner.update_collection_metadata(slug, description="x" * 151)) == 400
    assert status_of(lambda: owner.add_collection_item(slug, model, "model", note="x" * 501)) == 400
    (item,) = owner.add_collection_item(slug, model, "model", note="x" * 500).items
    assert status_of(lambda: owner.update_collection_item(slug, item.item_object_id, note="x" * 501)) == 400
    with pytest.raises(RepositoryNotFoundError):
        owner.add_collection_item(slug, "interpbench/nothing", "model")


# -- faults ------------------------------------------------------------------------------------------------------------


def test_ordered_requests_fail_and_others_do_not(hub, owner, model):
    hub.fail(method="POST", path="/commit/", status=502, after=1, times=2)
    commit = lambda: owner.create_commit(model, [add(f"{time.time_ns()}")], commit_message="x")  # noqa: E731
    commit()
    assert [status_of(commit), status_of(commit)] == [502, 502]
    commit()
    assert len(hub.commits("model", model)) == 4
    assert [request.status for request in hub.requests if "/commit/" in request.path] == [200, 200, 502, 502, 200]
    hub.fail(path="/commit/", times=None)
    assert [status_of(commit), status_of(commit)] == [503, 503]
    hub.heal()
    commit()


def test_a_failure_says_what_it_is_told_to(hub, owner, model):
    hub.fail(path="/api/models/", status=429, headers={"Retry-After": "7"}, message="Slow down")
    with pytest.raises(HfHubHTTPError, match="Slow down") as caught:
        owner.repo_info(model)
    assert caught.value.response.headers["Retry-After"] == "7"
    assert owner.repo_info(model).id == model


@pytest.mark.parametrize("handled", [False, True])
def test_a_dropped_request_may_have_been_handled(hub, owner, model, handled):
    hub.drop(path="/commit/", handled=handled)
    with pytest.raises(httpx2.RemoteProtocolError):
        owner.create_commit(model, [add("new.txt")], commit_message="Lost")
    assert ("new.txt" in hub.files("model", model)) == handled
    assert hub.writes()[-1].status is None


def test_a_hanging_request_goes_on_when_healed(hub, owner, model):
    hub.hang(path="/api/models/", seconds=60, times=None)
    with pytest.raises(httpx2.TimeoutException):
        owner.repo_info(model, timeout=0.1)
    threading.Timer(0.2, hub.heal).start()
    start = time.monotonic()
    assert owner.repo_info(model, timeout=30).id == model
    assert 0.1 < time.monotonic() - start < 20


def test_a_truncated_file_ends_early(hub, model):
    url = f"{hub.url}/{model}/resolve/main/weights/model.safetensors"
    hub.truncate(path="safetensors", keep=100)
    with httpx2.stream("GET", url) as response:
        assert response.headers["Content-Length"] == str(len(WEIGHTS))
        received = b""
        with pytest.raises(httpx2.RemoteProtocolError):
            for part in response.iter_raw():
                received += part
    assert received == WEIGHTS[:100]
    assert httpx2.get(url).content == WEIGHTS


def test_a_corrupted_file_has_its_size_and_one_wrong_byte(hub, model, tmp_path):
    hub.corrupt(path="safetensors", times=1)
    found = Path(
        hf_hub_download(model, "weights/model.safetensors", endpoint=hub.url, token=False, cache_dir=tmp_path)
    ).read_bytes()
    assert len(found) == len(WEIGHTS)
    assert sum(ours != theirs for ours, theirs in zip(found, WEIGHTS, strict=True)) == 1


def test_another_client_races_in_the_midst_of_a_request(hub, owner, model):
    rival = HfApi(endpoint=hub.url, token="hf_owner")
    parent = owner.repo_info(model).sha
    hub.before(path="/commit/", call=lambda: rival.create_commit(model, [add("a")], commit_message="Rival"))
    late = lambda: owner.create_commit(model, [add("b")], commit_message="Late", parent_commit=parent)  # noqa: E731
    assert status_of(late) == 412
    assert hub.commits("model", model)[0] == "Rival"


def test_a_client_that_is_killed_in_the_midst_of_a_request_does_no_harm(hub, owner, model):
    clients: list[subprocess.Popen[bytes]] = []
    hub.before(path="refs", call=lambda: clients[0].kill(), handled=True)
    program = f"import urllib.request; urllib.request.urlopen('{hub.url}/api/models/{model}/refs')"
    clients.append(subprocess.Popen([sys.executable, "-c", program]))
    assert clients[0].wait(30) < 0
    hub.clear_requests()
    start = '{"key": "header", "value": {"summary": "Half"}}\n'
    head = f"POST /api/models/{model}/commit/main HTTP/1.1\r\nAuthorization: Bearer hf_owner\r\nContent-Length: 999\r\n"
    with socket.create_connection(("127.0.0.1", int(hub.url.rpartition(":")[2]))) as connection:
        connection.sendall(f"{head}\r\n{start}".encode())
    owner.create_commit(model, [add("a")], commit_message="Whole")
    assert hub.commits("model", model)[:2] == ["Whole", "Add case_3"]
    assert len(hub.writes()) == 1


def test_an_error_in_the_midst_of_a_request_reaches_the_test(tmp_path):
    def fail() -> None:
        raise ZeroDivisionError

    with (
        pytest.raises(AssertionError, match="the local Hub failed") as caught,
        LocalHub(tmp_path, {"hf_owner": "interpbench"}) as hub,
    ):
        hub.before(path="whoami", call=fail)
        assert status_of(HfApi(endpoint=hub.url, token="hf_owner").whoami) == 500
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_closed_hub_answers_nobody(tmp_path):
    with LocalHub(tmp_path, {}) as hub, httpx2.Client() as client:
        assert client.get(f"{hub.url}/api/models").json() == []
        hub.__exit__(None, None, None)
        with pytest.raises(httpx2.TransportError):
            client.get(f"{hub.url}/api/models")


# -- other clients -----------------------------------------------------------------------------------------------------


def run_client(hub: LocalHub, home: Path, *command: str, token: str = "") -> str:
    """What a command prints that talks to the local Hub from a process of its own."""
    settings = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": token}
    done = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


LOAD = """
import sys
from datasets import get_dataset_config_names, load_dataset
name = sys.argv[1]
print(get_dataset_config_names(name))
print(load_dataset(name, "case_3", split="train")["token"][:])
print([row["token"] for row in load_dataset(name, "case_3", split="test", streaming=True)])
"""


@pytest.mark.slow
def test_datasets_are_loaded_and_streamed(hub, owner, tmp_path):
    name = "interpbench/inputs"
    card = """---
license: cc-by-4.0
configs:
- config_name: case_3
  default: true
  data_files:
  - {split: train, path: case_3/train.parquet}
  - {split: test, path: case_3/test.parquet}
- config_name: case_4
  data_files: case_4/*.parquet
---
"""
    folder = tmp_path / "inputs"
    for path, tokens in (("case_3/train", "abc"), ("case_3/test", "xy"), ("case_4/train", "c")):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"token": list(tokens)}), folder / f"{path}.parquet")
    (folder / "README.md").write_text(card)
    owner.create_repo(name, repo_type="dataset")
    owner.upload_folder(repo_id=name, folder_path=folder, repo_type="dataset")
    printed = run_client(hub, tmp_path / "home", sys.executable, "-c", LOAD, name)
    assert printed.splitlines() == ["['case_3', 'case_4']", "['a', 'b', 'c']", "['x', 'y']"]


@pytest.mark.slow
def test_the_command_line_client_uploads_and_downloads(hub, folder, tmp_path):
    hf = str(Path(sys.executable).parent / "hf")
    home = tmp_path / "home"
    assert "interpbench" in run_client(hub, home, hf, "auth", "whoami", token="hf_owner")
    run_client(hub, home, hf, "repos", "create", MODEL, token="hf_owner")
    run_client(hub, home, hf, "upload", MODEL, str(folder), ".", token="hf_owner")
    run_client(hub, home, hf, "download", MODEL, "--local-dir", str(tmp_path / "back"))
    assert {name: (tmp_path / "back" / name).read_bytes() for name in FILES} == FILES
