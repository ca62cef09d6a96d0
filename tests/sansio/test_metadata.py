"""Reading and completing `_meta`."""

from __future__ import annotations

import msgspec
import pytest
from msgspec import UNSET, Raw

from trio_mcp_transport.errors import RpcError
from trio_mcp_transport.sansio.metadata import (
    CacheHint,
    complete_result,
    read_meta,
    read_subscription_id,
    with_meta,
)

pytestmark = pytest.mark.sansio

KEY = "io.modelcontextprotocol/"
INFO = {"name": "x", "version": "1"}


def decoded(value: object) -> object:
    return msgspec.json.decode(msgspec.json.encode(value))


def test_what_metadata_says() -> None:
    found = read_meta(
        Raw(
            msgspec.json.encode({
                "_meta": {
                    KEY + "protocolVersion": "v",
                    KEY + "clientInfo": {"name": "n"},
                    KEY + "clientCapabilities": {"roots": {}},
                    KEY + "logLevel": "error",
                    "progressToken": "t",
                    "other": [1],
                },
                "more": 1,
            })
        )
    )
    assert found.protocol_version == "v"
    assert found.client_info == {"name": "n"}
    assert found.client_capabilities == {"roots": {}}
    assert found.log_level == "error"
    assert found.progress_token == "t"


@pytest.mark.parametrize("params", [UNSET, Raw(b"{}"), Raw(b"[1]"), Raw(b'{"a":{"_meta":{}}}')])
def test_no_metadata_says_nothing(params: object) -> None:
    found = read_meta(params)
    assert found.protocol_version is UNSET
    assert found.progress_token is UNSET


@pytest.mark.parametrize(
    "meta",
    [
        7,
        {"progressToken": 1.5},
        {"progressToken": None},
        {KEY + "protocolVersion": 1},
        {KEY + "clientCapabilities": []},
        {KEY + "logLevel": "loud"},
    ],
)
def test_metadata_of_a_wrong_type_is_invalid_params(meta: object) -> None:
    with pytest.raises(RpcError) as caught:
        read_meta(Raw(msgspec.json.encode({"_meta": meta})))
    assert caught.value.code == -32602


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        (Raw(b'{"_meta":{"io.modelcontextprotocol/subscriptionId":1}}'), 1),
        (Raw(b'{"_meta":{"io.modelcontextprotocol/subscriptionId":"1"}}'), "1"),
        (Raw(b'{"_meta":{"io.modelcontextprotocol/subscriptionId":{}}}'), None),
        (Raw(b'{"_meta":{}}'), None),
        (Raw(b"{}"), None),
        (Raw(b"[]"), None),
        (UNSET, None),
    ],
)
def test_the_subscription_keeps_its_type(params: object, expected: object) -> None:
    found = read_subscription_id(params)
    assert found == expected
    assert type(found) is type(expected)


def test_adding_metadata_changes_nothing_that_was_given() -> None:
    given = {"a": 1, "_meta": {"x": 1, "y": 2}}
    assert with_meta(given, {"y": 3}) == {"a": 1, "_meta": {"x": 1, "y": 3}}
    assert given == {"a": 1, "_meta": {"x": 1, "y": 2}}
    assert with_meta(None, {"y": 3}) == {"_meta": {"y": 3}}
    assert with_meta(UNSET, {"y": 3}) == {"_meta": {"y": 3}}
    assert decoded(with_meta(Raw(b'{"a":1,"_meta":{"x":1}}'), {"y": 3})) == {
        "a": 1,
        "_meta": {"x": 1, "y": 3},
    }
    assert decoded(with_meta(Raw(b"{}"), {"y": 3})) == {"_meta": {"y": 3}}
    half_raw = {"a": 1, "_meta": Raw(b'{"x":1}')}
    assert decoded(with_meta(half_raw, {"y": 3})) == {"a": 1, "_meta": {"x": 1, "y": 3}}


@pytest.mark.parametrize("params", [[1], Raw(b"[1]"), "x", 5])
def test_only_an_object_can_carry_metadata(params: object) -> None:
    with pytest.raises(TypeError):
        with_meta(params, {"y": 3})


@pytest.mark.parametrize("raw", [False, True])
def test_a_result_gets_what_it_lacks(raw: bool) -> None:
    def complete(result: dict[str, object], cache: CacheHint | None = None) -> object:
        given: object = Raw(msgspec.json.encode(result)) if raw else result
        return decoded(complete_result(given, server_info=INFO, cache=cache))

    assert complete({"tools": []}) == {
        "tools": [],
        "resultType": "complete",
        "_meta": {KEY + "serverInfo": INFO},
    }
    assert complete({"tools": []}, CacheHint(5, "public")) == {
        "tools": [],
        "resultType": "complete",
        "ttlMs": 5,
        "cacheScope": "public",
        "_meta": {KEY + "serverInfo": INFO},
    }
    own: dict[str, object] = {
        "resultType": "special",
        "ttlMs": 9,
        "_meta": {KEY + "serverInfo": {"name": "own"}, "x": 1},
    }
    assert complete(own) == own
    assert complete({"_meta": {"x": 1}}) == {
        "resultType": "complete",
        "_meta": {"x": 1, KEY + "serverInfo": INFO},
    }
    asking = complete({"resultType": "input_required", "requestState": "x"}, CacheHint())
    assert isinstance(asking, dict)
    assert "ttlMs" not in asking
    assert "cacheScope" not in asking


def test_a_result_that_is_a_struct_is_completed_as_well() -> None:
    class Result(msgspec.Struct):
        value: int

    found = decoded(complete_result(Result(1), server_info=INFO, cache=None))
    assert isinstance(found, dict)
    assert found["value"] == 1
    assert found["resultType"] == "complete"


@pytest.mark.parametrize("result", [[1], Raw(b"[1]"), "x", 5])
def test_a_result_must_be_an_object(result: object) -> None:
    with pytest.raises(TypeError):
        complete_result(result, server_info=INFO, cache=None)


def test_a_cache_hint_is_not_negative() -> None:
    with pytest.raises(ValueError, match="ttl_ms"):
        CacheHint(-1)
