"""The opening handshake of WebSocket: what is asked, what is accepted, what is refused."""

from __future__ import annotations

import msgspec
import pytest

from trio_mcp_transport.errors import LocalProtocolError, RemoteProtocolError
from trio_mcp_transport.sansio.headers import Headers
from trio_mcp_transport.sansio.http import Reply, RequestHead, ResponseHead
from trio_mcp_transport.sansio.http1_client import Http1Client
from trio_mcp_transport.sansio.http1_server import Http1Server
from trio_mcp_transport.sansio.machine import PAUSED
from trio_mcp_transport.sansio.websocket import (
    AcceptUpgrade,
    DeflateSettings,
    UpgradeVerdict,
    WebSocketAgreement,
    check_response,
    judge_upgrade,
    make_key,
    upgrade_headers,
    upgrade_required,
    wants_websocket,
)

pytestmark = pytest.mark.sansio

#: The example of RFC 6455, section 1.3.
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

ASKED = {
    "Host": "server.example.com",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": KEY,
    "Sec-WebSocket-Version": "13",
}
ANSWERED = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Accept": ACCEPT,
}


def asked(
    *changes: tuple[str, str | None], method: str = "GET", version: str = "1.1"
) -> RequestHead:
    """The head as a server's machine gives it, with some fields changed or left out."""
    fields = {**ASKED, **dict(changes)}
    lines = [f"{name}: {value}\r\n" for name, value in fields.items() if value is not None]
    server = Http1Server()
    server.receive_data(f"{method} /mcp HTTP/{version}\r\n{''.join(lines)}\r\n".encode())
    head = server.next_event()
    assert isinstance(head, RequestHead)
    return head


def answered(*changes: tuple[str, str | None], status: int = 101) -> ResponseHead:
    fields = {**ANSWERED, **dict(changes)}
    return ResponseHead(status, Headers([(n, v) for n, v in fields.items() if v is not None]))


def accepted(verdict: UpgradeVerdict) -> AcceptUpgrade:
    assert isinstance(verdict, AcceptUpgrade), verdict
    return verdict


def refused(verdict: UpgradeVerdict) -> tuple[Reply, str]:
    assert isinstance(verdict, Reply), verdict
    error = msgspec.json.decode(verdict.body)["error"]
    return verdict, error["message"]


# -- the server ---------------------------------------------------------------------


def test_the_example_of_the_rfc_is_accepted() -> None:
    verdict = accepted(judge_upgrade(asked()))
    assert dict(verdict.headers) == {"sec-websocket-accept": ACCEPT}
    assert verdict.agreement == WebSocketAgreement(None, None)


@pytest.mark.parametrize(
    "change",
    [
        ("Upgrade", "WebSocket"),
        ("Upgrade", "h2c, websocket"),
        ("Connection", "keep-alive, upgrade"),
        ("Content-Length", "0"),
        ("Sec-WebSocket-Extensions", "x-webkit-deflate-frame"),
        ("Origin", "https://example.com"),
    ],
)
def test_what_the_rfc_leaves_open_is_accepted(change: tuple[str, str]) -> None:
    assert accepted(judge_upgrade(asked(change))).headers["sec-websocket-accept"] == ACCEPT


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        ("mcp", "mcp"),
        ("other, mcp", "mcp"),
        ("other", None),
        ("MCP", None),
        ("", None),
        ("other,mcp,mcp2", "mcp2"),
    ],
)
def test_the_servers_favourite_of_the_offered_subprotocols_is_chosen(
    offered: str, chosen: str | None
) -> None:
    head = asked(("Sec-WebSocket-Protocol", offered))
    verdict = accepted(judge_upgrade(head, subprotocols=("mcp2", "mcp")))
    assert verdict.agreement.subprotocol == chosen
    assert verdict.headers.get("sec-websocket-protocol") == chosen


def test_a_server_without_subprotocols_chooses_none() -> None:
    head = asked(("Sec-WebSocket-Protocol", "mcp"))
    assert accepted(judge_upgrade(head, subprotocols=())).agreement.subprotocol is None


def test_compression_is_agreed_on_where_both_want_it() -> None:
    offer = ("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits")
    plain = accepted(judge_upgrade(asked(offer)))
    assert plain.agreement.deflate is None
    assert "sec-websocket-extensions" not in plain.headers
    for head in (asked(), asked(("Sec-WebSocket-Extensions", "x-other"))):
        unwanted = accepted(judge_upgrade(head, deflate=DeflateSettings()))
        assert unwanted.agreement.deflate is None
        assert "sec-websocket-extensions" not in unwanted.headers
    both = accepted(judge_upgrade(asked(offer), deflate=DeflateSettings()))
    assert both.agreement.deflate == DeflateSettings()
    assert both.headers["sec-websocket-extensions"].startswith("permessage-deflate; ")


@pytest.mark.parametrize(
    "head",
    [
        asked(("Upgrade", None)),
        asked(("Connection", None)),
        asked(("Connection", "keep-alive")),
        asked(("Upgrade", "h2c")),
        asked(version="1.0"),
        asked(("Sec-WebSocket-Version", None)),
        asked(("Sec-WebSocket-Version", "8")),
        asked(("Sec-WebSocket-Version", "13, 8")),
    ],
)
def test_anything_but_this_version_of_websocket_must_upgrade(head: RequestHead) -> None:
    reply, _ = refused(judge_upgrade(head))
    assert reply.status == 426
    assert reply.headers["upgrade"] == "websocket"
    assert reply.headers["sec-websocket-version"] == "13"


