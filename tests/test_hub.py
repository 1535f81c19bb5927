"""Names: which lead to a folder, to the bundled collection or to the Hub, and which cannot be."""

from pathlib import Path

import pytest

from interpbench_hub import hub, hub_errors, manifest
from interpbench_hub.constants import CERTIFICATE_FILE, CIRCUIT_FILE, CONFIG_FILE, LIBRARY_NAME
from interpbench_hub.errors import CheckpointError, DownloadError, SettingError, UnknownNameError
from tests.fake_hub import FakeHub, dead_endpoint

FILES = (CONFIG_FILE, CIRCUIT_FILE)

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


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("case_3", (None, "case_3")),
        ("interpbench/case_3", ("interpbench", "case_3")),
        ("some-one/a.b-c_1", ("some-one", "a.b-c_1")),
    ],
)
def test_a_name_is_an_id_with_or_without_a_namespace(name, parts):
    assert hub.split_name(name) == parts


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


def test_without_a_manifest_nothing_is_bundled(monkeypatch, tmp_path):
    monkeypatch.setattr(manifest, "COLLECTION", tmp_path)
    assert hub.list_models() == []
    with pytest.raises(UnknownNameError, match="unknown model 'case_3'"):
        hub.resolve("case_3", files=FILES)


def test_optional_files_are_taken_along_where_a_model_has_them(collection, certified_folder):
    optional = (CERTIFICATE_FILE, "README.md")
    for name in ("case_30", "case_4"):
        assert hub.resolve(name, files=FILES, optional=optional) == collection / name
    assert hub.resolve(certified_folder, files=FILES, optional=optional) == certified_folder
    path = collection / "case_30" / CERTIFICATE_FILE
    path.write_bytes(path.read_bytes() + b" ")
    assert hub.resolve("case_30", files=FILES) == collection / "case_30"
    with pytest.raises(CheckpointError, match=r"certificate\.json: SHA-256 is"):
        hub.resolve("case_30", files=FILES, optional=optional)


def test_an_unknown_model_of_our_namespace_lists_those_near_it(collection, fake_hub, tmp_path):
    with pytest.raises(DownloadError, match=r"no such model.*; bundled models with similar names: case_30, case_4"):
        hub.resolve("interpbench/case_3", files=FILES, endpoint=fake_hub.url, cache_dir=tmp_path / "cache")


# -- lists of models ---------------------------------------------------------------------------------------------------


def listing(name: str, *tags: str) -> dict[str, object]:
    return {"id": name, "modelId": name, "tags": list(tags)}


def test_models_on_the_hub_are_listed_in_natural_order(fake_hub):
    fake_hub.listed = [
        listing("interpbench/case_21", LIBRARY_NAME, "tracr"),
        listing("interpbench/case_3", LIBRARY_NAME),
        listing("interpbench/something-else", "transformers"),
        listing("someone/case_3", LIBRARY_NAME),
    ]
    assert hub.list_models("hub", endpoint=fake_hub.url) == ["interpbench/case_3", "interpbench/case_21"]
    assert hub.list_models("hub", endpoint=fake_hub.url, namespace="someone") == ["someone/case_3"]
    assert hub.list_models("hub", endpoint=fake_hub.url, namespace="nobody") == []


@pytest.mark.parametrize(("token", "sent"), [("hf_abc", "Bearer hf_abc"), (False, None)])
def test_the_token_goes_with_a_listing(fake_hub, token, sent):
    hub.list_models("hub", endpoint=fake_hub.url, token=token)
    assert fake_hub.tokens and set(fake_hub.tokens) == {sent}


def test_an_unknown_source_of_models_is_refused():
    with pytest.raises(UnknownNameError, match="unknown source of models 'cloud'; known: bundled, hub"):
        hub.list_models("cloud")
    for namespace in ("", "a/b", "a b", "../x"):
        with pytest.raises(UnknownNameError, match="is no namespace of the Hub"):
            hub.list_models("hub", namespace=namespace)


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        ((401, {}), r"refused \(HTTP 401\)"),
        ((429, {"Retry-After": "300"}), r"\(HTTP 429\); wait 300 s"),
        ((500, {}), r"has trouble \(HTTP 500\)"),
        ((503, {}), r"has trouble \(HTTP 503\)"),
        ((404, {}), "answered HTTP 404"),
        ((200, {}), "the download failed"),
    ],
)
def test_a_listing_that_fails_is_explained_at_once(fake_hub: FakeHub, within, failure, message):
    fake_hub.failure = failure
    with within(5), pytest.raises(DownloadError, match=f"^models of interpbench on the Hub: .*{message}"):
        hub.list_models("hub", endpoint=fake_hub.url)


def test_a_listing_from_a_hub_that_is_not_there_is_given_up(monkeypatch, within, silent_endpoint):
    with within(10), pytest.raises(DownloadError, match="the Hub cannot be reached"):
        hub.list_models("hub", endpoint=dead_endpoint())
    monkeypatch.setattr(hub_errors, "PATIENCE", 0.6)
    with within(5), pytest.raises(DownloadError, match="the Hub cannot be reached"):
        hub.list_models("hub", endpoint=silent_endpoint)
