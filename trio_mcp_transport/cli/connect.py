"""`trio-mcp connect`: a program that only speaks stdio reaches a server on any transport."""

from __future__ import annotations

import argparse
import os
from functools import partial

from ..endpoint_parser import endpoint_from_environment
from ..endpoints import StdioEndpoint
from ..errors import ConfigurationError
from ..limits import DEFAULT_DRAIN_SECONDS
from .bridging import join_endpoints
from .endpoints import add_drain, add_header, detecting, read_endpoint_argument, with_headers
from .running import run as run_command

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `connect`."""
    parser.add_argument("endpoint", metavar="ENDPOINT", help="the server")
    add_header(parser)
    add_drain(parser, DEFAULT_DRAIN_SECONDS)


def run(arguments: argparse.Namespace) -> int:
    """Join own stdin and stdout to the server until both have ended.

    Raises:
        ConfigurationError: The endpoint is wrong.
        TransportError: A side could not be connected to, or failed.
    """
    server = read_endpoint_argument("ENDPOINT", arguments.endpoint)
    server = with_headers(server, arguments.header)
    if isinstance(server, StdioEndpoint):
        raise ConfigurationError("ENDPOINT: own stdin and stdout cannot be joined to themselves")
    client = detecting(endpoint_from_environment({**os.environ, "TRANSPORT": "stdio"}))
    return run_command(partial(join_endpoints, client, server, drain=arguments.drain))
