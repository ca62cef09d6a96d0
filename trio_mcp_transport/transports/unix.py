"""Channels over Unix sockets: ``unix:/PATH``, or ``unix:@NAME`` on Linux.

Called through `connect` and `listen`. The socket file and its permissions are the
business of `socket_file`; here are the connections and who is at their other end. Never
trusts a name that anybody may take: peers of abstract sockets are checked.
"""

from __future__ import annotations

import os
import socket
import stat
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import trio

from ..abc import (
    ChannelContext,
    EventHandler,
    MessageChannel,
    MessageListener,
    PeerCredentials,
)
from ..endpoints import UnixEndpoint
from ..errors import ConfigurationError, ConnectFailed, FeatureUnavailable
from .accept import StreamListener, options_for_client
from .compressed_stream import check_available, compressed, settings_for_client
from .socket_file import BACKLOG, bind_socket_file
from .socket_stream import SocketStream, connect_failed, set_buffer_size
from .stream_channel import StreamChannel
from .worker_seat import current_seat

__all__ = [
    "connect",
    "listen",
    "make_context",
    "open_listener",
    "open_socket",
    "peer_credentials",
]

#: A Unix socket cannot be waited for while the listener's backlog is full (connect(2):
#: EAGAIN), so connecting is tried again this often.
_CONNECT_RETRY_SECONDS = 0.01


async def connect(
    nursery: trio.Nursery, endpoint: UnixEndpoint, on_event: EventHandler | None
) -> MessageChannel:
    """Connect to a Unix socket. If cancelled, nothing is left behind.

    Where the listener's backlog is full, this waits for a place in it.

    Args:
        nursery: Where the channel's writer runs while bytes wait.
        endpoint: Where to connect. With `check_peer`, and for abstract names, which
            anybody can take, a server of another user is refused.
        on_event: Told of faults that no caller sees.

    Raises:
        ConnectFailed: Nobody listens there, or whoever does is refused.
        FeatureUnavailable: This platform has no Unix sockets, no abstract ones, or
            cannot tell whose process the peer is.
    """
    sock = await open_socket(endpoint)
    try:
        return _make_channel(
            sock, nursery, endpoint, on_event, local_address=None, peer_address=endpoint.path
        )
    except OSError as error:
        sock.close()
        raise connect_failed(f"cannot connect to {endpoint.label}", error) from error
    except BaseException:
        sock.close()
        raise


async def open_socket(endpoint: UnixEndpoint) -> socket.socket:
    """A socket that is connected. If cancelled, nothing is left behind.

    Who is at its other end was not looked at: see `make_context`.

    Raises:
        ConnectFailed: Nobody listens there, or this side has no room; its `errno` says what.
        FeatureUnavailable: As for `connect`.
    """
    _check_platform(endpoint)
    check_available(endpoint.compression)
    try:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            await _connect_socket(sock, _address(endpoint.path))
        except BaseException:
            sock.close()
            raise
    except OSError as error:
        raise connect_failed(f"cannot connect to {endpoint.label}", error) from error
    return sock


async def listen(endpoint: UnixEndpoint, on_event: EventHandler | None) -> MessageListener:
    """Listen on a Unix socket with the permissions and owner that were asked for.

    The directory must exist, belong to this user, to `owner` or to root, and must not
    let everybody or any group but `group` replace files in it (like ``/tmp``, it may have
    the sticky bit). A stale socket of this user or `owner` is replaced. The file is removed
    when the listener closes, if `cleanup_on_drop` is set.

    An abstract name has no file and so no permissions. `permissions` is applied to each
    peer's credentials instead: by default only this user, `owner` and root come in.

    Args:
        endpoint: Where to listen.
        on_event: Given to each channel; gets ``cleanup.failed``.

    Raises:
        ConnectFailed: The directory is missing or not safe, the path is taken, or the
            owner cannot be set.
        ConfigurationError: There is no such owner or group.
        FeatureUnavailable: As for `connect`.
    """
    sock, path, remove = await open_listener(endpoint, on_event)

    def make_channel(sock: socket.socket, nursery: trio.Nursery) -> MessageChannel:
        return _make_channel(
            sock, nursery, endpoint, on_event, local_address=path, peer_address=None
        )

    bound = UnixEndpoint(
        path=path,
        compression=settings_for_client(endpoint.compression),
        options=options_for_client(endpoint.options),
    )
    return StreamListener([sock], str(bound), make_channel, remove)


async def open_listener(
    endpoint: UnixEndpoint, on_event: EventHandler | None
) -> tuple[socket.socket, str, Callable[[], None] | None]:
    """A listening socket, the path that clients may use, and what removes the file.

    In a worker the socket that it has inherited (`worker_seat`); the file is not its to remove.

    Raises:
        ConnectFailed: As for `listen`, as are the others.
    """
    _check_platform(endpoint)
    check_available(endpoint.compression)
    seat = current_seat()
    if seat is not None and (sockets := seat.take(endpoint.path)):
        await trio.lowlevel.checkpoint()
        path = endpoint.path if endpoint.is_abstract else _absolute(endpoint.path)
        return sockets[0], path, None
    uid, gid = _user_id(endpoint.owner), _group_id(endpoint.group)
    remove: Callable[[], None] | None = None
    try:
        if endpoint.is_abstract:
            await trio.lowlevel.checkpoint()
            path, sock = endpoint.path, _bind_abstract(endpoint.path)
        else:
            path = _absolute(endpoint.path)
            sock, file = await bind_socket_file(path, endpoint.permissions, uid, gid)
            if endpoint.cleanup_on_drop:
                remove = partial(file.remove, on_event)
    except OSError as error:
        raise connect_failed(f"cannot listen on {endpoint.label}", error) from error
    return sock, path, remove


