"""Channels through shared memory: how both sides meet, and what neither takes on trust."""

# Files are what is looked at here, and nothing else runs meanwhile.

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing
from cancelling import cancel_at_each_checkpoint
from shared_memory import at, false_creator, join, needs_linux, needs_sealed_memory, refused
from unix_sockets import STRANGER, leave_stale_socket, needs_root

from trio_mcp_transport.abc import ChannelBroken, ConnectionLost, MessageChannel, PeerCredentials
from trio_mcp_transport.endpoint_parser import parse_endpoint
from trio_mcp_transport.errors import (
    ConfigurationError,
    ConnectFailed,
    FeatureUnavailable,
    MessageTooLarge,
)
from trio_mcp_transport.jsonrpc import Notification, Request
from trio_mcp_transport.limits import ChannelOptions
from trio_mcp_transport.reporting import flatten
from trio_mcp_transport.serve import serve_channels
from trio_mcp_transport.shm_endpoints import ShmEndpoint
from trio_mcp_transport.transports import shared_memory, unix
from trio_mcp_transport.transports.shared_memory import connect, listen
from trio_mcp_transport.transports.shared_memory_stream import SharedMemoryStream
from trio_mcp_transport.transports.stream_channel import StreamChannel

pytestmark = [pytest.mark.shm, needs_sealed_memory]

HELLO = Notification("hello")


@asynccontextmanager
async def connected(
    endpoint: ShmEndpoint,
) -> AsyncGenerator[tuple[MessageChannel, MessageChannel]]:
    """A client and the creator's end of its channel."""
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery, await listen(endpoint, None) as listener:
            target = parse_endpoint(listener.endpoint)
            assert isinstance(target, ShmEndpoint)
            client, server = await join(nursery, listener, target)
            try:
                yield client, server
            finally:
                client.abort()
                server.abort()


# -- conversations ----------------------------------------------------------------------


async def test_messages_of_all_sizes_go_both_ways(tmp_path: Path) -> None:
    async with connected(at(tmp_path)) as (client, server):
        for size in (0, 150, 4000, 100_000, 900_000):
            request = Request(size, "work", {"text": "x" * size})
            await client.send(request)
            received = await server.receive()
            assert isinstance(received, Request)
            assert received.params_as(dict[str, str]) == {"text": "x" * size}
            await server.send(Notification("note", {"text": "y" * size}))
            assert isinstance(await client.receive(), Notification)
        assert server.session_id.startswith("shm-")
        await client.send_eof()
        with pytest.raises(trio.EndOfChannel):
            await server.receive()
        await server.send(HELLO)
        assert await client.receive() == HELLO
        await server.aclose()
        with pytest.raises(trio.EndOfChannel):
            await client.receive()


@needs_linux
async def test_both_ends_know_who_the_other_one_is(tmp_path: Path) -> None:
    async with connected(at(tmp_path, "here")) as (client, server):
        for channel in (client, server):
            assert channel.context.transport == "shm"
            assert channel.context.peer_credentials == PeerCredentials(
                pid=os.getpid(), uid=os.geteuid(), gid=os.getegid()
            )
            assert channel.context.principal == f"uid:{os.geteuid()}"
        assert client.context.peer_address == server.context.local_address == "here"
        assert client.context.local_address is server.context.peer_address is None


async def test_the_client_reads_the_creators_limits(tmp_path: Path) -> None:
    async with connected(at(tmp_path, max_size=1000, max_count=3)) as (client, server):
        for channel in (client, server):
            assert channel.options.max_message_bytes == 1000
            assert channel.capabilities.max_message_bytes == 1000
            with pytest.raises(MessageTooLarge):
                await channel.send(Notification("x" * 1000))
            assert isinstance(channel, StreamChannel)
            assert isinstance(channel.stream, SharedMemoryStream)
            assert channel.stream._ring.size == channel.stream._inflow.ring.size == 3000


async def test_a_client_may_have_a_smaller_limit_of_its_own(tmp_path: Path) -> None:
    options = ChannelOptions(max_message_bytes=500)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery, await listen(at(tmp_path), None) as listener:
            endpoint = at(tmp_path, options=options)
            client, server = await join(nursery, listener, endpoint)
            assert client.options.max_message_bytes == 500
            assert server.options.max_message_bytes == 1024 * 1024
            client.abort()
            server.abort()


