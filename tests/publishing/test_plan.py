"""What has to change: random repositories here and there, against set arithmetic."""

import hashlib
import subprocess
from pathlib import Path
from typing import cast

import pytest
from huggingface_hub import GitRefs, HfApi
from hypothesis import given
from hypothesis import strategies as st

from interpbench_hub.errors import PublishError
from interpbench_hub.publishing.plan import Change, Remote
from interpbench_hub.publishing.repositories import File, Repository

NAMES = ["README.md", "config.json", "model.safetensors", "old.bin"]
HEAD, OTHER = "a" * 40, "b" * 40

contents = st.dictionaries(st.sampled_from(NAMES), st.binary(max_size=2), max_size=4)


def repository(files: dict[str, bytes]) -> Repository:
    return Repository("model", "interpbench/x", {name: File(content) for name, content in files.items()}, "note")


def known_by(content: bytes, *, is_large: bool) -> str:
    return File(content).sha256 if is_large else File(content).git_sha1


@given(here=contents, there=contents, large=st.sets(st.sampled_from(NAMES)), tag=st.sampled_from([None, HEAD, OTHER]))
def test_a_change_is_the_difference_between_here_and_there(here, there, large, tag):
    listed = {name: known_by(content, is_large=name in large) for name, content in there.items()}
    remote = Remote(HEAD, listed | {".gitattributes": "c" * 40}, {"v1": tag} if tag else {})
    change = Change.of(repository(here), remote, "v1")
    assert set(change.added) == {name for name, content in here.items() if there.get(name) != content}
    assert set(change.deleted) == set(there) - set(here)
    assert change.n_bytes == sum(len(here[name]) for name in change.added)
    if here == there:
        assert change.state == ("unchanged" if tag == HEAD else "untagged")
        assert change.moves_tag == (tag == OTHER)
    else:
        assert change.state == "changed"
        assert change.moves_tag == (tag is not None)
    assert (change.summary == "") == (change.state == "unchanged")


@given(here=contents)
def test_a_repository_that_is_not_there_is_new(here):
    change = Change.of(repository(here), None, "v1")
    assert change.summary == ""
    assert (change.state, set(change.added), change.deleted, change.moves_tag) == ("new", set(here), (), False)


def test_a_repository_without_a_main_branch_is_refused():
    class Api:
        def list_repo_refs(self, repo_id: str, repo_type: str) -> GitRefs:
            return GitRefs(branches=[], converts=[], tags=[])

    with pytest.raises(PublishError, match="model x/case_3 has no branch main"):
        Remote.read(cast(HfApi, Api()), "model", "x/case_3")


@given(content=st.binary(max_size=200))
def test_hashes_are_those_of_sha256_and_of_git(content):
    file = File(content)
    assert file.sha256 == hashlib.sha256(content).hexdigest()
    assert file.git_sha1 == hashlib.sha1(b"blob " + str(len(content)).encode() + b"\0" + content).hexdigest()


def test_git_itself_gives_the_same_hash(tmp_path: Path):
    path = tmp_path / "file"
    path.write_bytes(b"some\x00content\n")
    found = subprocess.run(["git", "hash-object", path], capture_output=True, text=True, check=True).stdout.strip()
    assert File(path.read_bytes()).git_sha1 == found
