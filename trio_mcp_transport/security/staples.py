"""What a server staples: an OCSP response that is renewed before it expires.

`StapleSource.staple_for` is called in each handshake of a server; `run` is a task that the
program starts where the staples come from an async function. An expired response is never
stapled: clients refuse those, while without any only those refuse that insist on one.

Whether a response is genuine is the client's to find out, not checked here. What is read
of it is only for which certificate it is, and until when.
"""

from __future__ import annotations

import os
import time
from abc import abstractmethod
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import msgspec
import trio

from ..abc import ChannelEvent, EventHandler
from ..errors import ConfigurationError
from ..limits import OCSP_CLOCK_SKEW
from ..reporting import report
from .ocsp import is_about, validity
from .tls_certificates import read_file

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.x509 import ocsp

__all__ = ["AsyncStapleSource", "FunctionStapleSource", "StapleFiles", "StapleSource"]

#: `AsyncStapleSource.run` looks at the clock at least this often: it may be set, or the
#: machine may have slept.
_LONGEST_SLEEP = 3600.0


class Staple(msgspec.Struct, frozen=True, kw_only=True):
    """One OCSP response, as far as a server must understand it.

    Attributes:
        encoded: Its DER.
        answers: What it says, certificate by certificate.
        renew_at: When it should be renewed, in epoch seconds: half way to its end.
        end: When the first of its answers expires, in epoch seconds.
        revoked: Whether it says of a certificate that it was revoked.
    """

    encoded: bytes
    answers: tuple[ocsp.OCSPSingleResponse, ...]
    renew_at: float
    end: float
    revoked: bool


