"""Unix sockets through real ones: conversations, and who is at the other end."""

# ruff: file-ignore[create-subprocess-in-async-function, blocking-path-method-in-async-function]
# Files and processes are what is looked at here, and nothing else runs meanwhile.

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import trio
import trio.testing
from unix_sockets import (
    STRANGER,
    at,
    connect_alone,
    leave_stale_socket,
    needs_linux,
    open_listener,
)

from trio_mcp_transport.abc import (
    MessageChannel,
    PeerCredentials,
)
from trio_mcp_transport.endpoints import UnixEndpoint
from trio_mcp_transport.errors import ConnectFailed, FeatureUnavailable
from trio_mcp_transport.jsonrpc import Notification, Request
from trio_mcp_transport.limits import ChannelOptions
from trio_mcp_transport.transports import unix
from trio_mcp_transport.transports.socket_stream import SocketStream
from trio_mcp_transport.transports.stream_channel import StreamChannel
from trio_mcp_transport.transports.unix import connect, listen, peer_credentials

HELLO = Notification("hello")
OWN = PeerCredentials(pid=os.getpid(), uid=os.geteuid(), gid=os.getegid())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s"


# -- conversations ------------------------------------------------------------------


async def test_messages_go_both_ways(path: Path) -> None:
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery, await open_listener(at(path)) as listener:
            client = await connect(nursery, at(path), None)
            server = await listener.accept(nursery)
            await client.send(Request(1, "work"))
            assert await server.receive() == Request(1, "work")
            await server.send(HELLO)
            assert await client.receive() == HELLO
            assert server.session_id.startswith("unix-")
            await client.send_eof()
            with pytest.raises(trio.EndOfChannel):
                await server.receive()
            await server.aclose()
            await client.aclose()


@needs_linux
async def test_both_ends_know_who_the_other_one_is(path: Path) -> None:
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery, await open_listener(at(path)) as listener:
            client = await connect(nursery, at(path), None)
            server = await listener.accept(nursery)
            for channel in (client, server):
                assert channel.context.transport == "unix"
                assert channel.context.peer_credentials == OWN
                assert channel.context.principal == f"uid:{os.geteuid()}"
                channel.abort()
            assert client.context.peer_address == str(path)
            assert server.context.local_address == str(path)
            assert server.context.peer_address is None


@needs_linux
async def test_the_credentials_are_those_of_the_connecting_process(path: Path) -> None:
    program = (
        "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); s.recv(1)"
    )
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery, await open_listener(at(path)) as listener:
            with subprocess.Popen([sys.executable, "-c", program, str(path)]) as child:  # noqa: ASYNC220
                channel = await listener.accept(nursery)
                assert channel.context.peer_credentials is not None
                assert channel.context.peer_credentials.pid == child.pid
                channel.abort()


def test_where_the_platform_cannot_tell_the_peer_is_unknown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(socket, "SO_PEERCRED", raising=False)
    left, right = socket.socketpair()
    with left, right:
        assert peer_credentials(left) is None


async def test_the_options_reach_the_sockets_and_the_channels(path: Path) -> None:
    endpoint = at(path, buffer_size=40_000, options=ChannelOptions(framing="length-prefix"))
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery, await open_listener(endpoint) as listener:
            assert listener.endpoint == f"unix:{path}?framing=length-prefix"
            client = await connect(nursery, endpoint, None)
            server = await listener.accept(nursery)
            await client.send(HELLO)
            assert await server.receive() == HELLO
            for channel in (client, server):
                assert isinstance(channel, StreamChannel)
                assert isinstance(channel.stream, SocketStream)
                sock = channel.stream.socket
                for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                    assert sock.getsockopt(socket.SOL_SOCKET, option) in {40_000, 80_000}
                channel.abort()


# -- abstract names -----------------------------------------------------------------


def abstract(**options: object) -> UnixEndpoint:
    return UnixEndpoint(path=f"@trio-mcp-test-{os.getpid()}", **options)  # type: ignore[arg-type]


@needs_linux
async def test_an_abstract_name_has_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    endpoint = abstract()
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery, await open_listener(endpoint) as listener:
            assert listener.endpoint == str(endpoint)
            assert not list(tmp_path.iterdir())
            client = await connect(nursery, endpoint, None)
            server = await listener.accept(nursery)
            await client.send(HELLO)
            assert await server.receive() == HELLO
            assert server.context.local_address == endpoint.path
            client.abort()
            server.abort()
            with pytest.raises(ConnectFailed, match="in use"):
                await listen(endpoint, None)
    with pytest.raises(ConnectFailed, match="refused"):
        await connect_alone(endpoint)


