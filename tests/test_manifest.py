"""The bundled collection: what its manifest says, what enters it, and whose checksums it vouches for."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

import interpbench_hub
from interpbench_hub import hub, manifest
from interpbench_hub.constants import CERTIFICATE_FILE, CIRCUIT_FILE, CONFIG_FILE, MANIFEST_FILE, WEIGHTS_FILE
from interpbench_hub.errors import CheckpointError
from interpbench_hub.manifest import (
    bundled_folder,
    check_sum,
    load_manifest,
    natural_order,
    pinned_sums,
    version_tag,
    write_manifest,
)
from tests.fake_hub import COMMIT, FakeHub, kept

FILES = (CONFIG_FILE, CIRCUIT_FILE)


def test_the_manifest_lists_every_file_and_the_grade(collection):
    models = load_manifest()["models"]
    assert {name: model["grade"] for name, model in models.items()} == {"case_4": "none", "case_30": "path"}
    assert set(models["case_30"]["files"]) == {CONFIG_FILE, CIRCUIT_FILE, WEIGHTS_FILE, CERTIFICATE_FILE}
    for model, entry in models.items():
        for name, sha256 in entry["files"].items():
            assert hashlib.sha256((collection / model / name).read_bytes()).hexdigest() == sha256
    first = (collection / MANIFEST_FILE).read_bytes()
    assert write_manifest(collection).read_bytes() == first


@pytest.mark.parametrize("name", [CONFIG_FILE, CIRCUIT_FILE])
def test_a_bundled_file_that_was_changed_is_refused(collection, name):
    path = collection / "case_30" / name
    path.write_bytes(path.read_bytes().replace(b"case_3", b"case_4", 1))
    with pytest.raises(CheckpointError, match=rf"{name}: SHA-256 is .*, the collection's manifest\.json says"):
        bundled_folder("case_30", FILES)


def test_a_bundled_file_that_is_gone_is_named(collection):
    (collection / "case_30" / CIRCUIT_FILE).unlink()
    with pytest.raises(CheckpointError, match=r"circuit\.json: the file is missing"):
        bundled_folder("case_30", FILES)
    with pytest.raises(CheckpointError, match=r"certificate\.json: not part of the bundled model, which has circuit"):
        bundled_folder("case_4", [CERTIFICATE_FILE])


def test_a_changed_manifest_is_refused(collection):
    path = collection / MANIFEST_FILE
    path.write_text(path.read_text().replace('"grade"', '"mark"'))
    with pytest.raises(
        CheckpointError, match=r"manifest\.json: at models\.case_4: .*(unknown key 'mark'|missing key 'gr)"
    ):
        load_manifest()


def test_only_whole_checkpoints_enter_a_manifest(collection):
    (collection / "case_5").mkdir()
    with pytest.raises(CheckpointError, match=r"case_5/config\.json: the file is missing"):
        write_manifest(collection)
    (collection / "case_5").rmdir()
    weights = collection / "case_30" / WEIGHTS_FILE
    weights.write_bytes(weights.read_bytes() + b" ")
    with pytest.raises(CheckpointError, match="measured on weights with SHA-256"):
        write_manifest(collection)


def test_what_the_package_bundles_is_what_its_manifest_says():
    for name, entry in load_manifest()["models"].items():
        assert CONFIG_FILE in entry["files"]
        assert bundled_folder(name, entry["files"]) == manifest.COLLECTION / name


def test_a_folder_without_a_manifest_holds_no_models(tmp_path):
    assert load_manifest(tmp_path) == {
        "schema_version": 1,
        "package_version": interpbench_hub.__version__,
        "models": {},
    }


def test_the_tag_of_a_version_is_the_packages_own_if_none_is_given():
    assert version_tag("1.2.3") == "v1.2.3"
    assert version_tag() == f"v{interpbench_hub.__version__}"


def test_checksums_are_pinned_for_our_models_at_the_tag_of_the_manifest_only(collection, monkeypatch):
    monkeypatch.setattr(manifest, "_package_version", lambda: "2.3.4")
    write_manifest(collection)
    sums = load_manifest()["models"]["case_30"]["files"]
    assert len(sums) == 4
    assert pinned_sums("interpbench/case_30", "v2.3.4") == sums
    for repo, revision in (
        ("interpbench/case_30", "main"),
        ("interpbench/case_30", "v2.3.5"),
        ("interpbench/case_31", "v2.3.4"),
        ("someone/case_30", "v2.3.4"),
    ):
        assert pinned_sums(repo, revision) == {}, (repo, revision)


def test_a_wrong_checksum_names_file_rule_finding_and_remedy(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    check_sum(path, hashlib.sha256(b"abc").hexdigest(), "fetch it again")
    for what, named in ((None, str(path)), ("the Hub's file", "the Hub's file")):
        said = r"SHA-256 is ba7816bf8f01\.\.\., the collection's manifest\.json says 000000000000\.\.\.; fetch it again"
        with pytest.raises(CheckpointError, match=f"^{named}: {said}"):
            check_sum(path, "0" * 64, "fetch it again", what=what)


def test_names_are_ordered_as_people_count():
    names = ["case_21", "dyck_2", "case_3", "case_3_siit", "case_100", "2", "10"]
    assert sorted(names, key=natural_order) == ["2", "10", "case_3", "case_3_siit", "case_21", "case_100", "dyck_2"]


# -- published revisions -----------------------------------------------------------------------------------------------


@pytest.fixture
def pinned(collection: Path, fake_hub: FakeHub, options: dict[str, Any]) -> dict[str, Any]:
    """The Hub has case_30 of the bundled collection, under the tag of this version."""
    tag = version_tag(load_manifest()["package_version"])
    fake_hub.repo, fake_hub.revisions = "interpbench/case_30", ("main", tag, COMMIT)
    fake_hub.files = {path.name: path.read_bytes() for path in (collection / "case_30").iterdir()}
    return options | {"revision": tag}


@pytest.mark.parametrize("name", ["case_30", "interpbench/case_30"])
def test_a_published_model_is_what_the_manifest_says(pinned, fake_hub, name):
    folder = hub.resolve(name, **pinned)
    assert folder.is_relative_to(pinned["cache_dir"])
    assert hub.resolve(name, **pinned, local_files_only=True) == folder
    assert any(request.startswith("GET") for request in fake_hub.requests)


def test_a_published_file_that_is_another_is_refused_and_not_kept(pinned, fake_hub):
    right = fake_hub.files[CIRCUIT_FILE]
    fake_hub.files[CIRCUIT_FILE] = right.replace(b"case_3", b"case_4", 1)
    message = (
        r"^interpbench/case_30 at revision 'v.*': circuit\.json: SHA-256 is \w{12}\.\.\., the collection's "
        r"manifest\.json says \w{12}\.\.\.; the Hub serves another file than was published; .*leave the revision out"
    )
    for force in (False, True, False):
        with pytest.raises(CheckpointError, match=message):
            hub.resolve("case_30", **pinned, force_download=force)
        assert kept(pinned["cache_dir"]) == []
    # Any other revision may hold what it likes.
    assert hub.resolve("interpbench/case_30", **pinned | {"revision": "main"})
    fake_hub.files[CIRCUIT_FILE] = right
    assert hub.resolve("case_30", **pinned, force_download=True)


def test_files_the_manifest_does_not_name_are_not_its_business(pinned, fake_hub):
    fake_hub.files["README.md"] = b"# card"
    folder = hub.resolve("case_30", **pinned, optional=("README.md",))
    assert (folder / "README.md").read_bytes() == b"# card"


@pytest.mark.parametrize("how", ["asking", "offline", "down"])
def test_a_cached_file_of_a_published_revision_that_was_changed_is_refused(pinned, fake_hub, how):
    folder = hub.resolve("case_30", **pinned)
    path = folder / CIRCUIT_FILE
    right = path.read_bytes()
    path.write_bytes(right.replace(b"case_3", b"case_4", 1))
    if how == "down":
        fake_hub.failure = (503, {})
    for _ in range(2):
        with pytest.raises(
            CheckpointError,
            match=r"circuit\.json: SHA-256 is .* says .*the cached file is not the published one; fetch",
        ):
            hub.resolve("case_30", **pinned, local_files_only=how == "offline")
    fake_hub.heal()
    assert hub.resolve("case_30", **pinned, force_download=True) == folder
    assert path.read_bytes() == right
    assert hub.resolve("case_30", **pinned) == folder
