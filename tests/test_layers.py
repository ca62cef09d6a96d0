"""The house: which module may import which. Imports inside functions count as well."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.project

PACKAGE = "trio_mcp_transport"
ROOT = Path(__file__).parents[1] / PACKAGE

#: From the roof to the ground: an import may point down, never up. The second part says
#: whether the units of one row may import each other.
HOUSE: list[tuple[tuple[str, ...], bool]] = [
    (("__main__", "cli"), True),
    (("interop", "testing"), False),
    (("__init__", "connect", "installation", "registry", "serve"), True),
    (("transports",), False),
    (
        (
            "bridge",
            "context",
            "conversation",
            "gateway",
            "gateway_shared",
            "handlers",
            "hub",
            "incoming",
            "lent_nursery",
            "lifecycle",
            "mrtr",
            "outgoing",
            "peer",
            "pending",
            "restart",
            "router",
            "server_conversation",
            "subscription",
            "task_requests",
        ),
        True,
    ),
    (("security",), False),
    (("stores",), False),
    (("reporting",), False),
    (("abc",), False),
    (("sansio",), False),
    (
        (
            "compression_settings",
            "endpoint_parser",
            "endpoint_reading",
            "endpoint_schemes",
            "endpoint_values",
            "endpoints",
            "errors",
            "http_endpoints",
            "http_origins",
            "http_schemes",
            "jsonrpc",
            "limits",
            "public_paths",
            "shm_endpoints",
            "web_endpoints",
            "web_schemes",
            "websocket_endpoints",
            "websocket_schemes",
            "tls_endpoints",
            "tls_facts",
            "tls_pins",
            "tls_settings",
        ),
        True,
    ),
]
ROW_OF = {unit: row for row, (units, _) in enumerate(HOUSE) for unit in units}

#: No I/O, no clock, no chance: what these modules do depends on their arguments alone.
PURE = {"sansio", *HOUSE[-1][0]}
IMPURE_MODULES = {
    "anyio",
    "asyncio",
    "logging",
    "multiprocessing",
    "random",
    "secrets",
    "select",
    "selectors",
    "signal",
    "socket",
    "ssl",
    "subprocess",
    "threading",
    "time",
    "trio",
}
#: What a plain installation has; anything else only where the second column says.
CORE = {"trio", "msgspec", "h11", "wsproto", "outcome"}  # outcome is part of Trio's interface
EXTRAS_MAY_BE_IMPORTED_BY = {
    "rich": {"cli"},
    "mcp": {"interop", "cli"},
    "mcp_types": {"interop", "cli"},
    "anyio": {"interop", "cli"},
    "uvicorn": {"cli"},
    "OpenSSL": {"sansio", "security", "transports"},
    "cryptography": {"security", "testing"},
    "service_identity": {"security"},
    "trio_websocket": {"interop", "cli"},
    "websockets": {"cli", "sansio"},
    "httptools": {"sansio"},
    "brotli": {"sansio"},
    "lz4": {"sansio"},
    "zstandard": {"sansio"},
}
#: What serves by means of others that know no other loop.
RUN_OTHERS_ON_ASYNCIO = {
    f"{PACKAGE}.cli.bench.http_sdk",  # the official SDK's own server
    f"{PACKAGE}.interop.guest_run",  # Trio as a guest of the loop of an ASGI server
}


def sources() -> dict[str, str]:
    """Each module's dotted name with its text."""
    found: dict[str, str] = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        found[".".join(parts)] = path.read_text()
    return found


