"""Channels over TLS: ``tls://HOST:PORT`` and ``tls+unix:/PATH``.

Called through `connect` and `listen`, or with a `TlsClient` or `TlsServer` that the caller
brings. The sockets are those of `tcp` and `unix`; `tls_stream` encrypts; which certificates
are good is decided in `security.tls_contexts`. A channel exists only after the handshake, so
its context tells who the other side is. Never shakes hands inside of `accept`, where one slow
client would hold up all others.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence

import msgspec
import trio

from ..abc import ChannelContext, EventHandler, MessageChannel, MessageListener
from ..errors import ConnectFailed, TlsHandshakeFailed
from ..security.tls_contexts import TlsClient, TlsServer
from ..tls_endpoints import DEFAULT_UNIX_SERVER_NAME, TlsEndpoint, TlsUnixEndpoint
from ..tls_facts import TlsFacts
from . import tcp, unix
from .accept import SocketAcceptor, options_for_client
from .compressed_stream import compressed, settings_for_client
from .socket_stream import SocketStream, connect_failed, set_buffer_size
from .stream_channel import StreamChannel
from .tls_stream import TlsStream

__all__ = [
    "TlsListener",
    "connect",
    "connect_with_tls",
    "listen",
    "listen_with_tls",
    "shake_hands",
]


async def connect(
    nursery: trio.Nursery, endpoint: TlsEndpoint | TlsUnixEndpoint, on_event: EventHandler | None
) -> MessageChannel:
    """Connect, shake hands, and check who the server is.

    If cancelled, nothing is left behind.

    Args:
        nursery: Where the channel's writer runs while bytes wait.
        endpoint: Where to connect, and the options of socket and TLS.
        on_event: Told of faults that no caller sees.

    Raises:
        ConfigurationError: An option is for listening, or a file cannot be used.
        ConnectFailed: As for TCP and Unix sockets.
        TlsError: There is no agreement, or the server's certificate is refused.
        FeatureUnavailable: The extra ``tls`` is not installed.
    """
    return await connect_with_tls(
        nursery, endpoint, on_event, TlsClient(endpoint.tls, on_event=on_event)
    )


async def connect_with_tls(
    nursery: trio.Nursery,
    endpoint: TlsEndpoint | TlsUnixEndpoint,
    on_event: EventHandler | None,
    tls: TlsClient,
) -> MessageChannel:
    """Connect as `connect` does, with a TLS client that the caller keeps."""
    if isinstance(endpoint, TlsUnixEndpoint):
        sock = await unix.open_socket(endpoint)
        host, port = DEFAULT_UNIX_SERVER_NAME, 0
    else:
        sock = await tcp.open_socket(endpoint, endpoint.label, on_event)
        host, port = endpoint.host, endpoint.port
    try:
        if isinstance(endpoint, TlsUnixEndpoint):
            context = unix.make_context(
                sock, endpoint, local_address=None, peer_address=endpoint.path
            )
            set_buffer_size(sock, endpoint.buffer_size)
        else:
            context = tcp.make_context(sock, endpoint)
            tcp.set_options(sock, endpoint)
        stream = TlsStream(SocketStream(sock), tls.begin(host, port))
    except OSError as error:
        sock.close()
        raise connect_failed(f"cannot connect to {endpoint.label}", error) from error
    except BaseException:
        sock.close()
        raise
    facts = await shake_hands(stream, endpoint.label)
    return StreamChannel(
        compressed(stream, endpoint.compression, accepted=False),
        nursery=nursery,
        context=msgspec.structs.replace(context, tls=facts),
        options=endpoint.options,
        on_event=on_event,
        accepted=False,
        answer_malformed=False,
    )


async def shake_hands(stream: TlsStream, label: str) -> TlsFacts:
    """Complete a client's handshake, or close the stream, whatever happens.

    Args:
        stream: Connected.
        label: To what, for the error's text.

    Raises:
        TlsError: It failed; see `TlsStream.do_handshake`.
    """
    try:
        return await stream.do_handshake()
    except TlsHandshakeFailed as error:
        stream.close()
        text = f"cannot connect to {label}: {error}"
        raise TlsHandshakeFailed(text, alert=error.alert) from error
    except BaseException:
        stream.close()
        raise


async def listen(
    endpoint: TlsEndpoint | TlsUnixEndpoint, on_event: EventHandler | None
) -> MessageListener:
    """Listen as TCP or Unix sockets do, for clients that speak TLS.

    The principal of a channel is whom the client's certificate identifies; without one, on
    Unix sockets, it is the user whose process it is.

    Args:
        endpoint: Where to listen, the certificates, and the options of accepted sockets.
        on_event: Given to each channel.

    Raises:
        ConfigurationError: An option is for connecting, or a file cannot be used.
        ConnectFailed: As for TCP and Unix sockets.
        FeatureUnavailable: The extra ``tls`` is not installed.
    """
    return await listen_with_tls(endpoint, on_event, TlsServer(endpoint.tls, on_event=on_event))


async def listen_with_tls(
    endpoint: TlsEndpoint | TlsUnixEndpoint, on_event: EventHandler | None, tls: TlsServer
) -> MessageListener:
    """Listen as `listen` does, with a TLS server that the caller keeps."""
    remove: Callable[[], None] | None = None
    path: str | None = None
    options = options_for_client(endpoint.options)
    compression = settings_for_client(endpoint.compression)
    if isinstance(endpoint, TlsUnixEndpoint):
        sock, path, remove = await unix.open_listener(endpoint, on_event)
        sockets = [sock]
        bound = str(TlsUnixEndpoint(path=path, compression=compression, options=options))
    else:
        sockets = await tcp.open_listeners(endpoint, endpoint.label)
        host, port = tcp.host_and_port(sockets[0].getsockname())
        if len(sockets) > 1:
            host = endpoint.host
        bound = str(TlsEndpoint(host=host, port=port, compression=compression, options=options))
    return TlsListener(sockets, bound, endpoint, tls, on_event, path=path, on_close=remove)


class TlsListener(MessageListener):
    """Listening sockets whose connections speak TLS.

    Args:
        sockets: Listening sockets, owned from now on.
        bound: Where they listen, as the string that a client may connect to.
        endpoint: The options of accepted sockets and channels.
        tls: Makes the sessions.
        on_event: Given to each channel.
        path: Of a Unix socket: where it is, as clients see it.
        on_close: As for `SocketAcceptor`.
    """

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        bound: str,
        endpoint: TlsEndpoint | TlsUnixEndpoint,
        tls: TlsServer,
        on_event: EventHandler | None,
        *,
        path: str | None = None,
        on_close: Callable[[], object] | None = None,
    ) -> None:
        self._acceptor = SocketAcceptor(sockets, on_close)
        self._bound = bound
        self._path = path
        self._options = endpoint
        self._tls = tls
        self._on_event = on_event

    @property
    def endpoint(self) -> str:
        """Where it listens, as the string that a client may connect to."""
        return self._bound

    async def accept(self, nursery: trio.Nursery) -> MessageChannel:
        """Wait for a connection, and for its handshake.

        `serve_listener` does not wait for a handshake before it accepts the next connection;
        whoever calls this does.

        Raises as `SocketAcceptor.accept`; a handshake that fails is a `ConnectFailed`.
        """
        unfinished = await self.accept_unfinished()
        return await unfinished.finish(nursery)

    async def accept_unfinished(self) -> _Unfinished:
        """Wait for a connection. Raises as `SocketAcceptor.accept`."""
        sock = await self._acceptor.accept()
        try:
            context = self._prepare(sock)
            stream = TlsStream(SocketStream(sock), self._tls.begin())
        except OSError as error:
            sock.close()
            if isinstance(error, ConnectFailed):
                raise
            raise ConnectFailed(f"the connection failed as it came: {error}") from error
        except BaseException:
            sock.close()
            raise
        return _Unfinished(stream, context, self._options, self._on_event)

    def _prepare(self, sock: socket.socket) -> ChannelContext:
        options = self._options
        if isinstance(options, TlsUnixEndpoint):
            set_buffer_size(sock, options.buffer_size)
            return unix.make_context(sock, options, local_address=self._path, peer_address=None)
        tcp.set_options(sock, options)
        return tcp.make_context(sock, options)

    async def aclose(self) -> None:
        """Stop listening, then checkpoint. Idempotent; what was accepted goes on."""
        self._acceptor.close()
        await trio.lowlevel.checkpoint()


class _Unfinished:
    """A connection whose handshake is still to come."""

    def __init__(
        self,
        stream: TlsStream,
        context: ChannelContext,
        endpoint: TlsEndpoint | TlsUnixEndpoint,
        on_event: EventHandler | None,
    ) -> None:
        self._stream = stream
        self._context = context
        self._endpoint = endpoint
        self._on_event = on_event
        self._is_channel = False

    @property
    def peer_address(self) -> str | None:
        """Where it comes from."""
        return self._context.peer_address

    async def finish(self, nursery: trio.Nursery) -> MessageChannel:
        """Shake hands and be a channel, or be closed."""
        try:
            facts = await self._stream.do_handshake()
            channel = StreamChannel(
                compressed(self._stream, self._endpoint.compression, accepted=True),
                nursery=nursery,
                context=self._describe(facts),
                options=self._endpoint.options,
                on_event=self._on_event,
                accepted=True,
                answer_malformed=True,
            )
        except BaseException:
            self._stream.close()
            raise
        self._is_channel = True
        return channel

    def _describe(self, facts: TlsFacts) -> ChannelContext:
        principal = facts.principal or self._context.principal
        return msgspec.structs.replace(self._context, tls=facts, principal=principal)

    def close(self) -> None:
        """Close the connection, unless a channel has it."""
        if not self._is_channel:
            self._stream.close()
