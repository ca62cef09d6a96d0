"""Two sides of TLS in one process, on contexts made here: machines and streams.

Beside `security.tls_contexts`, so that what is said here of machines and streams does not
depend on what is decided there. Needs OpenSSL: import it after `pytest.importorskip`.
"""

from __future__ import annotations

import math
import socket
import struct
from collections.abc import Awaitable, Callable

import trio
from OpenSSL import SSL
from tls_files import TlsFiles

from trio_mcp_transport.errors import TlsError, TlsHandshakeFailed
from trio_mcp_transport.sansio import NEED_DATA, EndOfData
from trio_mcp_transport.sansio.tls import TlsEvent, TlsMachine
from trio_mcp_transport.tls_facts import TlsFacts
from trio_mcp_transport.transports.socket_stream import SocketStream
from trio_mcp_transport.transports.tls_stream import TlsStream

VERSIONS = {"1.1": SSL.TLS1_1_VERSION, "1.2": SSL.TLS1_2_VERSION, "1.3": SSL.TLS1_3_VERSION}


class Session:
    """What a `TlsStream` asks for, and what it told."""

    def __init__(self, machine: TlsMachine, handshake_timeout: float = math.inf) -> None:
        self.machine = machine
        self.handshake_timeout = handshake_timeout
        self.refuse: Exception | None = None
        self.better: TlsError | None = None
        self.finished = 0
        self.remembered = 0

    def finish(self) -> TlsFacts:
        self.finished += 1
        if self.refuse is not None:
            raise self.refuse
        connection = self.machine.connection
        return TlsFacts(
            version=connection.get_protocol_version_name(),
            cipher=connection.get_cipher_name() or "",
        )

    def explain(self, error: TlsHandshakeFailed) -> TlsError:
        return self.better or error

    def remember(self) -> None:
        self.remembered += 1


def client_context(
    files: TlsFiles, version: str = "1.3", *, trusting: bool = True, shows: bool = False
) -> SSL.Context:
    """A client that trusts the authority, or nobody; it checks no name."""
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_min_proto_version(VERSIONS[version])
    context.set_max_proto_version(VERSIONS[version])
    context.set_verify(SSL.VERIFY_PEER)
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    if trusting:
        context.load_verify_locations(files.ca_file)
    if shows:
        context.use_certificate_chain_file(files.client_cert)
        context.use_privatekey_file(files.client_key)
    return context


def server_context(files: TlsFiles, *versions: str, mutual: bool = False) -> SSL.Context:
    """A server with its certificate."""
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    wanted = [VERSIONS[version] for version in versions or ("1.2", "1.3")]
    context.set_min_proto_version(min(wanted))
    context.set_max_proto_version(max(wanted))
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    context.use_certificate_chain_file(files.server_cert)
    context.use_privatekey_file(files.server_key)
    if mutual:
        context.load_verify_locations(files.ca_file)
        context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT)
    return context


def client_of(context: SSL.Context) -> TlsMachine:
    """A client's machine on a fresh connection."""
    return TlsMachine(SSL.Connection(context), is_server=False)


def server_of(context: SSL.Context) -> TlsMachine:
    """A server's machine on a fresh connection."""
    return TlsMachine(SSL.Connection(context), is_server=True)


def machines(files: TlsFiles, version: str = "1.3") -> tuple[TlsMachine, TlsMachine]:
    """A client and a server that will agree."""
    return client_of(client_context(files, version)), server_of(server_context(files))


def events_of(machine: TlsMachine) -> list[TlsEvent]:
    """All that it has now, up to the end."""
    events: list[TlsEvent] = []
    while (event := machine.next_event()) is not NEED_DATA:
        events.append(event)
        if isinstance(event, EndOfData):
            break
    return events


def shake(client: TlsMachine, server: TlsMachine) -> tuple[TlsEvent, TlsEvent]:
    """Let both complete the handshake; what they said of it."""
    done: dict[TlsMachine, TlsEvent] = {}
    while len(done) < 2:
        for here, there in ((client, server), (server, client)):
            if here not in done and (event := here.next_event()) is not NEED_DATA:
                done[here] = event
            if output := here.bytes_to_send():
                there.receive_data(output)
    return done[client], done[server]


def shaken(files: TlsFiles, version: str = "1.3") -> tuple[TlsMachine, TlsMachine]:
    """A client and a server whose handshake is complete."""
    client, server = machines(files, version)
    shake(client, server)
    return client, server


def socket_pair() -> tuple[SocketStream, SocketStream]:
    """A connected pair over Unix sockets."""
    left, right = socket.socketpair()
    return SocketStream(left), SocketStream(right)


def streams_over(
    left: trio.abc.Stream, right: trio.abc.Stream, files: TlsFiles, version: str = "1.3"
) -> tuple[TlsStream, TlsStream]:
    """A client's and a server's stream over these."""
    client, server = machines(files, version)
    return TlsStream(left, Session(client)), TlsStream(right, Session(server))


def stream_pair(files: TlsFiles, version: str = "1.3") -> tuple[TlsStream, TlsStream]:
    """A client's and a server's stream over sockets."""
    return streams_over(*socket_pair(), files, version)


async def shake_streams(client: TlsStream, server: TlsStream) -> None:
    """Let both complete the handshake."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.do_handshake)
        nursery.start_soon(server.do_handshake)


def reset(stream: SocketStream) -> None:
    """Close so that the peer gets a reset, not an end."""
    stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.close()


def tcp_pair() -> tuple[SocketStream, SocketStream]:
    """A connected pair over TCP."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        served, _ = server.accept()
    return SocketStream(client), SocketStream(served)


async def outcome_of(
    async_fn: Callable[[], Awaitable[object]], outcomes: dict[str, object], name: str
) -> None:
    """Note what a call returns, or how it fails."""
    try:
        outcomes[name] = await async_fn()
    except (TlsError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
        outcomes[name] = error