def unit_of(module: str) -> str:
    """The house's name for a module: the part after the package's name."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def imports(module: str, text: str) -> Iterator[tuple[int, str]]:
    """Every module that a module imports, anywhere in it, with the line."""
    package = module.split(".")[:-1]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                base = package[: len(package) - node.level + 1]
                target = ".".join(base + ([node.module] if node.module else []))
            else:
                target = node.module or ""
            if target == PACKAGE:  # from . import x: a unit, or a name of the face
                for alias in node.names:
                    yield node.lineno, f"{PACKAGE}.{alias.name}"
            else:
                yield node.lineno, target


def complaints(module: str, text: str) -> list[str]:
    found: list[str] = []
    own = unit_of(module)
    if own not in ROW_OF:
        return [f"{module}: not in the house; give it a row"]
    for line, target in imports(module, text):
        where = f"{module}:{line}: "
        top = target.split(".")[0]
        if top == PACKAGE:
            other = unit_of(target)
            if other not in ROW_OF:
                other = "__init__"  # a name of the face
            row, other_row = ROW_OF[own], ROW_OF[other]
            siblings_allowed = own == other or HOUSE[row][1]
            if other_row < row or (other_row == row and not siblings_allowed):
                found.append(f"{where}{own} may not import {other}")
        elif own in PURE and top in IMPURE_MODULES:
            found.append(f"{where}{own} is pure and may not import {top}")
        elif top == "asyncio" and module not in RUN_OTHERS_ON_ASYNCIO:
            found.append(f"{where}nothing here runs on asyncio")
        elif (
            top not in CORE
            and top not in sys.stdlib_module_names
            and own not in EXTRAS_MAY_BE_IMPORTED_BY.get(top, ())
        ):
            found.append(f"{where}{own} may not import {top}")
    return found


def test_every_import_points_down() -> None:
    assert [
        text for module, source in sources().items() for text in complaints(module, source)
    ] == []


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("trio_mcp_transport.sansio.framing", "import trio"),
        ("trio_mcp_transport.sansio.framing", "from trio.abc import Stream"),
        ("trio_mcp_transport.sansio.framing", "def f():\n    from time import monotonic"),
        ("trio_mcp_transport.sansio.framing", "from ..abc import MessageChannel"),
        ("trio_mcp_transport.sansio.framing", "from .. import MessageChannel"),
        ("trio_mcp_transport.errors", "import logging"),
        ("trio_mcp_transport.peer", "from .transports.tcp import connect"),
        ("trio_mcp_transport.peer", "async def f():\n    from .connect import open_channel"),
        ("trio_mcp_transport.abc", "import trio_mcp_transport.peer"),
        ("trio_mcp_transport.transports.tcp", "from trio_mcp_transport import open_channel"),
        ("trio_mcp_transport.transports.tcp", "import rich"),
        ("trio_mcp_transport.transports.tcp", "import asyncio"),
        ("trio_mcp_transport.testing.contract", "from ..interop import mcp_sdk"),
        ("trio_mcp_transport.connect", "from . import cli"),
        ("trio_mcp_transport.drawer", ""),
    ],
)
def test_an_import_that_points_up_is_found(module: str, text: str) -> None:
    assert complaints(module, text)


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("trio_mcp_transport.sansio.framing", "import struct\nfrom ..errors import ProtocolError"),
        ("trio_mcp_transport.sansio.messages", "from .framing import LineFramer"),
        (
            "trio_mcp_transport.transports.tcp",
            "import socket, trio\nfrom ..abc import MessageListener",
        ),
        ("trio_mcp_transport.peer", "from .router import Router\nfrom . import jsonrpc"),
        ("trio_mcp_transport.cli.demo", "from .. import open_channel\nimport rich.table"),
    ],
)
def test_an_import_that_points_down_is_fine(module: str, text: str) -> None:
    assert complaints(module, text) == []


def test_the_house_has_no_empty_rooms() -> None:
    assert ROW_OF.keys() == {unit_of(module) for module in sources()}


def test_importing_the_package_loads_no_extra_and_no_other_event_loop() -> None:
    heavy = {
        "asyncio",
        "rich",
        "mcp",
        "anyio",
        "argparse",
        "pydantic",
        "OpenSSL",
        "cryptography",
        "service_identity",
        "wsproto",
        "httptools",
        "websockets",
        "brotli",
        "lz4",
        "zstandard",
    }
    program = f"import sys, {PACKAGE}; print(*sorted({heavy!r} & sys.modules.keys()))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=True, text=True
    )
    assert done.stdout.split() == []
