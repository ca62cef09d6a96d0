"""The table of eras: what header and body say together."""

from __future__ import annotations

import msgspec
import pytest
from http_endpoint import (
    CAPABILITIES_KEY,
    LATEST,
    MODERN,
    VERSION_KEY,
    Client,
    a,
    call,
    fault,
    note,
    result,
)

from trio_mcp_transport.sansio.eras import REVISIONS
from trio_mcp_transport.sansio.mcp_http.options import HttpServerOptions
from trio_mcp_transport.sansio.mcp_http.replies import Reply
from trio_mcp_transport.sansio.mcp_http.server import Deliver, StartExchange

pytestmark = pytest.mark.sansio

UNKNOWN = "2099-01-01"
MISMATCH, UNSUPPORTED, INVALID_PARAMS = (400, -32020), (400, -32022), (400, -32602)


def ask(
    client: Client,
    header: str | None,
    version: str | None,
    *,
    method: str = "tools/list",
    capabilities: bool = True,
) -> object:
    """A request with a version header and a version in its `_meta`, each perhaps absent."""
    meta: dict[str, object] = {CAPABILITIES_KEY: {}} if capabilities else {}
    if version is not None:
        meta[VERSION_KEY] = version
    fields = {"MCP-Protocol-Version": header, "Mcp-Method": method}
    return client.post(call(method, {"_meta": meta}, 7), fields)


@pytest.mark.parametrize(
    ("header", "version", "refusal"),
    [
        (None, MODERN, MISMATCH),
        (None, LATEST, MISMATCH),
        (None, UNKNOWN, MISMATCH),
        (MODERN, None, INVALID_PARAMS),
        (UNKNOWN, None, UNSUPPORTED),
        ("", None, UNSUPPORTED),
        (MODERN, LATEST, MISMATCH),
        (LATEST, MODERN, MISMATCH),
        (UNKNOWN, MODERN, MISMATCH),
        (MODERN, UNKNOWN, MISMATCH),  # before -32022
        (f"{MODERN}, {MODERN}", MODERN, MISMATCH),
        (UNKNOWN, UNKNOWN, UNSUPPORTED),
        (LATEST, LATEST, UNSUPPORTED),  # no version to be named in `_meta`
    ],
)
@pytest.mark.parametrize("method", ["tools/list", "initialize", "ping", "logging/setLevel"])
def test_a_refused_request_is_refused_by_what_it_says_of_the_version(
    header: str | None, version: str | None, refusal: tuple[int, int], method: str
) -> None:
    assert fault(ask(Client(), header, version, method=method)) == (*refusal, 7)


@pytest.mark.parametrize(
    "method", ["tools/list", "initialize", "ping", "logging/setLevel", "resources/subscribe"]
)
def test_a_modern_request_is_modern_whatever_its_method(method: str) -> None:
    start = a(StartExchange, ask(Client(), MODERN, MODERN, method=method))
    assert (start.era, start.revision, start.session) == ("modern", MODERN, None)


@pytest.mark.parametrize("header", [None, LATEST, "2025-06-18", "2025-03-26", "2024-11-05"])
def test_a_request_that_says_nothing_modern_is_legacy(header: str | None) -> None:
    client = Client()
    session = client.begin()
    fields = {"Mcp-Session-Id": session.id, "MCP-Protocol-Version": header}
    assert a(StartExchange, client.post(call("ping"), fields)).era == "legacy"
    params = {"protocolVersion": LATEST}
    begin = client.post(call("initialize", params), {"MCP-Protocol-Version": header})
    assert a(StartExchange, begin).era == "legacy"


def test_a_modern_request_without_capabilities_is_malformed() -> None:
    assert fault(ask(Client(), MODERN, MODERN, capabilities=False)) == (*INVALID_PARAMS, 7)


@pytest.mark.parametrize(
    "meta", [5, [], {VERSION_KEY: 5}, {VERSION_KEY: MODERN, CAPABILITIES_KEY: 1}]
)
def test_metadata_of_a_wrong_type_is_malformed_in_a_modern_request(meta: object) -> None:
    body = call("tools/list", {"_meta": meta}, 7)
    fields = {"MCP-Protocol-Version": MODERN, "Mcp-Method": "tools/list"}
    assert fault(Client().post(body, fields)) == (*INVALID_PARAMS, 7)


def test_metadata_of_a_wrong_type_in_a_legacy_request_is_for_its_handler_to_refuse() -> None:
    client = Client()
    session = client.begin()
    body = call("tools/list", {"_meta": {"progressToken": 1.5}}, 7)
    assert isinstance(client.post(body, {"Mcp-Session-Id": session.id}), StartExchange)


@pytest.mark.parametrize("params", [None, [], [1]])
def test_params_without_metadata_are_as_good_as_none(params: object) -> None:
    body = {**call("tools/list", request_id=7), "params": params}
    if params is None:
        del body["params"]
    fields = {"MCP-Protocol-Version": MODERN, "Mcp-Method": "tools/list"}
    assert fault(Client().post(body, fields)) == (*INVALID_PARAMS, 7)


@pytest.mark.parametrize("version", [UNKNOWN, ""])
def test_an_unsupported_version_is_answered_with_all_that_are_served(version: str) -> None:
    reply = a(Reply, ask(Client(), version, version))
    assert msgspec.json.decode(reply.body)["error"]["data"] == {
        "supported": list(REVISIONS),
        "requested": version,
    }


