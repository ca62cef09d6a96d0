"""From bytes to messages: what is accepted, what is refused, and how it is said."""

from __future__ import annotations

import contextlib
import json
import pickle
import sys

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET, Raw

from trio_mcp_transport.errors import MethodNotFound, RpcError
from trio_mcp_transport.jsonrpc import (
    Batch,
    ErrorCode,
    ErrorObject,
    ErrorResponse,
    InvalidMessage,
    Message,
    Notification,
    Request,
    Response,
    compact,
    decode_batch,
    decode_message,
    encode_batch,
    encode_message,
    invalid_message_answer,
    relate,
)
from trio_mcp_transport.limits import MAX_NESTING_DEPTH

MESSAGES: list[tuple[bytes, Message]] = [
    (b'{"jsonrpc":"2.0","id":1,"method":"ping"}', Request(1, "ping")),
    (b'{"jsonrpc":"2.0","id":"1","method":"ping"}', Request("1", "ping")),
    (b'{"jsonrpc":"2.0","method":"notifications/x"}', Notification("notifications/x")),
    (
        b'{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"no"}}',
        ErrorResponse(None, ErrorObject(-32700, "no")),
    ),
    (
        b'{"jsonrpc":"2.0","id":7,"error":{"code":1,"message":"m"}}',
        ErrorResponse(7, ErrorObject(1, "m")),
    ),
]


@pytest.mark.parametrize(("data", "message"), MESSAGES)
def test_each_kind_of_message_survives_both_directions(data: bytes, message: Message) -> None:
    assert decode_message(data) == message
    assert encode_message(message) == data


def test_a_result_and_params_stay_raw_until_asked_for() -> None:
    request = decode_message(b'{"jsonrpc":"2.0","id":1,"method":"m","params":{"a":[1, 2]}}')
    assert isinstance(request, Request)
    assert isinstance(request.params, Raw)
    assert bytes(request.params) == b'{"a":[1, 2]}'
    assert request.params_as(dict[str, list[int]]) == {"a": [1, 2]}
    response = decode_message(b'{"jsonrpc":"2.0","id":1,"result":{"b": 2}}')
    assert isinstance(response, Response)
    assert bytes(response.result) == b'{"b": 2}'  # type: ignore[call-overload]
    assert response.result_as(dict[str, int]) == {"b": 2}


def test_absent_params_are_an_empty_object_to_who_asks() -> None:
    assert Notification("n").params_as(dict[str, int]) == {}
    assert Request(1, "n", {"a": 1}).params_as(dict[str, int]) == {"a": 1}
    with pytest.raises(msgspec.ValidationError, match="Expected `str`"):
        Request(1, "n", {"a": 1}).params_as(dict[str, str])


def test_an_error_answer_becomes_an_exception_with_its_data() -> None:
    answer = decode_message(
        b'{"jsonrpc":"2.0","id":1,"error":{"code":-1,"message":"m","data":{"k":[1]}}}'
    )
    assert isinstance(answer, ErrorResponse)
    assert answer.error.data_as(dict[str, list[int]]) == {"k": [1]}
    error = answer.as_exception()
    assert isinstance(error, RpcError)
    assert (error.code, error.message, error.data) == (-1, "m", {"k": [1]})
    assert str(error) == "m (-1)"
    assert ErrorResponse(1, ErrorObject(2, "x")).as_exception().data is None


INVALID = [
    # what it is, bytes, part of the reason, code, id to answer to, whether to answer
    ("no JSON", b"starting up...", "not JSON", -32700, None, True),
    ("two documents", b'{"jsonrpc":"2.0","id":1,"method":"a"} {}', "not JSON", -32700, None, True),
    ("trailing comma", b'{"jsonrpc":"2.0","id":1,"method":"a",}', "not JSON", -32700, None, True),
    (
        "NaN",
        b'{"jsonrpc":"2.0","id":1,"method":"a","params":[NaN]}',
        "not JSON",
        -32700,
        None,
        True,
    ),
    ("empty", b"", "not JSON", -32700, None, True),
    (
        "bad UTF-8 in params",
        b'{"jsonrpc":"2.0","id":1,"method":"a","params":["\xff"]}',
        "not UTF-8 at byte 48",
        -32700,
        None,
        True,
    ),
    (
        "bad UTF-8 in an unknown key",
        b'{"jsonrpc":"2.0","id":1,"method":"a","\xc3":1}',
        "not UTF-8",
        -32700,
        None,
        True,
    ),
    (
        "encoded surrogate",
        b'{"jsonrpc":"2.0","id":1,"method":"\xed\xa0\x80"}',
        "not UTF-8",
        -32700,
        None,
        True,
    ),
    (
        "lone surrogate escape",
        b'{"jsonrpc":"2.0","id":1,"method":"\\ud800"}',
        "not JSON",
        -32700,
        None,
        True,
    ),
    ("array", b'[{"jsonrpc":"2.0","id":1,"method":"a"}]', "this is an array", -32600, None, True),
    ("scalar", b"3", "this is no object", -32600, None, True),
    ("no version", b'{"id":1,"method":"a"}', 'must be "2.0"', -32600, 1, True),
    (
        "wrong version",
        b'{"jsonrpc":"1.0","id":"x","method":"a"}',
        'must be "2.0"',
        -32600,
        "x",
        True,
    ),
    ("float id", b'{"jsonrpc":"2.0","id":1.5,"method":"a"}', "$.id", -32600, None, True),
    ("boolean id", b'{"jsonrpc":"2.0","id":true,"method":"a"}', "$.id", -32600, None, True),
    (
        "null id",
        b'{"jsonrpc":"2.0","id":null,"method":"a"}',
        "must not be null",
        -32600,
        None,
        True,
    ),
    ("object id", b'{"jsonrpc":"2.0","id":{},"method":"a"}', "$.id", -32600, None, True),
    (
        "huge id",
        b'{"jsonrpc":"2.0","id":' + b"9" * 5000 + b',"method":"a"}',
        "$.id",
        -32600,
        None,
        True,
    ),
    ("method no string", b'{"jsonrpc":"2.0","id":1,"method":5}', "$.method", -32600, 1, True),
    (
        "scalar params",
        b'{"jsonrpc":"2.0","id":1,"method":"a","params":3}',
        "object or an array",
        -32600,
        1,
        True,
    ),
    (
        "string params of a notification",
        b'{"jsonrpc":"2.0","method":"a","params":"x"}',
        "object or an array",
        -32600,
        None,
        False,
    ),
    (
        "method and result",
        b'{"jsonrpc":"2.0","id":1,"method":"a","result":{}}',
        "both a method and a result",
        -32600,
        1,
        True,
    ),
    (
        "method and error",
        b'{"jsonrpc":"2.0","id":1,"method":"a","error":{}}',
        "both a method and a result",
        -32600,
        1,
        True,
    ),
    (
        "result and error",
        b'{"jsonrpc":"2.0","id":1,"result":{},"error":{"code":1,"message":""}}',
        "both a result and an error",
        -32600,
        1,
        False,
    ),
    ("result without id", b'{"jsonrpc":"2.0","result":{}}', "no id", -32600, None, False),
    (
        "result with null id",
        b'{"jsonrpc":"2.0","id":null,"result":{}}',
        "no id",
        -32600,
        None,
        False,
    ),
    (
        "bad error object",
        b'{"jsonrpc":"2.0","id":1,"error":"boom"}',
        "error object",
        -32600,
        1,
        False,
    ),
    (
        "error code no integer",
        b'{"jsonrpc":"2.0","id":1,"error":{"code":"1","message":"m"}}',
        "$.code",
        -32600,
        1,
        False,
    ),
    ("id only", b'{"jsonrpc":"2.0","id":1}', "neither a method", -32600, 1, True),
    ("broken response", b'{"jsonrpc":"1.0","id":1,"result":{}}', 'must be "2.0"', -32600, 1, False),
    (
        "broken notification",
        b'{"jsonrpc":"1.0","method":"a"}',
        'must be "2.0"',
        -32600,
        None,
        False,
    ),
    (
        "case-folded key",
        b'{"jsonrpc":"2.0","id":1,"Method":"a"}',
        "neither a method",
        -32600,
        1,
        True,
    ),
    (
        "deep nesting the parser refuses",
        b"[" * 100_000,
        "too deep to be parsed",
        -32600,
        None,
        True,
    ),
]


@pytest.mark.parametrize(
    ("data", "reason", "code", "request_id", "answerable"),
    [row[1:] for row in INVALID],
    ids=[row[0] for row in INVALID],
)
def test_what_is_no_message_says_why_and_how_to_answer(
    data: bytes, reason: str, code: int, request_id: int | str | None, answerable: bool
) -> None:
    with pytest.raises(InvalidMessage) as caught:
        decode_message(data)
    assert reason in str(caught.value)
    assert caught.value.code == code
    assert caught.value.request_id == request_id
    assert caught.value.answerable is answerable


@pytest.mark.parametrize("key", ["jsonrpc", "id", "method", "params", "result", "error"])
@pytest.mark.parametrize("spaced", [False, True])
def test_a_duplicate_envelope_key_is_refused(key: str, spaced: bool) -> None:
    values = {"jsonrpc": '"2.0"', "id": "1", "params": "{}", "result": "{}"}
    values |= {"method": '"a"', "error": '{"code":1,"message":"m"}'}
    base = {"jsonrpc": '"2.0"', "id": "1"}
    if key in ("result", "error"):
        base[key] = values[key]
    else:
        base |= {"method": '"a"', "params": "{}"}
    gap = " " if spaced else ""
    members = [f'"{name}":{gap}{value}' for name, value in base.items()]
    data = "{" + f",{gap}".join([*members, f'"{key}":{gap}{values[key]}']) + "}"
    with pytest.raises(InvalidMessage, match="a member occurs twice"):
        decode_message(data.encode())


def test_a_duplicate_key_hidden_by_an_escape_is_refused() -> None:
    with pytest.raises(InvalidMessage, match="written with an escape") as caught:
        decode_message(b'{"jsonrpc":"2.0","id":4,"meth\\u006fd":"a","method":"b"}')
    assert caught.value.request_id == 4


@pytest.mark.parametrize(
    "data",
    [
        b'{"jsonrpc":"2.0","id":1,"method":"a","extra":{"method":1,"id":[2]}}',
        b'  { "jsonrpc" : "2.0",\t"id":1,\r\n"method":"a" }\r\n',
        b'{"jsonrpc":"2.0","id":1,"method":"\\u0061"}',
        b'{"jsonrpc":"2.0","id":1,"method":"a"}\r',
    ],
)
def test_odd_but_unambiguous_envelopes_are_accepted(data: bytes) -> None:
    assert decode_message(data) == Request(1, "a")


def test_deep_but_legal_nesting_with_spaces_is_looked_at_closely_and_accepted() -> None:
    data = _nested(MAX_NESTING_DEPTH).replace(b":", b" : ")
    assert isinstance(decode_message(data), Request)


def test_an_envelope_with_very_many_members_is_refused() -> None:
    members = ",".join(f'"x{i}":{i}' for i in range(100))
    with pytest.raises(InvalidMessage, match="over 64 members"):
        decode_message(f'{{"jsonrpc":"2.0","id":1,"method":"a",{members}}}'.encode())


def test_data_that_python_cannot_express_stays_raw() -> None:
    digits = b"9" * 5000
    answer = decode_message(
        b'{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"m","data":' + digits + b"}}"
    )
    assert isinstance(answer, ErrorResponse)
    data = answer.as_exception().data
    assert isinstance(data, Raw)
    assert bytes(data) == digits


def test_only_top_level_keys_decide_the_kind() -> None:
    nested = b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"id":1,"result":2}}'
    assert isinstance(decode_message(nested), Notification)
    answer = b'{"jsonrpc":"2.0","id":1,"result":{"method":"x","error":{}}}'
    assert isinstance(decode_message(answer), Response)


def _nested(depth: int, payload: str = "") -> bytes:
    # The envelope itself is one level.
    inner = "[" * (depth - 1) + payload + "]" * (depth - 1)
    return f'{{"jsonrpc":"2.0","id":9,"method":"m","params":{inner}}}'.encode()


@pytest.mark.parametrize("payload", ["", '"[[[[{{{{"', r'"\"[[[\\"', r'"a\\\"[[[[[["'])
def test_nesting_counts_outside_strings_only(payload: str) -> None:
    assert isinstance(decode_message(_nested(MAX_NESTING_DEPTH, payload)), Request)
    with pytest.raises(InvalidMessage, match="over the limit of 128 levels") as caught:
        decode_message(_nested(MAX_NESTING_DEPTH + 1, payload))
    assert caught.value.request_id == 9
    assert caught.value.answerable


def test_too_deep_an_answer_is_not_answered() -> None:
    data = _nested(200).replace(b'"method":"m","params"', b'"result"')
    with pytest.raises(InvalidMessage, match="over the limit") as caught:
        decode_message(data)
    assert not caught.value.answerable


def test_many_brackets_on_one_level_are_not_deep() -> None:
    wide = ",".join(['{"a":[],"b":{}}'] * 1000)
    data = f'{{"jsonrpc":"2.0","id":1,"method":"m","params":[{wide}]}}'.encode()
    assert isinstance(decode_message(data, max_depth=4), Request)
    with pytest.raises(InvalidMessage, match="over the limit of 3 levels"):
        decode_message(data, max_depth=3)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=30,
)


@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"":', b"}")])
@pytest.mark.parametrize("limit", [3, 10, 40, MAX_NESTING_DEPTH])
def test_the_tightest_nesting_is_seen(opening: bytes, closing: bytes, limit: int) -> None:
    def message(depth: int) -> bytes:
        levels = depth - 2  # the message is one, and so is the innermost
        inner = opening * levels + b"{}" + closing * levels
        return b'{"jsonrpc":"2.0","method":"","params":' + inner + b"}"

    assert isinstance(decode_message(message(limit), max_depth=limit), Notification)
    with pytest.raises(InvalidMessage, match="nesting is over"):
        decode_message(message(limit + 1), max_depth=limit)


