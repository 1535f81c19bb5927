"""The exception tree: every error this package raises on purpose is an `InterpBenchError`.

Each message repeats what was given, states the rule it breaks and says what to do.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class InterpBenchError(Exception):
    """Base class of all errors raised on purpose by this package."""


class UnknownNameError(InterpBenchError, KeyError):
    """A case, model, node, edge or option that does not exist; the message lists near matches."""

    def __str__(self) -> str:
        # KeyError shows the repr of its argument, which would put our sentence in quotes.
        return str(self.args[0]) if self.args else ""


class ProgramError(InterpBenchError, ValueError):
    """A RASP program that cannot be evaluated or compiled; the message names the variable."""


class CaseError(InterpBenchError, ValueError):
    """A case whose parts do not fit together, or inputs that are not inputs of the case."""


class CheckpointError(InterpBenchError, ValueError):
    """A checkpoint folder that breaks its format; the message names the file and the rule."""


class DownloadError(InterpBenchError, OSError):
    """The Hub could not be reached, refused, or does not hold what was asked for."""


class PublishError(InterpBenchError, OSError):
    """Something cannot be published: it is not whole, or the Hub refused or could not be reached."""

    def __init__(
        self, message: str, *, wait: float | None = None, is_lost: bool = False, is_busy: bool = False
    ) -> None:
        super().__init__(message)
        self.wait = wait
        """Seconds after which a new try may succeed; None if it would not."""
        self.is_lost = is_lost
        """Whether the Hub could not be reached at all."""
        self.is_busy = is_busy
        """Whether the Hub wants no more requests for now."""


class SettingError(InterpBenchError, ValueError):
    """An option with a value it cannot take (a device that does not exist, a negative step count)."""


class BusyError(InterpBenchError, RuntimeError):
    """A folder that another process is training in."""


def unknown_name(what: str, given: object, known: Iterable[str], *, hint: str = "") -> UnknownNameError:
    """An `UnknownNameError` that repeats `given` and lists the nearest of the `known` names."""
    names = list(known)
    near = get_close_matches(str(given), names, n=5, cutoff=0.5)
    if near:
        listing = f"nearest: {', '.join(near)}"
    elif len(names) <= 12:
        listing = f"known: {', '.join(names)}"
    else:
        listing = f"known: {', '.join(names[:6])}, ... ({len(names)} in all)"
    return UnknownNameError(f"unknown {what} {given!r}; {listing}" + (f". {hint}" if hint else ""))