async def test_each_client_has_memory_of_its_own(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery, await listen(at(tmp_path), None) as listener:
            pairs = [await join(nursery, listener, at(tmp_path)) for _ in range(3)]
            for number, (client, _) in enumerate(pairs):
                await client.send(Request(number, "work", {"text": "x" * 300_000}))
            for number, (_, server) in enumerate(pairs):
                received = await server.receive()
                assert isinstance(received, Request)
                assert received.id == number
            for pair in pairs:
                for channel in pair:
                    channel.abort()


async def test_the_framing_is_told_to_clients(tmp_path: Path) -> None:
    options = ChannelOptions(framing="length-prefix")
    endpoint = at(tmp_path, options=options)
    async with connected(endpoint) as (client, server):
        # Its length has the byte that cannot go inline.
        await client.send(Notification("x" * (0xFF - len(b'{"jsonrpc":"2.0","method":""}'))))
        assert isinstance(await server.receive(), Notification)


async def test_an_abort_is_a_loss_for_the_other_side_and_a_close_is_an_end(tmp_path: Path) -> None:
    async with connected(at(tmp_path)) as (client, server):
        await client.send(HELLO)
        client.abort()
        assert await server.receive() == HELLO
        with pytest.raises(ConnectionLost, match="gone"):
            await server.receive()
        with pytest.raises(ChannelBroken):
            await server.send(HELLO)


async def test_malformed_bytes_are_answered_by_the_creator(tmp_path: Path) -> None:
    async with connected(at(tmp_path)) as (client, server):
        assert isinstance(client, StreamChannel)
        await client.stream.send_all(b"{nonsense\n")
        with trio.move_on_after(0.5) as scope, trio.CancelScope():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(server.receive)
                answer = await client.receive()
                nursery.cancel_scope.cancel()
        assert not scope.cancelled_caught
        assert "-32700" in str(answer)


# -- meeting ----------------------------------------------------------------------------


async def test_a_client_waits_for_its_creator(tmp_path: Path) -> None:
    clients: list[MessageChannel] = []

    async def come_first(nursery: trio.Nursery) -> None:
        clients.append(await connect(nursery, at(tmp_path), None))

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(come_first, nursery)
            await trio.testing.wait_all_tasks_blocked()
            assert not clients
            async with await listen(at(tmp_path), None) as listener:
                server = await listener.accept(nursery)
                await server.send(HELLO)
                while not clients:
                    await trio.testing.wait_all_tasks_blocked()
                assert await clients[0].receive() == HELLO
                server.abort()
                clients[0].abort()


@pytest.mark.parametrize("stale", [False, True])
async def test_a_client_gives_up_when_no_creator_comes(
    tmp_path: Path, stale: bool, autojump_clock: trio.testing.MockClock
) -> None:
    if stale:
        (tmp_path / "shm").mkdir()
        leave_stale_socket(tmp_path / "shm" / "test")
    begun = trio.current_time()
    error = await refused(at(tmp_path, open_timeout=7.0))
    assert "shm://test: nobody has created it within 7 s" in str(error)
    assert 7 <= trio.current_time() - begun < 7.1
    (tmp_path / "shm" / "test").unlink(missing_ok=True)


@pytest.mark.parametrize("backlog", [0, 128])
async def test_a_client_gives_up_on_a_creator_that_hands_nothing_over(
    tmp_path: Path, backlog: int, autojump_clock: trio.testing.MockClock
) -> None:
    with false_creator(tmp_path) as server:
        server.listen(backlog)
        with socket.socket(socket.AF_UNIX) as early:
            early.connect(str(tmp_path / "shm" / "test"))  # there is room for one at least
            begun = trio.current_time()
            error = await refused(at(tmp_path, open_timeout=7.0))
            assert "connect to shm://test: its creator has handed nothing over" in str(error)
            assert "within 7 s" in str(error)
            assert 7 <= trio.current_time() - begun < 7.1
        for _ in range(1 if backlog == 0 else 2):
            accepted, _ = server.accept()
            with accepted:
                assert accepted.recv(1) == b""


async def test_a_client_does_not_wait_for_what_will_not_pass(tmp_path: Path) -> None:
    (tmp_path / "shm").write_text("no directory")
    with trio.fail_after(4):
        error = await refused(at(tmp_path))
    assert "Not a directory" in str(error)
    assert error.errno == errno.ENOTDIR


async def test_a_creator_takes_the_place_of_a_dead_one(tmp_path: Path) -> None:
    (tmp_path / "shm").mkdir(0o700)
    leave_stale_socket(tmp_path / "shm" / "test")
    async with connected(at(tmp_path)) as (client, server):
        await client.send(HELLO)
        assert await server.receive() == HELLO


async def test_a_creator_leaves_a_live_one_alone(tmp_path: Path) -> None:
    with trio.fail_after(10):
        async with await listen(at(tmp_path), None):
            with pytest.raises(ConnectFailed, match=r"shm://test: another server is listening"):
                await listen(at(tmp_path), None)
            async with await listen(at(tmp_path, "another"), None):
                pass


async def test_the_meeting_place_is_this_users_alone_and_goes_with_the_creator(
    tmp_path: Path,
) -> None:
    before = os.umask(0)
    try:
        async with await listen(at(tmp_path), None):
            assert stat.S_IMODE((tmp_path / "shm").stat().st_mode) == 0o700
            assert stat.S_IMODE((tmp_path / "shm" / "test").stat().st_mode) == 0o600
    finally:
        os.umask(before)
    assert not list((tmp_path / "shm").iterdir())


async def test_a_directory_that_others_can_enter_is_refused(tmp_path: Path) -> None:
    (tmp_path / "shm").mkdir(0o750)
    with pytest.raises(ConnectFailed, match="lets others in"):
        await listen(at(tmp_path), None)
    (tmp_path / "shm").rmdir()
    (tmp_path / "elsewhere").mkdir(0o700)
    (tmp_path / "shm").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConnectFailed, match="is no directory"):
        await listen(at(tmp_path), None)


