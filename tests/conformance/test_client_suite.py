"""The conformance suite of MCP, against the example client."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import trio
from conformance_suite import CLIENT, EXAMPLES, judge, needs_suite, run_suite

pytestmark = [pytest.mark.conformance, pytest.mark.interop, pytest.mark.integration]

COMMAND = f"{sys.executable} {EXAMPLES / 'everything_client.py'}"


# One at a time: some of them look at how long a client waits.
@needs_suite
@pytest.mark.parametrize(("scenario", "revision"), CLIENT)
async def test_the_example_client_conforms(scenario: str, revision: str, tmp_path: Path) -> None:
    arguments = ["--command", COMMAND, "--scenario", scenario, "--spec-version", revision]
    with trio.fail_after(100):
        found, said = await run_suite("client", *arguments, "--timeout", "60000", output=tmp_path)
    assert judge(found, {scenario: CLIENT[scenario, revision]}) == [], said
