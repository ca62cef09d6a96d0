"""`features()` tells the truth about this installation and this machine."""

from __future__ import annotations

import importlib
import os
import re
import socket
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from trio_mcp_transport import features

pytestmark = pytest.mark.project

ROOT = Path(__file__).parents[1]


def test_the_extras_are_those_of_the_distribution() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = set(project["optional-dependencies"]) - {"all", "test", "dev"}
    assert features().extras.keys() == extras


def test_an_extra_is_there_exactly_if_its_distributions_are() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for extra, there in features().extras.items():
        for requirement in project["optional-dependencies"][extra]:
            name = re.split(r"[^\w.-]", requirement)[0]
            if there:
                assert metadata.version(name)
            else:
                with pytest.raises(metadata.PackageNotFoundError):
                    metadata.version(name)


def test_a_missing_extra_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    importlib.invalidate_caches()
    for module in (
        "rich",
        "brotli",
        "lz4",
        "zstandard",
        "httpx",
        "mcp",
        "httptools",
        "websockets",
        "OpenSSL",
        "service_identity",
    ):
        monkeypatch.delitem(sys.modules, module, raising=False)
    assert features().extras == dict.fromkeys(
        ("cli", "compression", "httpx", "mcp", "speedups", "tls"), False
    )


def test_asking_imports_no_extra() -> None:
    before = set(sys.modules)
    features()
    assert {"rich", "httpx", "mcp", "anyio"} & (set(sys.modules) - before) == set()


def test_every_transport_of_this_release_is_told() -> None:
    assert features().transports.keys() == {
        "stdio",
        "process",
        "memory",
        "tcp",
        "tls",
        "http",
        "websocket",
        "unix",
        "shm",
    }


@pytest.mark.skipif(sys.platform != "linux", reason="Linux has all of them")
def test_linux_has_it_all_and_really_so() -> None:
    found = features()
    assert all(there for name, there in found.transports.items() if name != "tls")
    assert found.transports["tls"] == found.extras["tls"]
    assert found.supervision
    assert found.private_stdio
    if found.abstract_sockets:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(f"\0trio-mcp-test-{os.getpid()}")
    if found.peer_credentials:
        left, right = socket.socketpair()
        with left, right:
            credentials = left.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            assert int.from_bytes(credentials[:4], sys.byteorder) == os.getpid()


def test_the_record_cannot_be_changed() -> None:
    found = features()
    with pytest.raises(AttributeError):
        found.supervision = False  # type: ignore[misc]
    with pytest.raises(TypeError):
        found.extras["cli"] = True  # type: ignore[index]
