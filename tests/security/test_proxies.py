"""The real client behind trusted proxies, and nobody's inventions."""

from __future__ import annotations

import ipaddress

import pytest

from trio_mcp_transport.errors import ConfigurationError
from trio_mcp_transport.sansio.headers import Headers
from trio_mcp_transport.sansio.http1 import RequestHead
from trio_mcp_transport.security.admission import AdmissionPolicy, Admitted, Doorkeeper
from trio_mcp_transport.security.facts import ConnectionFacts
from trio_mcp_transport.security.proxies import ProxyHeader, facts_behind_proxies

pytestmark = pytest.mark.security

TRUSTED = [ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fd00::/8")]
XFF = "x-forwarded-for"


def client(
    *headers: tuple[str, str], peer: str = "10.0.0.1", header: ProxyHeader = "auto"
) -> str | None:
    facts = ConnectionFacts(peer_address=(peer, 1234), client_address=peer)
    return facts_behind_proxies(Headers(headers), facts, TRUSTED, header).client_address


@pytest.mark.parametrize(
    ("headers", "address"),
    [
        ([], "10.0.0.1"),
        ([(XFF, "192.0.2.1")], "192.0.2.1"),
        ([(XFF, "192.0.2.1:4711")], "192.0.2.1"),
        ([(XFF, "2001:db8::1")], "2001:db8::1"),
        ([(XFF, "[2001:DB8:0::1]:80")], "2001:db8::1"),
        ([(XFF, "::ffff:192.0.2.1")], "192.0.2.1"),
        # The first is what the client invented, the last what our proxy saw.
        ([(XFF, "203.0.113.9, 192.0.2.1")], "192.0.2.1"),
        ([(XFF, "203.0.113.9, 192.0.2.1, 10.0.0.2, fd00::3")], "192.0.2.1"),
        ([(XFF, "203.0.113.9"), (XFF, "192.0.2.1")], "192.0.2.1"),
        ([(XFF, "10.0.0.3, 10.0.0.2")], "10.0.0.3"),
        ([(XFF, "192.0.2.1, garbage, 10.0.0.2")], "10.0.0.2"),
        ([(XFF, "")], "10.0.0.1"),
        ([("forwarded", "for=192.0.2.1")], "192.0.2.1"),
        ([("forwarded", 'For="[2001:db8::1]:4711";Proto=https;by=203.0.113.43')], "2001:db8::1"),
        ([("forwarded", "for=203.0.113.9, for=192.0.2.1;proto=http, for=10.0.0.2")], "192.0.2.1"),
        ([("forwarded", 'for="203.0.113.9, for=192.0.2.7", for=192.0.2.1')], "192.0.2.1"),
        ([("forwarded", 'for="\\"", for=192.0.2.1')], "192.0.2.1"),
        ([("forwarded", "for=unknown")], "10.0.0.1"),
        ([("forwarded", "for=_hidden, for=10.0.0.2")], "10.0.0.2"),
        ([("forwarded", 'for="192.0.2.1')], "10.0.0.1"),
        ([("forwarded", "nonsense")], "10.0.0.1"),
        # Both: one of them is an invention, unless they agree.
        ([(XFF, "192.0.2.1"), ("forwarded", "for=192.0.2.9")], "10.0.0.1"),
    ],
)
def test_the_client_is_the_last_that_no_trusted_proxy_is(
    headers: list[tuple[str, str]], address: str
) -> None:
    assert client(*headers) == address


def test_both_headers_count_when_they_agree() -> None:
    both = [(XFF, "192.0.2.1"), ("x-forwarded-proto", "https")]
    assert client(*both, ("forwarded", "for=192.0.2.1;proto=https")) == "192.0.2.1"


def test_the_header_that_is_named_is_the_only_one_believed() -> None:
    both = ((XFF, "192.0.2.1"), ("forwarded", "for=192.0.2.9"))
    assert client(*both, header="x-forwarded-for") == "192.0.2.1"
    assert client(*both, header="forwarded") == "192.0.2.9"
    assert client(both[0], header="forwarded") == "10.0.0.1"


def test_nobody_else_is_believed() -> None:
    assert client((XFF, "192.0.2.1"), peer="192.0.2.66") == "192.0.2.66"
    assert client(("forwarded", "for=192.0.2.1"), peer="192.0.2.66") == "192.0.2.66"
    unix = ConnectionFacts(peer_address="/run/x", client_address="nobody")
    assert facts_behind_proxies(Headers([(XFF, "192.0.2.1")]), unix, TRUSTED) is unix


@pytest.mark.parametrize(
    ("headers", "scheme"),
    [
        ([(XFF, "192.0.2.1"), ("x-forwarded-proto", "HTTPS")], "https"),
        ([(XFF, "192.0.2.1"), ("x-forwarded-proto", "https, http")], "http"),
        ([(XFF, "192.0.2.1"), ("x-forwarded-proto", "gopher")], "http"),
        ([("forwarded", "for=192.0.2.1;proto=https")], "https"),
        ([("forwarded", "for=192.0.2.1")], "http"),
    ],
)
def test_the_scheme_is_what_the_client_used(headers: list[tuple[str, str]], scheme: str) -> None:
    facts = ConnectionFacts(peer_address=("10.0.0.1", 1))
    assert facts_behind_proxies(Headers(headers), facts, TRUSTED).scheme == scheme


def test_a_very_long_list_is_read_from_its_end() -> None:
    hops = ", ".join(["192.0.2.1"] + ["10.0.0.2"] * 5000)
    assert client((XFF, hops)) == "10.0.0.2"
    assert (
        client(("forwarded", ",".join(["for=192.0.2.1"] + ["for=10.0.0.2"] * 5000))) == "10.0.0.2"
    )


def test_admission_uses_it_for_origin_and_context() -> None:
    doorkeeper = Doorkeeper(
        AdmissionPolicy(trusted_proxies=("10.0.0.0/8",), allowed_hosts=("mcp.example",))
    )
    headers = Headers([
        ("host", "mcp.example"),
        ("origin", "https://mcp.example"),
        ("x-forwarded-for", "192.0.2.1"),
        ("x-forwarded-proto", "https"),
    ])
    near = ConnectionFacts(local_address=("10.0.0.9", 80), peer_address=("10.0.0.1", 1))
    verdict = doorkeeper.judge(RequestHead("POST", "/mcp", headers), near)
    assert isinstance(verdict, Admitted)
    assert (verdict.facts.client_address, verdict.facts.scheme) == ("192.0.2.1", "https")
    far = ConnectionFacts(local_address=("10.0.0.9", 80), peer_address=("192.0.2.66", 1))
    assert not isinstance(doorkeeper.judge(RequestHead("POST", "/mcp", headers), far), Admitted)


def test_a_network_that_is_none_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"trusted_proxies: 10\.0\.0\.1/8 has host bits"):
        AdmissionPolicy(trusted_proxies=("10.0.0.1/8",))
