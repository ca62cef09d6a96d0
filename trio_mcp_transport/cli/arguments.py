"""From the words of the command line to the command that runs.

Each command is a module with `add_arguments(parser)` and `run(arguments) -> exit status`,
which is imported only when it was named, so that none pays for the others.
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from typing import Protocol, cast

from .. import __version__
from ..errors import ConfigurationError
from .running import ExitStatus, explain, set_up_logging
from .terminal import tell, write_utf8

__all__ = ["Command", "main"]

#: Each command with what `trio-mcp --help` says of it.
COMMANDS = {
    "demo": "try out every transport of this machine",
    "serve": "serve the built-in server, or COMMAND, on any transports",
    "connect": "join stdin and stdout to a server",
    "call": "send one request, print its result",
    "tap": "join two endpoints and show what passes",
    "cert": "make certificates for trying out TLS",
    "bench": "measure speed and memory",
}
LOG_LEVELS = ("debug", "info", "warning", "error", "critical")
#: Names that the variable MCP_LOG_LEVEL has for levels, beside Python's.
_LEVEL_ALIASES = {"warn": "warning", "fatal": "critical"}


class Command(Protocol):
    """A module that is one command."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Say what the command understands."""

    def run(self, arguments: argparse.Namespace) -> int:
        """Do it; return the exit status."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run `trio-mcp`.

    Args:
        argv: The words behind the program's name; by default those of this process.

    Returns:
        The exit status: 0 for success, 1 when something failed, 2 for a command line that
        makes no sense, 130 and 143 after SIGINT and SIGTERM, 141 when nobody reads stdout.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    child_command: tuple[str, ...] | None = None
    if "--" in words:
        # What stands behind it belongs to the command that is started, options included.
        behind = words.index("--")
        words, child_command = words[:behind], tuple(words[behind + 1 :])
    parser = _make_parser(words)
    try:
        arguments = parser.parse_args(words)
    except SystemExit as exit_:  # argparse has said why
        return exit_.code if isinstance(exit_.code, int) else ExitStatus.USAGE
    if arguments.command is None:
        parser.print_usage(sys.stderr)
        tell("name a command; `trio-mcp --help` describes them")
        return ExitStatus.USAGE
    if child_command is not None and (arguments.command != "serve" or not child_command):
        tell("`--` stands before a COMMAND that `serve` starts")
        return ExitStatus.USAGE
    arguments.own_words, arguments.child_command = tuple(words), child_command
    try:
        _prepare(arguments)
        return _module(arguments.command).run(arguments)
    except KeyboardInterrupt:  # before or after the time when signals are waited for
        return 128 + signal.SIGINT
    except Exception as error:
        return explain(error, debug=arguments.debug)


def _module(name: str) -> Command:
    return cast("Command", importlib.import_module(f".{name}", __package__))


def _make_parser(words: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="trio-mcp",
        description="MCP servers and clients over stdio, HTTP, WebSocket, TCP, TLS, Unix sockets"
        " and shared memory.",
        epilog="An ENDPOINT is stdio: (own streams), stdio:COMMAND, http://HOST:PORT/PATH,"
        " sse+http://HOST:PORT/PATH, ws://HOST:PORT/PATH, tcp://HOST:PORT, unix:PATH, shm://NAME,"
        " with TLS https://, sse+https://, wss://, tls://, tls+unix:PATH, with options behind a"
        " question mark (tcp://127.0.0.1:9000?nodelay=false), or"
        " an mcpServers entry in JSON. `trio-mcp COMMAND --help` tells more.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"trio-mcp {__version__}")
    _add_common(parser, suppress=False)
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for name, help_ in COMMANDS.items():
        subparser = subparsers.add_parser(
            name, help=help_, description=help_[0].upper() + help_[1:] + ".", allow_abbrev=False
        )
        if name in words:
            _add_common(subparser, suppress=True)
            _module(name).add_arguments(subparser)
    return parser


def _add_common(parser: argparse.ArgumentParser, *, suppress: bool) -> None:
    """Options of every command; they may stand before or behind its name."""
    default: object = argparse.SUPPRESS
    group = parser.add_argument_group("for every command")
    group.add_argument(
        "--debug",
        action="store_true",
        default=default if suppress else False,
        help="show tracebacks and all that is logged",
    )
    group.add_argument(
        "--log-level",
        choices=LOG_LEVELS,
        default=default if suppress else None,
        help="what to log on stderr (default: warning, or MCP_LOG_LEVEL)",
    )
    group.add_argument(
        "--import",
        dest="imports",
        action="append",
        metavar="MODULE",
        default=default if suppress else [],
        help="import a module first, such as one that registers a transport",
    )


def _prepare(arguments: argparse.Namespace) -> None:
    write_utf8()
    level = arguments.log_level or _level_from_environment()
    set_up_logging("debug" if arguments.debug else level, debug=arguments.debug)
    for name in arguments.imports:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ConfigurationError(f"--import {name}: {error}") from error


def _level_from_environment() -> str:
    wanted = os.environ.get("MCP_LOG_LEVEL", "").lower()
    level = _LEVEL_ALIASES.get(wanted, wanted)
    return level if level in LOG_LEVELS else "warning"
