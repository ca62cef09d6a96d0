"""Runs the conformance suite of MCP, and reads what it found.

The suite reports success where a scenario found nothing to check, so each scenario must
have made at least the checks that it makes of the official SDK: those numbers stand here.
"""

from __future__ import annotations

import os
import re
import sys
from collections import Counter
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import PIPE, STDOUT

import msgspec
import pytest
import trio

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"

#: Checks that the official Python SDK 2.3.0 passes, by scenario.
CONTENT = {
    "completion-complete": 2,
    "dns-rebinding-protection": 2,
    "json-schema-2020-12": 8,
    "prompts-get-embedded-resource": 2,
    "prompts-get-simple": 2,
    "prompts-get-with-args": 2,
    "prompts-get-with-image": 2,
    "prompts-list": 2,
    "resources-list": 2,
    "resources-read-binary": 2,
    "resources-read-text": 2,
    "resources-templates-read": 2,
    "tools-call-audio": 2,
    "tools-call-embedded-resource": 2,
    "tools-call-error": 2,
    "tools-call-image": 2,
    "tools-call-mixed-content": 2,
    "tools-call-simple-text": 2,
    "tools-call-with-progress": 2,
}
#: One of its checks is made only of a server that answers with streams.
STREAMS = {"json": {"server-sse-multiple-streams": 1}, "sse": {"server-sse-multiple-streams": 2}}
SERVER = {
    "2025-11-25": {
        **CONTENT,
        "elicitation-sep1034-defaults": 6,
        "elicitation-sep1330-enums": 6,
        "logging-set-level": 2,
        "ping": 2,
        "resources-subscribe": 2,
        "resources-unsubscribe": 2,
        "server-initialize": 3,
        "server-session-lifecycle": 3,
        "server-sse-polling": 3,
        "tools-call-elicitation": 2,
        "tools-call-sampling": 2,
        "tools-call-with-logging": 2,
        "tools-list": 3,
    },
    "2026-07-28": {
        **CONTENT,
        "caching": 8,
        "http-custom-header-server-validation": 10,
        "http-header-validation": 14,
        "input-required-result-basic-elicitation": 3,
        "input-required-result-basic-list-roots": 3,
        "input-required-result-basic-sampling": 3,
        "input-required-result-capability-check": 2,
        "input-required-result-ignore-extra-params": 2,
        "input-required-result-missing-input-response": 2,
        "input-required-result-multi-round": 4,
        "input-required-result-multiple-input-requests": 3,
        "input-required-result-non-tool-request": 3,
        "input-required-result-request-state": 3,
        "input-required-result-result-type": 2,
        "input-required-result-tampered-state": 2,
        "input-required-result-unsupported-methods": 2,
        "input-required-result-validate-input": 3,
        "sep-2164-resource-not-found": 4,
        "server-stateless": 30,
        "tools-list": 4,
    },
}
CLIENT = {
    ("elicitation-sep1034-client-defaults", "2025-11-25"): 5,
    ("initialize", "2025-11-25"): 1,
    ("json-schema-2020-12-preservation", "2025-11-25"): 9,
    ("sse-retry", "2025-11-25"): 3,
    ("tools_call", "2025-11-25"): 2,
    ("http-custom-headers", "2026-07-28"): 18,
    ("http-invalid-tool-headers", "2026-07-28"): 12,
    # The SDK's client reads no resource and gets no prompt there.
    ("http-standard-headers", "2026-07-28"): 9,
    ("json-schema-2020-12-preservation", "2026-07-28"): 9,
    ("json-schema-ref-no-deref", "2026-07-28"): 1,
    ("request-metadata", "2026-07-28"): 8,
    ("sep-2322-client-request-state", "2026-07-28"): 5,
    ("tools_call", "2026-07-28"): 2,
}
#: Extensions that lie above a transport.
LEFT_OUT = ("tasks-", "auth/")


def _programs() -> Path | None:
    directory = os.environ.get("TRIO_MCP_NODE_MODULES")
    if directory is None:
        return None
    programs = Path(directory, ".bin")
    # The suite needs a newer Node than many systems have; it is installed beside it.
    there = (programs / "conformance").exists() and (programs / "node").exists()
    return programs if there else None


PROGRAMS = _programs()
needs_suite = pytest.mark.skipif(
    PROGRAMS is None,
    reason="needs node and @modelcontextprotocol/conformance in $TRIO_MCP_NODE_MODULES",
)


class Check(msgspec.Struct):
    """One check of a scenario."""

    id: str
    status: str
    errorMessage: str | None = None  # ruff: ignore[mixed-case-variable-in-class-scope] (as it is written)


async def run_suite(*arguments: str, output: Path) -> tuple[dict[str, list[Check]], str]:
    """Run it; return the checks of each scenario, and what it printed."""
    assert PROGRAMS is not None
    environment = {**os.environ, "PATH": f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}"}
    done = await trio.run_process(
        [str(PROGRAMS / "conformance"), *arguments, "-o", str(output)],
        env=environment,
        capture_stdout=True,
        stderr=STDOUT,
        check=False,
    )
    return _read_results(output), done.stdout.decode()


def _read_results(output: Path) -> dict[str, list[Check]]:
    found: dict[str, list[Check]] = {}
    for file in output.rglob("checks.json"):
        # server-SCENARIO-TIME; a client's scenario has no such prefix.
        name = re.sub(r"-\d{4}-\d{2}-\d{2}T[\d-]+Z$", "", str(file.parent.relative_to(output)))
        name = name.removeprefix("server-")
        found[name] = msgspec.json.decode(file.read_bytes(), type=list[Check])
    return found


def judge(found: Mapping[str, list[Check]], known_good: Mapping[str, int]) -> list[str]:
    """What is wrong, in words; nothing if all is well."""
    wrong = []
    for name, wanted in known_good.items():
        checks = found.get(name, [])
        counts = Counter(check.status for check in checks)
        if counts["SUCCESS"] < wanted:
            wrong.append(f"{name}: {counts['SUCCESS']} checks passed, of at least {wanted}")
        wrong += [
            f"{name}: {check.id}: {check.status}: {check.errorMessage}"
            for check in checks
            if check.status in {"FAILURE", "WARNING"}
        ]
    unknown = [name for name in found if name not in known_good and not name.startswith(LEFT_OUT)]
    return wrong + [f"{name}: nobody wrote down how many checks it makes" for name in unknown]


@asynccontextmanager
async def example_server(
    listen: str, program: Path = EXAMPLES / "everything_server.py"
) -> AsyncGenerator[str]:
    """Run the example as a program; gives the endpoint that it says it listens at."""
    command = [sys.executable, str(program), "--listen", listen]
    process = await trio.lowlevel.open_process(command, stderr=PIPE)
    log = bytearray()
    ready = trio.Event()

    async def read() -> None:
        assert process.stderr is not None
        async for chunk in process.stderr:
            log.extend(chunk)
            if re.search(rb"listening at \S+\n", log):
                ready.set()

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            with trio.fail_after(30):
                await ready.wait()
            bound = re.search(rb"listening at (\S+)\n", log)
            assert bound is not None
            yield bound[1].decode()
            nursery.cancel_scope.cancel()
    finally:
        process.terminate()
        with trio.CancelScope(shield=True):
            await process.wait()
            assert process.stderr is not None
            await process.stderr.aclose()
