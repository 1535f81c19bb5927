"""Commands that fetch models and verify them."""

import hashlib
import json
from pathlib import Path

import pytest

from interpbench_hub import manifest, verification
from interpbench_hub.constants import CARD_FILE, CERTIFICATE_FILE, CIRCUIT_FILE, CONFIG_FILE, WEIGHTS_FILE
from interpbench_hub.errors import CheckpointError, DownloadError, SettingError, UnknownNameError
from tests.commands import call, main
from tests.fake_hub import COMMIT

ALL_FILES = {CONFIG_FILE, WEIGHTS_FILE, CIRCUIT_FILE, CERTIFICATE_FILE}


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# -- download ----------------------------------------------------------------------------------------------------------


def test_what_is_bundled_is_found_without_a_request(collection, hub_of_the_library):
    assert call("download", "case_30", "interpbench/case_4") == (
        0,
        f"case_30: {collection / 'case_30'}\ninterpbench/case_4: {collection / 'case_4'}\n",
    )
    assert call("download", "--all")[1] == f"case_4: {collection / 'case_4'}\ncase_30: {collection / 'case_30'}\n"
    assert hub_of_the_library.requests == []


def test_all_files_of_a_repository_are_fetched(hub_of_the_library, tmp_path):
    hub_of_the_library.files |= {CARD_FILE: b"# card", "circuit.svg": b"<svg/>"}
    code, text = call("download", "someone/model", "--cache-dir", tmp_path / "cache")
    assert code == 0
    folder = Path(text.removeprefix("someone/model: ").strip())
    assert folder.is_relative_to(tmp_path / "cache")
    assert content(folder) == {name: hub_of_the_library.files[name] for name in {*ALL_FILES, CARD_FILE}}
    hub_of_the_library.requests.clear()
    call("download", "someone/model", "--cache-dir", tmp_path / "cache", "--revision", COMMIT)
    assert hub_of_the_library.requests == []
    call("download", "someone/model", "--cache-dir", tmp_path / "cache", "--revision", COMMIT, "--force")
    assert len([request for request in hub_of_the_library.requests if request.startswith("GET")]) == 5


def test_a_certificate_need_not_be_there(hub_of_the_library, tmp_path):
    del hub_of_the_library.files[CERTIFICATE_FILE]
    code, text = call("download", "someone/model", "--cache-dir", tmp_path / "cache")
    assert code == 0
    assert set(content(Path(text.split()[1]))) == ALL_FILES - {CERTIFICATE_FILE}


def test_folders_are_copied_out(collection, hub_of_the_library, certified_folder, tmp_path):
    out = tmp_path / "some" / "where"
    (certified_folder / "training_log.jsonl").write_text("not part of a checkpoint")
    options = ("--cache-dir", tmp_path / "cache", "--out", out)
    code, text = call("download", "case_30", "someone/model", certified_folder, *options)
    assert code == 0
    assert (
        text == f"case_30: {out / 'case_30'}\nsomeone/model: {out / 'model'}\n{certified_folder}: {out / 'certified'}\n"
    )
    assert {path.name for path in out.iterdir()} == {"case_30", "model", "certified"}
    assert content(out / "case_30") == content(collection / "case_30")
    assert content(out / "model") == hub_of_the_library.files
    assert set(content(out / "certified")) == ALL_FILES
    # Again: what is there already is right as it is.
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert call("download", "case_30", "--out", out)[0] == 0
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == times


def test_a_folder_that_is_there_and_is_another_is_kept(collection, tmp_path):
    (tmp_path / "case_30").mkdir()
    (tmp_path / "case_30" / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="case_30 is there already and is another; delete it or choose another"):
        call("download", "case_30", "--out", tmp_path)
    assert content(tmp_path / "case_30") == {"notes.txt": b"mine"}


def test_a_copy_that_fails_leaves_nothing(collection, tmp_path, monkeypatch):
    out = tmp_path / "out"
    write, written = Path.write_bytes, []

    def fail(self: Path, data: bytes) -> int:
        written.append(self)
        if len(written) == 3:
            raise OSError(28, "No space left on device")
        return write(self, data)

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(CheckpointError, match=r"out/case_30: cannot be written \(No space left on device\)"):
        call("download", "case_30", "--out", out)
    assert list(out.iterdir()) == []