@needs_root
async def test_a_directory_of_another_user_is_refused(tmp_path: Path) -> None:
    (tmp_path / "shm").mkdir(0o700)
    os.chown(tmp_path / "shm", STRANGER, -1)
    with pytest.raises(ConnectFailed, match=f"belongs to another user .{STRANGER}."):
        await listen(at(tmp_path), None)


async def test_a_directory_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    endpoint = ShmEndpoint(name="a", directory=str(tmp_path / "no" / "such"))
    with pytest.raises(ConnectFailed, match="cannot listen on shm://a: No such file"):
        await listen(endpoint, None)


@needs_linux
@pytest.mark.parametrize("other", [0, STRANGER])
async def test_a_peer_of_another_user_is_refused_and_root_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: int
) -> None:
    def credentials(sock: socket.socket) -> PeerCredentials:
        return PeerCredentials(pid=1, uid=other, gid=0)

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery, await listen(at(tmp_path), None) as listener:
            monkeypatch.setattr(unix, "peer_credentials", credentials)
            if other == 0:
                for channel in await join(nursery, listener, at(tmp_path)):
                    channel.abort()
            else:
                with pytest.raises(ConnectFailed, match=f"user {STRANGER}, is neither this user"):
                    await connect(nursery, at(tmp_path), None)
                with pytest.raises(ConnectFailed, match=f"user {STRANGER}, is neither this user"):
                    await listener.accept(nursery)


@pytest.mark.parametrize(
    ("runtime", "expected"),
    [
        ("mine", "/run/user/{uid}/trio-mcp"),
        ("missing", "/tmp/trio-mcp-{uid}"),
        ("a stranger's", "/tmp/trio-mcp-{uid}"),
        ("a file", "/tmp/trio-mcp-{uid}"),
    ],
)
def test_without_a_directory_both_sides_come_to_the_same_one(
    monkeypatch: pytest.MonkeyPatch, runtime: str, expected: str
) -> None:
    uid = os.geteuid()

    def lstat(path: str) -> os.stat_result:
        assert path == f"/run/user/{uid}"
        if runtime == "missing":
            raise FileNotFoundError
        mode = stat.S_IFREG if runtime == "a file" else stat.S_IFDIR
        owner = uid + 1 if runtime == "a stranger's" else uid
        return os.stat_result((mode | 0o700, 0, 0, 0, owner, 0, 0, 0, 0, 0))

    monkeypatch.setenv("XDG_RUNTIME_DIR", "/nowhere")
    monkeypatch.setattr(os, "lstat", lstat)
    assert shared_memory._directory(ShmEndpoint()) == expected.format(uid=uid)
    assert shared_memory._directory(ShmEndpoint(directory="/x")) == "/x"


# -- roles ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"create": True}, "create is for who listens"),
        ({"max_size": 5}, "max_size is the creator's"),
        ({"max_count": 5}, "max_count is the creator's"),
    ],
)
async def test_a_client_cannot_have_what_is_the_creators(
    tmp_path: Path, options: dict[str, object], complaint: str
) -> None:
    endpoint = at(tmp_path, **options)
    async with trio.open_nursery() as nursery:
        with pytest.raises(ConfigurationError, match=complaint):
            await connect(nursery, endpoint, None)


async def test_who_says_that_it_does_not_create_cannot_listen(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="create=false is for who connects"):
        await listen(at(tmp_path, create=False), None)
    async with connected(at(tmp_path, create=True)) as (client, _):
        assert client.is_connected


async def test_sizes_that_are_too_much_are_refused_before_anything_is_made(tmp_path: Path) -> None:
    options = ChannelOptions(max_message_bytes=1 << 30)
    with pytest.raises(ConfigurationError, match="max_size times max_count"):
        await listen(at(tmp_path, options=options), None)
    assert not (tmp_path / "shm").exists()