async def test_elsewhere_an_abstract_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trio_mcp_transport.transports.unix.sys.platform", "darwin")
    async with trio.open_nursery() as nursery:
        for call in (listen(abstract(), None), connect(nursery, abstract(), None)):
            with pytest.raises(FeatureUnavailable, match="only Linux has abstract names"):
                await call


async def test_a_platform_without_unix_sockets_says_so(
    monkeypatch: pytest.MonkeyPatch, path: Path
) -> None:
    monkeypatch.delattr(socket, "AF_UNIX")
    with pytest.raises(FeatureUnavailable, match="no Unix sockets"):
        await listen(at(path), None)


async def test_a_platform_that_cannot_check_the_peer_does_not_pretend_to(
    monkeypatch: pytest.MonkeyPatch, path: Path
) -> None:
    monkeypatch.delattr(socket, "SO_PEERCRED", raising=False)
    with pytest.raises(FeatureUnavailable, match="check_peer"):
        await listen(at(path, check_peer=True), None)


@pytest.mark.parametrize(
    ("endpoint", "credentials", "admitted"),
    [
        (abstract(), OWN, True),
        (abstract(), PeerCredentials(1, 0, 0), True),
        (abstract(), PeerCredentials(1, STRANGER, STRANGER), False),
        (abstract(owner=str(STRANGER)), PeerCredentials(1, STRANGER, 1), True),
        (abstract(permissions=0o666), PeerCredentials(1, STRANGER, STRANGER), True),
        (abstract(permissions=0o644), PeerCredentials(1, STRANGER, STRANGER), False),
        (abstract(permissions=0o660), PeerCredentials(1, STRANGER, os.getegid()), True),
        (abstract(permissions=0o660), PeerCredentials(1, STRANGER, 4712), False),
        (abstract(permissions=0o660, group="4712"), PeerCredentials(1, STRANGER, 4712), True),
        (
            abstract(permissions=0o666, check_peer=True),
            PeerCredentials(1, STRANGER, STRANGER),
            False,
        ),
        (UnixEndpoint(path="s"), PeerCredentials(1, STRANGER, STRANGER), True),
        (UnixEndpoint(path="s", check_peer=True), PeerCredentials(1, STRANGER, 0), False),
        (UnixEndpoint(path="s", check_peer=True), OWN, True),
    ],
    ids=repr,
)
@needs_linux
async def test_peers_are_admitted_by_who_they_are(
    endpoint: UnixEndpoint,
    credentials: PeerCredentials,
    admitted: bool,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(unix, "peer_credentials", lambda sock: credentials)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery, await open_listener(endpoint) as listener:
            with socket.socket(socket.AF_UNIX) as client:
                address = endpoint.path
                client.connect("\0" + address[1:] if endpoint.is_abstract else address)
                if admitted:
                    (await listener.accept(nursery)).abort()
                else:
                    with pytest.raises(ConnectFailed, match="neither this user nor root"):
                        await listener.accept(nursery)
                    assert client.recv(1) == b""
            if not admitted:
                with pytest.raises(ConnectFailed, match="neither this user nor root"):
                    await connect(nursery, endpoint, None)


# -- connecting ---------------------------------------------------------------------


async def test_a_refused_connect_names_the_path_and_the_reason(path: Path) -> None:
    leave_stale_socket(path)
    with pytest.raises(ConnectFailed) as caught:
        await connect_alone(at(path))
    assert str(caught.value) == f"cannot connect to unix:{path}: Connection refused"
    assert caught.value.errno == errno.ECONNREFUSED
    assert isinstance(caught.value.__cause__, ConnectionRefusedError)
    path.unlink()


async def test_a_full_backlog_is_waited_for(
    path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen(0)
        async with trio.open_nursery() as nursery:
            first = await connect(nursery, at(path), None)
            connected: list[MessageChannel] = []

            async def connect_one_more() -> None:
                connected.append(await connect(nursery, at(path), None))

            # A client that gives up leaves nothing behind.
            with trio.move_on_after(10) as scope:
                await connect_one_more()
            assert scope.cancelled_caught
            nursery.start_soon(connect_one_more)
            await trio.testing.wait_all_tasks_blocked()
            assert not connected
            accepted = [server.accept()[0]]
            await trio.sleep(1)
            [second] = connected
            accepted.append(server.accept()[0])
            await second.send(HELLO)
            assert accepted[1].recv(100).endswith(b"\n")
            for channel in (first, second):
                channel.abort()
            for sock in accepted:
                sock.close()
    path.unlink()


async def test_a_connect_that_is_cancelled_leaves_nothing_behind(path: Path) -> None:
    async with trio.open_nursery() as nursery, await open_listener(at(path)):
        descriptors = len(os.listdir("/dev/fd"))
        with trio.CancelScope() as scope:
            scope.cancel()
            await connect(nursery, at(path), None)
        assert scope.cancelled_caught
        assert len(os.listdir("/dev/fd")) == descriptors
