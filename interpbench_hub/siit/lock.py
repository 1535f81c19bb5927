"""One process at a time in one folder."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from interpbench_hub.errors import BusyError

LOCK_FILE = ".lock"


@contextmanager
def folder_lock(folder: Path, *, patience: float = 0.0) -> Iterator[None]:
    """Hold the lock of a folder, which exists; waits up to `patience` seconds for another process to let go of it.

    The lock ends with the process that holds it, however that ends: no stale lock is ever in the way.
    Raises `BusyError` if another process holds it.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(folder / LOCK_FILE, timeout=patience)
    try:
        lock.acquire()
    except Timeout as error:
        raise BusyError(
            f"{folder} is in use by another process, and two would spoil each other's files; wait for that one or "
            "stop it, or choose another folder"
        ) from error
    try:
        yield
    finally:
        # Removed while it is still held: who opened the file meanwhile notices that it is gone and makes a new one.
        with suppress(OSError):
            (folder / LOCK_FILE).unlink()
        lock.release()