def read_staple(encoded: bytes) -> Staple:
    """Read what a server must know of an OCSP response.

    Raises:
        ConfigurationError: It is none, or it is an error message of the responder.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.x509 import ocsp

    try:
        response = ocsp.load_der_ocsp_response(encoded)
        successful = response.response_status is ocsp.OCSPResponseStatus.SUCCESSFUL
        answers = tuple(response.responses) if successful else ()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigurationError(f"this is no OCSP response (DER is needed): {error}") from error
    if not answers:
        said = response.response_status.name.lower().replace("_", " ")
        raise ConfigurationError(f"the OCSP response has no answer, but {said!r}")
    times = [validity(answer) for answer in answers]
    begin = max(this_update for this_update, _ in times)
    # Clients take one without an end for as long as clocks may differ.
    end = min(following or this_update + OCSP_CLOCK_SKEW for this_update, following in times)
    revoked = any(answer.certificate_status is ocsp.OCSPCertStatus.REVOKED for answer in answers)
    return Staple(
        encoded=encoded,
        answers=answers,
        renew_at=begin + max(0.0, (end - begin) / 2),
        end=end,
        revoked=revoked,
    )


class StapleSource:
    """Where a server's staples come from: `StapleFiles` or a function.

    Args:
        on_event: Gets ``staple.failed`` (no new staple, the old one is kept while it holds),
            ``staple.expired`` (there is none any more) and ``staple.revoked``.
    """

    def __init__(self, *, on_event: EventHandler | None = None) -> None:
        self._on_event = on_event

    @abstractmethod
    def staple_for(self, leaf: x509.Certificate, now: float) -> bytes:
        """The staple for a certificate, or ``b""`` where there is none that is of use.

        Args:
            leaf: The certificate that the handshake shows.
            now: Epoch seconds.
        """

    def reload(self) -> None:
        """Look for a new staple at the next handshake; `TlsServer.reload` calls this.

        Does nothing where a function is asked, which is so in time by itself.
        """

    def _report(self, name: str, message: str, error: Exception | None = None) -> None:
        report(self._on_event, ChannelEvent(name=name, message=message, error=error))


class _Shelf:
    """The one staple of a file or function: what it is, and whether it is still of use."""

    def __init__(self, source: StapleSource, label: str) -> None:
        self._report = source._report
        self._label = label
        self._expiry_told = False
        self.staple: Staple | None = None

    def put(self, encoded: bytes, now: float) -> bool:
        """Take a new staple, if it is one; else say so and keep the old one."""
        try:
            staple = read_staple(encoded)
            if staple.end < now:
                raise ConfigurationError("the OCSP response has expired")
        except ConfigurationError as error:
            self.tell_failure(error)
            return False
        self.staple = staple
        self._expiry_told = False
        if staple.revoked:
            self._report("staple.revoked", f"the staple of {self._label} says: revoked")
        return True

    def tell_failure(self, error: Exception) -> None:
        message = f"no new OCSP staple from {self._label}: {error}"
        self._report("staple.failed", message, error)

    def get(self, leaf: x509.Certificate, now: float) -> bytes:
        if self.staple is None:
            return b""
        if self.staple.end < now:
            if not self._expiry_told:
                self._expiry_told = True
                message = f"the OCSP staple of {self._label} has expired; there is no other"
                self._report("staple.expired", message)
            return b""
        if any(is_about(answer, leaf) for answer in self.staple.answers):
            return self.staple.encoded
        return b""


class StapleFiles(StapleSource):
    """Staples in files, each the DER of one OCSPResponse, as ``openssl ocsp -respout`` writes.

    Something else, such as a timer of the system, renews the files. They are looked at during
    handshakes, and read again when they have changed. A file may be missing for a while.

    Args:
        paths: One file for each certificate that has staples.
        check_interval: Seconds between two looks at the files.
        on_event: As `StapleSource` says.
    """

    def __init__(
        self, *paths: str, check_interval: float = 60.0, on_event: EventHandler | None = None
    ) -> None:
        super().__init__(on_event=on_event)
        self._shelves = {path: _Shelf(self, path) for path in paths}
        self._versions: dict[str, tuple[int, int, int, int] | None] = {}
        self._check_interval = check_interval
        self._checked_at: float | None = None

    def staple_for(self, leaf: x509.Certificate, now: float) -> bytes:
        """The staple for a certificate: `StapleSource.staple_for`. Reads what has changed."""
        # A clock that is set back must not keep the files from being read.
        if self._checked_at is None or abs(now - self._checked_at) >= self._check_interval:
            self._checked_at = now
            for path, shelf in self._shelves.items():
                self._look_at(path, shelf, now)
        for shelf in self._shelves.values():
            if found := shelf.get(leaf, now):
                return found
        return b""

    def reload(self) -> None:
        """Look at the files at the next handshake, even if the interval has not passed."""
        self._checked_at = None

    def _look_at(self, path: str, shelf: _Shelf, now: float) -> None:
        try:
            found = os.stat(path)
            version = (found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino)
            if self._versions.get(path) == version:
                return
            _, encoded = read_file("staple", path)
        except (OSError, ConfigurationError) as error:
            if path not in self._versions or self._versions[path] is not None:
                self._versions[path] = None  # tell it once, not at each look
                shelf.tell_failure(error)
            return
        self._versions[path] = version
        shelf.put(encoded, now)


class FunctionStapleSource(StapleSource):
    """Staples from a function that is called in a handshake, when a new one is due.

    That is when there is none yet, and half way to the end of the last one. Nothing else
    happens in this thread meanwhile: a function that has to ask somebody should be async
    (`AsyncStapleSource`).

    Args:
        fetch: Gives the DER of an OCSPResponse. What it raises is reported.
        retry_interval: Seconds until it is called again after it gave nothing new.
        on_event: As `StapleSource` says.
    """

    def __init__(
        self,
        fetch: Callable[[], bytes],
        *,
        retry_interval: float = 60.0,
        on_event: EventHandler | None = None,
    ) -> None:
        super().__init__(on_event=on_event)
        self._fetch = fetch
        self._shelf = _Shelf(self, "the function")
        self._retry_interval = retry_interval
        self._asked_at = self._due = 0.0

    def staple_for(self, leaf: x509.Certificate, now: float) -> bytes:
        """The staple for a certificate: `StapleSource.staple_for`. May call the function."""
        # A clock that was ahead and is set right must not keep it from being called.
        if not self._asked_at <= now < self._due:
            self._asked_at = now
            try:
                encoded = self._fetch()
            except Exception as error:
                self._shelf.tell_failure(error)
                self._due = now + self._retry_interval
            else:
                self._due = _next_time(self._shelf, encoded, now, self._retry_interval)
        return self._shelf.get(leaf, now)


class AsyncStapleSource(StapleSource):
    """Staples from an async function, which the task `run` calls when a new one is due.

    Args:
        fetch: Gives the DER of an OCSPResponse, such as by asking the responder that the
            certificate names. What it raises is reported. While it runs, the last staple
            goes on serving.
        retry_interval: Seconds until it is called again after it gave nothing new.
        fetch_timeout: Seconds after which a call of it is cancelled.
        on_event: As `StapleSource` says.
        clock: Epoch seconds now.
    """

    def __init__(
        self,
        fetch: Callable[[], Awaitable[bytes]],
        *,
        retry_interval: float = 60.0,
        fetch_timeout: float = 30.0,
        on_event: EventHandler | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(on_event=on_event)
        self._fetch = fetch
        self._shelf = _Shelf(self, "the function")
        self._retry_interval = retry_interval
        self._fetch_timeout = fetch_timeout
        self._clock = clock

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the staple fresh until cancelled.

        Started when the first call of the function is over, even if it failed, as a server
        can do without a staple: `nursery.start` it before the server listens.
        """
        asked_at, due, started = 0.0, 0.0, False
        while True:
            if not asked_at <= self._clock() < due:  # as above
                asked_at = self._clock()
                due = asked_at + self._retry_interval
                try:
                    encoded = await self._fetch_in_time()
                except Exception as error:
                    self._shelf.tell_failure(error)
                else:
                    due = _next_time(self._shelf, encoded, self._clock(), self._retry_interval)
                if not started:
                    started = True
                    task_status.started()
            await trio.sleep(min(max(0.0, due - self._clock()), _LONGEST_SLEEP))

    async def _fetch_in_time(self) -> bytes:
        with trio.move_on_after(self._fetch_timeout):
            return await self._fetch()
        raise TimeoutError(f"nothing came of it within {self._fetch_timeout:g} s")

    def staple_for(self, leaf: x509.Certificate, now: float) -> bytes:
        """The staple for a certificate: `StapleSource.staple_for`."""
        return self._shelf.get(leaf, now)


def _next_time(shelf: _Shelf, encoded: bytes, now: float, retry_interval: float) -> float:
    """Take what a function gave, and say when to call it again."""
    retry = now + retry_interval
    if not shelf.put(encoded, now) or shelf.staple is None:
        return retry
    # One that is half way to its end already is old: the responder may have a new one soon.
    return max(shelf.staple.renew_at, retry)