def _depth(value: object) -> int:
    if isinstance(value, dict):
        return 1 + max(map(_depth, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(_depth, value), default=0)
    return 0


@given(_JSON, st.integers(1, 12), st.booleans())
def test_the_depth_limit_agrees_with_a_plain_walk(value: object, limit: int, ascii_: bool) -> None:
    padding: list[list[object]] = [[]] * 200  # enough brackets that the quick count never decides
    message = {"jsonrpc": "2.0", "id": 1, "method": "m", "params": [value, padding]}
    data = json.dumps(message, ensure_ascii=ascii_).encode()
    if _depth(message) <= limit:
        assert isinstance(decode_message(data, max_depth=limit), Request)
    else:
        with pytest.raises(InvalidMessage, match="nesting is over"):
            decode_message(data, max_depth=limit)


@given(st.dictionaries(st.text(max_size=6), _JSON, max_size=5), st.integers() | st.text())
def test_what_the_standard_library_writes_is_read_back(
    params: dict[str, object], id_: int | str
) -> None:
    if isinstance(id_, int) and not -(2**63) <= id_ < 2**64:
        id_ = 1
    data = json.dumps({"jsonrpc": "2.0", "id": id_, "method": "m", "params": params}).encode()
    request = decode_message(data)
    assert isinstance(request, Request)
    assert request.id == id_
    assert type(request.id) is type(id_)
    assert request.params_as(dict[str, object]) == params
    assert json.loads(encode_message(request)) == json.loads(data)


def test_raw_parts_go_out_as_they_came() -> None:
    data = b'{"jsonrpc":"2.0","id":1,"method":"m","params":{ "a": 1.50, "a": 2 }}'
    request = decode_message(data)
    assert encode_message(request) == data


def test_unsendable_values_are_refused_by_name() -> None:
    with pytest.raises(TypeError, match="not a message: dict"):
        encode_message({"jsonrpc": "2.0"})  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        encode_message(Request(1, "m", {"x": object()}))


def test_an_error_without_data_has_no_data_member() -> None:
    assert b"data" not in encode_message(ErrorResponse(1, ErrorObject(1, "m", UNSET)))
    assert b'"data":null' in encode_message(ErrorResponse(1, ErrorObject(1, "m", None)))


def test_compacting_takes_out_line_feeds_and_keeps_strings() -> None:
    assert compact(b'{\n  "a": "x\\ny  z",\n\t"b": [1,\r\n2] }') == b'{"a":"x\\ny  z","b":[1,2]}'


def test_a_broken_message_is_answered_with_its_code_and_id() -> None:
    error = InvalidMessage("why", code=ErrorCode.PARSE_ERROR, request_id="a")
    assert invalid_message_answer(error) == ErrorResponse("a", ErrorObject(-32700, "why"))


def test_a_batch_keeps_its_good_items_beside_the_bad_ones() -> None:
    batch = decode_batch(
        b'[{"jsonrpc":"2.0","id":1,"method":"a"}, 5, {"jsonrpc":"2.0","method":"n"},'
        b'{"jsonrpc":"2.0","id":2,"method":"initialize"}]'
    )
    assert isinstance(batch, Batch)
    first, second, third, fourth = batch.items
    assert first == Request(1, "a")
    assert isinstance(second, InvalidMessage)
    assert third == Notification("n")
    assert isinstance(fourth, InvalidMessage)
    assert "initialize must not be in a batch" in str(fourth)
    assert fourth.request_id == 2


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"[]", "at least one message"),
        (b"[1,2,3,4]", "4 messages is over the limit of 3"),
        (b"[1,", "not JSON"),
        (b"[\xff]", "not UTF-8"),
    ],
)
def test_an_array_that_is_no_batch_is_refused_as_a_whole(data: bytes, reason: str) -> None:
    with pytest.raises(InvalidMessage, match=reason):
        decode_batch(data, max_messages=3)


def test_answers_are_encoded_as_one_array() -> None:
    data = encode_batch([Response(1, {}), ErrorResponse(2, ErrorObject(1, "m"))])
    assert json.loads(data) == [
        {"jsonrpc": "2.0", "id": 1, "result": {}},
        {"jsonrpc": "2.0", "id": 2, "error": {"code": 1, "message": "m"}},
    ]


@given(st.binary(max_size=200))
def test_no_bytes_make_the_decoder_raise_anything_else(data: bytes) -> None:
    with contextlib.suppress(InvalidMessage):
        decode_message(data)