async def test_without_sealed_memory_there_is_a_clear_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "memfd_create")
    with pytest.raises(FeatureUnavailable, match="unix:/PATH"):
        await listen(at(tmp_path), None)
    async with trio.open_nursery() as nursery:
        with pytest.raises(FeatureUnavailable, match="whose size can be sealed"):
            await connect(nursery, at(tmp_path), None)


# -- what is left behind ------------------------------------------------------------------


def links() -> dict[int, str]:
    """Each open descriptor with what it refers to."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the descriptor of the listing itself
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
    return found


@needs_linux
async def test_nothing_that_is_handed_over_is_inherited_or_kept_open(tmp_path: Path) -> None:
    before = set(links().values())
    async with connected(at(tmp_path, "seen")):
        opened = {fd: name for fd, name in links().items() if name not in before}
        assert not any(os.get_inheritable(fd) for fd in opened)
        names = sorted(name for name in opened.values() if name.startswith("/memfd:"))
        # What maps memory holds one descriptor of it, on either side.
        assert names == ["/memfd:seen_c2s (deleted)"] * 2 + ["/memfd:seen_s2c (deleted)"] * 2
        sockets = [name for name in opened.values() if name.startswith("socket:")]
        assert len(sockets) == len(set(sockets)) == 5  # two for each side, and the listener


# -- when there is no room, or somebody goes --------------------------------------------


async def test_a_client_that_has_gone_before_it_was_accepted_harms_nobody(tmp_path: Path) -> None:
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery, await listen(at(tmp_path), None) as listener:
            with socket.socket(socket.AF_UNIX) as early:
                early.connect(str(tmp_path / "shm" / "test"))
            with pytest.raises(ConnectFailed, match="failed as it came"):
                await listener.accept(nursery)
            for channel in await join(nursery, listener, at(tmp_path)):
                channel.abort()


async def test_a_cancelled_connect_leaves_nothing(tmp_path: Path) -> None:
    with false_creator(tmp_path) as server:
        async with trio.open_nursery() as nursery:
            with trio.CancelScope() as scope:

                @nursery.start_soon
                async def cancel() -> None:
                    await trio.testing.wait_all_tasks_blocked()
                    scope.cancel()  # it waits for what is handed over

                await connect(nursery, at(tmp_path), None)
            assert scope.cancelled_caught
        accepted, _ = server.accept()
        with accepted:
            assert accepted.recv(1) == b""


async def test_a_connect_that_is_cancelled_anywhere_leaves_nothing_behind(tmp_path: Path) -> None:
    before = set(links().values())
    raised: set[type[BaseException]] = set()
    async with trio.open_nursery() as nursery, await listen(at(tmp_path), None) as listener:

        async def connect_and_close() -> None:
            try:
                channel = await connect(nursery, at(tmp_path), None)
            except BaseException as error:
                raised.add(type(error))
                raise
            channel.abort()

        async def accept() -> None:
            while True:
                try:
                    channel = await listener.accept(nursery)
                except ConnectFailed:
                    continue  # who was cancelled is gone
                channel.abort()

        nursery.start_soon(accept)
        with trio.fail_after(10):
            assert await cancel_at_each_checkpoint(connect_and_close) > 0
        nursery.cancel_scope.cancel()
    assert raised == {trio.Cancelled}
    assert set(links().values()) == before


async def test_a_listen_that_is_cancelled_anywhere_leaves_nothing_behind(tmp_path: Path) -> None:
    before = set(links().values())

    async def listen_and_close() -> None:
        listener = await listen(at(tmp_path), None)
        with trio.CancelScope(shield=True):
            await listener.aclose()

    with trio.fail_after(10):
        assert await cancel_at_each_checkpoint(listen_and_close) > 0
    assert set(links().values()) == before
    assert not list((tmp_path / "shm").iterdir())


async def test_a_handler_that_is_interrupted_leaves_nothing_behind(tmp_path: Path) -> None:
    before = set(links().values())

    async def handle(channel: MessageChannel) -> None:
        await channel.send(HELLO)
        await channel.receive()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        with trio.fail_after(10):
            await interrupted(at(tmp_path), handle)
    assert set(links().values()) == before


async def interrupted(
    endpoint: ShmEndpoint, handle: Callable[[MessageChannel], Awaitable[None]]
) -> None:
    """Serve until the handler is interrupted; the client hears that its peer is gone."""
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(serve_channels, handle, endpoint))
            channel = await connect(nursery, endpoint, None)
            assert await channel.receive() == HELLO
            await channel.send(HELLO)
            with trio.CancelScope(shield=True), pytest.raises(ConnectionLost):
                await channel.receive()
    except BaseExceptionGroup as group:
        raise next(
            error for error in flatten(group) if isinstance(error, KeyboardInterrupt)
        ) from None
