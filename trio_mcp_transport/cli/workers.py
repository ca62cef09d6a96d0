"""The supervisor of ``serve --workers``: opens the sockets, keeps so many workers alive.

Called by `serve`. It accepts no connection and speaks no protocol, so there is little that
could end it.

Theory of operation:

* The listening sockets are opened once, here, and inherited by all workers (why: see
  `transports.worker_seat`). They stay open while workers come and go, so clients that come
  when there is none wait in the backlog.
* The first worker is started alone: what is wrong with the configuration is told once.
* Each place for a worker has at most one that counts. A task waits for the end of each
  worker; if that still has its place then it was not meant to end, and after a delay (see
  `worker_restarts`) another one gets the place. Those that cannot live are tried again and
  again, ever more slowly, as long as any other serves; where none is left and one place has
  failed so many times in a row, the supervisor gives up.
* SIGHUP replaces one worker after the other: the new one is ready before the old one is
  told to end. If a new one cannot start, those that are there stay. Whoever fills a place
  holds its lock.
* A worker that was told to end takes as long as its clients need, but no longer than
  `patience`, which is above what it allows itself: whoever takes longer hangs, is told to
  abort, and is killed soon after. Orders go over the control socket, never by signals (why:
  see `worker_process`).
* SIGINT and SIGTERM first cancel all of that, then end the workers; a second one cuts this
  short. However this ends, no worker, socket file or directory is left. If the supervisor is
  killed its workers notice that and end; then only the file of a Unix socket stays, which the
  next server replaces.
"""

from __future__ import annotations

import os
import random
import secrets
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress

import trio

from ..endpoints import MAX_SOCKET_PATH_BYTES, Endpoint, TcpEndpoint, UnixEndpoint
from ..errors import ConfigurationError, TransportError
from ..transports.tcp import host_and_port, open_listeners
from ..transports.unix import open_listener
from ..transports.worker_seat import MAX_ROUTE_NAME_BYTES
from ..web_endpoints import WebEndpoint
from .running import ExitStatus, Shutdown
from .terminal import tell
from .worker_process import Listening, Orders, Worker, WorkerFailed, how_ended, start_worker
from .worker_restarts import Restarts

__all__ = ["Supervisor", "check_workers"]

#: So many failures of one place in a row, with no worker left, are the end.
_GIVE_UP_AFTER = 8
#: On top of the seconds that workers may take by themselves.
_PATIENCE_SECONDS = 10.0
#: Where directories go whose paths would be too long elsewhere.
_FALLBACK = "/tmp"
#: For workers that were told to abort.
_ABORT_SECONDS = 5.0


def check_workers(count: int, endpoints: Sequence[Endpoint]) -> None:
    """Refuse what several processes cannot serve together.

    Raises:
        ConfigurationError: The number makes no sense, the platform cannot do it, or an
            endpoint is for one process alone.
    """
    if not 1 <= count <= 1000:
        raise ConfigurationError(f"--workers must be 1 to 1000, not {count}")
    if sys.platform == "win32":
        raise ConfigurationError("--workers: Windows cannot hand listening sockets on")
    for endpoint in endpoints:
        if not isinstance(endpoint, TcpEndpoint | UnixEndpoint | WebEndpoint):
            raise ConfigurationError(
                f"--workers: {endpoint.label} cannot be served by several processes;"
                " tcp, tls, unix, http(s) and ws(s) can"
            )


class _Opened:
    """The sockets of one endpoint, and what removes their file."""

    def __init__(
        self, sockets: list[socket.socket], listening: Listening, remove: Callable[[], None] | None
    ) -> None:
        self.listening = listening
        self._sockets = sockets
        self._remove = remove

    def close(self) -> None:
        """Stop listening here; workers that have the sockets still do."""
        remove, self._remove = self._remove, None
        try:
            if remove is not None:
                remove()
        finally:
            for sock in self._sockets:
                sock.close()


