"""What a tap shows of what passes."""

from __future__ import annotations

import msgspec
import pytest

from trio_mcp_transport.cli.trace import Trace, as_json_line, as_pieces

pytestmark = pytest.mark.cli


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        self.now += 0.25
        return self.now


def shown(trace: Trace, side: str, payload: bytes) -> dict[str, object]:
    entry = trace.entry(side, payload)  # type: ignore[arg-type]  # the literals below
    return msgspec.json.decode(as_json_line(entry), type=dict[str, object])


def test_a_request_and_its_answer_are_matched_and_timed() -> None:
    trace = Trace(Clock())
    asked = b'{"jsonrpc":"2.0","id":7,"method":"tools/list"}'
    answered = b'{"jsonrpc":"2.0","id":7,"result":{"tools":[]}}'
    assert shown(trace, "client", asked) == {
        "time": 1_700_000_000.25,
        "from": "client",
        "kind": "request",
        "bytes": len(asked),
        "id": 7,
        "method": "tools/list",
        "message": {"jsonrpc": "2.0", "id": 7, "method": "tools/list"},
    }
    assert shown(trace, "server", answered) == {
        "time": 1_700_000_000.5,
        "from": "server",
        "kind": "result",
        "bytes": len(answered),
        "id": 7,
        "method": "tools/list",
        "elapsed_ms": 250.0,
        "message": {"jsonrpc": "2.0", "id": 7, "result": {"tools": []}},
    }


def test_each_side_has_ids_of_its_own() -> None:
    trace = Trace(Clock())
    shown(trace, "client", b'{"jsonrpc":"2.0","id":1,"method":"a"}')
    shown(trace, "server", b'{"jsonrpc":"2.0","id":1,"method":"b"}')
    assert shown(trace, "client", b'{"jsonrpc":"2.0","id":1,"result":{}}')["method"] == "b"
    refused = b'{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"no"}}'
    entry = shown(trace, "server", refused)
    assert (entry["kind"], entry["method"]) == ("error", "a")
    assert "method" not in shown(trace, "server", refused)


def test_what_is_no_message_is_told_apart() -> None:
    trace = Trace(Clock())
    assert shown(trace, "client", b'{"jsonrpc":"2.0","method":"n"}')["kind"] == "notification"
    assert shown(trace, "client", b'[{"jsonrpc":"2.0","method":"n"}]')["kind"] == "batch"
    nonsense = shown(trace, "server", b"\xffnonsense")
    assert nonsense["kind"] == "malformed"
    assert nonsense["malformed"] == "\\xffnonsense"
    assert "UTF-8" in str(nonsense["error"])
    assert shown(trace, "server", b"[1,")["kind"] == "malformed"
    null = b'{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"what?"}}'
    assert shown(trace, "server", null)["kind"] == "error"
    assert trace.end("client").kind == "end"


def test_requests_without_an_answer_are_not_kept_for_ever() -> None:
    trace = Trace(Clock())
    for number in range(3000):
        shown(trace, "client", b'{"jsonrpc":"2.0","id":%d,"method":"m"}' % number)
    assert "method" not in shown(trace, "server", b'{"jsonrpc":"2.0","id":5,"result":{}}')
    assert shown(trace, "server", b'{"jsonrpc":"2.0","id":2999,"result":{}}')["method"] == "m"


def line(payload: bytes, *, full: bool = False) -> str:
    pieces = as_pieces(Trace(Clock()).entry("client", payload), full=full)
    return " ".join(piece for piece, _ in pieces)


def test_people_get_a_line_with_all_that_matters() -> None:
    text = line(b'{"jsonrpc":"2.0","id":"a","method":"ping"}')
    assert text.endswith("""--> request #'a' ping {"jsonrpc":"2.0","id":"a","method":"ping"}""")


def test_long_messages_are_shortened_unless_all_is_wanted() -> None:
    payload = b'{"jsonrpc":"2.0","method":"n","params":{"a":"%s"}}' % (b"x" * 1000)
    assert len(line(payload)) < 300
    assert f"({len(payload)} bytes)" in line(payload)
    assert "x" * 1000 in line(payload, full=True)


def test_a_terminal_is_never_made_to_obey() -> None:
    for payload in (b"\x1b]0;owned\x07\x1b[2J", b'{"jsonrpc":"2.0","method":"\xc2\x9b31m"}'):
        assert line(payload, full=True).isprintable()