@pytest.mark.parametrize(
    ("head", "status", "words"),
    [
        (asked(method="POST"), 405, "method not allowed"),
        (asked(("Content-Length", "1")), 400, "no body"),
        (asked(("Transfer-Encoding", "chunked")), 400, "no body"),
        *(
            (asked(("Sec-WebSocket-Key", key)), 400, "Sec-WebSocket-Key")
            for key in (
                None,
                "",
                "short",
                KEY + "=",
                KEY[:-4] + "====",
                "(" + KEY[1:],
                "é" * 24,
                f"{KEY}, {KEY}",
                "A" * 24,  # 18 bytes
            )
        ),
    ],
)
def test_a_malformed_request_is_refused_with_the_reason(
    head: RequestHead, status: int, words: str
) -> None:
    reply, message = refused(judge_upgrade(head))
    assert reply.status == status
    assert words in message


def test_malformed_extensions_are_refused_only_by_who_reads_them() -> None:
    head = asked(("Sec-WebSocket-Extensions", "permessage-deflate;"))
    accepted(judge_upgrade(head))
    reply, message = refused(judge_upgrade(head, deflate=DeflateSettings()))
    assert reply.status == 400
    assert "Sec-WebSocket-Extensions" in message


def test_who_wants_a_websocket_is_told_apart_from_who_does_not() -> None:
    assert wants_websocket(asked())
    assert wants_websocket(asked(("Sec-WebSocket-Key", None)))
    assert not wants_websocket(asked(("Upgrade", "h2c")))
    assert not wants_websocket(asked(("Connection", "close")))


def test_a_refusal_can_say_what_it_likes() -> None:
    _, message = refused(upgrade_required("no events here"))
    assert message == "no events here"


# -- the client ---------------------------------------------------------------------


def test_a_client_asks_as_the_rfc_shows() -> None:
    assert make_key(b"the sample nonce") == KEY
    headers = upgrade_headers(KEY)
    assert dict(headers) == {
        "upgrade": "websocket",
        "connection": "Upgrade",
        "sec-websocket-key": KEY,
        "sec-websocket-version": "13",
        "sec-websocket-protocol": "mcp",
    }
    assert "sec-websocket-protocol" not in upgrade_headers(KEY, subprotocols=())
    full = upgrade_headers(KEY, subprotocols=["a", "b"], deflate=DeflateSettings())
    assert full["sec-websocket-protocol"] == "a, b"
    assert full["sec-websocket-extensions"].startswith("permessage-deflate; ")


@pytest.mark.parametrize("size", [0, 15, 17])
def test_a_key_is_made_of_sixteen_bytes(size: int) -> None:
    with pytest.raises(LocalProtocolError, match=f"16 bytes, not {size}"):
        make_key(b"x" * size)


@pytest.mark.parametrize("name", ["", "a b", "a,b", "é", "a\r\nX: y"])
def test_a_subprotocol_that_is_no_token_is_not_offered(name: str) -> None:
    with pytest.raises(LocalProtocolError, match="no name of a subprotocol"):
        upgrade_headers(KEY, subprotocols=[name])


def test_the_servers_answer_is_accepted() -> None:
    assert check_response(answered(), KEY) == WebSocketAgreement()
    named = answered(("Sec-WebSocket-Protocol", "mcp"))
    assert check_response(named, KEY) == WebSocketAgreement("mcp")
    odd = answered(("Upgrade", "WebSocket"), ("Connection", "keep-alive, UPGRADE"))
    assert check_response(odd, KEY) == WebSocketAgreement()
    compressing = answered((
        "Sec-WebSocket-Extensions",
        "permessage-deflate; server_max_window_bits=10; client_max_window_bits=9",
    ))
    assert check_response(compressing, KEY, deflate=DeflateSettings()) == WebSocketAgreement(
        None, DeflateSettings(max_window_bits=9, peer_max_window_bits=10)
    )


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (answered(status=200), "answered 200"),
        (answered(("Upgrade", None)), "not to WebSocket"),
        (answered(("Upgrade", "h2c")), "not to WebSocket"),
        (answered(("Connection", None)), "Connection"),
        (answered(("Connection", "close")), "Connection"),
        (answered(("Sec-WebSocket-Accept", None)), "does not match"),
        (answered(("Sec-WebSocket-Accept", KEY)), "does not match"),
        (answered(("Sec-WebSocket-Accept", ACCEPT.lower())), "does not match"),
        (answered(("Sec-WebSocket-Protocol", "other")), "'other'"),
        (answered(("Sec-WebSocket-Protocol", "mcp, mcp")), "not offered"),
        (answered(("Sec-WebSocket-Extensions", "permessage-deflate")), "extension"),
    ],
)
def test_an_answer_that_was_not_asked_for_is_refused(head: ResponseHead, words: str) -> None:
    with pytest.raises(RemoteProtocolError, match=words):
        check_response(head, KEY)


@pytest.mark.parametrize("deflate", [None, DeflateSettings()])
def test_client_and_server_agree_through_the_http_machines(
    deflate: DeflateSettings | None,
) -> None:
    client, server = Http1Client(), Http1Server()
    headers = Headers([("Host", "a")]).merged(upgrade_headers(KEY, deflate=deflate))
    server.receive_data(client.send_request(RequestHead("GET", "/mcp", headers)))
    head = server.next_event()
    assert isinstance(head, RequestHead)
    verdict = accepted(judge_upgrade(head, deflate=deflate))
    client.receive_data(server.switch_protocol("websocket", verdict.headers) + b"\x81\x00")
    response = client.next_event()
    assert isinstance(response, ResponseHead)
    assert client.next_event() is server.next_event() is PAUSED
    assert client.trailing_data == (b"\x81\x00", False)
    agreement = check_response(response, KEY, deflate=deflate)
    assert agreement.subprotocol == verdict.agreement.subprotocol == "mcp"
    assert (agreement.deflate is None) == (verdict.agreement.deflate is None) == (deflate is None)
