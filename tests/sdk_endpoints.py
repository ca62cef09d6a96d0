"""Where the tests of the official SDK meet: a fixture that those modules import."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(params=["memory", "tcp", "unix", "http"])
def endpoint(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """One of each kind of transport, to listen at."""
    return {
        "memory": "memory:sdk",
        "tcp": "tcp://127.0.0.1:0",
        "unix": f"unix:{tmp_path}/sdk.sock",
        "http": "http://127.0.0.1:0/mcp",
    }[request.param]
