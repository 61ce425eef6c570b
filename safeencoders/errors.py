"""The errors a user can meet; each says what was expected, what came, and the remedy.

Every child also subclasses the builtin a caller would expect to catch. The command line prints the message and
exits with 2: these are the faults a user can mend. `assert` is for our own invariants only.
"""

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any


class SafeEncodersError(Exception):
    """Base of every error raised on purpose by this package."""

    _arguments: tuple[Any, ...] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by the constructor's own arguments, so that errors cross worker processes unharmed."""
        return (type(self), self.args if self._arguments is None else self._arguments)


class BadInputError(SafeEncodersError, ValueError):
    """A value that cannot be used: a number out of range, a file that does not say what it should."""


class UnknownNameError(SafeEncodersError, LookupError):
    """A name that is in no table; the message lists the known names and suggests the nearest."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        """Say which kind of thing was asked for, under which name, and what there is."""
        self.kind, self.name, self.known = kind, name, tuple(sorted(known))
        self._arguments = (kind, name, self.known)
        near = get_close_matches(name.lower(), self.known, n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        names = ", ".join(self.known) if self.known else "none is registered"
        super().__init__(f"unknown {kind} {name!r}.{hint} Known: {names}.")


class IntegrityError(SafeEncodersError, OSError):
    """A file whose content is not what was published: truncated, tampered with, or missing."""

    def __init__(self, file: str | Path, expected: str, found: str | None) -> None:
        """Name the file, the sha256 that was expected and the one found (None: there is no such file)."""
        self.file, self.expected, self.found = Path(file), expected, found
        self._arguments = (str(file), expected, found)
        state = "is missing" if found is None else "is truncated or was changed"
        super().__init__(
            f"{file} {state}: expected sha256 {expected}, found {found or 'no file'}. "
            "Do not use these weights; install the package or download the files again."
        )


class OutputError(SafeEncodersError, OSError):
    """An output that cannot be written: it exists, the place is not writable, the disk is full."""


class MissingExtraError(SafeEncodersError, ImportError):
    """An optional dependency that is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        """Name the package that is missing and the extra of this project that brings it."""
        self.package, self.extra = package, extra
        self._arguments = (package, extra)
        super().__init__(
            f"this needs the package {package!r}, which is not installed. "
            f'Install it with: pip install "safeencoders[{extra}]"'
        )


class HostError(BadInputError):
    """An object that cannot be protected as it is: of a kind nobody registered, half loaded, or on the meta device."""


class FitError(BadInputError):
    """A tower that does not fit the slot it was meant for: another class, width, depth, vocabulary or activation."""


class UnprotectedError(SafeEncodersError, RuntimeError):
    """Under the strict policy, a text slot would stay unprotected; the host was not touched."""


class BusyError(SafeEncodersError, RuntimeError):
    """The host is generating in another thread; what was asked would change it meanwhile."""


class BypassError(SafeEncodersError, RuntimeError):
    """A guarded host refused a call that would have gone round its safe towers."""

    def __init__(self, message: str, hole: int, slot: str | None = None) -> None:
        """Keep the number of the hole (1..17, see integrations/holes.py) and the slot it concerns, if one."""
        self.hole, self.slot = hole, slot
        self._arguments = (message, hole, slot)
        super().__init__(message)


class HubError(SafeEncodersError, OSError):
    """Something of the Hub could not be had; the children say why."""


class OfflineError(HubError):
    """No connection, or offline mode, and the files are not in the cache."""


class GatedError(HubError):
    """The repository asks for an agreement or a login first."""


class MissingOnHubError(HubError):
    """The repository, its revision or a file in it does not exist, or moved to another name."""


class DownloadError(HubError):
    """A download that ended early, was damaged, or was refused again and again; nothing half-written was kept."""


class ChangedError(HubError):
    """The Hub now serves other bytes than those recorded at first use."""
