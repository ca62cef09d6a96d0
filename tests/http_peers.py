"""Other people's MCP servers and clients over HTTP, as processes of their own.

Each is skipped where it is not installed; `.ci/run` installs them all.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from asgi_hosts import hosting

#: Where npm has put its packages.
NODE_MODULES = Path(os.environ.get("TRIO_MCP_NODE_MODULES", "/nonexistent"))


def node(least: int) -> str:
    """The newest Node that there is; skips without one of that version."""
    for candidate in (str(NODE_MODULES / ".bin" / "node"), shutil.which("node")):
        if candidate is None or not Path(candidate).exists():
            continue
        version = subprocess.run([candidate, "--version"], capture_output=True, check=True)
        if int(version.stdout.decode().lstrip("v").split(".")[0]) >= least:
            return candidate
    pytest.skip(f"needs Node {least} or later, in $PATH or $TRIO_MCP_NODE_MODULES")


def node_program(name: str) -> str:
    """A program of a package of npm's; skips where it is not installed."""
    program = NODE_MODULES / ".bin" / name
    if not program.exists():
        pytest.skip(f"needs {name} in $TRIO_MCP_NODE_MODULES")
    return str(program)


@pytest.fixture(scope="module")
def sdk_server_origin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The official SDK's server on its own transports: see `sdk_http_server` for the paths."""
    pytest.importorskip("mcp.server.mcpserver", reason="the official MCP SDK is not installed")
    with hosting("uvicorn", "sdk_http_server:app", tmp_path_factory.mktemp("sdk")) as host:
        yield host.origin


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


@contextmanager
def everything_server(transport: str, directory: Path) -> Generator[str]:
    """The reference server of npm's, ``streamableHttp`` or ``sse``; yields its URL."""
    command = [node(20), node_program("mcp-server-everything"), transport]
    # It listens on all interfaces and can be told nothing but the port, so it is made to
    # listen on loopback: Node resolves no name for it, it only binds.
    only_loopback = directory / "loopback.cjs"
    only_loopback.write_text(
        "const net = require('node:net');\n"
        "const listen = net.Server.prototype.listen;\n"
        "net.Server.prototype.listen = function (port, ...rest) {\n"
        "  const callback = rest.find((part) => typeof part === 'function');\n"
        "  return listen.call(this, {host: '127.0.0.1', port: Number(port)}, callback);\n"
        "};\n"
    )
    for attempt in range(3):
        port = _free_port()
        with (directory / f"log{attempt}").open("w+b") as log:
            process = subprocess.Popen(
                [command[0], "--require", str(only_loopback), *command[1:]],
                env={**os.environ, "PORT": str(port)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
            try:
                if _wait_listening(process, port):
                    yield f"http://127.0.0.1:{port}/{'sse' if transport == 'sse' else 'mcp'}"
                    return
            finally:
                process.kill()
                process.wait()
    pytest.fail(f"the reference server did not start: {(directory / 'log2').read_text()}")


def _wait_listening(process: subprocess.Popen[bytes], port: int) -> bool:
    """Whether it listens now; False if it ended, as when somebody else took the port."""
    while process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            try:
                process.wait(0.05)
            except subprocess.TimeoutExpired:
                continue
        else:
            return True
    return False
