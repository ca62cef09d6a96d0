"""`trio-mcp serve`: the built-in server, or any stdio MCP server, on any transports.

A command comes from the command line alone, never from a client. Each connection gets a
child process of its own, which ends with it.

With ``--workers`` this process supervises others that do the same (`workers`), and each of
these, in here as well, serves with the sockets that it was given (`worker_process`).
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeAlias

import msgspec
import trio

from .. import __version__
from ..abc import ChannelBroken, ChannelEvent, MessageChannel
from ..bridge import SupportsFrames, bridge_channels
from ..connect import open_channel
from ..endpoints import Endpoint, ProcessEndpoint, StdioEndpoint
from ..errors import ConfigurationError, TransportError
from ..gateway import Gateway
from ..http_endpoints import HttpEndpoint
from ..lifecycle import Negotiated
from ..limits import DEFAULT_DRAIN_SECONDS
from ..reporting import report
from ..serve import serve_channels
from ..transports.worker_seat import take_seat
from .bridging import is_broken_pipe, supervised, which_failed
from .builtin_server import BuiltinServer
from .endpoints import (
    add_drain,
    add_transport_flags,
    check_authenticated,
    listening_endpoints,
    with_admission,
)
from .running import ExitStatus, Shutdown
from .running import run as run_command
from .terminal import StdoutClosed, tell
from .tls import add_tls_flags, group_by_tls, reload_on_hangup, with_tls
from .worker_process import Post, enlist, worker_command
from .workers import Supervisor, check_workers

__all__ = ["add_arguments", "run"]

#: Children at a time. Each is a whole interpreter or Node, some 50 MB.
DEFAULT_MAX_CHILDREN = 32
#: On top of the drain: channels flush, and children are ended, in steps that are bounded
#: by themselves and end before this.
_CLOSING_SECONDS = 20.0
#: What comes to a worker on connections that it had accepted before its end is still served for
#: so long, as its clients cannot know, and others are there to take the next ones. Longer than
#: what HTTP spares connections for, so that it is no channel's handler that refuses.
_LAST_REQUESTS_SECONDS = 2.0

#: Serves one client until it ends, or until the event is set and its work is done.
_Handler: TypeAlias = Callable[[MessageChannel, trio.Event], Awaitable[None]]
#: Tells whom it concerns where clients may connect.
_Announce: TypeAlias = Callable[[Sequence[str]], object]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `serve`."""
    parser.usage = "%(prog)s [options] [-- COMMAND ...]"
    parser.epilog = (
        "COMMAND is a stdio MCP server. It inherits this environment. A client's first bytes"
        " tell whether it speaks newlines or Content-Length, unless the endpoint says"
        " framing=. SIGINT and SIGTERM let work that has begun finish; a second one aborts."
        " With TLS, SIGHUP reads the certificates again, which also happens by itself; with"
        " --workers it replaces the processes, one after the other."
    )
    parser.add_argument(
        "--listen",
        action="append",
        default=[],
        metavar="ENDPOINT",
        help="where to listen, any number of times (default: stdio:, or what TRANSPORT,"
        " MCP_STDIO_CONFIG and MCP_STDIOTRANSPORT_TIMEOUT_MS say)",
    )
    add_transport_flags(parser)
    add_tls_flags(parser)
    parser.add_argument(
        "--max-children",
        type=int,
        default=DEFAULT_MAX_CHILDREN,
        metavar="N",
        help="COMMANDs at a time; further connections wait, over HTTP until a session ends or"
        " is idle (default: %(default)s)",
    )
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="serve with so many processes, on the same sockets; those that die are replaced."
        " Limits are those of each (default: serve in this process)",
    )
    parser.add_argument(
        "--allow-unauthenticated",
        action="store_true",
        help="listen on TCP addresses other than loopback, though anybody may connect",
    )
    parser.add_argument(
        "--allow-origin",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="web pages that may call over HTTP, such as https://app.example.com, any number of"
        " times (default: none but the server's own)",
    )
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="HOST[:PORT]",
        help="names that clients may call the server by over HTTP, any number of times"
        " (default: localhost, or the address that they reach)",
    )
    parser.add_argument(
        "--keepalive-ms",
        metavar="N",
        help="the built-in server sends notifications/keepalive every N milliseconds"
        " (default: MCP_KEEPALIVE_MS, or 0 for never)",
    )
    add_drain(parser, DEFAULT_DRAIN_SECONDS)


