"""What a channel is: the interface that every transport implements.

The lowest row that imports Trio. Transports implement it, `Peer`, bridges and
applications use it, and nothing here knows which transport it is.
"""

from __future__ import annotations

import copy
import enum
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Self

import msgspec
import trio

from .compression_settings import CompressionStatistics
from .errors import RemoteProtocolError, TransportError
from .jsonrpc import Message
from .limits import ChannelOptions
from .sansio.headers import Headers
from .tls_facts import TlsFacts

__all__ = [
    "ChannelBroken",
    "ChannelCapabilities",
    "ChannelContext",
    "ChannelEvent",
    "ChannelSession",
    "ChannelState",
    "ChannelStatistics",
    "ClosedByPeer",
    "ConnectionLost",
    "EventHandler",
    "HandshakeTimeout",
    "IdleTimeout",
    "InboxStalled",
    "MessageChannel",
    "MessageListener",
    "OutboxOverflow",
    "PeerCredentials",
    "PeerProtocolError",
    "PongTimeout",
    "WriteTimeout",
]


class ChannelBroken(TransportError, trio.BrokenResourceError):
    """The channel failed; nothing more can be sent or received on it.

    The first cause of a failure stays the cause. Each later call raises an exception of
    its own, of the same type and with the same facts, chained to that first one.
    """

    def again(self) -> Self:
        """A fresh exception with the same facts, chained to this one, to raise."""
        fresh = copy.copy(self)
        fresh.__traceback__ = None
        fresh.__cause__ = self  # nor is any context shown, as after `raise ... from`
        return fresh


class HandshakeTimeout(ChannelBroken):
    """An accepted connection delivered no message within `handshake_timeout`."""


class IdleTimeout(ChannelBroken):
    """No byte arrived for `idle_read_timeout` seconds while a receive waited."""


class PongTimeout(ChannelBroken):
    """The peer left a ping unanswered, whatever else it sent; it may be half dead."""


class InboxStalled(ChannelBroken):
    """The application did not take what had come for `inbox_stall_timeout` seconds."""


class WriteTimeout(ChannelBroken):
    """The peer took not even one slice in `write_timeout` seconds."""


class OutboxOverflow(ChannelBroken):
    """The outbox was full and its policy is to close, or the control lane was full."""


class PeerProtocolError(ChannelBroken):
    """The peer broke the framing; what came before was delivered.

    Attributes:
        error: What it did.
    """

    error: RemoteProtocolError | None = None


class ConnectionLost(ChannelBroken):
    """The stream under the channel failed, or the child process died.

    Attributes:
        exit_status: The child's exit status (negative: the signal that killed it), or
            None when there is no child or its status is not known.
        stderr_tail: The last that the child wrote to stderr; empty when not captured.
    """

    exit_status: int | None = None
    stderr_tail: str = ""


class ClosedByPeer(ConnectionLost):
    """The peer ended a WebSocket and said that something was wrong.

    Attributes:
        close_code: Why (RFC 6455, section 7.4.1), such as 1011.
        close_reason: The peer's own words; empty if it has none.
    """

    close_code: int = 1006
    close_reason: str = ""


class ChannelState(enum.Enum):
    """Where a channel is in its life. States follow this order and never go back.

    CONNECTING is a child process that was started and has written nothing yet: only its
    first byte tells that it became a server. It can be sent to. All else begins CONNECTED.
    """

    CONNECTING = "connecting"
    CONNECTED = "connected"
    CLOSING = "closing"
    CLOSED = "closed"
    FAILED = "failed"


class PeerCredentials(msgspec.Struct, frozen=True):
    """Who is at the other end of a Unix socket, as the kernel says."""

    pid: int
    uid: int
    gid: int


class ChannelSession:
    """What the exchanges of one session share: there is one such object per session.

    Args:
        id: The session's id, as it stands on the wire.
        principal: Whom it belongs to, or None where nobody was authenticated.

    Attributes:
        id: See above.
        principal: See above.
        state: What the dispatcher keeps for the session, whatever that is: `Router` puts
            its `Session` here when it answers `initialize`. None until then.
    """

    __slots__ = ("id", "principal", "state")

    def __init__(self, id: str, principal: str | None = None) -> None:  # ruff: ignore[builtin-argument-shadowing]
        self.id = id
        self.principal = principal
        self.state: object | None = None


