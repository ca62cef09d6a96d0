"""What a worker process has from its supervisor: listening sockets, and who it is.

Several workers serve on the same sockets. The supervisor opens those, once, and every worker
inherits them; so nothing that a client has sent is lost when a worker ends, as it would be in
the queue of a socket of its own (SO_REUSEPORT), and Unix sockets work like all others.

A seat belongs to a whole process, as the descriptors do that it has inherited. It is put in
place (`take_seat`) before anything listens. From then on TCP and Unix listeners find
their sockets here in place of opening some, and listeners over HTTP find out who else has
sessions; nothing between those who serve and those who listen needs to know of it.
"""

from __future__ import annotations

import socket
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeAlias

__all__ = ["MAX_ROUTE_NAME_BYTES", "SocketKey", "WorkerSeat", "current_seat", "take_seat"]

#: Of the longest name of a socket by which another worker reaches this one (`session_routes`):
#: a number of nine digits, and a digest.
MAX_ROUTE_NAME_BYTES = 9 + 1 + 16

#: What tells listening sockets apart: host and port of the endpoint as it is written, but with
#: the real port, or the path of a Unix socket.
SocketKey: TypeAlias = tuple[str, int] | str

_seat: ContextVar[WorkerSeat] = ContextVar("trio_mcp_transport.worker_seat")


class WorkerSeat:
    """The place of one worker among the others.

    Args:
        number: Tells the workers of one supervisor apart, those before and after it as well.
        directory: Where workers reach each other; only their user may enter it.
        sockets: The listening sockets, by what they listen at.
    """

    def __init__(
        self,
        number: int,
        directory: str,
        sockets: Mapping[SocketKey, Sequence[socket.socket]],
    ) -> None:
        self.number = number
        self.directory = directory
        self._sockets = {key: list(group) for key, group in sockets.items()}

    def take(self, key: SocketKey) -> list[socket.socket]:
        """The sockets for an endpoint, the caller's from now on; none if it has none here."""
        return self._sockets.pop(key, [])

    def close(self) -> None:
        """Close the sockets that nobody took."""
        for group in self._sockets.values():
            for sock in group:
                sock.close()
        self._sockets.clear()


def current_seat() -> WorkerSeat | None:
    """The seat of this process; None where it is no worker."""
    return _seat.get(None)


@contextmanager
def take_seat(seat: WorkerSeat) -> Generator[None]:
    """Let what listens inside of the block find its sockets in the seat."""
    token = _seat.set(seat)
    try:
        yield
    finally:
        _seat.reset(token)
        seat.close()
