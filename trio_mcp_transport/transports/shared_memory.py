"""Channels through shared memory: ``shm://NAME``, between processes of one user.

Called through `connect` and `listen`. Creator and clients meet at a Unix socket in a
directory that only their user may enter; each client gets memory of its own there
(`shared_memory_segment`), and what passes through it is a stream like any other
(`shared_memory_stream`). Nothing has a name but that socket: the memory goes when the last
of the two processes lets go of it, however they end.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from contextlib import suppress

import msgspec
import trio

from ..abc import ChannelContext, EventHandler, MessageChannel, MessageListener
from ..endpoints import UnixEndpoint
from ..errors import ConfigurationError, ConnectFailed
from ..limits import ChannelOptions
from ..sansio.ring import RingHeader
from ..shm_endpoints import ShmEndpoint
from . import unix
from .accept import StreamListener, options_for_client
from .shared_memory_segment import check_platform, hand_over, take_over
from .shared_memory_stream import SharedMemoryStream
from .socket_stream import connect_failed
from .stream_channel import StreamChannel

__all__ = ["connect", "listen", "open_stream"]

#: How often a client looks whether its creator has come.
_RETRY_SECONDS = 0.02
#: Nobody listens there, yet: no directory, no socket, or a dead one.
_NOT_YET = frozenset({errno.ENOENT, errno.ECONNREFUSED})


async def connect(
    nursery: trio.Nursery, endpoint: ShmEndpoint, on_event: EventHandler | None
) -> MessageChannel:
    """Connect to a creator, waiting up to `open_timeout` for it and for what it hands over.

    If cancelled, nothing is left behind.

    Args:
        nursery: Where the channel's writer runs while bytes wait.
        endpoint: Where to connect.
        on_event: Told of faults that no caller sees.

    Raises:
        ConfigurationError: It is a creator's endpoint.
        ConnectFailed: There is no creator, it is of another user, or what it shares is not
            safe to use.
        FeatureUnavailable: This platform has no sealed memory, or cannot tell whose process
            a creator is.
    """
    stream, header, context = await open_stream(endpoint)
    limit = min(header.max_message_bytes, endpoint.options.max_message_bytes)
    return _make_channel(stream, nursery, context, endpoint.options, limit, on_event)


async def open_stream(
    endpoint: ShmEndpoint,
) -> tuple[SharedMemoryStream, RingHeader, ChannelContext]:
    """A stream to a creator, what that said of it, and who it is.

    If cancelled, nothing is left behind. Raises as `connect`.
    """
    if endpoint.create:
        raise ConfigurationError(f"{endpoint.label}: create is for who listens")
    for option in ("max_size", "max_count"):
        if getattr(endpoint, option) is not None:
            raise ConfigurationError(
                f"{endpoint.label}: {option} is the creator's, and read from it"
            )
    check_platform()
    path = os.path.join(_directory(endpoint), endpoint.name)
    place = UnixEndpoint(path=path, check_peer=True)
    deadline = trio.current_time() + endpoint.open_timeout
    sock = await _wait_for_creator(endpoint, place, deadline)
    try:
        context = unix.make_context(sock, place, local_address=None, peer_address=endpoint.name)
        with trio.move_on_at(deadline):
            while (taken := take_over(sock)) is None:
                await trio.lowlevel.wait_readable(sock)
            return *taken, context
        raise ConnectFailed(_handed_nothing(endpoint))
    except OSError as error:
        sock.close()
        raise connect_failed(f"cannot connect to {endpoint.label}", error) from error
    except BaseException:
        sock.close()
        raise


async def _wait_for_creator(
    endpoint: ShmEndpoint, place: UnixEndpoint, deadline: float
) -> socket.socket:
    absent: ConnectFailed | None = None
    with trio.move_on_at(deadline):
        while True:
            try:
                return await unix.open_socket(place)
            except ConnectFailed as error:
                if error.errno not in _NOT_YET:
                    raise _about(endpoint, "connect to", error) from error
                absent = error
            await trio.sleep(_RETRY_SECONDS)
    # Without an error it has waited for a place in the creator's backlog.
    why = _handed_nothing(endpoint)
    if absent is not None:
        why = f"nobody has created it within {endpoint.open_timeout:g} s"
    raise ConnectFailed(f"cannot connect to {endpoint.label}: {why}") from absent


def _handed_nothing(endpoint: ShmEndpoint) -> str:
    return (
        f"its creator has handed nothing over within {endpoint.open_timeout:g} s;"
        " it hangs, or serves as many as it may"
    )


async def listen(endpoint: ShmEndpoint, on_event: EventHandler | None) -> MessageListener:
    """Create a channel's meeting place, and memory for each client that comes.

    Args:
        endpoint: The name, the sizes.
        on_event: Given to each channel; gets ``cleanup.failed``.

    Raises:
        ConfigurationError: It is the endpoint of who connects, or its sizes are too large.
        ConnectFailed: Another process is the creator of that name, or the directory is not
            this user's alone.
        FeatureUnavailable: As for `connect`.
    """
    if endpoint.create is False:
        raise ConfigurationError(f"{endpoint.label}: create=false is for who connects")
    check_platform()
    header = RingHeader(endpoint.ring_bytes, endpoint.message_bytes)
    directory = _directory(endpoint)
    path = os.path.join(directory, endpoint.name)
    place = UnixEndpoint(path=path, check_peer=True)
    try:
        _make_directory(directory)
        listening, _, remove = await unix.open_listener(place, on_event)
    except OSError as error:
        raise _about(endpoint, "listen on", error) from error

    def make_channel(sock: socket.socket, nursery: trio.Nursery) -> MessageChannel:
        context = unix.make_context(sock, place, local_address=endpoint.name, peer_address=None)
        stream = hand_over(sock, endpoint.name, header)
        return _make_channel(
            stream, nursery, context, endpoint.options, header.max_message_bytes, on_event
        )

    bound = ShmEndpoint(
        name=endpoint.name,
        directory=endpoint.directory,
        options=options_for_client(endpoint.options),
    )
    return StreamListener([listening], str(bound), make_channel, remove)


def _about(endpoint: ShmEndpoint, doing: str, error: OSError) -> ConnectFailed:
    """The exception to raise `from` the error: it names this endpoint, not the socket's."""
    cause = error.__cause__ if isinstance(error, ConnectFailed) else None
    told = cause if isinstance(cause, OSError) else error
    return connect_failed(f"cannot {doing} {endpoint.label}", told)


