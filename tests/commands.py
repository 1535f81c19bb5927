"""Calling the command line within the test's own process."""

import sys

import pytest
from typer.testing import CliRunner

from interpbench_hub import cli


def call(*arguments: object) -> tuple[int, str]:
    """Exit status and output of a command; errors of the package are raised."""
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def main(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object
) -> tuple[int, str, str]:
    """The entry point itself, which turns our errors into one line and an exit status."""
    monkeypatch.setattr(sys, "argv", ["interpbench", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    printed = capsys.readouterr()
    return int(stop.value.code or 0), printed.out, printed.err
