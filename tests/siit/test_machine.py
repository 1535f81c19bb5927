"""The machine of a run: its threads and memory are asked for and given back; clocks go on."""

import ctypes
import platform
import time
from collections.abc import Iterator

import pytest
import torch

from interpbench_hub.errors import SettingError
from interpbench_hub.siit.machine import Clock, hardware, torch_threads


@pytest.fixture
def two_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


def test_there_are_so_many_threads_within_and_as_many_as_before_after(two_threads):
    with torch_threads(1):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
    with pytest.raises(KeyError), torch_threads(1):
        raise KeyError
    assert torch.get_num_threads() == 2
    with torch_threads(1), torch_threads(3):
        assert torch.get_num_threads() == 3
    with pytest.raises(SettingError, match="threads is 0; it is at least 1"), torch_threads(0):
        pass
    assert torch.get_num_threads() == 2


class Libc:
    """Stands for a C library that can be told how to keep memory."""

    def __init__(self) -> None:
        self.told: list[tuple[int, int]] = []

    def mallopt(self, parameter: int, value: int) -> int:
        self.told.append((parameter, value))
        return 1


def test_glibc_is_told_to_keep_memory(monkeypatch):
    libc = Libc()
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setattr(ctypes, "CDLL", lambda name: libc)
    with torch_threads(1):
        # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h; glibc takes no more than 32 MB for the latter.
        assert dict(libc.told) == {-1: 2**29, -3: 2**25}


def test_another_library_is_not_even_opened(monkeypatch):
    opened = []
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(ctypes, "CDLL", opened.append)
    with torch_threads(1):
        assert not opened


@pytest.mark.parametrize("error", [OSError("cannot open"), None])
def test_a_library_without_the_setting_does_no_harm(error, monkeypatch):
    def opening(name: object) -> object:
        if error is not None:
            raise error
        return object()

    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setattr(ctypes, "CDLL", opening)
    with torch_threads(1):
        assert torch.get_num_threads() == 1


def test_a_clock_goes_on_from_the_time_of_earlier_parts():
    clock = Clock(100.0, 1000.0)
    started = time.process_time()
    while time.process_time() < started + 0.02:
        pass
    time.sleep(0.02)
    assert 100.02 <= clock.cpu_seconds < 110 and 1000.04 <= clock.wall_seconds < 1010
    assert 0 <= Clock().cpu_seconds < 1 and 0 <= Clock().wall_seconds < 1


def test_the_hardware_has_a_name():
    assert hardware().strip()
