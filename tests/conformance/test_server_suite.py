"""The conformance suite of MCP, against the example server, and one of the official SDK's."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from conformance_suite import (
    EXAMPLES,
    SERVER,
    STREAMS,
    example_server,
    judge,
    needs_suite,
    run_suite,
)

from trio_mcp_transport import features

pytestmark = [pytest.mark.conformance, pytest.mark.interop, pytest.mark.integration]

#: How requests are answered by default: with a document where there is nothing but a result.
RESPONSES = {"json": "auto", "sse": "sse"}


PROGRAMS = {
    "ours": EXAMPLES / "everything_server.py",
    "sdk": Path(__file__).parents[1] / "sdk_everything.py",
}
CASES = [
    (program, revision, answers)
    for program in PROGRAMS
    for revision in SERVER
    for answers in RESPONSES
]


@needs_suite
@pytest.mark.parametrize(("program", "revision", "answers"), CASES)
async def test_a_server_of_everything_conforms(
    program: str, revision: str, answers: str, tmp_path: Path
) -> None:
    if program == "sdk" and not features().extras["mcp"]:
        pytest.skip("the official MCP SDK is not installed")
    listen = f"http://127.0.0.1:0/mcp?response={RESPONSES[answers]}"
    with trio.fail_after(100):
        async with example_server(listen, PROGRAMS[program]) as url:
            url = url.partition("?")[0]
            found, said = await run_suite(
                "server", "--url", url, "--requirements", revision, output=tmp_path
            )
    assert judge(found, {**SERVER[revision], **STREAMS[answers]}) == [], said
