"""What is written where: terminals, pipes, and streams that nobody reads or has."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import TextIO

import pytest
import trio

from trio_mcp_transport import ConfigurationError, ConnectFailed
from trio_mcp_transport.cli import call, main
from trio_mcp_transport.cli.running import explain
from trio_mcp_transport.cli.tap import TraceOutput
from trio_mcp_transport.cli.terminal import (
    StdoutClosed,
    note,
    print_json,
    print_table,
    print_text,
    printable,
    tell,
    wants_colour,
)

pytestmark = pytest.mark.cli

PING = b'{"jsonrpc":"2.0","id":1,"method":"ping"}'


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def use_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Make stdout and stderr a terminal. Not in a fixture: pytest changes them after those."""
    found = Terminal()
    monkeypatch.setattr(sys, "stdout", found)
    monkeypatch.setattr(sys, "stderr", found)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return found


@pytest.fixture
def unread() -> Iterator[TextIO]:
    """A pipe whose reader is gone."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    with suppress(BrokenPipeError), open(write_end, "w", encoding="utf-8") as stream:
        yield stream


def open_pipe() -> tuple[int, TextIO]:
    """A pipe that is only read now and then, and a stream that writes to it."""
    read_end, write_end = os.pipe()
    return read_end, os.fdopen(write_end, "w", encoding="utf-8")


def table() -> None:
    print_table("Title", ("transport", "outcome"), [("tcp", "ok"), ("[red]", "failed")])


def test_a_pipe_gets_a_plain_table(capsys: pytest.CaptureFixture[str]) -> None:
    table()
    assert capsys.readouterr().out.splitlines() == [
        "Title",
        "",
        "transport  outcome",
        "---------  -------",
        "tcp             ok",
        "[red]       failed",
    ]


def test_a_terminal_gets_a_coloured_table_and_markup_is_only_text(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("rich", reason="the extra `cli` is not installed")
    terminal = use_terminal(monkeypatch)
    table()
    assert "\x1b[" in terminal.getvalue()
    assert "[red]" in terminal.getvalue()


def test_a_terminal_gets_indented_json(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = use_terminal(monkeypatch)
    print_json(b'{"a":[1]}')
    assert terminal.getvalue().count("\n") > 3


@pytest.mark.parametrize(("variable", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_colours_can_be_refused(variable: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = use_terminal(monkeypatch)
    monkeypatch.setenv(variable, value)
    assert not wants_colour(terminal)
    print_json(b'{"a":[1]}')
    assert "\x1b[" not in terminal.getvalue()


def test_notes_are_for_terminals_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = use_terminal(monkeypatch)
    note("working")
    assert terminal.getvalue() == "\r\x1b[Kworking"


def test_notes_do_not_reach_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    note("working")
    assert capsys.readouterr() == ("", "")


def test_what_a_peer_says_cannot_drive_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    tell("\x1b[2J\x9b31m\r\nowned")
    assert capsys.readouterr().err == "trio-mcp: \\x1b[2J\\x9b31m\\r\\nowned\n"
    assert printable("grüß\tdich") == "grüß\\tdich"


def test_without_a_stderr_nothing_is_told_and_above_all_not_on_stdout(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    tell("psst")
    note("psst")
    assert capsys.readouterr().out == ""


def test_a_stderr_that_nobody_reads_is_no_reason_to_fail(
    unread: TextIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", unread)
    tell("psst")


def test_a_stdout_that_nobody_reads_is_told_apart_once(
    unread: TextIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", unread)
    with pytest.raises(StdoutClosed):
        print_text("anybody?")
    unread.flush()  # what was left goes nowhere, and nothing complains


def test_a_stdout_that_was_never_open_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(StdoutClosed):
        print_text("anybody?")


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        (ConfigurationError("a\n b"), 2, "trio-mcp: a b\n"),
        (ConnectFailed("no"), 1, "trio-mcp: no\n"),
        (OSError(2, "No such file", "x"), 1, "trio-mcp: [Errno 2] No such file: 'x'\n"),
        (KeyError("k"), 1, "trio-mcp: unexpected KeyError: 'k' (--debug shows where)\n"),
        (ExceptionGroup("g", [ConnectFailed("deep")]), 1, "trio-mcp: deep\n"),
        (StdoutClosed(), 141, ""),
    ],
)
def test_errors_are_one_line_and_a_status(
    error: Exception, status: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert explain(error, debug=False) == status
    assert capsys.readouterr().err == told


def test_an_interrupt_before_anything_runs_is_quiet(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(_: argparse.Namespace) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(call, "run", run)
    assert main(["call", "memory:x"]) == 130
    assert capsys.readouterr() == ("", "")


# -- what a tap shows --------------------------------------------------------------------


async def test_a_tap_is_coloured_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rich", reason="the extra `cli` is not installed")
    terminal = use_terminal(monkeypatch)
    shown = TraceOutput(terminal, as_json=False, full=False)
    await shown.observe("client", [PING, b"\x1b[2Jnonsense"])
    await shown.observe("client", ())
    first, second, third = terminal.getvalue().splitlines()
    assert "\x1b[" in first
    assert "ping" in first
    assert "\\x1b[2Jnonsense" in second
    assert "end" in third


async def test_a_tap_whose_file_fails_says_so_once_and_lets_traffic_pass(
    unread: TextIO, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = TraceOutput(unread, as_json=True, full=False)
    for _ in range(3):
        await shown.observe("client", [PING])
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "nothing more is shown" in told
    unread.close()  # what was left goes nowhere, and nothing complains


async def test_a_tap_whose_stdout_nobody_reads_has_ended(
    unread: TextIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", unread)
    shown = TraceOutput(unread, as_json=True, full=False)
    with pytest.raises(StdoutClosed):
        await shown.observe("client", [PING])


async def test_a_tap_without_any_output_lets_traffic_pass() -> None:
    await TraceOutput(None, as_json=True, full=False).observe("client", [PING])


async def test_a_reader_that_hangs_does_not_hold_up_the_end() -> None:
    read_end, stream = open_pipe()
    shown = TraceOutput(stream, as_json=True, full=False)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(shown.observe, "client", [PING] * 5000)
        await trio.lowlevel.wait_readable(read_end)
        nursery.cancel_scope.cancel()
    # The thread that was left behind goes on as soon as somebody reads.
    lines = 0
    while lines < 5000:
        lines += os.read(read_end, 65536).count(b"\n")
    os.close(read_end)
    stream.close()