def test_a_download_that_fails_copies_nothing(hub_of_the_library, tmp_path):
    hub_of_the_library.cut = 100
    with pytest.raises(DownloadError, match="broke off"):
        call("download", "someone/model", "--cache-dir", tmp_path / "cache", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_two_models_do_not_go_into_one_folder(collection, tmp_path):
    with pytest.raises(SettingError, match="case_30, interpbench/case_30 would go into one folder"):
        call("download", "case_30", "interpbench/case_30", "--out", tmp_path / "out")


@pytest.mark.parametrize("command", ["download", "verify"])
@pytest.mark.parametrize("arguments", [[], ["case_3", "--all"]])
def test_models_are_either_named_or_all(command, arguments):
    code, text = call(command, *arguments)
    assert code == 2 and "name one model or more, or give --all (but not both)" in text


def test_a_name_that_is_unknown_is_one_line(monkeypatch, capsys):
    code, out, error = main(monkeypatch, capsys, "download", "case_300")
    assert (code, out) == (1, "")
    assert error.startswith("error: unknown model 'case_300'; nearest:") and error.count("\n") == 1


# -- verify ------------------------------------------------------------------------------------------------------------

QUICK = ("--pairs", 200, "--edges", 3)


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A bundled model in a folder of its own, which no manifest knows."""
    call("download", "case_8", "--out", tmp_path)
    return tmp_path / "case_8"


def edited(path: Path, change) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def test_models_that_are_what_they_say_agree(copied):
    code, text = call("verify", "case_8", copied, *QUICK)
    assert code == 0
    lines = text.splitlines()
    assert len(lines) == 3
    for name, line in zip(("case_8", str(copied)), lines[1:], strict=True):
        assert line.split() == [name, "path", *["1.0000"] * 6, "agrees"]


def test_what_does_not_agree_is_named_and_the_others_are_verified_all_the_same(copied, monkeypatch, capsys):
    def remove(data):
        del data["edges"][0]

    def flip(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)

    edge = json.loads((copied / CIRCUIT_FILE).read_text())["edges"][0]
    edited(copied / CIRCUIT_FILE, remove)
    code, text = call("verify", copied, "case_8", *QUICK)
    lines = text.splitlines()
    assert code == 1
    assert lines[1].split()[-1] == "DISAGREES" and lines[3].split()[-1] == "agrees"
    assert lines[2].startswith("  circuit.json lacks ") and lines[2].endswith(", which case_8 prescribes"), edge
    assert lines[4] == "1 of 2 models cannot be verified or are not as their files say"
    flip(copied / WEIGHTS_FILE)
    code, text = call("verify", copied, *QUICK)
    assert code == 1
    assert text.splitlines()[1].endswith("cannot be verified")
    assert "certificate.json: measured on weights with SHA-256" in text.splitlines()[2]


def test_a_certificate_that_claims_what_is_not_so_is_found(copied):
    def claim(data):
        complement = data["complement"]
        (row,), place = complement["rows"], complement["columns"].index("zero count")
        if len(row) == 1:
            row += [complement.pop("count")] * (len(complement["columns"]) - 1)
        row[place + 1] = 0
        data["lower_bounds"]["rows"].append([row[place], 0, 0.0])
        data["grade"] = "node"

    edited(copied / CERTIFICATE_FILE, claim)
    code, text = call("verify", copied, *QUICK)
    assert code == 1
    _, line, problem, _ = text.splitlines()
    assert line.split()[1] == "node" and line.endswith("DISAGREES")
    assert problem.startswith("  complement all (zero): 200 of 200 right, certificate.json says 0 of ")


def test_checksums_of_the_manifest_are_checked(collection):
    path = collection / "case_30" / CERTIFICATE_FILE
    path.write_bytes(path.read_bytes() + b" ")
    code, text = call("verify", "--all", *QUICK)
    assert code == 1
    assert "case_30/certificate.json: SHA-256 is" in text
    assert "certificate.json: not part of the bundled model" in text  # case_4 has none
    assert text.endswith("2 of 2 models cannot be verified or are not as their files say\n")


def test_checksums_of_published_revisions_are_checked(collection, hub_of_the_library, tmp_path):
    tag = manifest.version_tag(manifest.load_manifest()["package_version"])
    hub_of_the_library.repo, hub_of_the_library.revisions = "interpbench/case_30", (tag, COMMIT)
    data = hub_of_the_library.files[CIRCUIT_FILE]
    hub_of_the_library.files[CIRCUIT_FILE] = data + b" "
    code, text = call("verify", "case_30", "--revision", tag, "--cache-dir", tmp_path / "cache")
    assert code == 1
    found = hashlib.sha256(data + b" ").hexdigest()[:12]
    assert f"interpbench/case_30 at revision '{tag}': circuit.json: SHA-256 is {found}" in text


def test_options_reach_the_verification(monkeypatch, tmp_path):
    calls = []

    def verify(name, **options):
        calls.append((name, options))
        raise UnknownNameError("no such luck")

    monkeypatch.setattr(verification, "verify", verify)
    options = ("--edges", 7, "--pairs", 9, "--seed", 5, "--revision", "v1", "--cache-dir", tmp_path)
    assert call("verify", "a", "b", "a", *options)[0] == 1
    given = {"n_edges": 7, "n_pairs": 9, "seed": 5, "revision": "v1", "cache_dir": tmp_path}
    assert calls == [("a", given), ("b", given)]
