"""What a `Peer` and whoever answers its requests know of each other.

`Router` and `negotiate` implement the interfaces, and so does anything that plugs another
dispatcher in.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from msgspec import Raw

from .errors import RpcError
from .jsonrpc import InvalidMessage, Notification, Request, RequestId

if TYPE_CHECKING:
    from .abc import MessageChannel
    from .peer import Peer

__all__ = [
    "AcceptsBatches",
    "Call",
    "ClosesStreams",
    "Conversation",
    "Dispatcher",
    "HasExchanges",
    "MayAsk",
    "RequestPolicy",
    "TellsBrokenAnswers",
]


@runtime_checkable
class AcceptsBatches(Protocol):
    """A channel that can take arrays of messages, once a revision allows them."""

    accept_batches: bool


@runtime_checkable
class TellsBrokenAnswers(Protocol):
    """A channel that can tell of a malformed answer whose id could be read."""

    on_broken_answer: Callable[[RequestId, InvalidMessage], object] | None


@runtime_checkable
class ClosesStreams(Protocol):
    """An exchange whose client can come back for the rest of its stream."""

    def close_stream(self, retry: float | None = None) -> object:
        """End the connection, but not the stream.

        Args:
            retry: Seconds that the client is told to wait; None for the endpoint's own.

        Raises:
            LocalProtocolError: This stream cannot be resumed.
        """


@runtime_checkable
class MayAsk(Protocol):
    """An exchange that not every client takes requests on."""

    @property
    def can_ask(self) -> bool:
        """Whether a request may be sent on it at the moment."""


@runtime_checkable
class HasExchanges(Protocol):
    """A session as one channel, whose requests came by exchanges of their own."""

    def exchange_of(self, request_id: RequestId) -> MessageChannel | None:
        """The exchange of a request that was received and is not answered yet."""


class Call(Protocol):
    """One request that a conversation accepted."""

    @property
    def timeout(self) -> float:
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

    def may_retry(self, error: RpcError) -> bool:
        """Whether a refused request is to be sent once more, prepared anew."""

    async def follow_up(self, method: str, params: object, result: Raw, round: int) -> object:  # ruff: ignore[builtin-argument-shadowing]
        """The params of the request that is to be sent next, or None when this is the end."""