def run(arguments: argparse.Namespace) -> int:
    """Serve until a signal comes, or all clients of stdio have ended.

    Raises:
        ConfigurationError: An argument is wrong, or strangers could connect.
        TransportError: An endpoint cannot be listened at, or own stdio failed.
    """
    post = enlist()
    endpoints = listening_endpoints(
        arguments.listen,
        arguments.transport,
        arguments.stdiocfg,
        os.environ,
        arguments.channel,
    )
    endpoints = with_admission(endpoints, arguments.allow_origin, arguments.allow_host)
    endpoints = with_tls(endpoints, arguments.tls_cert, arguments.tls_key, arguments.client_ca)
    if not arguments.allow_unauthenticated:
        check_authenticated(endpoints)
    workers: int | None = arguments.workers
    if workers is not None:
        check_workers(workers, endpoints)
    command: tuple[str, ...] | None = arguments.child_command
    drain: float = arguments.drain
    handler: _Handler
    gateway: Gateway | None = None
    end_exchanges: Callable[[], object] = _nothing
    if command is None:
        seconds = _keepalive_seconds(arguments.keepalive_ms, os.environ.get("MCP_KEEPALIVE_MS"))
        key = None if post is None else post.orders.state_key
        server = BuiltinServer(keepalive=seconds, state_key=key, drain=drain)
        handler, end_exchanges = server.serve, server.end_soon
    else:
        if arguments.keepalive_ms is not None:
            raise ConfigurationError("--keepalive-ms is for the built-in server, not for COMMAND")
        children = _Children(command, arguments.max_children, drain)
        handler = children.serve
        if any(isinstance(endpoint, HttpEndpoint) for endpoint in endpoints):
            gateway = Gateway(
                children.open,
                client_info={"name": "trio-mcp", "version": __version__},
                max_children=arguments.max_children,
            )
    if post is not None:
        serve = partial(
            _serve,
            post.placed(endpoints),
            handler,
            drain,
            gateway,
            announce=post.announce,
            lingers=_LAST_REQUESTS_SECONDS,
            end_exchanges=end_exchanges,
        )
        return run_command(partial(_serve_at, post, serve))
    if workers is not None:
        command_line = worker_command(arguments.own_words, command)
        supervisor = Supervisor(command_line, endpoints, workers, drain + _CLOSING_SECONDS)
        return run_command(supervisor.run)
    return run_command(
        partial(_serve, endpoints, handler, drain, gateway, end_exchanges=end_exchanges)
    )


async def _serve_at(
    post: Post, serve: Callable[[Shutdown], Awaitable[int]], shutdown: Shutdown
) -> int:
    """Serve as a worker, until the supervisor wants it to end or has ended itself."""
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(post.watch, shutdown)
            with take_seat(post.seat):
                status = await serve(shutdown)
            nursery.cancel_scope.cancel()
    finally:
        post.close()
    return status


def _nothing() -> None:
    pass


def _tell_listening(endpoints: Sequence[str]) -> None:
    for endpoint in endpoints:
        tell(f"listening on {endpoint}")


def _keepalive_seconds(argument: str | None, variable: str | None) -> float | None:
    name, text = ("--keepalive-ms", argument) if argument else ("MCP_KEEPALIVE_MS", variable)
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise ConfigurationError(f"{name} must be a whole number of milliseconds, not {text!r}")
    return int(text) / 1000 or None


async def _serve(
    endpoints: Sequence[Endpoint],
    handler: _Handler,
    drain: float,
    gateway: Gateway | None,
    shutdown: Shutdown,
    announce: _Announce = _tell_listening,
    lingers: float = 0.0,
    end_exchanges: Callable[[], object] = _nothing,
) -> int:
    if len(endpoints) == 1 and isinstance(endpoints[0], StdioEndpoint):
        # There is one client, so its failure is the command's.
        await _serve_stdio(endpoints[0], handler, shutdown)
        return ExitStatus.OK

    stop_handlers, listeners_done = trio.Event(), trio.Event()

    async def stop_handlers_in_time() -> None:
        await shutdown.requested.wait()
        with trio.move_on_after(lingers):
            await listeners_done.wait()
        stop_handlers.set()
        end_exchanges()

    async def serve_one(channel: MessageChannel) -> None:
        context = channel.context
        try:
            if gateway is not None and (context.exchange or context.session is not None):
                await gateway.serve(channel, stop=stop_handlers, drain=drain)
            else:
                await handler(channel, stop_handlers)
        except ChannelBroken:
            raise  # the client's, which the accept loop tells apart
        except TransportError as error:
            event = ChannelEvent(
                name="child.failed", message=str(error), error=error, context=channel.context
            )
            report(None, event)

    if gateway is not None:
        with shutdown.cancelling() as probing:
            endpoints = _of_eras(endpoints, await gateway.probe())
        if probing.cancelled_caught:
            return ExitStatus.OK
    schema = None if gateway is None else gateway.header_schema
    groups = group_by_tls(endpoints)
    servers = [group.server for group in groups if group.server is not None]
    async with trio.open_nursery() as around:
        around.start_soon(stop_handlers_in_time)
        if gateway is not None:
            await around.start(gateway.run)
        hangups: trio.CancelScope | None = None
        if servers and sys.platform != "win32":
            # Without TLS a hangup ends the process, as it always does.
            hangups = await around.start(reload_on_hangup, servers)
        async with trio.open_nursery() as nursery:
            bound: list[str] = []
            for group in groups:
                bound += await nursery.start(
                    partial(
                        serve_channels,
                        serve_one,
                        *group.endpoints,
                        tls=group.server,
                        stop=shutdown.requested,
                        drain=drain + _CLOSING_SECONDS,
                        http="exchange" if gateway is None else "session",
                        header_schema=schema,
                        told_revisions=() if gateway is None else gateway.told_revisions,
                    )
                )
            announce(bound)
        listeners_done.set()  # which nobody but `shutdown` brings about
        if gateway is not None:
            gateway.stop()
        if hangups is not None:
            hangups.cancel()
    return ExitStatus.OK