async def _open(endpoint: Endpoint) -> _Opened:
    """Listen as the transports do, but for all workers."""
    if isinstance(endpoint, UnixEndpoint):
        sock, _, remove = await open_listener(endpoint, None)
        return _Opened([sock], _listening(None, endpoint.path, [sock]), remove)
    if isinstance(endpoint, WebEndpoint):
        # Here, since it loads all of HTTP and WebSocket, and each command loads this module.
        from ..transports.http_settings import check_listening, tcp_options

        check_listening(endpoint)
        sockets = await open_listeners(tcp_options(endpoint), endpoint.label)
    else:
        assert isinstance(endpoint, TcpEndpoint)
        sockets = await open_listeners(endpoint, endpoint.label)
    port = host_and_port(sockets[0].getsockname())[1]
    return _Opened(sockets, _listening(port, (endpoint.host, port), sockets), None)


def _listening(
    port: int | None, key: tuple[str, int] | str, sockets: Sequence[socket.socket]
) -> Listening:
    return Listening(port=port, key=key, descriptors=[sock.fileno() for sock in sockets])


def _make_directory() -> str:
    """A directory for the sockets by which the workers reach each other.

    It is where temporary files are, or in ``/tmp`` if its path would be too long there: that
    is found out here, not by each worker.

    Raises:
        ConfigurationError: It is too long there as well.
    """
    places = dict.fromkeys([tempfile.gettempdir(), _FALLBACK])
    room = MAX_SOCKET_PATH_BYTES - MAX_ROUTE_NAME_BYTES - 1
    for place in places:
        with suppress(OSError):
            path = tempfile.mkdtemp(prefix="trio-mcp-", dir=place)
            if len(os.fsencode(path)) <= room:
                return path
            os.rmdir(path)
    raise ConfigurationError(
        f"--workers: no directory for sockets can be made in {' or '.join(places)}, with a path"
        f" of at most {room} bytes: set TMPDIR to another place"
    )


class _Place:
    """Room for one worker.

    Attributes:
        worker: Who has it; None if its worker died and the next one is not ready yet.
        lock: Of whoever is filling it.
        restarts: How its workers have ended.
    """

    def __init__(self) -> None:
        self.worker: Worker | None = None
        self.lock = trio.Lock()
        self.restarts = Restarts(random.uniform)


