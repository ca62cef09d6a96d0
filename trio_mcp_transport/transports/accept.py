"""The accept loop that every server shares, and the listener over listening sockets.

`serve_channels` calls `serve_listener` once per listener; TCP and Unix sockets listen with
a `StreamListener`. The loop must never end because of one connection, and never hold a
connection that nobody serves.

Theory of operation: a connection's own nursery, where its channel's writer runs, has to
exist before the connection is accepted. So the loop starts one task at a time that opens
a nursery, accepts into it, says so, and then goes on as that connection's task, while
the loop starts the next. Accepting is one synchronous step between a wait and the
channel that owns the socket, so a cancellation finds either no connection or an owned one.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import NoReturn, Protocol, runtime_checkable

import trio

from ..abc import (
    ChannelBroken,
    ChannelEvent,
    ChannelState,
    EventHandler,
    MessageChannel,
    MessageListener,
)
from ..errors import ConnectFailed
from ..limits import DEFAULT_MAX_CONNECTIONS, ChannelOptions
from ..reporting import lone_exception, report
from .http_serving import HttpServing

__all__ = [
    "AcceptLoop",
    "AcceptsUnfinished",
    "ChannelHandler",
    "ServesRequests",
    "ServingListener",
    "SocketAcceptor",
    "StreamListener",
    "UnfinishedChannel",
    "options_for_client",
    "serve_listener",
]

ChannelHandler = Callable[[MessageChannel], Awaitable[object]]

#: Wait before accepting again when the machine has no room. Long enough not to burn the
#: processor, short enough that a client in the backlog hardly notices.
ACCEPT_RETRY_SECONDS = 0.1

#: This machine has run out of something: the connection stays in the backlog.
_CAPACITY_ERRNOS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})

#: One connection failed before it was accepted; Linux reports a socket's own pending
#: error from accept(2), which "should be treated like EAGAIN by retrying".
_ONE_CONNECTION_ERRNOS = frozenset(
    getattr(errno, name)
    for name in (
        "ECONNABORTED",
        "ECONNRESET",
        "EHOSTDOWN",
        "EHOSTUNREACH",
        "ENETDOWN",
        "ENETUNREACH",
        "ENONET",
        "ENOPROTOOPT",
        "EOPNOTSUPP",
        "EPERM",
        "EPROTO",
        "ETIMEDOUT",
    )
    if hasattr(errno, name)
)


@runtime_checkable
class ServesRequests(Protocol):
    """A listener whose connections are no channels: it makes those of what comes over them."""

    async def serve(
        self,
        handler: ChannelHandler,
        *,
        http: HttpServing,
        max_connections: int,
        on_event: EventHandler | None,
        handler_nursery: trio.Nursery,
        task_status: trio.TaskStatus[AcceptLoop],
    ) -> None:
        """Serve until the listener is closed; see `serve_listener`."""


class UnfinishedChannel(Protocol):
    """A connection that was accepted and must shake hands before it is a channel."""

    @property
    def peer_address(self) -> str | None:
        """Where it comes from, as `ChannelContext` has it."""

    async def finish(self, nursery: trio.Nursery, /) -> MessageChannel:
        """Shake hands. Whatever this raises, the connection is closed then.

        Raises:
            ConnectFailed: That came to nothing.
        """

    def close(self) -> None:
        """Close the connection at once, unless a channel has it already. Idempotent."""


@runtime_checkable
class AcceptsUnfinished(Protocol):
    """A listener whose connections must shake hands.

    That is done in the connection's own task, so that a client which takes its time holds
    up nobody who comes after it.
    """

    async def accept_unfinished(self) -> UnfinishedChannel:
        """Wait for a connection; raises as `SocketAcceptor.accept`."""


class AcceptLoop:
    """The loop that accepts at one listener, for as long as that is possible.

    Attributes:
        endpoint: Where it listens, as the string that a client may connect to.
    """

    def __init__(self, endpoint: str, max_connections: int, on_event: EventHandler | None) -> None:
        if max_connections < 1:
            raise ValueError(f"max_connections must be at least 1, not {max_connections}")
        self.endpoint = endpoint
        self._on_event = on_event
        self._places = trio.Semaphore(max_connections)

    async def accept_one(self, nursery: trio.Nursery) -> Exception | None:
        """Accept one connection and see to it in the nursery; or return what went wrong.

        Releases the place that was acquired for it when it is done.
        """
        raise NotImplementedError

    async def run(self, nursery: trio.Nursery) -> Exception | None:
        """Accept until the listener is closed; return what broke it, if that did."""
        # Only the first of a run of equal failures is reported: at ten a second they
        # would bury everything else.
        reported: int | None = None
        while True:
            await self._places.acquire()
            failure = await self.accept_one(nursery)
            match failure:
                case None:
                    reported = None
                case trio.ClosedResourceError():
                    return None
                case ConnectFailed():
                    self._report("accept.failed", "a connection was not taken", failure)
                    await trio.lowlevel.checkpoint()
                case OSError(errno=number) if number in _ONE_CONNECTION_ERRNOS:
                    self._report("accept.failed", "a connection failed as it came", failure)
                    await trio.lowlevel.checkpoint()
                case OSError(errno=number) if number in _CAPACITY_ERRNOS:
                    if reported != number:
                        reported = number
                        self._report("accept.failed", "no room for connections", failure)
                    await trio.sleep(ACCEPT_RETRY_SECONDS)
                case _:
                    return failure

    def _report_handshake(self, peer_address: str | None, error: Exception) -> None:
        who = "a client" if peer_address is None else f"the client {peer_address}"
        self._report("handshake.failed", f"{who} could not shake hands", error)

    def _report(self, name: str, message: str, error: Exception) -> None:
        text = f"{self.endpoint}: {message}: {error}"
        report(self._on_event, ChannelEvent(name=name, message=text, error=error))


class ServingListener(AcceptLoop):
    """A listener that is being served: what `serve_listener` reports when it starts.

    Attributes:
        listener: The listener.
        open_connections: How many connections are open now.
        accepted: How many were accepted since the start.
    """

    def __init__(
        self,
        listener: MessageListener,
        handler: ChannelHandler,
        max_connections: int,
        on_event: EventHandler | None,
    ) -> None:
        super().__init__(listener.endpoint, max_connections, on_event)
        self.listener = listener
        self.open_connections = 0
        self.accepted = 0
        self._handler = handler
        self._unfinished: set[UnfinishedChannel] = set()

    async def accept_one(self, nursery: trio.Nursery) -> Exception | None:
        """Start the task of one connection; see `AcceptLoop.accept_one`."""
        failure: Exception | None = await nursery.start(self._accept_and_serve)
        return failure

    async def _accept_and_serve(self, task_status: trio.TaskStatus[Exception | None]) -> None:
        """One connection, from before it is accepted until after it is closed."""
        channel: MessageChannel | None = None
        unfinished: UnfinishedChannel | None = None
        try:
            try:
                async with trio.open_nursery() as nursery:
                    try:
                        if isinstance(self.listener, AcceptsUnfinished):
                            unfinished = await self.listener.accept_unfinished()
                        else:
                            channel = await self.listener.accept(nursery)
                    except Exception as error:
                        task_status.started(error)  # the loop decides what it means
                    else:
                        self.open_connections += 1
                        self.accepted += 1
                        if unfinished is not None:
                            task_status.started(None)
                            channel = await self._finish(unfinished, nursery)
                            if channel is not None:
                                await self._serve(channel)
                        elif channel is not None:
                            await self._serve(channel, task_status)
                        # The channel is closed: nothing of it may hold the place any more.
                        nursery.cancel_scope.cancel()
            except* Exception as group:
                self._report_handler_failure(channel, lone_exception(group))
        finally:
            if unfinished is not None:
                unfinished.close()
            if unfinished is not None or channel is not None:
                self.open_connections -= 1
            self._places.release()

    async def _finish(
        self, unfinished: UnfinishedChannel, nursery: trio.Nursery
    ) -> MessageChannel | None:
        self._unfinished.add(unfinished)
        try:
            return await unfinished.finish(nursery)
        except ConnectFailed as error:
            self._report_handshake(unfinished.peer_address, error)
        except trio.ClosedResourceError:
            pass  # by `drop_unfinished`
        finally:
            self._unfinished.discard(unfinished)
        return None

    def drop_unfinished(self) -> None:
        """Close the connections that are no channels yet: nobody waits for their end."""
        for unfinished in list(self._unfinished):
            unfinished.close()

    async def _serve(
        self,
        channel: MessageChannel,
        task_status: trio.TaskStatus[Exception | None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        try:
            task_status.started(None)
            # The peer has said its last word: a handler that lets this out is done.
            with suppress(trio.EndOfChannel):
                await self._handler(channel)
            await channel.aclose()
        finally:
            channel.abort()  # does nothing to a closed channel

    def _report_handler_failure(self, channel: MessageChannel | None, error: Exception) -> None:
        context = None if channel is None else channel.context
        # A peer that goes away in the middle is an everyday event, no fault of the handler.
        if (
            isinstance(error, ChannelBroken)
            and channel is not None
            and channel.state is ChannelState.FAILED
            and _stems_from(error, channel.failure)
        ):
            event = ChannelEvent(
                name="connection.lost", message=str(error), error=error, context=context
            )
        else:
            event = ChannelEvent(
                name="handler.failed",
                message=f"the handler of a connection raised {type(error).__name__}",
                error=error,
                context=context,
            )
        report(self._on_event, event)


async def serve_listener(
    listener: MessageListener,
    handler: ChannelHandler,
    *,
    max_connections: int = DEFAULT_MAX_CONNECTIONS,
    on_event: EventHandler | None = None,
    handler_nursery: trio.Nursery | None = None,
    http: HttpServing | None = None,
    task_status: trio.TaskStatus[AcceptLoop] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Accept connections and run `handler(channel)` for each, until the listener is closed.

    Each connection has its own boundary: an exception of its handler is reported, its
    channel is aborted, and the others go on. Only `Cancelled`, `KeyboardInterrupt` and
    the like leave it. When a handler returns, its channel is closed gracefully; so it is
    when `trio.EndOfChannel` leaves the handler.

    At `max_connections` it stops accepting until a connection ends; whoever comes
    meanwhile waits in the operating system's backlog, which is bounded too.

    Cancelling aborts all connections, unless they run in a `handler_nursery` of yours.
    The listener is closed in any case.

    Args:
        listener: Owned from now on.
        handler: Called with each channel, which is closed after it.
        max_connections: How many may be open at a time.
        on_event: Gets ``accept.failed`` (no room, or one connection failed early),
            ``handshake.failed``, ``handler.failed`` and ``connection.lost``; they are
            logged without it.
        handler_nursery: Where the connections run, for a server that stops accepting
            before it stops serving. Without it they end with this call.
        http: How a listener over HTTP makes channels; others have no use for it.
        task_status: Started with a `ServingListener` once connections are accepted; over
            HTTP with another `AcceptLoop`.

    Raises:
        OSError: Accepting failed in a way that will not pass; all connections are aborted,
            unless they run in a nursery of yours.
        ValueError: `max_connections` is less than 1.
    """
    if isinstance(listener, ServesRequests):
        serve = partial(
            listener.serve,
            handler,
            http=http or HttpServing(),
            max_connections=max_connections,
            on_event=on_event,
            task_status=task_status,
        )
        if handler_nursery is not None:
            await serve(handler_nursery=handler_nursery)
        else:
            async with trio.open_nursery() as nursery:
                await serve(handler_nursery=nursery)
        return
    serving = ServingListener(listener, handler, max_connections, on_event)
    async with listener:
        task_status.started(serving)
        try:
            if handler_nursery is not None:
                failure = await serving.run(handler_nursery)
            else:
                async with trio.open_nursery() as nursery:
                    failure = await serving.run(nursery)
                    serving.drop_unfinished()
                    if failure is not None:
                        nursery.cancel_scope.cancel()
        finally:
            serving.drop_unfinished()
    if failure is not None:  # raised here, so that it comes out bare
        raise failure


