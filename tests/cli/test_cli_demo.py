"""`trio-mcp demo`: every transport, what fails, and what is left out.

In this process and with few requests: how fast anything is is not what is tested. The
README's command runs it as it is.
"""

from __future__ import annotations

import sys

import msgspec
import pytest
import trio
from msgspec.structs import replace

from trio_mcp_transport import features
from trio_mcp_transport.cli import demo, main
from trio_mcp_transport.cli.demo_trials import TRIALS

pytestmark = [pytest.mark.cli, pytest.mark.integration]

HAS_TLS = features().extras["tls"]
ENCRYPTED = ["tls", "tls-mutual", "tls+unix", "wss", "https"]
ROWS = [
    name
    for name, trial in TRIALS.items()
    if features().transports[trial.transport] and (HAS_TLS or name not in ENCRYPTED)
]


@pytest.fixture(autouse=True)
def _few_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "ROUND_TRIPS", 3)
    monkeypatch.setattr(demo, "THROUGHPUT_REQUESTS", 10)
    monkeypatch.setattr(demo, "CONCURRENT", 2)


def test_it_knows_every_transport() -> None:
    assert set(TRIALS) >= {
        *("stdio", "memory", "tcp", "unix", "ws", "http", "http-legacy", "sse+http"),
        *ENCRYPTED,
    }
    assert [name for name, trial in TRIALS.items() if trial.encrypted] == ENCRYPTED


def test_the_demo_holds_a_conversation_over_every_transport(
    capsys: pytest.CaptureFixture[str],
) -> None:
    status = main(["demo", "--json"])
    captured = capsys.readouterr()
    rows = msgspec.json.decode(captured.out, type=list[dict[str, object]])
    assert status == 0, rows
    assert [row["transport"] for row in rows] == ROWS
    for row in rows:
        assert row.keys() == {"transport", "ok", "round_trip_us", "messages_per_s", "error"}
        assert row["ok"] is True
        assert row["error"] is None
        assert isinstance(row["round_trip_us"], float)
        assert isinstance(row["messages_per_s"], float)
        assert row["round_trip_us"] > 0
        assert row["messages_per_s"] > 0
    if HAS_TLS:
        assert captured.err == ""
    else:
        assert "not tried: tls, " in captured.err
        assert "trio-mcp-transport[tls]" in captured.err


def test_a_transport_that_fails_is_told_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = ["stdio", "memory", "tcp"]
    monkeypatch.setattr(demo, "TRIALS", {name: TRIALS[name] for name in kept})
    monkeypatch.setattr(sys, "executable", "/nowhere/python")  # the child cannot be started
    assert main(["demo"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[4:-1]] == [
        [row, "failed" if row == "stdio" else "ok"] for row in kept
    ]
    assert lines[-1].startswith("stdio: ")
    assert "/nowhere/python" in lines[-1]


def test_without_the_extra_it_says_what_it_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here = features()
    monkeypatch.setattr(
        demo, "features", lambda: replace(here, extras={**here.extras, "tls": False})
    )
    kept = ["memory", *ENCRYPTED]
    monkeypatch.setattr(demo, "TRIALS", {name: TRIALS[name] for name in kept})
    assert main(["demo", "--json"]) == 0
    captured = capsys.readouterr()
    rows = msgspec.json.decode(captured.out, type=list[dict[str, object]])
    assert [row["transport"] for row in rows] == ["memory"]
    assert captured.err == (
        f"trio-mcp: not tried: {', '.join(ENCRYPTED)}; pip install 'trio-mcp-transport[tls]'\n"
    )


def test_a_transport_that_this_machine_lacks_is_no_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here = features()
    lacking = replace(here, transports={**here.transports, "unix": False})
    monkeypatch.setattr(demo, "features", lambda: lacking)
    kept = ["memory", "unix"]
    monkeypatch.setattr(demo, "TRIALS", {name: TRIALS[name] for name in kept})
    assert main(["demo", "--json"]) == 0
    rows = msgspec.json.decode(capsys.readouterr().out, type=list[dict[str, object]])
    assert [row["transport"] for row in rows] == ["memory"]


def test_a_server_that_does_something_else_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def converse(_: object) -> None:
        await trio.lowlevel.checkpoint()
        demo._check(False, "echo")

    monkeypatch.setattr(demo, "converse", converse)
    monkeypatch.setattr(demo, "TRIALS", {"memory": TRIALS["memory"]})
    assert main(["demo", "--json"]) == 1
    (row,) = msgspec.json.decode(capsys.readouterr().out, type=list[dict[str, object]])
    assert (row["ok"], row["error"]) == (False, "echo: the server did not do what it should")
