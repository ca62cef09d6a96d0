"""What tests with real sockets share."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio
from scripted_server import ScriptedServer

#: Far more than any of them needs.
LIMIT_SECONDS = 30.0


@pytest.fixture
async def in_time() -> AsyncIterator[None]:
    """The test fails if it has not ended by then; a mock clock may jump there."""

    async def fail() -> None:
        await trio.sleep(LIMIT_SECONDS)
        raise trio.TooSlowError(f"not done within {LIMIT_SECONDS:g} s")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(fail)
        yield
        nursery.cancel_scope.cancel()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """What is said over a scripted server holds whether or not requests are sent at once."""
    if hasattr(metafunc.module, "ScriptedServer"):
        metafunc.parametrize("_sends", [False, True], ids=["", "at-once"], indirect=True)


@pytest.fixture(autouse=True)
def _sends(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ScriptedServer, "at_once", getattr(request, "param", False))
