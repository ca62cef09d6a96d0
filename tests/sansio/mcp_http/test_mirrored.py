"""Headers that repeat the body: schemas, encoding, what a client sends, what a server checks."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET, Raw

from trio_mcp_transport import Notification, Request
from trio_mcp_transport.sansio.headers import Headers
from trio_mcp_transport.sansio.mcp_http.mirrored import (
    NO_HEADER_SCHEMA,
    HeaderParameter,
    HeaderSchema,
    InvalidHeaderSchema,
    decode_value,
    encode_value,
    header_fault,
    mirrored_headers,
    read_header_schema,
)

pytestmark = pytest.mark.sansio


def raw(value: object) -> Raw:
    return Raw(msgspec.json.encode(value))


def annotated(name: object = "Region", type_: object = "string") -> dict[str, object]:
    return {"type": type_, "x-mcp-header": name}


# -- Schemas -------------------------------------------------------------------------


def test_annotations_are_found_along_chains_of_properties() -> None:
    schema = {
        "type": "object",
        "properties": {
            "region": annotated(),
            "query": {"type": "string"},
            "where": {"type": "object", "properties": {"zone": annotated("Zone", "integer")}},
        },
    }
    expected = HeaderSchema((
        HeaderParameter("Mcp-Param-Region", ("region",), "string"),
        HeaderParameter("Mcp-Param-Zone", ("where", "zone"), "integer"),
    ))
    assert read_header_schema(raw(schema)) == expected
    assert read_header_schema(schema) == expected


@pytest.mark.parametrize(
    "schema",
    [
        {},
        True,
        None,
        {"type": "object", "properties": {"x-mcp-header": {"type": "string"}}},
        {"properties": {"a": {"type": "object", "default": {"x-mcp-header": "A"}}}},
        {"properties": {"a": {"const": {"x-mcp-header": 1}, "enum": [{"x-mcp-header": 1}]}}},
        {"properties": {"a": {"description": "a back\\slash"}}},
    ],
)
def test_data_and_names_are_no_annotations(schema: object) -> None:
    assert read_header_schema(raw(schema)) is NO_HEADER_SCHEMA
    assert read_header_schema(schema) is NO_HEADER_SCHEMA


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        (annotated(), "chain of properties"),
        ({"properties": {"a": {"type": "array", "items": annotated()}}}, "chain"),
        ({"anyOf": [{"properties": {"a": annotated()}}]}, "chain"),
        ({"$defs": {"d": {"properties": {"a": annotated()}}}}, "chain"),
        ({"if": {"properties": {"a": annotated()}}}, "chain"),
        ({"properties": {"a": {"not": annotated()}}}, "chain"),
        ({"dependentSchemas": {"b": {"properties": {"a": annotated()}}}}, "chain"),
        ({"patternProperties": {"b": annotated()}}, "chain"),
        ({"additionalProperties": annotated()}, "chain"),
        ({"somethingUnknown": [annotated()]}, "chain"),
        ({"properties": {"a": annotated("")}}, "no name"),
        ({"properties": {"a": annotated("two words")}}, "no name"),
        ({"properties": {"a": annotated("line\nbreak")}}, "no name"),
        ({"properties": {"a": annotated("colon:")}}, "no name"),
        ({"properties": {"a": annotated("ümlaut")}}, "no name"),
        ({"properties": {"a": annotated(1)}}, "no name"),
        ({"properties": {"a": annotated(type_="number")}}, "no string"),
        ({"properties": {"a": annotated(type_="object")}}, "no string"),
        ({"properties": {"a": annotated(type_=["string", "null"])}}, "no string"),
        ({"properties": {"a": {"$ref": "#/x", "x-mcp-header": "A"}}}, "no string"),
        ({"properties": {"a": annotated("One"), "b": annotated("oNE")}}, "twice"),
    ],
)
def test_what_breaks_a_rule_makes_the_schema_invalid(schema: object, reason: str) -> None:
    with pytest.raises(InvalidHeaderSchema, match=reason):
        read_header_schema(raw(schema))


def test_an_annotation_cannot_hide_behind_escapes() -> None:
    hidden = Raw(rb'{"items": {"\u0078-mcp-header": "A", "type": "string"}}')
    with pytest.raises(InvalidHeaderSchema, match="chain"):
        read_header_schema(hidden)


def test_a_schema_that_cannot_be_read_is_invalid() -> None:
    with pytest.raises(InvalidHeaderSchema, match="cannot be read"):
        read_header_schema(Raw(b'{"x-mcp-header": '))


# -- Values --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "encoded"),
    [
        # The examples of the specification.
        ("us-west1", "us-west1"),
        ("Hello, 世界", "=?base64?SGVsbG8sIOS4lueVjA==?="),
        (" padded ", "=?base64?IHBhZGRlZCA=?="),
        ("line1\nline2", "=?base64?bGluZTEKbGluZTI=?="),
        ("=?base64?literal?=", "=?base64?PT9iYXNlNjQ/bGl0ZXJhbD89?="),
        # And what it leaves open.
        ("", ""),
        ("x", "x"),
        ("a b", "a b"),
        ("a\tb", "=?base64?YQli?="),
        ("\x7f", "=?base64?fw==?="),
        ("=?base64?only a beginning", "=?base64?only a beginning"),
        ("=?BASE64?x?=", "=?BASE64?x?="),
        ("=?base64?=", "=?base64?PT9iYXNlNjQ/PQ==?="),
    ],
)
def test_values_are_encoded_where_they_must_be(text: str, encoded: str) -> None:
    assert encode_value(text) == encoded
    assert decode_value(encoded) == text


@given(st.text())
def test_every_text_survives_the_way_through_a_header(text: str) -> None:
    encoded = encode_value(text)
    on_the_wire = Headers([("Mcp-Name", encoded)])["mcp-name"]
    assert decode_value(on_the_wire) == text


@pytest.mark.parametrize(
    "value",
    [
        "=?base64?SGVsbG8?=",  # no padding
        "=?base64?SGVsbG8=x?=",
        "=?base64?****?=",
        "=?base64?/w==?=",  # not UTF-8
        "=?base64?Zh==?=",  # bits that nobody reads
        "=?base64?SGVs bG8=?=",
        "ümlaut",
    ],
)
def test_values_that_are_broken_are_refused(value: str) -> None:
    with pytest.raises(ValueError, match="it"):
        decode_value(value)


def test_the_shortest_of_all_markers_stands_for_itself() -> None:
    assert decode_value("=?base64?=") == "=?base64?="
    assert decode_value("=?base64??=") == ""


# -- The client ----------------------------------------------------------------------

SCHEMA = read_header_schema({
    "properties": {
        "region": annotated("Region"),
        "count": annotated("Count", "integer"),
        "dry": annotated("Dry", "boolean"),
        "deep": {"properties": {"er": annotated("Deeper")}},
    }
})


def schema_of(name: str) -> HeaderSchema | None:
    return {"tool": SCHEMA, "plain": NO_HEADER_SCHEMA}.get(name)


def call(arguments: object, name: object = "tool") -> dict[str, object]:
    return {"name": name, "arguments": arguments}


@pytest.mark.parametrize("wrap", [lambda value: value, raw])
@pytest.mark.parametrize(
    ("method", "params", "expected"),
    [
        ("tools/list", {}, []),
        ("prompts/get", {"name": "p"}, [("Mcp-Name", "p")]),
        ("resources/read", {"uri": "file:///a"}, [("Mcp-Name", "file:///a")]),
        ("tasks/get", {"taskId": "7"}, [("Mcp-Name", "7")]),
        ("tools/call", {}, []),
        ("tools/call", [], []),
        ("tools/call", {"name": 7}, []),
        ("tools/call", call({"region": "r"}, "unknown"), [("Mcp-Name", "unknown")]),
        ("tools/call", call({"region": "r"}, "plain"), [("Mcp-Name", "plain")]),
        ("tools/call", {"name": "tool"}, [("Mcp-Name", "tool")]),
        ("tools/call", call([1]), [("Mcp-Name", "tool")]),
        (
            "tools/call",
            call({"region": "ü", "count": 42, "dry": False, "deep": {"er": "x"}}),
            [
                ("Mcp-Name", "tool"),
                ("Mcp-Param-Region", "=?base64?w7w=?="),
                ("Mcp-Param-Count", "42"),
                ("Mcp-Param-Dry", "false"),
                ("Mcp-Param-Deeper", "x"),
            ],
        ),
        (
            "tools/call",
            call({"region": None, "count": -7.0, "dry": True, "deep": "no object"}),
            [("Mcp-Name", "tool"), ("Mcp-Param-Count", "-7"), ("Mcp-Param-Dry", "true")],
        ),
        (
            "tools/call",
            call({"region": "", "count": 1.5, "dry": [], "deep": {}}),
            [("Mcp-Name", "tool"), ("Mcp-Param-Region", ""), ("Mcp-Param-Count", "1.5")],
        ),
    ],
)
def test_what_a_client_sends(
    wrap: object, method: str, params: object, expected: list[tuple[str, str]]
) -> None:
    assert callable(wrap)
    request = Request(1, method, wrap(params))
    found = mirrored_headers(request, schema_of)
    assert found == [("Mcp-Method", method), *expected]
    # And the server at the other end is content.
    assert header_fault(Headers(found), request, schema_of) is None


def test_raw_parts_inside_of_params_are_read_as_well() -> None:
    request = Request(1, "tools/call", {"name": raw("tool"), "arguments": raw({"count": 1})})
    assert mirrored_headers(request, schema_of)[1:] == [
        ("Mcp-Name", "tool"),
        ("Mcp-Param-Count", "1"),
    ]


def test_without_params_and_for_notifications_the_method_is_all() -> None:
    assert mirrored_headers(Request(1, "tools/call", UNSET)) == [("Mcp-Method", "tools/call")]
    assert mirrored_headers(Request(1, "tools/call", None)) == [("Mcp-Method", "tools/call")]
    assert mirrored_headers(Notification("prompts/get", {"name": "x"})) == [
        ("Mcp-Method", "prompts/get")
    ]


def test_a_table_of_the_users_own_names_further_methods() -> None:
    request = Request(1, "my/method", {"key": "v"})
    sources = {"my/method": "key"}
    found = mirrored_headers(request, name_sources=sources)
    assert found == [("Mcp-Method", "my/method"), ("Mcp-Name", "v")]
    assert header_fault(Headers(found), request, name_sources=sources) is None
    fault = header_fault(Headers(found[:1]), request, name_sources=sources)
    assert fault is not None


# -- The server ----------------------------------------------------------------------

BODY = Request(1, "tools/call", raw(call({"region": "r", "count": 42, "dry": True})))
GOOD = {
    "mcp-method": "tools/call",
    "mcp-name": "tool",
    "mcp-param-region": "r",
    "mcp-param-count": "42",
    "mcp-param-dry": "true",
}


def fault_of(request: Request = BODY, /, **changes: str | None) -> str | None:
    fields = GOOD | {name.replace("_", "-"): value for name, value in changes.items()}
    pairs = [(name, value) for name, value in fields.items() if value is not None]
    return header_fault(Headers(pairs), request, schema_of)


@pytest.mark.parametrize("count", ["42", "42.0", "4.2e1", "=?base64?NDI=?="])
def test_headers_that_agree_are_no_fault(count: str) -> None:
    assert fault_of(mcp_param_count=count) is None
    assert fault_of(mcp_param_other="ignored") is None


@pytest.mark.parametrize("name", [b'"tool"', b'"t\\u006fol"', b' "tool" '])
def test_a_name_agrees_however_its_json_is_written(name: bytes) -> None:
    request = Request(1, "tools/call", Raw(b'{"arguments":{},"name":%b}' % name))
    headers = Headers([("mcp-method", "tools/call"), ("mcp-name", "tool")])
    assert header_fault(headers, request) is None
    assert header_fault(headers, request, schema_of) is None
    assert header_fault(headers.with_("mcp-name", "too"), request) is not None
    assert header_fault(headers.with_("mcp-name", "tool "), request) is None  # trimmed
    assert header_fault(headers.with_("mcp-name", "=?base64?dG9vbA==?="), request) is None


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"mcp_method": None}, "Mcp-Method is missing"),
        ({"mcp_method": "tools/list"}, "Mcp-Method is not"),
        ({"mcp_method": "Tools/Call"}, "Mcp-Method is not"),
        ({"mcp_name": None}, "Mcp-Name is missing"),
        ({"mcp_name": "TOOL"}, "Mcp-Name is not"),
        ({"mcp_name": "=?base64?dG9vbA?="}, "Mcp-Name cannot be read"),
        ({"mcp_param_region": None}, "Region is missing"),
        ({"mcp_param_region": "R"}, "Region is not"),
        ({"mcp_param_count": "43"}, "Count is not"),
        ({"mcp_param_count": "forty-two"}, "Count is not"),
        ({"mcp_param_dry": "True"}, "Dry is not"),
        ({"mcp_param_deeper": "x"}, "Deeper is not"),
    ],
)
def test_headers_that_contradict_the_body_are_told(changes: dict[str, str], part: str) -> None:
    fault = fault_of(**changes)
    assert fault is not None
    assert part in fault
    assert fault.startswith("Header mismatch: ")


def test_a_header_twice_is_not_one_value() -> None:
    headers = Headers([*GOOD.items(), ("Mcp-Name", "tool")])
    assert header_fault(headers, BODY, schema_of) is not None


def test_integers_beyond_what_every_program_can_hold_are_a_fault() -> None:
    request = Request(1, "tools/call", raw(call({"count": 2**53})))
    fields = {"mcp_param_region": None, "mcp_param_dry": None}
    assert fault_of(request, **fields, mcp_param_count=str(2**53)) is not None
    request = Request(1, "tools/call", raw(call({"count": 2**53 - 1})))
    assert fault_of(request, **fields, mcp_param_count=str(2**53 - 1)) is None


def test_a_fraction_is_compared_as_it_is_written() -> None:
    request = Request(1, "tools/call", raw(call({"count": 0.1})))
    fields = {"mcp_param_region": None, "mcp_param_dry": None}
    assert fault_of(request, **fields, mcp_param_count="0.10") is None
    assert fault_of(request, **fields, mcp_param_count="0.11") is not None


def test_what_no_header_can_carry_is_not_expected_and_never_agrees() -> None:
    request = Request(1, "tools/call", raw(call({"region": ["r"]})))
    fields = {"mcp_param_count": None, "mcp_param_dry": None}
    assert fault_of(request, **fields, mcp_param_region=None) is None
    assert fault_of(request, **fields, mcp_param_region="r") is not None


def test_a_name_header_for_a_body_without_a_name_is_a_fault() -> None:
    request = Request(1, "tools/call", raw({"arguments": {}}))
    assert fault_of(request) is not None
    assert fault_of(request, mcp_name=None) is None


def test_a_method_without_a_name_has_nothing_to_compare() -> None:
    assert fault_of(Request(1, "tools/list"), mcp_method="tools/list") is None


def test_an_unknown_tool_and_an_unknown_schema_are_not_checked() -> None:
    unknown = Request(1, "tools/call", raw(call({"region": 1}, "unknown")))
    assert fault_of(unknown, mcp_name="unknown", mcp_param_region=None) is None
    assert header_fault(Headers(GOOD.items()), BODY, None) is None
    plain = Request(1, "tools/call", raw(call({"region": 1}, "plain")))
    assert fault_of(plain, mcp_name="plain") is None


@pytest.mark.parametrize("params", [b'{"name": 1e999999}', b'{"name": "x\xff"}', b'{"name"'])
def test_params_that_cannot_be_read_are_a_fault(params: bytes) -> None:
    assert fault_of(Request(1, "tools/call", Raw(params))) is not None


def test_arguments_that_cannot_be_read_are_a_fault() -> None:
    broken = Raw(b'{"name": "tool", "arguments": {"a": "\xff"}}')
    assert fault_of(Request(1, "tools/call", broken)) is not None
