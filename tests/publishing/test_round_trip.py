"""Published, then loaded in a fresh process with an empty cache: `benchmarks/publishing.py` on three models."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "publishing.py"


@pytest.mark.slow
def test_models_circuits_and_datasets_come_back_as_they_were(built_data):
    """The script compares every byte and every row itself; here on the three models whose data the tests have."""
    models = sorted(folder.name for folder in built_data.iterdir() if folder.is_dir())
    command = [sys.executable, SCRIPT, "--models", *models, "--data", built_data, "--loaded", "3"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert "| load 3 models, circuits and certificates from the Hub |" in result.stdout
    assert "| load 3 datasets from the Hub |" in result.stdout
