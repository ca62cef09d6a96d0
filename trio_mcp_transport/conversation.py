"""What a `Peer` and whoever answers its requests know of each other.

`Router` and `negotiate` implement the interfaces, and so does anything that plugs another
dispatcher in.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import msgspec
from msgspec import Raw

from .jsonrpc import Notification, Request

if TYPE_CHECKING:
    from .peer import Peer

__all__ = [
    "AcceptsBatches",
    "Call",
    "Conversation",
    "Dispatcher",
    "PeerStatistics",
    "RequestPolicy",
]


@runtime_checkable
class AcceptsBatches(Protocol):
    """A channel that can take arrays of messages, once a revision allows them."""

    accept_batches: bool


class Call(Protocol):
    """One request that a conversation accepted."""

    @property
    def deadline(self) -> float:
        """Seconds that it may run."""

    async def run(self) -> object:
        """Run the handler; return the result, ready to be sent.

        Raises:
            RpcError: The answer is this error.
        """


class Conversation(Protocol):
    """What a dispatcher knows about one peer. Its methods do not block."""

    def receive_request(self, request: Request) -> Call:
        """Accept a request, in order of arrival.

        Raises:
            RpcError: It is refused with this.
        """

    def receive_notification(
        self, notification: Notification
    ) -> Callable[[], Awaitable[object]] | None:
        """Take a notification, in order of arrival; return what is to run for it, if any."""

    def end(self) -> None:
        """Nothing more will come: end what would otherwise go on for ever."""


class Dispatcher(Protocol):
    """Something that answers requests, such as a `Router`."""

    def join(self, peer: Peer) -> Conversation:
        """Begin a conversation."""


class RequestPolicy(Protocol):
    """What an MCP revision asks of each request that is sent; set by `negotiate`."""

    def prepare(self, params: object) -> object:
        """The params as they are to be sent."""

    async def follow_up(self, method: str, params: object, result: Raw, round: int) -> object:  # ruff: ignore[builtin-argument-shadowing]
        """The params of the request that is to be sent next, or None when this is the end."""


class PeerStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Counters of one peer since its start, and how much it has to do now.

    Attributes:
        requests_sent: Requests that were handed to the channel.
        requests_received: Requests that came, refused ones included.
        requests_refused: Requests that were answered with an error without a handler.
        requests_pending: Sent requests without an answer, now.
        handlers_running: Handlers, now.
        handlers_waiting: Requests that wait for a handler, now.
        answers_late: Answers to requests that had been given up.
        answers_unknown: Answers to nothing that was asked.
        progress_dropped: Progress that did not rise, or was nobody's.
        notifications_dropped: Notifications that found their queue full.
        cancels_ignored: Cancellations of what was not running or must not be cancelled.
    """

    requests_sent: int
    requests_received: int
    requests_refused: int
    requests_pending: int
    handlers_running: int
    handlers_waiting: int
    answers_late: int
    answers_unknown: int
    progress_dropped: int
    notifications_dropped: int
    cancels_ignored: int
