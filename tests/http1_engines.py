"""The engines of HTTP/1.1 that are installed here, and machines that use one of them."""

from __future__ import annotations

import importlib.util
from collections.abc import Generator
from contextlib import contextmanager

import pytest

from trio_mcp_transport.sansio import http1_engine
from trio_mcp_transport.sansio.http1_engine import ENGINES

__all__ = ["INSTALLED", "using"]

INSTALLED = [name for name in ENGINES if importlib.util.find_spec(name) is not None]


@contextmanager
def using(name: str) -> Generator[None, None, None]:
    """Machines that are made in the block use this engine."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(http1_engine, "_chosen", ENGINES[name])
        yield