def _of_eras(endpoints: Sequence[Endpoint], child: Negotiated) -> list[Endpoint]:
    """The endpoints, those of HTTP without the modern era if the child does not speak it."""
    return [
        msgspec.structs.replace(endpoint, era="legacy")
        if isinstance(endpoint, HttpEndpoint) and endpoint.era == "auto" and child.era == "legacy"
        else endpoint
        for endpoint in endpoints
    ]


async def _serve_stdio(endpoint: StdioEndpoint, handler: _Handler, shutdown: Shutdown) -> None:
    async with open_channel(endpoint) as channel:
        try:
            await handler(channel, shutdown.requested)
        except ChannelBroken as error:
            if which_failed(error, channel):
                if is_broken_pipe(error):
                    raise StdoutClosed from error
                raise TransportError(f"{endpoint}: {error}") from error
            raise


class _Children:
    """Serves each client with a child process of its own, so many at a time."""

    def __init__(self, command: tuple[str, ...], most: int, drain: float) -> None:
        if most < 1:
            raise ConfigurationError(f"--max-children must be at least 1, not {most}")
        if shutil.which(command[0]) is None:
            raise ConfigurationError(f"COMMAND: {command[0]!r} cannot be found or run")
        self._endpoint = supervised(ProcessEndpoint(command=command, environment="inherit"))
        self._places = trio.Semaphore(most)
        self._drain = drain
        self.open = partial(open_channel, self._endpoint)

    async def serve(self, client: MessageChannel, stop: trio.Event) -> None:
        """Start a child, as soon as there is a place, and join it to the client.

        Raises:
            ChannelBroken: The client's channel failed.
            TransportError: The child could not be started, or failed.
        """
        try:
            first = await self._take_place(client)
        except trio.EndOfChannel:
            return
        try:
            if stop.is_set():
                return
            async with open_channel(self._endpoint) as child:
                try:
                    if first:
                        assert isinstance(child, SupportsFrames)
                        await child.send_frames(first)
                    end = await bridge_channels(client, child, drain=self._drain, stop=stop)
                except ChannelBroken as error:
                    if which_failed(error, client):
                        raise
                    raise TransportError(f"{self._endpoint}: {error}") from error
        finally:
            self._places.release()
        if not end.complete:
            message = f"the child had not ended {self._drain:g} s after its client; closed it"
            report(None, ChannelEvent(name="drain.expired", message=message))

    async def _take_place(self, client: MessageChannel) -> list[bytes]:
        """Wait for a place; return the frame that the client sent meanwhile, if it did.

        As long as it has sent nothing it is read from, so that those who left are not in
        line. A second frame is not read: it might be endless many.

        Raises:
            trio.EndOfChannel: The client has left, and no place was taken.
            ChannelBroken: Its channel failed, likewise.
        """
        try:
            self._places.acquire_nowait()
        except trio.WouldBlock:
            pass
        else:
            return []
        if not isinstance(client, SupportsFrames):
            await self._places.acquire()
            return []
        first: list[bytes] = []
        failure: trio.EndOfChannel | trio.BrokenResourceError | None = None
        taken = False

        async def read(client: SupportsFrames) -> None:
            nonlocal failure
            try:
                first.extend(await client.receive_frames(1))
            except (trio.EndOfChannel, trio.BrokenResourceError) as error:
                failure = error
                nursery.cancel_scope.cancel()

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read, client)
                await self._places.acquire()
                taken = True
                nursery.cancel_scope.cancel()
            if failure is not None:
                raise failure
        except BaseException:
            if taken:
                self._places.release()
            raise
        return first
