"""`trio-mcp call`: one request to a server, its result on stdout."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Sequence
from functools import partial

import msgspec
from msgspec import Raw

from .. import __version__
from ..connect import open_channel
from ..endpoints import Endpoint, StdioEndpoint
from ..errors import ConfigurationError, RpcError
from ..http_endpoints import HttpEndpoint
from ..lifecycle import negotiate
from ..peer import Peer
from ..pending import Progress
from ..sansio.eras import REVISIONS
from .endpoints import (
    add_header,
    add_transport_flags,
    chosen_by_flags,
    read_endpoint_argument,
    with_headers,
)
from .running import ExitStatus, Shutdown
from .running import run as run_command
from .terminal import print_json, tell

__all__ = ["add_arguments", "run"]

DEFAULT_METHOD = "tools/list"
#: Requests that are the negotiation itself, and are therefore sent without one.
_HANDSHAKES = {"initialize", "server/discover"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `call`."""
    parser.usage = "%(prog)s [options] ENDPOINT [METHOD [PARAMS_JSON]]"
    parser.epilog = (
        "Exit status: 0 with the result on stdout, 1 with an error of the server or the"
        " transport on stderr, 2 for a wrong command line. ENDPOINT is left out after --url,"
        " --transport, --stdiocfg and --channel. With own stdin and stdout as the transport the"
        " result goes to stderr."
    )
    parser.add_argument(
        "words",
        nargs="*",
        metavar="ENDPOINT METHOD PARAMS_JSON",
        help=f"the server, the method (default: {DEFAULT_METHOD}), and an object or array",
    )
    parser.add_argument(
        "--timeout",
        type=_timeout,
        default=30.0,
        metavar="SECONDS",
        help="for the answer; progress starts it anew, 0 means no limit (default: %(default)g)",
    )
    parser.add_argument(
        "--revision",
        choices=REVISIONS,
        metavar="DATE",
        help=f"the protocol revision to speak: {', '.join(REVISIONS)} (default: the newest that"
        " both know)",
    )
    parser.add_argument("--url", metavar="ENDPOINT", help="the server, instead of ENDPOINT")
    add_header(parser)
    add_transport_flags(parser)


def _timeout(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not value >= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds")
    return value or math.inf


def run(arguments: argparse.Namespace) -> int:
    """Send the request and print the result.

    Raises:
        ConfigurationError: An argument is wrong.
        RpcError: The server answered with an error.
        TransportError: It could not be asked.
        StdoutClosed: Nobody reads the result.
    """
    endpoint, words = _endpoint(arguments, list(arguments.words))
    endpoint = with_headers(endpoint, arguments.header)
    if len(words) > 2:
        raise ConfigurationError(f"too many arguments: {' '.join(words[2:])}")
    method = _utf8("METHOD", words[0]).decode() if words else DEFAULT_METHOD
    params = _params(words[1]) if len(words) == 2 else None
    return run_command(
        partial(_call, endpoint, method, params, arguments.timeout, arguments.revision)
    )


def _endpoint(
    arguments: argparse.Namespace, words: Sequence[str]
) -> tuple[Endpoint, Sequence[str]]:
    """The server, and the words that are left."""
    if arguments.url is not None:
        if arguments.stdiocfg is not None:
            raise ConfigurationError("--stdiocfg and --url: give stdio's options in --url")
        if arguments.channel is not None:
            raise ConfigurationError("--channel and --url: give it in --url=shm://NAME")
        return read_endpoint_argument("--url", arguments.url, arguments.transport), words
    transport, stdiocfg, channel = arguments.transport, arguments.stdiocfg, arguments.channel
    chosen = (transport, stdiocfg, channel) != (None, None, None)
    if chosen or (not words and os.environ.get("TRANSPORT")):
        return chosen_by_flags(transport, stdiocfg, os.environ, channel), words
    if not words:
        raise ConfigurationError("name an ENDPOINT, such as http://127.0.0.1:9000/mcp")
    return read_endpoint_argument("ENDPOINT", words[0]), words[1:]


def _utf8(name: str, text: str) -> bytes:
    """An argument's bytes. Under the C locale Python decodes nothing but ASCII (PEP 383)."""
    try:
        document = text.encode(errors="surrogateescape")
        document.decode()
    except UnicodeError as error:
        raise ConfigurationError(f"{name} is no UTF-8: {error}") from error
    return document


def _params(text: str) -> Raw:
    document = _utf8("PARAMS_JSON", text)
    try:
        value = msgspec.json.decode(document)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ConfigurationError(f"PARAMS_JSON: {error}") from error
    if not isinstance(value, dict | list):
        raise ConfigurationError("PARAMS_JSON must be an object or an array")
    return Raw(document)


async def _call(
    endpoint: Endpoint,
    method: str,
    params: Raw | None,
    seconds: float,
    revision: str | None,
    shutdown: Shutdown,
) -> int:
    result: Raw | None = None
    with shutdown.cancelling() as connecting:
        async with (
            open_channel(endpoint, request_timeout=seconds) as channel,
            Peer(channel) as peer,
        ):
            # From here on the end is in good order: the server is told, then disconnected.
            shutdown.spare(connecting)
            with shutdown.cancelling():
                if method not in _HANDSHAKES:
                    await _negotiate(peer, endpoint, revision)
                result = await _request(peer, method, params)
    _print_result(endpoint, result)
    return ExitStatus.OK


async def _negotiate(peer: Peer, endpoint: Endpoint, revision: str | None) -> None:
    info = {"name": "trio-mcp", "version": __version__}
    if revision is None and isinstance(endpoint, HttpEndpoint):
        await negotiate(peer, client_info=info, era=endpoint.era, revision=endpoint.revision)
    else:
        await negotiate(peer, client_info=info, revision=revision)


def _print_result(endpoint: Endpoint, result: Raw | None) -> None:
    if result is None:  # a signal came first
        return
    if isinstance(endpoint, StdioEndpoint):
        tell(bytes(result).decode())
    else:
        print_json(bytes(result))


async def _request(peer: Peer, method: str, params: Raw | None) -> Raw:
    on_progress = _tell_progress if sys.stderr is not None and sys.stderr.isatty() else None
    try:
        return await peer.request(method, params, on_progress=on_progress)
    except RpcError as error:
        if error.data is None:
            raise
        data = msgspec.json.encode(error.data).decode()
        raise RpcError(error.code, f"{error.message}: {data}") from error


def _tell_progress(progress: Progress) -> None:
    of = "" if progress.total is None else f" of {progress.total:g}"
    tell(f"progress: {progress.progress:g}{of} {progress.message or ''}".rstrip())
