"""The words that all machines share."""

from __future__ import annotations

import pytest

from trio_mcp_transport.sansio.machine import NEED_DATA, PAUSED

pytestmark = pytest.mark.sansio


def test_what_is_no_event_shows_its_name() -> None:
    assert (repr(NEED_DATA), repr(PAUSED)) == ("NEED_DATA", "PAUSED")