class Supervisor:
    """Keeps workers alive.

    Args:
        command: What starts one; see `worker_command`.
        endpoints: Where they listen: those of the same command line, in order.
        count: How many.
        patience: Seconds that a worker may take to end in good order.
    """

    def __init__(
        self, command: Sequence[str], endpoints: Sequence[Endpoint], count: int, patience: float
    ) -> None:
        self._command = command
        self._endpoints = endpoints
        self._patience = patience + _PATIENCE_SECONDS
        self._places = [_Place() for _ in range(count)]
        self._opened: list[_Opened] = []
        self._living: set[Worker] = set()
        self._numbers = 0
        self._state_key = secrets.token_bytes(32)
        self._directory = ""
        self._failure: Exception | None = None
        self._nursery: trio.Nursery

    async def run(self, shutdown: Shutdown) -> int:
        """Start the workers and keep them, until the shutdown; returns the exit status.

        Raises:
            ConfigurationError: There is no place for the workers' sockets.
            ConnectFailed: An endpoint cannot be listened at.
            OSError: No process can be started.
            TransportError: The workers die as soon as they live.
        """
        # What a receiver has not read when it closes is raised again.
        before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        try:
            with trio.open_signal_receiver(signal.SIGHUP) as hangups:
                with shutdown.cancelling():
                    self._directory = _make_directory()
                    for endpoint in self._endpoints:
                        self._opened.append(await _open(endpoint))
                    async with trio.open_nursery() as self._nursery:
                        await self._start_all()
                        async for _ in hangups:
                            await self._reload()
                await self._end_all()
        finally:
            with trio.CancelScope(shield=True):
                await self._abort_all()
            self._close()
            signal.signal(signal.SIGHUP, before)
        if isinstance(self._failure, WorkerFailed):
            tell(str(self._failure))
            return ExitStatus.USAGE if self._failure.status == 2 else ExitStatus.FAILED
        if self._failure is not None:
            raise self._failure
        return ExitStatus.OK

    def _close(self) -> None:
        for opened in self._opened:
            opened.close()
        if self._directory:
            shutil.rmtree(self._directory, ignore_errors=True)

    # -- to life ------------------------------------------------------------------------

    async def _start_all(self) -> None:
        await self._fill_first(self._places[0])
        async with trio.open_nursery() as nursery:
            for place in self._places[1:]:
                nursery.start_soon(self._fill_first, place)
        first = self._places[0].worker
        for endpoint in [] if first is None else first.endpoints:
            tell(f"listening on {endpoint}")

    async def _fill_first(self, place: _Place) -> None:
        try:
            async with place.lock:
                await self._fill(place)
        except (WorkerFailed, OSError) as error:
            self._fail(error)
            await trio.lowlevel.checkpoint()

    async def _fill(self, place: _Place) -> None:
        """Start a worker for a place; the caller has its lock."""
        self._numbers += 1
        orders = Orders(
            number=self._numbers,
            directory=self._directory,
            state_key=self._state_key,
            listening=[opened.listening for opened in self._opened],
        )
        place.worker = worker = await start_worker(self._command, orders)
        self._living.add(worker)
        self._nursery.start_soon(self._watch, place, worker)

    async def _watch(self, place: _Place, worker: Worker) -> None:
        status = await worker.wait()
        self._forget(worker)
        if place.worker is not worker:  # it was replaced
            if status < 0:
                tell(f"worker {worker.number} has ended before it was done ({how_ended(status)})")
            return
        place.worker = None
        tell(f"worker {worker.number} has ended unexpectedly ({how_ended(status)})")
        await self._revive(place, trio.current_time() - worker.ready_at)

    async def _revive(self, place: _Place, lived: float) -> None:
        while True:
            delay = place.restarts.ended(lived)
            in_a_row = place.restarts.in_a_row
            if in_a_row >= _GIVE_UP_AFTER and not any(each.worker for each in self._places):
                self._fail(TransportError(f"workers have ended {in_a_row} times in a row"))
                return
            if in_a_row > 1:
                tell(f"workers keep ending: {in_a_row} in a row; the next one in {delay:.1f} s")
            await trio.sleep(delay)
            async with place.lock:
                if place.worker is not None:
                    return  # a reload was faster
                try:
                    await self._fill(place)
                except (WorkerFailed, OSError) as error:
                    tell(str(error))
                    lived = 0.0
                else:
                    return

    def _fail(self, error: Exception) -> None:
        """Come to an end because of an error."""
        if self._failure is None:
            self._failure = error
        self._nursery.cancel_scope.cancel()

    async def _reload(self) -> None:
        tell("SIGHUP: replacing the workers")
        for place in self._places:
            async with place.lock:
                old = place.worker
                try:
                    await self._fill(place)
                except (WorkerFailed, OSError) as error:
                    tell(f"SIGHUP: those before go on, as {error}")
                    return
            if old is not None:
                self._nursery.start_soon(self._replaced, old)
        tell("SIGHUP: all workers are new")

    # -- to the end ---------------------------------------------------------------------

    def _forget(self, worker: Worker) -> None:
        """A worker has ended; remove what it may have left."""
        self._living.discard(worker)
        with suppress(OSError), os.scandir(self._directory) as entries:
            for entry in entries:
                if entry.name.startswith(f"{worker.number}-"):
                    os.unlink(entry.path)

    async def _replaced(self, worker: Worker) -> None:
        """Let a worker end that another one has replaced."""
        await self._end([worker])
        if worker in self._living:
            tell(f"worker {worker.number} has not ended in {self._patience:g} seconds: aborting")
            await self._abort([worker])

    async def _end_all(self) -> None:
        for opened in self._opened:
            opened.close()  # or clients would wait for workers that never come
        await self._end(list(self._living))

    async def _abort_all(self) -> None:
        await self._abort(list(self._living))

    async def _end(self, workers: Collection[Worker]) -> None:
        """Let workers end in good order, within their time."""
        for worker in workers:
            worker.end()
        with trio.move_on_after(self._patience):
            await self._wait_for(workers)

    async def _abort(self, workers: Collection[Worker]) -> None:
        """End workers, those that do not take notice as well."""
        for worker in workers:
            worker.abort()
        with trio.move_on_after(_ABORT_SECONDS):
            await self._wait_for(workers)
        for worker in self._living.intersection(workers):
            worker.kill()
        await self._wait_for(workers)

    async def _wait_for(self, workers: Collection[Worker]) -> None:
        for worker in workers:
            await worker.wait()
            self._forget(worker)