class ChannelContext(msgspec.Struct, frozen=True, kw_only=True):
    """What is known about the connection, beside the messages and never in them.

    Attributes:
        transport: The transport's name: ``tcp``, ``unix``, ``stdio``, ``process``...
        local_address: Own end, as text such as ``127.0.0.1:9000``.
        peer_address: The other end, likewise.
        peer_credentials: Who is there, on Unix sockets that can tell.
        principal: The authenticated identity, or None. A Unix peer is ``uid:N``, a client
            certificate's owner ``cert:KIND:NAME`` (`CertificateFacts.principal`).
        process_id: The child's process id.
        headers: The head of the HTTP request that the channel came with.
        session: What this exchange shares with the others of its session. None where there
            are no sessions: the connection is all there is, or each request is by itself.
        protocol_version: The revision that the transport has judged the exchange to be of;
            None where the messages alone decide.
        exchange: Whether the channel is one request to an HTTP server and all that answers
            it, so that it ends with the answer. A session's own channel is none.
        revisions: The revisions that the endpoint serves; None where it leaves that to
            whoever answers.
        client_address: The client's address, also behind proxies that are trusted to tell
            it; None where that is `peer_address` or nobody knows.
        tls: How the connection is protected, and the certificates; None without TLS, and for
            clients over HTTP, whose connections come and go.
    """

    transport: str
    local_address: str | None = None
    peer_address: str | None = None
    peer_credentials: PeerCredentials | None = None
    principal: str | None = None
    process_id: int | None = None
    headers: Headers | None = None
    session: ChannelSession | None = None
    protocol_version: str | None = None
    exchange: bool = False
    revisions: tuple[str, ...] | None = None
    client_address: str | None = None
    tls: TlsFacts | None = None


class ChannelCapabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What this channel can do, truthfully.

    Attributes:
        max_message_bytes: Largest message either way; None where messages are passed
            by reference and never measured.
        half_close: Whether `send_eof` can tell the peer while receiving goes on.
        framing: The framing on the wire; None where there is no wire, or until a
            ``detect`` channel has seen the first bytes.
    """

    max_message_bytes: int | None
    half_close: bool
    framing: str | None


class ChannelStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Counters of one channel since it was opened, and how full its queues are now.

    `malformed_received` counts sound frames that held no valid message; answers
    that came too late are the peer's business: `PeerStatistics.answers_late`.
    `compression_sent` and `compression_received` are None where the endpoint asks for none,
    and on the server's side of HTTP, which compresses for a listener as a whole.
    """

    messages_sent: int
    messages_received: int
    bytes_sent: int
    bytes_received: int
    malformed_received: int
    outbox_bytes: int
    inbox_messages: int
    compression_sent: CompressionStatistics | None = None
    compression_received: CompressionStatistics | None = None


class ChannelEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A fault that no caller would see otherwise.

    Attributes:
        name: What happened, a stable dotted name such as ``connection.failed``.
        message: The same for a person; holds no secrets and no payloads.
        error: The exception, when there is one.
        context: Whose connection it was, when one is known.
    """

    name: str
    message: str
    error: BaseException | None = None
    context: ChannelContext | None = None


EventHandler = Callable[[ChannelEvent], object]


class MessageChannel(trio.abc.Channel[Message]):
    """A two-way channel of JSON-RPC messages: the same over every transport."""

    @property
    @abstractmethod
    def context(self) -> ChannelContext:
        """Facts about the connection."""

    @property
    @abstractmethod
    def options(self) -> ChannelOptions:
        """The limits and timeouts that this channel was built with."""

    @property
    @abstractmethod
    def session_id(self) -> str:
        """The transport's name and randomness, for logs: ``tcp-5f3a...``."""

    @property
    @abstractmethod
    def state(self) -> ChannelState:
        """Where the channel is in its life."""

    @property
    @abstractmethod
    def failure(self) -> ChannelBroken | None:
        """The first cause, once `state` is FAILED."""

    @property
    def is_connected(self) -> bool:
        """Whether sending may still succeed."""
        return self.state in {ChannelState.CONNECTING, ChannelState.CONNECTED}

    @property
    @abstractmethod
    def capabilities(self) -> ChannelCapabilities:
        """What this channel can do."""

    @property
    @abstractmethod
    def can_send_eof(self) -> bool:
        """Whether `send_eof` can reach the peer while receiving goes on."""

    @abstractmethod
    async def wait_state(self, *states: ChannelState) -> ChannelState:
        """Wait until the channel is in one of the states; return which.

        A state that was passed by counts as reached only if it is the present one, so
        name the final ones too: ``wait_state(CLOSED, FAILED)``.
        """

    @abstractmethod
    async def send(self, value: Message) -> None:
        """Queue one message; `flush` waits until the operating system has it.

        A checkpoint. `Cancelled` out of here means that nothing was queued.

        Raises:
            MessageTooLarge: Over `max_message_bytes`; the channel goes on.
            ChannelBroken: The channel failed; the cause is chained.
            trio.ClosedResourceError: This side closed the channel, or sent EOF.
        """

    @abstractmethod
    async def send_many(self, values: Sequence[Message]) -> None:
        """Queue several messages, all or none of them, as one checkpoint.

        Raises:
            MessageTooLarge: One of them is too large; none was queued.
            ChannelBroken: As for `send`.
            trio.ClosedResourceError: As for `send`.
        """

    def try_send(self, value: Message) -> bool:
        """Queue one message if there is room for it at once; no checkpoint.

        For callers that yield by other means. A channel that cannot tell says False.

        Returns:
            Whether it was queued. If not, `send` it.

        Raises:
            MessageTooLarge: As for `send`.
            ChannelBroken: As for `send`.
            trio.ClosedResourceError: As for `send`.
        """
        return False

    @abstractmethod
    def send_control(self, value: Message) -> None:
        """Queue a small message though the outbox is full: error answers and cancels.

        It passes those who wait for room, but nothing that is queued: a cancel never
        overtakes its request.

        Never blocks and is no checkpoint. Past the lane's own bound the channel fails
        with `OutboxOverflow`, as a peer that takes nothing is gone.

        Raises:
            MessageTooLarge: As for `send`.
            ChannelBroken: As for `send`.
            trio.ClosedResourceError: As for `send`.
        """

    @abstractmethod
    async def receive(self) -> Message:
        """Wait for one message and return it. A checkpoint; cancelling loses nothing.

        Raises:
            trio.EndOfChannel: The peer will send no more; sending still works. On an exchange
                (`ChannelContext.exchange`) it may be told once without giving other tasks a
                turn, though a cancellation is noticed; so may the request that began it.
            ChannelBroken: The channel failed, after all that came before was delivered.
            trio.ClosedResourceError: This side closed the channel.
            trio.BusyResourceError: Another task is receiving.
        """

    @abstractmethod
    async def receive_many(self, max_messages: int = 1000) -> list[Message]:
        """Wait for the first message; return it with those that are already here.

        At least one and at most `max_messages`. A failure behind them is raised by the
        next call. Raises as `receive` does.
        """

    def push_to(
        self, deliver: Callable[[Message], object], ended: Callable[[Exception], object]
    ) -> trio.Nursery | None:
        """Hand messages over from now on, instead of having them received.

        For channels that exist for one request only, whose peer shall need no task that
        reads; they alone can do it. Nobody may call `receive` then.

        Args:
            deliver: Called, synchronously, with each message: already in here with those
                that are there, later with each as it comes. Neither waits nor raises.
            ended: Called once, likewise, with what `receive` would raise at the end.

        Returns:
            Where the peer's tasks may run, for as long as the channel lives; None for a
            channel that has to be read.
        """
        return None

    @abstractmethod
    async def flush(self) -> None:
        """Wait until everything queued was taken by the operating system.

        Raises:
            ChannelBroken: The channel failed before that.
            trio.ClosedResourceError: The channel was closed before that.
        """

    @abstractmethod
    async def send_eof(self) -> None:
        """Flush, then tell the peer that no more will come. Idempotent.

        Raises:
            trio.ClosedResourceError: The channel is closed.
            ChannelBroken: The channel failed.
            LocalProtocolError: `can_send_eof` is False.
        """

    @abstractmethod
    async def aclose(self) -> None:
        """Flush within `close_timeout`, then close. Idempotent, from any task.

        In a cancelled scope it does not flush but aborts, and raises `Cancelled`.
        """

    @abstractmethod
    def abort(self, cause: ChannelBroken | None = None) -> None:
        """Close at once, synchronously, without flushing.

        With a cause the channel fails with it; without, it is closed.
        """

    @abstractmethod
    def statistics(self) -> ChannelStatistics:
        """The counters now."""


class MessageListener(trio.abc.AsyncResource):
    """Accepts channels at one endpoint."""

    @property
    @abstractmethod
    def endpoint(self) -> str:
        """Where it listens, as the string that a client may connect to."""

    @abstractmethod
    async def accept(self, nursery: trio.Nursery) -> MessageChannel:
        """Wait for a connection and make a channel of it.

        Args:
            nursery: Where the channel's writer runs while bytes are waiting.

        Raises:
            ConnectFailed: This one connection failed; accept again.
            trio.ClosedResourceError: The listener was closed.
        """
