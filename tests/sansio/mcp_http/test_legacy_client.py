"""The client of the revisions with `initialize`: its session and its headers."""

from __future__ import annotations

import pytest
from msgspec import Raw

from trio_mcp_transport import InvalidHttpResponse, Request, Response
from trio_mcp_transport.sansio.headers import NO_HEADERS, Headers
from trio_mcp_transport.sansio.mcp_http.legacy_client import LegacyClient

pytestmark = pytest.mark.sansio

INITIALIZE = Request(0, "initialize", {})
RESULT = Response(0, Raw(b'{"protocolVersion": "2025-11-25"}'))


@pytest.fixture
def client() -> LegacyClient:
    return LegacyClient(Headers([("Host", "h")]))


def session(session_id: str) -> Headers:
    return Headers([("MCP-Session-Id", session_id)])


def test_initialize_names_neither_session_nor_revision(client: LegacyClient) -> None:
    expected = {
        "host": "h",
        "content-type": "application/json",
        "accept": "application/json, text/event-stream",
    }
    assert dict(client.post_headers) == expected
    client.adopt(INITIALIZE, session("s"), RESULT)
    assert dict(client.initialize_headers) == expected


def test_everything_after_it_names_both(client: LegacyClient) -> None:
    client.adopt(INITIALIZE, session("s-1"), RESULT)
    own = {"mcp-session-id": "s-1", "mcp-protocol-version": "2025-11-25"}
    for headers in (client.post_headers, client.get_headers(None), client.delete_headers):
        assert own.items() <= dict(headers).items()
    assert client.get_headers(None)["accept"] == "text/event-stream"
    assert "last-event-id" not in client.get_headers(None)
    assert client.get_headers("é")["last-event-id"].encode("latin-1").decode() == "é"


def test_a_server_without_sessions_is_told_the_revision_alone(client: LegacyClient) -> None:
    client.adopt(INITIALIZE, NO_HEADERS, RESULT)
    assert client.session_id is None
    assert "mcp-session-id" not in client.post_headers
    assert client.post_headers["mcp-protocol-version"] == "2025-11-25"


@pytest.mark.parametrize("session_id", ["", "two words", "ümlaut", "x" * 1025])
def test_a_session_id_that_is_none_is_refused(client: LegacyClient, session_id: str) -> None:
    with pytest.raises(InvalidHttpResponse, match="session id"):
        client.adopt(INITIALIZE, session(session_id), RESULT)
    assert client.initialize is None


@pytest.mark.parametrize("result", [b"{}", b'{"protocolVersion": "2 0"}'])
def test_a_revision_that_is_none_is_refused(client: LegacyClient, result: bytes) -> None:
    with pytest.raises(InvalidHttpResponse):
        client.adopt(INITIALIZE, NO_HEADERS, Response(0, Raw(result)))


def test_a_lost_session_is_begun_anew_but_not_for_ever(client: LegacyClient) -> None:
    assert not client.may_renew()
    client.adopt(INITIALIZE, session("a"), RESULT)
    assert client.initialize is INITIALIZE
    assert client.may_renew()
    client.adopt(INITIALIZE, session("b"), RESULT)
    assert client.generation == 2
    assert not client.may_renew()  # it was lost before anything worked in it
    client.worked()
    assert client.may_renew()


def test_a_session_that_is_over_is_named_no_more(client: LegacyClient) -> None:
    client.adopt(INITIALIZE, session("a"), RESULT)
    client.forget()
    assert "mcp-session-id" not in client.post_headers
