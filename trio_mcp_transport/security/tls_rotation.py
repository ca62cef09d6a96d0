"""When certificates are looked at again: files that were renewed, and ends that come near.

Called by `tls_contexts` when a connection begins; there is no task for it. Time is given.
"""

from __future__ import annotations

import os

from ..limits import TLS_EXPIRY_REPEAT, TLS_EXPIRY_WARNING
from ..tls_facts import CertificateFacts

__all__ = ["ExpiryWatch", "FileWatch"]

_Version = tuple[int, int, int, int] | None


class FileWatch:
    """Tells when one of several files has changed.

    A file that is not there is a version of it, too.

    Args:
        paths: The files.
        interval: Seconds between two looks; `math.inf` for never.
        now: The time at which they were read.
    """

    def __init__(self, paths: tuple[str, ...], interval: float, now: float) -> None:
        self._paths = paths
        self._interval = interval
        self._looked_at = now
        self._versions: list[_Version] | None = [_version(path) for path in paths]

    def has_changed(self, now: float) -> bool:
        """Whether one has changed since the last look that was long enough ago."""
        # A clock that was set back must not keep the files from being looked at.
        if abs(now - self._looked_at) < self._interval:
            return False
        self._looked_at = now
        return self.look()

    def look(self) -> bool:
        """Look now; whether one has changed since the last look."""
        versions = [_version(path) for path in self._paths]
        if versions == self._versions:
            return False
        self._versions = versions
        return True

    def forget(self) -> None:
        """What was there cannot be used: at the next look it counts as changed.

        It may have failed for something that passes and leaves no trace in the files, such as
        a process without file descriptors.
        """
        self._versions = None


class ExpiryWatch:
    """Tells when the end of own certificates comes near: once a day while it does."""

    def __init__(self) -> None:
        self._told_at: float | None = None

    def find(self, certificates: list[CertificateFacts], now: float) -> list[CertificateFacts]:
        """Those whose end is near, if it is time to tell that."""
        if self._told_at is not None and abs(now - self._told_at) < TLS_EXPIRY_REPEAT:
            return []
        found = [each for each in certificates if each.expires_in(now) < _warning_time(each)]
        if found:
            self._told_at = now
        return found

    def reset(self) -> None:
        """There are new certificates."""
        self._told_at = None


def _warning_time(certificate: CertificateFacts) -> float:
    # Some certificates live for a day only and are renewed by programs.
    lifetime = certificate.not_after - certificate.not_before
    return min(TLS_EXPIRY_WARNING, lifetime / 3)


def _version(path: str) -> _Version:
    try:
        found = os.stat(path)
    except OSError:
        return None
    # `st_ctime_ns` also changes with the owner and the permissions.
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino
