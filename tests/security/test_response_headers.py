"""The security headers of every answer, and how a CSP is put together."""

from __future__ import annotations

import pytest

from trio_mcp_transport.errors import ConfigurationError
from trio_mcp_transport.sansio.headers import Headers
from trio_mcp_transport.sansio.http1 import RequestHead
from trio_mcp_transport.security.admission import AdmissionPolicy, Doorkeeper
from trio_mcp_transport.security.facts import ConnectionFacts
from trio_mcp_transport.security.response_headers import (
    ContentSecurityPolicy,
    ResponseHeaderPolicy,
)

pytestmark = pytest.mark.security


def test_development_sends_nothing() -> None:
    assert not ResponseHeaderPolicy.preset("development").headers(tls=True)
    assert not ResponseHeaderPolicy().headers(tls=True)


def test_staging_allows_inline_scripts_and_own_frames() -> None:
    assert dict(ResponseHeaderPolicy.preset("staging").headers(tls=True)) == {
        "content-security-policy": (
            "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self'"
            " 'unsafe-inline'; frame-ancestors 'self'"
        ),
        "strict-transport-security": "max-age=31536000",
        "x-frame-options": "SAMEORIGIN",
        "x-content-type-options": "nosniff",
        "referrer-policy": "strict-origin-when-cross-origin",
    }


def test_production_allows_neither_and_no_sensors() -> None:
    assert dict(ResponseHeaderPolicy.preset("production").headers(tls=True)) == {
        "content-security-policy": (
            "default-src 'self'; script-src 'self'; style-src 'self'; object-src 'none';"
            " frame-src 'none'; frame-ancestors 'none'"
        ),
        "strict-transport-security": "max-age=63072000",
        "x-frame-options": "DENY",
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "permissions-policy": "geolocation=(), microphone=(), camera=(), payment=(), usb=()",
    }


def test_strict_loads_nothing_and_isolates_the_origin() -> None:
    found = ResponseHeaderPolicy.preset("strict").headers(tls=True)
    assert found["content-security-policy"].startswith("default-src 'none'; ")
    assert found["strict-transport-security"] == "max-age=63072000; includeSubDomains"
    assert found["cross-origin-opener-policy"] == "same-origin"
    assert found["cross-origin-resource-policy"] == "same-origin"
    assert found["cross-origin-embedder-policy"] == "require-corp"


@pytest.mark.parametrize("name", ["staging", "production", "strict"])
def test_transport_security_is_told_over_tls_alone(name: str) -> None:
    # RFC 6797, section 7.2: "An HSTS Host MUST NOT include the STS header field in HTTP
    # responses conveyed over non-secure transport."
    policy = ResponseHeaderPolicy.preset(name)  # type: ignore[arg-type]
    with_tls, without = policy.headers(tls=True), policy.headers(tls=False)
    assert "strict-transport-security" not in without
    assert with_tls.without("strict-transport-security") == without


def test_answers_carry_them_beside_cors() -> None:
    doorkeeper = Doorkeeper(
        AdmissionPolicy(
            allowed_origins=("https://a.example",),
            response_headers=ResponseHeaderPolicy(nosniff=True, hsts_max_age=1, hsts_preload=True),
        )
    )
    request = RequestHead("GET", "/", Headers([("origin", "https://a.example")]))
    for scheme, expected in (("http", None), ("https", "max-age=1; preload")):
        for head in (request, RequestHead("GET", "/")):
            found = doorkeeper.response_headers(head, ConnectionFacts(scheme=scheme))
            assert found["x-content-type-options"] == "nosniff"
            assert found.get("strict-transport-security") == expected
            assert found["vary"] == "Origin"


def test_a_policy_is_put_together_a_directive_at_a_time() -> None:
    policy = (
        ContentSecurityPolicy()
        .default_src("'self'")
        .connect_src("'self'", "wss://a.example")
        .script_src("'self'")
        .style_src("'self'")
        .default_src("'none'")
    )
    assert str(policy) == (
        "connect-src 'self' wss://a.example; script-src 'self'; style-src 'self';"
        " default-src 'none'"
    )
    own_frames = policy.with_("frame-ancestors", "https://a.example")
    found = ResponseHeaderPolicy(content_security_policy=policy)
    assert found.headers(tls=False)["content-security-policy"] == str(policy)
    found = ResponseHeaderPolicy(content_security_policy=own_frames, frame_options="DENY")
    assert found.headers(tls=False)["content-security-policy"] == str(own_frames)


@pytest.mark.parametrize(
    ("directive", "source"),
    [
        ("default src", "'self'"),
        ("Default", "'self'"),
        ("a", "b;c"),
        ("a", "b c"),
        ("a", "b,c"),
        ("a", ""),
    ],
)
def test_a_source_cannot_end_its_directive(directive: str, source: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^CSP: "):
        ContentSecurityPolicy().with_(directive, source)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"hsts_max_age": -1}, "hsts_max_age must be whole seconds"),
        ({"hsts_preload": True}, "need hsts_max_age"),
        ({"frame_options": "ALLOW-FROM https://a.example"}, "frame_options must be DENY or"),
        ({"referrer_policy": "a\r\nb: c"}, "response headers: "),
        ({"extra": (("a b", "c"),)}, "response headers: "),
    ],
)
def test_what_cannot_be_sent_is_refused(fields: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        ResponseHeaderPolicy(**fields)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="security_headers must be none"):
        ResponseHeaderPolicy.preset("lax")  # type: ignore[arg-type]
