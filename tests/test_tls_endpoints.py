"""Endpoints with TLS: every way to write them, what is refused, and what is never shown."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

import msgspec
import pytest

from trio_mcp_transport import (
    ChannelOptions,
    ConfigurationError,
    Endpoint,
    HttpsEndpoint,
    SseTlsEndpoint,
    TcpEndpoint,
    TlsEndpoint,
    TlsSettings,
    TlsUnixEndpoint,
    endpoint_from_environment,
    parse_endpoint,
)
from trio_mcp_transport.endpoint_values import declared_types, nested_structs

pytestmark = [pytest.mark.endpoints, pytest.mark.tls]

WRITTEN: list[tuple[str | Mapping[str, object], Endpoint, str]] = [
    ("tls://h:9000", TlsEndpoint(host="h", port=9000), "tls://h:9000"),
    ("TLS://[::1]:0?nodelay=no", TlsEndpoint(host="::1", port=0, nodelay=False), "tls://[::1]:0?nodelay=false"),
    (
        "tls://h:1?cert=/c.pem&key=/k.pem&client_ca=/ca.pem&reload_interval=0&write_timeout_ms=500",
        TlsEndpoint(
            host="h",
            port=1,
            tls=TlsSettings(
                cert_file="/c.pem",
                key_file="/k.pem",
                ca_file="/ca.pem",
                client_auth="required",
                reload_interval=math.inf,
            ),
            options=ChannelOptions(write_timeout=0.5),
        ),
        (
            "tls://h:1?cert_file=/c.pem&key_file=/k.pem&ca_file=/ca.pem&reload_interval=0"
            "&client_auth=required&write_timeout=0.5"
        ),
    ),
    (
        "tls://h:1?caFile=/ca.pem&serverName=s.example&tls_handshake_timeout_ms=1500&min_tls=1.2",
        TlsEndpoint(
            host="h",
            port=1,
            tls=TlsSettings(
                min_tls="1.2", ca_file="/ca.pem", server_name="s.example", tls_handshake_timeout=1.5
            ),
        ),
        "tls://h:1?min_tls=1.2&ca_file=/ca.pem&tls_handshake_timeout=1.5&server_name=s.example",
    ),
    (
        "tls://h:1?client_ca=/ca.pem&client_auth=optional&cert=/c.pem",
        TlsEndpoint(
            host="h",
            port=1,
            tls=TlsSettings(ca_file="/ca.pem", client_auth="optional", cert_file="/c.pem"),
        ),
        "tls://h:1?cert_file=/c.pem&ca_file=/ca.pem&client_auth=optional",
    ),
    (
        "tls+unix:/run/s?permissions=0660&verify_hostname=false",
        TlsUnixEndpoint(path="/run/s", permissions=0o660, tls=TlsSettings(verify_hostname=False)),
        "tls+unix:/run/s?permissions=0660&verify_hostname=false",
    ),
    ("tls+unix:@name", TlsUnixEndpoint(path="@name"), "tls+unix:@name"),
    (
        {"url": "tls://h:1", "cert_file": "/c", "sni_certificates": ["/a", "/b:/k"]},
        TlsEndpoint(
            host="h", port=1, tls=TlsSettings(cert_file="/c", sni_certificates=("/a", "/b:/k"))
        ),
        "tls://h:1?cert_file=/c&sni_certificates=/a,/b:/k",
    ),
    (
        {"url": "tls://h:1", "pins": ["sha256/" + "A" * 43 + "="], "pin_scope": "chain"},
        TlsEndpoint(
            host="h",
            port=1,
            tls=TlsSettings(pins=("sha256/" + "A" * 43 + "=",), pin_scope="chain"),
        ),
        "tls://h:1?pins=sha256/" + "A" * 43 + "%3D&pin_scope=chain",
    ),
    (
        "https://0.0.0.0/mcp?cert=/c.pem&client_ca=/ca.pem",
        HttpsEndpoint(
            host="0.0.0.0",
            port=9443,
            path="/mcp",
            tls=TlsSettings(cert_file="/c.pem", ca_file="/ca.pem", client_auth="required"),
        ),
        "https://0.0.0.0:9443/mcp?cert_file=/c.pem&ca_file=/ca.pem&client_auth=required",
    ),
    (
        "sse+https://h/sse?ca_file=/ca.pem&proxy=http://proxy.example:3128",
        SseTlsEndpoint(
            host="h",
            port=443,
            path="/sse",
            tls=TlsSettings(ca_file="/ca.pem"),
            proxy="http://proxy.example:3128",
        ),
        "sse+https://h:443/sse?proxy=http://proxy.example:3128&ca_file=/ca.pem",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("spec", "endpoint", "text"), WRITTEN)
def test_what_is_written_is_what_is_meant(
    spec: str | Mapping[str, object], endpoint: Endpoint, text: str
) -> None:
    found = parse_endpoint(spec)
    assert type(found) is type(endpoint)
    assert found == endpoint
    assert str(found) == text
    assert parse_endpoint(text) == endpoint
    if not isinstance(spec, str):
        assert parse_endpoint(json.dumps(spec)) == endpoint


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("tls:h:1", "tls://HOST:PORT needs its two slashes"),
        ("tls://h", "tls://HOST:PORT: the port is missing"),
        ("tls://h:1/x", "tls://HOST:PORT cannot have a path"),
        ("tls://h:1?cert_file=/a&cert=/b", "cert_file is given twice"),
        ("tls://h:1?min_tls=1.1", "min_tls must be one of 1.2, 1.3, not '1.1'"),
        ("tls://h:1?pins=sha256:00", "pins: "),
        ("tls://h:1?pins=", "pins is empty: leave it out, or say at least one"),
        ("wss://h/mcp?pins=%20,", "pins is empty"),
        ({"url": "https://h/mcp", "pins": ""}, "pins is empty"),
        ("tls://h:1?alpn=", "alpn is empty"),
        ("tls://h:1?sni_certificates=,", "sni_certificates is empty"),
        ("https://h/mcp?allowed_hosts=", "allowed_hosts is empty"),
        ("tls://h:1?tls_handshake_timeout=-1", "tls_handshake_timeout must be seconds"),
        ("tls://h:1?unheard=1", "unknown option 'unheard' of a tls endpoint (known: host, port"),
        ("tls://h:1?tls=1", "unknown option 'tls'"),
        ("tls://h:1?options=1", "unknown option 'options'"),
        ("tls+unix://h/s", "tls+unix: the path must follow tls+unix: or tls+unix://"),
        ({"url": "tls://h:1", "ct_min_logs": "x"}, "ct_min_logs must be a whole"),
        ({"type": "tls", "host": "h", "port": 1, "ct_min_logs": 0}, "ct_min_logs"),
        ("tcp://h:1?ca_file=/ca", "unknown option 'ca_file' of a tcp endpoint"),
        ("unix:/s?cert=/c", "unknown option 'cert' of a unix endpoint"),
        ("https://h/?alpn=h2", "alpn: only http/1.1 is spoken here"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_refused_and_named(spec: str | Mapping[str, object], says: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_endpoint(spec)
    assert str(caught.value).startswith(says)


@pytest.mark.parametrize(
    "spec",
    [
        "tls://h:1?cert=/c.pem&key_password=s3cret",
        {"type": "tls+unix", "path": "/s", "cert_file": "/c.pem", "key_pem": "s3cret"},
        "https://h/?cert=/c.pem&key_password=s3cret",
    ],
)
def test_a_secret_is_never_shown(spec: str | Mapping[str, object]) -> None:
    found = parse_endpoint(spec)
    shown = f"{found} {found!r} {found.label} {found.__rich_repr__()}"
    assert "s3cret" not in shown
    assert "***" in shown
    # What was printed cannot be used by mistake, with a wrong password.
    with pytest.raises(ConfigurationError, match=r"\*\*\* only stands for a value"):
        parse_endpoint(str(found))


def test_every_endpoint_with_tls_hides_its_secrets() -> None:
    def below(struct: type[Endpoint]) -> set[type[Endpoint]]:
        children = struct.__subclasses__()
        return {*children, *(found for child in children for found in below(child))}

    found = [struct for struct in below(Endpoint) if "tls" in struct.__struct_fields__]
    assert len(found) >= 6
    for struct in found:
        assert {*struct.secret_fields} >= {*TlsSettings.secrets}


def test_settings_must_be_settings() -> None:
    with pytest.raises(ConfigurationError, match="tls must be TlsSettings, not dict"):
        msgspec.structs.replace(TlsEndpoint(host="h", port=1), tls={"cert_file": "/c"})


def test_names_of_the_parts_of_an_endpoint_never_collide() -> None:
    def every(struct: type[Endpoint]) -> set[type[Endpoint]]:
        return {struct, *(found for child in struct.__subclasses__() for found in every(child))}

    for struct in every(Endpoint):
        nested = nested_structs(struct)
        names = [name for name in struct.__struct_fields__ if name not in nested]
        for part in nested.values():
            names += declared_types(part)
        assert len(names) == len({*names}), struct


def test_the_environment_can_ask_for_tls() -> None:
    found = endpoint_from_environment({"TRANSPORT": "tls"})
    assert found == TlsEndpoint(host="127.0.0.1", port=8080)


def test_tls_is_not_tcp() -> None:
    assert TlsEndpoint(host="h", port=1) != TcpEndpoint(host="h", port=1)
    with pytest.raises(ConfigurationError, match="is of tls, but tcp was asked for"):
        parse_endpoint("tls://h:1", transport="tcp")