class SocketAcceptor:
    """Accepts from listening sockets: what listeners over sockets share.

    Several sockets (an address of each family, say) are served in turn, so none of them
    can starve the others.

    Args:
        sockets: Listening sockets, owned from now on; made non-blocking.
        on_close: Called once, before the sockets are closed.
    """

    def __init__(
        self, sockets: Sequence[socket.socket], on_close: Callable[[], object] | None = None
    ) -> None:
        for sock in sockets:
            sock.setblocking(False)
        self.sockets = list(sockets)
        self._on_close = on_close
        self._accepting = False
        self._closed = False

    async def accept(self) -> socket.socket:
        """Wait for a connection; the caller owns it.

        A checkpoint; if cancelled, no connection was accepted.

        Raises:
            ConnectFailed: This one connection failed; accept again.
            OSError: The machine has no room, or the listener is broken.
            trio.ClosedResourceError: The listener was closed.
            trio.BusyResourceError: Another task is accepting.
        """
        if self._accepting:
            raise trio.BusyResourceError("another task is accepting on this listener")
        self._accepting = True
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
            sock = self._accept_nowait()
            if sock is not None:
                try:
                    await trio.lowlevel.cancel_shielded_checkpoint()
                except BaseException:  # KeyboardInterrupt may come at any checkpoint
                    sock.close()
                    raise
                return sock
            while (sock := self._accept_nowait()) is None:
                await self._wait_readable()
            return sock
        finally:
            self._accepting = False

    def _accept_nowait(self) -> socket.socket | None:
        """Accept from the first socket that has somebody; that one is asked last next time."""
        if self._closed:
            raise trio.ClosedResourceError("the listener is closed")
        for sock in self.sockets:
            try:
                accepted, _ = sock.accept()
            except BlockingIOError:
                continue
            except OSError as error:
                _raise_for(error)
            self.sockets.remove(sock)
            self.sockets.append(sock)
            return accepted
        return None

    async def _wait_readable(self) -> None:
        """Wait until one of the sockets has somebody, or all were closed."""
        if len(self.sockets) == 1:
            await trio.lowlevel.wait_readable(self.sockets[0])
            return

        async def wait(sock: socket.socket) -> None:
            # Closed meanwhile: `_accept_nowait` finds out, and raises outside of a group.
            with suppress(trio.ClosedResourceError):
                await trio.lowlevel.wait_readable(sock)
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            for sock in self.sockets:
                nursery.start_soon(wait, sock)

    def close(self) -> None:
        """Stop listening. Idempotent; what was accepted goes on."""
        if not self._closed:
            self._closed = True
            try:
                if self._on_close is not None:
                    self._on_close()
            finally:
                for sock in self.sockets:
                    trio.lowlevel.notify_closing(sock)
                    sock.close()