def test_a_known_version_that_is_switched_off_is_not_served() -> None:
    client = Client(HttpServerOptions(revisions=(MODERN, LATEST)))
    reply = a(Reply, ask(client, "2025-06-18", None))
    assert fault(reply) == (*UNSUPPORTED, 7)
    error = msgspec.json.decode(reply.body)["error"]
    assert error["data"] == {"supported": [MODERN, LATEST], "requested": "2025-06-18"}


class TestModernOnly:
    """A server that serves no legacy revision."""

    OPTIONS = HttpServerOptions(era="modern")

    @pytest.mark.parametrize("header", [None, LATEST])
    def test_the_error_to_initialize_names_its_versions(self, header: str | None) -> None:
        body = call("initialize", {"protocolVersion": "2025-06-18"}, 7)
        reply = a(Reply, Client(self.OPTIONS).post(body, {"MCP-Protocol-Version": header}))
        assert fault(reply) == (*UNSUPPORTED, 7)
        error = msgspec.json.decode(reply.body)["error"]
        assert error["data"] == {"supported": [MODERN], "requested": "2025-06-18"}
        assert MODERN in error["message"]

    @pytest.mark.parametrize("params", [{}, {"protocolVersion": 5}])
    def test_the_error_to_a_broken_initialize_does_too(self, params: dict[str, object]) -> None:
        reply = a(Reply, Client(self.OPTIONS).post(call("initialize", params, 7)))
        assert msgspec.json.decode(reply.body)["error"]["data"]["supported"] == [MODERN]

    @pytest.mark.parametrize(
        ("header", "refusal"), [(None, MISMATCH), (LATEST, UNSUPPORTED), (MODERN, INVALID_PARAMS)]
    )
    def test_a_legacy_request_is_refused_by_its_header(
        self, header: str | None, refusal: tuple[int, int]
    ) -> None:
        assert fault(ask(Client(self.OPTIONS), header, None)) == (*refusal, 7)

    def test_a_session_id_is_ignored(self) -> None:
        client = Client(self.OPTIONS)
        fields = {"Mcp-Session-Id": "whatever", "Last-Event-ID": "1-1"}
        start = a(StartExchange, client.modern(fields=fields))
        assert start.session is None

    def test_a_batch_is_no_message(self) -> None:
        assert fault(Client(self.OPTIONS).post([call()])) == (400, -32600, ...)

    def test_a_notification_needs_no_header(self) -> None:
        assert a(Deliver, Client(self.OPTIONS).post(note("x"))).era == "modern"

    def test_a_legacy_notification_is_refused(self) -> None:
        verdict = Client(self.OPTIONS).post(note("x"), {"MCP-Protocol-Version": LATEST})
        assert fault(verdict) == (*UNSUPPORTED, ...)


class TestLegacyOnly:
    """A server that serves no modern revision: its errors must not look modern."""

    OPTIONS = HttpServerOptions(era="legacy")

    @pytest.mark.parametrize("version", [MODERN, UNKNOWN])
    @pytest.mark.parametrize("inside", [None, MODERN])
    def test_another_version_in_the_header_is_a_plain_bad_request(
        self, version: str, inside: str | None
    ) -> None:
        verdict = ask(Client(self.OPTIONS), version, inside, method="server/discover")
        assert fault(verdict) == (400, -32600, 7)

    @pytest.mark.parametrize("version", [MODERN, UNKNOWN])
    def test_one_that_knows_what_to_tell_tells_it(self, version: str) -> None:
        client = Client(HttpServerOptions(era="legacy", told_revisions=(LATEST,)))
        for verdict in (
            ask(client, version, version, method="server/discover"),
            client.post(note("x"), {"MCP-Protocol-Version": version}),
        ):
            reply = a(Reply, verdict)
            assert fault(reply)[:2] == UNSUPPORTED
            data = msgspec.json.decode(reply.body)["error"]["data"]
            assert data == {"supported": [LATEST], "requested": version}

    def test_a_legacy_version_that_is_not_served_is_a_plain_bad_request_then_too(self) -> None:
        options = HttpServerOptions(revisions=(LATEST,), told_revisions=(LATEST,))
        verdict = ask(Client(options), "2025-03-26", None)
        assert fault(verdict) == (400, -32600, 7)

    def test_metadata_is_not_looked_at(self) -> None:
        client = Client(self.OPTIONS)
        start = a(StartExchange, ask(client, None, MODERN, method="initialize"))
        assert start.era == "legacy"

    @pytest.mark.parametrize("version", [MODERN, UNKNOWN])
    def test_a_notification_of_another_version_is_refused(self, version: str) -> None:
        verdict = Client(self.OPTIONS).post(note("x"), {"MCP-Protocol-Version": version})
        assert fault(verdict) == (400, -32600, ...)


@pytest.mark.parametrize(
    "body",
    [
        note("notifications/x"),
        result(),
        {"jsonrpc": "2.0", "id": 1, "error": {"code": 1, "message": "x"}},
    ],
)
@pytest.mark.parametrize("version", [UNKNOWN, ""])
def test_an_unknown_version_of_what_is_no_request_is_refused(
    body: dict[str, object], version: str
) -> None:
    client = Client()
    session = client.begin()
    fields = {"MCP-Protocol-Version": version, "Mcp-Session-Id": session.id}
    assert fault(client.post(body, fields)) == (*UNSUPPORTED, ...)
