"""The script `upload.py`: its table, its exit status, and that no token is ever shown."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from typer.testing import CliRunner

from interpbench_hub.errors import PublishError
from interpbench_hub.publishing import Outcome
from tests.local_hub import LocalHub

ROOT = Path(__file__).parent.parent
SECRET = "hf_a_very_secret_token"


@pytest.fixture
def upload() -> ModuleType:
    spec = importlib.util.spec_from_file_location("upload", ROOT / "upload.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_outcomes_are_listed_and_what_failed_makes_the_exit_status_1(upload, monkeypatch):
    outcomes = [
        Outcome("model x/case_3", "created", 8, 12_345, "README.md"),
        Outcome("dataset x/case_3", "unchanged"),
        Outcome("model x/case_4", "failed", detail="the Hub refused (HTTP 400: [bold]why[/bold])"),
    ]
    monkeypatch.setattr(upload, "publish", lambda *given, **options: outcomes)
    result = CliRunner().invoke(upload.app, ["--all"], env={"COLUMNS": "160"})
    assert result.exit_code == 1
    assert "1 created, 1 unchanged, 1 failed" in result.output
    assert "12,345" in result.output and "[bold]why[/bold]" in result.output
    assert "dataset x/case_3" not in result.output
    outcomes.pop()
    assert CliRunner().invoke(upload.app, ["--all"]).exit_code == 0


def test_the_text_of_an_error_is_shown_as_it_is(upload, monkeypatch, capsys):
    """Brackets are no markup, and a list of faults stays a list."""
    text = 'nothing was published:\nmodel case_3: pip install "interpbench-hub[publish]", not [/x]'

    def refuse(*given, **options):
        raise PublishError(text)

    monkeypatch.setattr(upload, "publish", refuse)
    monkeypatch.setattr(sys, "argv", ["upload.py", "--all"])
    with pytest.raises(SystemExit) as ended:
        upload.main()
    assert ended.value.code == 1
    assert capsys.readouterr().err == f"error: {text}\n"


@pytest.mark.parametrize("arguments", [["case_3", "--all"], ["--dry-run"]])
def test_models_and_all_exclude_each_other(upload, arguments):
    result = CliRunner().invoke(upload.app, arguments)
    assert result.exit_code == 2
    assert "name one model or more, or give --all" in result.output


def test_options_reach_publish(upload, monkeypatch):
    given = {}
    monkeypatch.setattr(upload, "publish", lambda models, **options: given.update(options, models=models) or [])
    CliRunner().invoke(
        upload.app,
        ["case_3", "case_4", "--namespace", "me", "--data", "d", "--private", "--dry-run", "--move-tag"],
        catch_exceptions=False,
    )
    del given["report"]
    assert given == {
        "models": ["case_3", "case_4"],
        "namespace": "me",
        "data": Path("d"),
        "private": True,
        "dry_run": True,
        "move_tag": True,
    }


@pytest.mark.slow
@pytest.mark.parametrize("token", [SECRET, "hf_another"])
def test_the_script_publishes_with_the_token_of_the_environment_and_never_shows_it(tmp_path, token):
    with LocalHub(tmp_path / "hub", {SECRET: "me"}) as hub:
        environment = {"HF_ENDPOINT": hub.url, "HF_TOKEN": token, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path)}
        command = [sys.executable, ROOT / "upload.py", "case_10", "--namespace", "me", "--data", tmp_path / "data"]
        result = subprocess.run(
            command, env={"PATH": "/usr/bin:/bin", **environment}, capture_output=True, text=True, timeout=120
        )
        shown = result.stdout + result.stderr
        assert token not in shown
        assert "LFS" not in shown, "a progress bar of the library across ours"
        if token == SECRET:
            assert result.returncode == 0, shown
            assert ("model", "me/case_10") in hub.repositories()
            assert "2 created" in result.stdout
        else:
            assert result.returncode == 1
            assert "error: the token is not valid" in result.stderr
            assert "Traceback" not in shown