def _make_channel(
    stream: SharedMemoryStream,
    nursery: trio.Nursery,
    context: ChannelContext,
    options: ChannelOptions,
    max_message_bytes: int,
    on_event: EventHandler | None,
) -> StreamChannel:
    accepted = context.peer_address is None
    return StreamChannel(
        stream,
        nursery=nursery,
        context=msgspec.structs.replace(context, transport="shm"),
        options=msgspec.structs.replace(options, max_message_bytes=max_message_bytes),
        on_event=on_event,
        accepted=accepted,
        answer_malformed=accepted,
    )


def _directory(endpoint: ShmEndpoint) -> str:
    """Where the socket is.

    No environment variable has a say: hosts start servers with hardly any, and both must come
    to the same place.
    """
    if endpoint.directory is not None:
        return endpoint.directory
    user = os.geteuid()
    runtime = f"/run/user/{user}"
    try:
        found = os.lstat(runtime)
    except OSError:
        return f"/tmp/trio-mcp-{user}"
    if stat.S_ISDIR(found.st_mode) and found.st_uid == user:
        return f"{runtime}/trio-mcp"
    return f"/tmp/trio-mcp-{user}"


def _make_directory(path: str) -> None:
    """Make the directory unless it is there, and see that it is this user's alone.

    Raises:
        ConnectFailed: It is not.
        OSError: It cannot be made.
    """
    with suppress(FileExistsError):
        os.mkdir(path, 0o700)
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode):
        raise ConnectFailed(f"{path} is no directory")
    if found.st_uid != os.geteuid():
        raise ConnectFailed(f"the directory {path} belongs to another user ({found.st_uid})")
    if found.st_mode & 0o077:
        raise ConnectFailed(f"the directory {path} lets others in; chmod go= it")
