"""Files that are there whole or not at all, in folders whose README nobody else wrote; imports nothing heavy."""

import secrets
import time
from contextlib import suppress
from pathlib import Path

from interpbench_hub.constants import CARD_FILE
from interpbench_hub.errors import SettingError

_PARTIAL = ".{name}.{writer}.partial"
_STALE = 3600.0
"""Seconds without a change after which nobody is taken to write to a file any more."""


def usable_folder(folder: str | Path, generated: str, what: str) -> Path:
    """The folder, made if need be, to write `what` to; refuses one whose README lacks the text `generated`."""
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise SettingError(f"out {str(folder)!r} is a file; give a folder to write {what} to")
    card = folder / CARD_FILE
    if card.exists() and generated not in card.read_text(encoding="utf-8"):
        raise SettingError(
            f"{str(card)!r} was not written by a build of {what} and would be overwritten; choose another folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def partial_path(path: Path) -> Path:
    """Where to write a file until it is whole: another place each time, others may be writing the same file."""
    return path.with_name(_PARTIAL.format(name=path.name, writer=secrets.token_hex(4)))


def remove_partial_files(folder: Path) -> None:
    """Removes what processes that were killed have left in a folder."""
    for partial in folder.glob(_PARTIAL.format(name="*", writer="*")):
        with suppress(FileNotFoundError):  # finished, or removed by somebody else
            if time.time() - partial.stat().st_mtime > _STALE:
                partial.unlink()


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes a file that is there whole or not at all, whatever interrupts the writing."""
    partial = partial_path(path)
    try:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