@given(st.data())
def test_a_mutated_message_is_decoded_as_the_standard_library_does_or_refused(
    data: st.DataObject,
) -> None:
    good = b'{"jsonrpc":"2.0","id":12,"method":"tools/call","params":{"name":"a","x":[1,2]}}'
    position = data.draw(st.integers(0, len(good) - 1))
    mutated = good[:position] + data.draw(st.binary(max_size=3)) + good[position + 1 :]
    try:
        message = decode_message(mutated)
    except InvalidMessage:
        return
    oracle = json.loads(mutated)
    assert oracle["jsonrpc"] == "2.0"
    if isinstance(message, Request | Notification):
        assert message.method == oracle["method"]
        assert json.loads(encode_message(message)).get("params") == oracle.get("params")


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
def test_nesting_has_its_limit_in_large_messages_too(opening: bytes) -> None:
    closing = b"]" if opening == b"[" else b"}"
    text = b'"' + b"x" * 100_000 + b'"'

    def message(levels: int) -> bytes:
        inner = opening * (levels - 2) + text + closing * (levels - 2)
        return b'{"jsonrpc":"2.0","id":1,"method":"m","params":{"p":' + inner + b"}}"

    assert isinstance(decode_message(message(10), max_depth=10), Request)
    with pytest.raises(InvalidMessage, match="over the limit of 10 levels"):
        decode_message(message(11), max_depth=10)


def test_many_brackets_are_no_nesting() -> None:
    flat = b"[" + b",".join([b"{}"] * 20_000) + b"]"
    quoted = b'"' + b"[{" * 20_000 + b'"'
    for value in (flat, quoted):
        data = b'{"jsonrpc":"2.0","method":"m","params":{"p":' + value + b"}}"
        assert isinstance(decode_message(data, max_depth=5), Notification)


@pytest.mark.parametrize("member", ["params", "result", "error"])
def test_large_messages_are_looked_over_for_duplicates_as_well(member: str) -> None:
    big = b'"' + b"x" * 50_000 + b'"'
    value = {
        "params": b'{"a":' + big + b"}",
        "result": big,
        "error": b'{"code":1,"message":' + big + b"}",
    }[member]
    rest = b'"method":"m"' if member == "params" else b'"id":7'
    whole = b'{"jsonrpc":"2.0",' + rest + b',"' + member.encode() + b'":' + value + b"}"
    assert encode_message(decode_message(whole)) == whole
    assert encode_message(decode_message(whole.replace(b":", b": ", 1))) == whole
    assert encode_message(decode_message(whole[:-1] + b',"more":1}')) == whole
    with pytest.raises(InvalidMessage, match="occurs twice"):
        decode_message(whole[:-1] + b',"' + member.encode() + b'":' + value + b"}")
    with pytest.raises(InvalidMessage, match="occurs twice"):
        decode_message(b"{" + rest + b"," + whole[1:])


@pytest.mark.parametrize("ballast", [b',"junk":"' + b"x" * 1000 + b'"', b" " * 1000])
def test_params_do_not_keep_white_space_and_unknown_members_alive(ballast: bytes) -> None:
    data = b'{"jsonrpc":"2.0","method":"m","params":{"a":1}' + ballast + b"}"
    references = sys.getrefcount(data)
    message = decode_message(data)
    assert sys.getrefcount(data) == references
    assert message == Notification("m", Raw(b'{"a":1}'))


# -- facts beside a message ---------------------------------------------------------------


@pytest.mark.parametrize(
    "message",
    [
        Request(1, "m"),
        Notification("m"),
        Response(1, {}),
        ErrorResponse(1, ErrorObject(-1, "no")),
    ],
)
def test_what_a_message_relates_to_is_no_part_of_it(message: Message) -> None:
    plain = encode_message(message)
    before = message.related_to
    assert relate(message, "7") is message
    assert (before, message.related_to) == (None, "7")
    assert encode_message(message) == plain
    assert "7" not in repr(message)
    relate(message, None)
    assert message.related_to is None


def test_the_cause_of_an_error_is_no_part_of_it() -> None:
    answer = ErrorResponse(1, ErrorObject(-32601, "no"))
    before = answer.cause
    cause = MethodNotFound("m")
    assert answer.with_cause(cause) is answer
    assert (before, answer.cause) == (None, cause)
    assert answer.as_exception().__cause__ is cause
    assert encode_message(answer) == (
        b'{"jsonrpc":"2.0","id":1,"error":{"code":-32601,"message":"no"}}'
    )
    assert pickle.loads(pickle.dumps(cause)).args == cause.args