class StreamListener(MessageListener):
    """Accepts stream sockets: the listener of TCP and of Unix sockets.

    Args:
        sockets: As for `SocketAcceptor`.
        endpoint: Where they listen.
        make_channel: Makes a channel of an accepted socket, without waiting. What it
            raises closes the socket; an OSError means that this connection failed.
        on_close: As for `SocketAcceptor`.
    """

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        endpoint: str,
        make_channel: Callable[[socket.socket, trio.Nursery], MessageChannel],
        on_close: Callable[[], object] | None = None,
    ) -> None:
        self._acceptor = SocketAcceptor(sockets, on_close)
        self._endpoint = endpoint
        self._make_channel = make_channel

    @property
    def sockets(self) -> list[socket.socket]:
        """The listening sockets."""
        return self._acceptor.sockets

    @property
    def endpoint(self) -> str:
        """Where it listens, as the string that a client may connect to."""
        return self._endpoint

    async def accept(self, nursery: trio.Nursery) -> MessageChannel:
        """Wait for a connection and make a channel of it.

        Raises as `SocketAcceptor.accept`.
        """
        sock = await self._acceptor.accept()
        try:
            return self._make_channel(sock, nursery)
        except OSError as error:
            sock.close()
            if isinstance(error, ConnectFailed):
                raise
            raise ConnectFailed(f"the connection failed as it came: {error}") from error
        except BaseException:
            sock.close()
            raise

    async def aclose(self) -> None:
        """Stop listening, then checkpoint. Idempotent; channels that were accepted go on."""
        self._acceptor.close()
        await trio.lowlevel.checkpoint()


def options_for_client(options: ChannelOptions) -> ChannelOptions:
    """What a listener's endpoint tells its clients: the framing, where they must know it."""
    if options.framing == "detect":
        return ChannelOptions()
    return ChannelOptions(framing=options.framing)


def _raise_for(error: OSError) -> NoReturn:
    if error.errno in _ONE_CONNECTION_ERRNOS:
        raise ConnectFailed(f"a connection failed before it was accepted: {error}") from error
    raise error


def _stems_from(error: BaseException | None, cause: BaseException | None) -> bool:
    """Whether the error is the cause, or was raised from it, by however many steps."""
    while error is not None and error is not cause:
        error = error.__cause__
    return error is not None
