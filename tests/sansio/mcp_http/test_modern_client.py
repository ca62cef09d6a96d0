"""The client of 2026-07-28: its headers, and what a list of tools teaches it."""

from __future__ import annotations

import msgspec
import pytest
from msgspec import Raw

from trio_mcp_transport import Notification, Request
from trio_mcp_transport.sansio.headers import Headers
from trio_mcp_transport.sansio.mcp_http.modern_client import ModernClient, RejectedTool

pytestmark = pytest.mark.sansio

REVISION = "2026-07-28"
BASE = Headers([("Host", "h"), ("X-Own", "1")])


def raw(value: object) -> Raw:
    return Raw(msgspec.json.encode(value))


def tool(name: str, **properties: object) -> dict[str, object]:
    return {"name": name, "inputSchema": {"type": "object", "properties": properties}}


GOOD = tool("good", region={"type": "string", "x-mcp-header": "Region"})
BAD = tool("bad", region={"type": "number", "x-mcp-header": "Region"})
PLAIN = tool("plain", region={"type": "string"})
CALL = Request(1, "tools/call", {"name": "good", "arguments": {"region": "r"}})


@pytest.fixture
def client() -> ModernClient:
    return ModernClient(BASE)


def test_a_post_has_the_headers_that_it_must_have(client: ModernClient) -> None:
    headers = client.headers(Request(1, "tools/list", {}), REVISION)
    assert dict(headers) == {
        "host": "h",
        "x-own": "1",
        "content-type": "application/json",
        "accept": "application/json, text/event-stream",
        "mcp-protocol-version": REVISION,
        "mcp-method": "tools/list",
    }


def test_headers_of_like_requests_are_one_object(client: ModernClient) -> None:
    one = client.headers(Request(1, "tools/list", {}), REVISION)
    assert client.headers(Request(2, "tools/list", {"cursor": "x"}), REVISION) is one
    assert client.headers(Request(2, "tools/list", {}), "2026-01-01") is not one


def test_what_is_kept_ready_has_a_bound(client: ModernClient) -> None:
    for number in range(600):
        name = f"p{number}"
        headers = client.headers(Request(1, "prompts/get", {"name": name}), REVISION)
        assert headers["mcp-name"] == name
    assert len(client._ready) <= 256


def test_a_notification_has_its_method(client: ModernClient) -> None:
    assert client.headers(Notification("n"), REVISION)["mcp-method"] == "n"


def test_annotations_are_learned_from_a_list_and_used_by_calls(client: ModernClient) -> None:
    assert "mcp-param-region" not in client.headers(CALL, REVISION)
    result = raw({"tools": [GOOD, PLAIN]})
    assert client.learn(result) == (result, [])
    assert client.headers(CALL, REVISION)["mcp-param-region"] == "r"


def test_an_invalid_tool_is_taken_out_and_all_else_stays_as_it_was(client: ModernClient) -> None:
    data = b'{"nextCursor": "c", "tools": [%b, {"odd": 1}, %b], "x": 1.50}' % (
        msgspec.json.encode(BAD),
        msgspec.json.encode(GOOD),
    )
    result, rejected = client.learn(Raw(data))
    assert isinstance(result, Raw)
    assert bytes(result) == b'{"nextCursor":"c","tools":[{"odd": 1},%b],"x":1.50}' % (
        msgspec.json.encode(GOOD)
    )
    (only,) = rejected
    assert only == RejectedTool("bad", only.reason)
    assert "region" in only.reason
    assert client.headers(CALL, REVISION)["mcp-param-region"] == "r"


def test_a_later_list_replaces_what_was_known(client: ModernClient) -> None:
    client.learn(raw({"tools": [GOOD]}))
    client.learn(raw({"tools": [tool("good")]}))
    assert "mcp-param-region" not in client.headers(CALL, REVISION)
    client.learn(raw({"tools": [GOOD]}))
    client.learn(raw({"tools": [BAD | {"name": "good"}]}))
    assert "mcp-param-region" not in client.headers(CALL, REVISION)


def test_a_list_without_annotations_is_not_even_decoded(client: ModernClient) -> None:
    result = Raw(b'{"tools": not json')
    assert client.learn(result) == (result, [])


def test_a_result_that_is_no_list_is_left_alone(client: ModernClient) -> None:
    for data in (b'{"tools": "x-mcp-header"}', b'["x-mcp-header"]'):
        assert client.learn(Raw(data)) == (Raw(data), [])


def test_a_tool_without_schema_is_fine(client: ModernClient) -> None:
    result = raw({"tools": [{"name": "x-mcp-header"}]})
    assert client.learn(result) == (result, [])


def test_the_number_of_tools_that_are_remembered_has_a_bound(
    client: ModernClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trio_mcp_transport.sansio.mcp_http.modern_client._MAX_TOOLS", 2)
    for name in ("good", "b", "c"):
        client.learn(raw({"tools": [GOOD | {"name": name}]}))
    assert len(client._schemas) == 2
    assert "mcp-param-region" not in client.headers(CALL, REVISION)


def test_asking_anew_takes_over_the_protocol_fields_and_nothing_else(client: ModernClient) -> None:
    meta = {
        "io.modelcontextprotocol/protocolVersion": REVISION,
        "io.modelcontextprotocol/clientCapabilities": {},
        "progressToken": 7,
    }
    call = Request(1, "tools/call", {"name": "good", "_meta": meta})
    request = client.list_request(call, "own", None)
    assert (request.id, request.method) == ("own", "tools/list")
    assert msgspec.to_builtins(msgspec.json.decode(msgspec.json.encode(request.params))) == {
        "_meta": {key: value for key, value in meta.items() if key != "progressToken"}
    }
    params = client.list_request(call, "own", "page").params
    assert isinstance(params, dict)
    assert params["cursor"] == "page"


def test_where_the_list_goes_on(client: ModernClient) -> None:
    assert client.next_cursor(raw({"tools": [], "nextCursor": "c"})) == "c"
    assert client.next_cursor(raw({"tools": []})) is None
    assert client.next_cursor(raw([])) is None
