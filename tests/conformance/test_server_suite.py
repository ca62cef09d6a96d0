"""The conformance suite of MCP, against the example server."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from conformance_suite import SERVER, STREAMS, example_server, judge, needs_suite, run_suite

pytestmark = [pytest.mark.conformance, pytest.mark.interop, pytest.mark.integration]

#: How requests are answered by default: with a document where there is nothing but a result.
RESPONSES = {"json": "auto", "sse": "sse"}


@needs_suite
@pytest.mark.parametrize("answers", RESPONSES)
@pytest.mark.parametrize("revision", SERVER)
async def test_the_example_server_conforms(revision: str, answers: str, tmp_path: Path) -> None:
    listen = f"http://127.0.0.1:0/mcp?response={RESPONSES[answers]}"
    with trio.fail_after(100):
        async with example_server(listen) as url:
            url = url.partition("?")[0]
            found, said = await run_suite(
                "server", "--url", url, "--requirements", revision, output=tmp_path
            )
    assert judge(found, {**SERVER[revision], **STREAMS[answers]}) == [], said
