"""What the README and the pages say is true: their programs run, their tables are complete."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.docs

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "docs" / "examples"


def run_program(
    program: Path | str, *arguments: str, cwd: Path, stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(program), *arguments],
        cwd=cwd,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
    )


def test_the_property_test_of_the_framers_runs() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "fuzz_framers.py"],
        cwd=EXAMPLES,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout


def test_the_machine_serves_behind_asyncio() -> None:
    with subprocess.Popen(
        [sys.executable, str(EXAMPLES / "asyncio_server.py")], stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stdout is not None
            port = int(server.stdout.readline())
            with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
                client.sendall(b'{"jsonrpc":"2.0","id":1,"method":"echo","params":{"a":1}}\n')
                client.sendall(b'{"jsonrpc":"2.0","id":2,"method":"other"}\n')
                with client.makefile("r") as answers:
                    assert json.loads(answers.readline())["result"] == {"a": 1}
                    assert json.loads(answers.readline())["error"]["code"] == -32601
        finally:
            server.kill()