def peer_credentials(sock: socket.socket) -> PeerCredentials | None:
    """Who is at the other end, or None where the platform has no SO_PEERCRED.

    It is who connected or listened, as the kernel saw it then (unix(7)); a process in
    another pid namespace has pid 0.
    """
    if not hasattr(socket, "SO_PEERCRED"):
        return None
    layout = struct.Struct("iII")  # struct ucred
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, layout.size)
    pid, uid, gid = layout.unpack(raw)
    return PeerCredentials(pid=pid, uid=uid, gid=gid)


def _check_platform(endpoint: UnixEndpoint) -> None:
    if not hasattr(socket, "AF_UNIX"):
        raise FeatureUnavailable("this platform has no Unix sockets: use tcp://127.0.0.1:PORT")
    if endpoint.is_abstract and sys.platform != "linux":
        raise FeatureUnavailable(f"only Linux has abstract names such as {endpoint.path!r}")
    if endpoint.check_peer and not hasattr(socket, "SO_PEERCRED"):
        raise FeatureUnavailable(
            "check_peer: this platform cannot tell whose process the peer of a socket is"
        )


def _address(path: str) -> str:
    return "\0" + path[1:] if path.startswith("@") else path


def _absolute(path: str) -> str:
    """The path that is good in every directory, unless that is too long for a socket."""
    absolute = os.path.abspath(path)
    with suppress(ConfigurationError):
        return UnixEndpoint(path=absolute).path
    return path


async def _connect_socket(sock: socket.socket, address: str) -> None:
    await trio.lowlevel.checkpoint_if_cancelled()
    while True:
        try:
            sock.connect(address)
        except BlockingIOError:
            await trio.sleep(_CONNECT_RETRY_SECONDS)
        else:
            break
    await trio.lowlevel.cancel_shielded_checkpoint()


def _make_channel(
    sock: socket.socket,
    nursery: trio.Nursery,
    endpoint: UnixEndpoint,
    on_event: EventHandler | None,
    *,
    local_address: str | None,
    peer_address: str | None,
) -> StreamChannel:
    context = make_context(sock, endpoint, local_address=local_address, peer_address=peer_address)
    set_buffer_size(sock, endpoint.buffer_size)
    return StreamChannel(
        compressed(SocketStream(sock), endpoint.compression, accepted=peer_address is None),
        nursery=nursery,
        context=context,
        options=endpoint.options,
        on_event=on_event,
        accepted=peer_address is None,
        answer_malformed=peer_address is None,
    )


def make_context(
    sock: socket.socket,
    endpoint: UnixEndpoint,
    *,
    local_address: str | None,
    peer_address: str | None,
) -> ChannelContext:
    """Who is at the other end of a connected socket.

    Raises:
        ConnectFailed: It may not be the peer.
        OSError: It is gone already.
    """
    credentials = peer_credentials(sock)
    if endpoint.check_peer or endpoint.is_abstract:
        _check_peer(credentials, endpoint)
    return ChannelContext(
        transport=endpoint.scheme,
        local_address=local_address,
        peer_address=peer_address,
        peer_credentials=credentials,
        principal=None if credentials is None else f"uid:{credentials.uid}",
    )


def _check_peer(credentials: PeerCredentials | None, endpoint: UnixEndpoint) -> None:
    """Refuse a peer of another user, where the kernel did not do it by the file's mode.

    Raises:
        ConnectFailed: It may not be the peer.
    """
    assert credentials is not None  # `_check_platform` has seen to it
    if credentials.uid in {os.geteuid(), 0}:
        return
    if endpoint.is_abstract and not endpoint.check_peer:
        # The write bits decide, as they do for a file (unix(7)).
        uid, gid = _user_id(endpoint.owner), _group_id(endpoint.group)
        if credentials.uid == uid or endpoint.permissions & stat.S_IWOTH:
            return
        group = os.getegid() if gid is None else gid
        if endpoint.permissions & stat.S_IWGRP and credentials.gid == group:
            return
    raise ConnectFailed(f"the peer, user {credentials.uid}, is neither this user nor root")


def _bind_abstract(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(_address(path))
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def _user_id(name: str | None) -> int | None:
    if name is None or name.isdecimal():
        return None if name is None else int(name)
    import pwd  # Windows has none

    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        raise ConfigurationError(f"owner: there is no user {name!r}") from None


def _group_id(name: str | None) -> int | None:
    if name is None or name.isdecimal():
        return None if name is None else int(name)
    import grp  # Windows has none

    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise ConfigurationError(f"group: there is no group {name!r}") from None
