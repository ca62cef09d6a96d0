"""`trio-mcp tap`: a bridge that shows what passes."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from typing import TextIO

import trio

from ..bridge import BridgeSide
from ..endpoints import StdioEndpoint
from ..errors import ConfigurationError
from ..limits import DEFAULT_DRAIN_SECONDS
from .bridging import join_endpoints
from .endpoints import add_drain, add_header, detecting, read_endpoint_argument, with_headers
from .running import run as run_command
from .terminal import StdoutClosed, abandon, tell, wants_colour
from .trace import Entry, Trace, as_json_line, as_pieces

__all__ = ["TraceOutput", "add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `tap`."""
    parser.epilog = (
        "Both are connected to, as it cannot listen; the first is the one that asks. In a"
        " host's configuration `trio-mcp tap stdio: ENDPOINT` takes the place of the server."
        " What passes is shown on stdout, or on stderr where stdout is the wire. It is shown in"
        " full only with --full or --json, and may hold secrets."
    )
    parser.add_argument("client", metavar="A", help="the side that asks (-->), mostly stdio:")
    parser.add_argument("server", metavar="B", help="the side that answers (<--)")
    parser.add_argument("--json", action="store_true", help="show JSON, one object a line")
    parser.add_argument("--full", action="store_true", help="do not shorten long messages")
    parser.add_argument("--output", metavar="FILE", help="append to a file")
    add_header(parser)
    add_drain(parser, DEFAULT_DRAIN_SECONDS)


def run(arguments: argparse.Namespace) -> int:
    """Join the two until both have ended.

    Raises:
        ConfigurationError: An endpoint is wrong.
        TransportError: A side could not be connected to, or failed.
        StdoutClosed: Nobody reads what passes.
    """
    client = read_endpoint_argument("A", arguments.client)
    server = with_headers(read_endpoint_argument("B", arguments.server), arguments.header)
    if isinstance(server, StdioEndpoint):
        raise ConfigurationError("B: own stdin and stdout are the side that asks; name them first")
    client = detecting(client) if isinstance(client, StdioEndpoint) else client
    with ExitStack() as stack:
        output: TextIO | None
        if arguments.output is not None:
            # Only for its owner: what passes may hold secrets.
            opener = partial(os.open, mode=0o600)
            output = stack.enter_context(
                open(arguments.output, "a", encoding="utf-8", opener=opener)
            )
        else:
            output = sys.stderr if isinstance(client, StdioEndpoint) else sys.stdout
        shown = TraceOutput(output, as_json=arguments.json, full=arguments.full)
        return run_command(
            partial(join_endpoints, client, server, drain=arguments.drain, observe=shown.observe)
        )


class TraceOutput:
    """Writes what passes, in a thread, so that a slow reader slows only what it watches.

    If a file or stderr cannot be written, that is told once and traffic goes on; if
    nobody reads stdout, the tap has lost its purpose and ends.

    Args:
        output: Where to write; None if that was closed from the beginning.
        as_json: JSON lines instead of lines for people.
        full: Whether people are shown all of a long message.
    """

    def __init__(self, output: TextIO | None, *, as_json: bool, full: bool) -> None:
        self._output = output
        self._as_text: Callable[[Entry], str] = partial(_as_line, full=full)
        if as_json:
            self._as_text = as_json_line
        elif output is not None and wants_colour(output):
            self._as_text = _coloured(output, full=full)
        self._trace = Trace()
        self._one_at_a_time = trio.CapacityLimiter(1)

    async def observe(self, side: BridgeSide, payloads: Sequence[bytes]) -> None:
        """Show what passes; returns when it is written.

        Raises:
            StdoutClosed: Nobody reads stdout.
        """
        if self._output is None:
            return
        entries = [self._trace.entry(side, payload) for payload in payloads]
        text = "".join(self._as_text(entry) + "\n" for entry in entries or [self._trace.end(side)])
        try:
            # Left behind if cancelled: it may hang as long as nobody reads.
            await trio.to_thread.run_sync(
                _write, self._output, text, limiter=self._one_at_a_time, abandon_on_cancel=True
            )
        except (OSError, ValueError) as error:
            output, self._output = self._output, None
            if output is not sys.stderr:
                with suppress(OSError, ValueError):
                    abandon(output)
            if output is sys.stdout:
                raise StdoutClosed from error
            tell(f"nothing more is shown: {error}")


def _write(output: TextIO, text: str) -> None:
    output.write(text)
    output.flush()


def _as_line(entry: Entry, *, full: bool) -> str:
    return " ".join(piece for piece, _ in as_pieces(entry, full=full))


def _coloured(output: TextIO, *, full: bool) -> Callable[[Entry], str]:
    from rich.console import Console
    from rich.text import Text

    console = Console(file=output, soft_wrap=True)

    def as_text(entry: Entry) -> str:
        text = Text(" ").join(
            Text(piece, style=style) for piece, style in as_pieces(entry, full=full)
        )
        with console.capture() as captured:
            console.print(text, end="")
        return captured.get()

    return as_text
