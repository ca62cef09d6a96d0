"""Who may come in: Host, then Origin, then authentication, by the accepted socket."""

from __future__ import annotations

import msgspec
import pytest
import trio

from trio_mcp_transport.errors import ConfigurationError
from trio_mcp_transport.sansio.headers import Headers
from trio_mcp_transport.sansio.http1 import RequestHead
from trio_mcp_transport.sansio.mcp_http.replies import Reply
from trio_mcp_transport.security.admission import (
    AdmissionPolicy,
    Admitted,
    Answered,
    Doorkeeper,
)
from trio_mcp_transport.security.authentication import BearerTokens, forbidden, unauthorized
from trio_mcp_transport.security.cors import CorsPolicy
from trio_mcp_transport.security.facts import Address, ConnectionFacts
from trio_mcp_transport.tls_facts import CertificateFacts, TlsFacts

pytestmark = pytest.mark.security

LOOPBACK = ("127.0.0.1", 9000)


def head(*headers: tuple[str, str], method: str = "POST", target: str = "/mcp") -> RequestHead:
    return RequestHead(method, target, Headers(headers))


def facts(local: Address = LOOPBACK, *, scheme: str = "http") -> ConnectionFacts:
    return ConnectionFacts(local_address=local, peer_address=("127.0.0.1", 50000), scheme=scheme)


def host_is_fine(host: str, local: Address, policy: AdmissionPolicy | None = None) -> bool:
    verdict = Doorkeeper(policy).judge(head(("host", host)), facts(local))
    if isinstance(verdict, Answered):
        assert verdict.reply.status == 403
        assert b"Forbidden Host header" in verdict.reply.body
    return isinstance(verdict, Admitted)


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("localhost:9000", LOOPBACK),
        ("LOCALHOST.:9000", LOOPBACK),
        ("127.0.0.1:9000", LOOPBACK),
        ("127.0.0.2:9000", LOOPBACK),
        ("[::1]:9000", LOOPBACK),
        ("[0:0::1]:9000", ("::1", 9000)),
        ("localhost:9000", ("::ffff:127.0.0.1", 9000)),
        ("localhost", ("127.0.0.1", 80)),
        ("192.0.2.7:9000", ("192.0.2.7", 9000)),
        ("192.0.2.7", ("::ffff:192.0.2.7", 80)),
        ("[2001:db8::7]:9000", ("2001:db8:0::7", 9000)),
        ("[fe80::7]:9000", ("fe80::7%eth0", 9000)),
        ("localhost", "/run/mcp.sock"),
    ],
)
def test_a_host_that_the_socket_implies_is_fine(host: str, local: Address) -> None:
    assert host_is_fine(host, local)


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("evil.example:9000", LOOPBACK),
        ("localhost.evil.example:9000", LOOPBACK),
        ("127.0.0.1.evil.example:9000", LOOPBACK),
        ("localhost:9001", LOOPBACK),
        ("localhost", LOOPBACK),
        ("0.0.0.0:9000", LOOPBACK),
        ("0.0.0.0:9000", ("0.0.0.0", 9000)),
        ("[::]:9000", ("::1", 9000)),
        ("0:9000", LOOPBACK),
        ("127.1:9000", LOOPBACK),
        ("0x7f000001:9000", LOOPBACK),
        ("192.0.2.7:9000", LOOPBACK),
        ("localhost:9000", ("192.0.2.7", 9000)),
        ("127.0.0.1:9000", ("192.0.2.7", 9000)),
        ("evil.example:9000", ("192.0.2.7", 9000)),
        ("192.0.2.8:9000", ("192.0.2.7", 9000)),
        ("localhost:9000", None),
        ("evil.example", "/run/mcp.sock"),
        ("", LOOPBACK),
        ("localhost:9000, evil.example", LOOPBACK),
        ("user@localhost:9000", LOOPBACK),
        ("localhost:9000/", LOOPBACK),
        ("localhost:", LOOPBACK),
        ("[::1:9000", LOOPBACK),
        ("localhost:99999", LOOPBACK),
        ("lòcalhost:9000", LOOPBACK),
    ],
)
def test_any_other_host_is_refused(host: str, local: Address) -> None:
    assert not host_is_fine(host, local)


@pytest.mark.parametrize(
    ("allowed", "host", "fine"),
    [
        ("mcp.example", "mcp.example", True),
        ("mcp.example", "MCP.example.:1234", True),
        ("mcp.example", "a.mcp.example", False),
        ("mcp.example", "evilmcp.example", False),
        ("mcp.example:8443", "mcp.example:8443", True),
        ("mcp.example:8443", "mcp.example", False),
        ("*.mcp.example", "a.b.mcp.example", True),
        ("*.mcp.example", "mcp.example", False),
        ("*.mcp.example", "evilmcp.example", False),
        ("[2001:db8::1]", "[2001:db8::1]:77", True),
        ("192.0.2.1:80", "192.0.2.1", True),
    ],
)
def test_configured_hosts_are_compared_whole(allowed: str, host: str, fine: bool) -> None:
    policy = AdmissionPolicy(allowed_hosts=(allowed,))
    assert host_is_fine(host, LOOPBACK, policy) is fine
    # What the socket implies goes on being right.
    assert host_is_fine("localhost:9000", LOOPBACK, policy)


def test_a_host_that_was_right_at_one_socket_is_not_right_at_another() -> None:
    doorkeeper = Doorkeeper()
    request = head(("host", "localhost:9000"))
    assert isinstance(doorkeeper.judge(request, facts()), Admitted)
    assert isinstance(doorkeeper.judge(request, facts()), Admitted)
    assert isinstance(doorkeeper.judge(request, facts(("127.0.0.1", 9001))), Answered)


def test_the_default_port_is_that_of_the_scheme() -> None:
    doorkeeper = Doorkeeper()
    request = head(("host", "localhost"))
    assert isinstance(doorkeeper.judge(request, facts(("::1", 443), scheme="https")), Admitted)
    assert isinstance(doorkeeper.judge(request, facts(("::1", 443))), Answered)


def test_exactly_one_host_is_demanded() -> None:
    doorkeeper = Doorkeeper()
    for request in (
        head(),
        head(("host", "localhost:9000"), ("host", "localhost:9000")),
    ):
        verdict = doorkeeper.judge(request, facts())
        assert isinstance(verdict, Answered)
        assert "Host headers" in verdict.reason


def test_the_host_of_an_absolute_target_counts_as_well() -> None:
    doorkeeper = Doorkeeper()
    host = ("host", "localhost:9000")
    good = head(host, target="http://127.0.0.1:9000/mcp?a")
    evil = head(host, target="http://evil.example:9000/mcp")
    assert isinstance(doorkeeper.judge(good, facts()), Admitted)
    assert isinstance(doorkeeper.judge(evil, facts()), Answered)


def test_the_check_of_hosts_is_switched_off_by_name_only() -> None:
    assert host_is_fine("evil.example", None, AdmissionPolicy(check_host=False))
    with pytest.raises(ConfigurationError, match="say check_host=false"):
        AdmissionPolicy(allowed_hosts=("*",))


# -- Origin ----------------------------------------------------------------------------

HOST = ("host", "localhost:9000")


def judge_origin(origin: str, policy: AdmissionPolicy | None = None) -> int:
    verdict = Doorkeeper(policy).judge(head(HOST, ("origin", origin)), facts())
    if isinstance(verdict, Admitted):
        return 200
    assert b"Forbidden Origin header" in verdict.reply.body
    # "a JSON-RPC error response that has no id"
    assert "id" not in msgspec.json.decode(verdict.reply.body)
    return verdict.reply.status


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://localhost:9000", 200),
        ("http://LOCALHOST:9000", 200),
        ("https://app.example", 200),
        ("https://app.example:443", 200),
        ("https://app.example:8443", 403),
        ("http://app.example", 403),
        ("https://app.example.evil.example", 403),
        ("https://evil.example", 403),
        ("http://localhost:9001", 403),
        ("https://localhost:9000", 403),
        ("http://127.0.0.1:9000", 403),
        ("null", 403),
        ("", 403),
        ("https://app.example/", 403),
        ("https://u@app.example", 403),
        ("chrome-extension://abcdefgh", 200),
        ("chrome-extension://abcdefgi", 403),
    ],
)
def test_an_origin_is_the_servers_own_or_configured(origin: str, status: int) -> None:
    allowed = ("https://app.example", "chrome-extension://abcdefgh")
    assert judge_origin(origin, AdmissionPolicy(allowed_origins=allowed)) == status


def test_no_origin_is_fine_and_two_are_not() -> None:
    doorkeeper = Doorkeeper()
    assert isinstance(doorkeeper.judge(head(HOST), facts()), Admitted)
    twice = head(HOST, ("origin", "http://localhost:9000"), ("origin", "http://localhost:9000"))
    assert isinstance(doorkeeper.judge(twice, facts()), Answered)


def test_host_comes_before_origin() -> None:
    verdict = Doorkeeper().judge(
        head(("host", "evil.example:9000"), ("origin", "http://evil.example:9000")), facts()
    )
    assert isinstance(verdict, Answered)
    assert b"Host" in verdict.reply.body


def test_the_check_of_origins_is_switched_off_by_name_only() -> None:
    assert judge_origin("https://evil.example", AdmissionPolicy(check_origin=False)) == 200
    permissive = AdmissionPolicy(allowed_origins=("*",), cors=CorsPolicy.preset("permissive"))
    assert judge_origin("null", permissive) == 200


def test_any_origin_does_not_go_with_credentials() -> None:
    with pytest.raises(ConfigurationError, match="does not go with allow_credentials"):
        AdmissionPolicy(allowed_origins=("*",))
    with pytest.raises(ConfigurationError, match="stands alone"):
        AdmissionPolicy(allowed_origins=("*", "https://a.example"))


def test_a_malformed_origin_is_named_and_none_is_dropped_silently() -> None:
    with pytest.raises(ConfigurationError, match=r"allowed_origins: 'b\.example' is no origin"):
        AdmissionPolicy(allowed_origins=("https://a.example", "b.example"))


# -- Preflight and what browsers are told ----------------------------------------------


def preflight(origin: str, *headers: tuple[str, str]) -> RequestHead:
    asks = ("access-control-request-method", "POST")
    return head(HOST, ("origin", origin), asks, *headers, method="OPTIONS")


def test_a_preflight_is_answered_without_authentication() -> None:
    doorkeeper = Doorkeeper(
        AdmissionPolicy(allowed_origins=("https://app.example",)),
        authenticate=BearerTokens({"t0": "me"}),
    )
    verdict = doorkeeper.judge(
        preflight(
            "https://app.example",
            (
                "access-control-request-headers",
                "content-type, mcp-param-city, Mcp-Method, x-evil, x-requested-with, mcp-name",
            ),
        ),
        facts(),
    )
    assert isinstance(verdict, Answered)
    assert (verdict.reply.status, verdict.reply.body, verdict.reason) == (204, b"", "")
    told = verdict.reply.headers
    assert told["access-control-allow-methods"] == "GET, POST, DELETE"
    assert (
        told["access-control-allow-headers"]
        == "content-type, mcp-param-city, Mcp-Method, x-requested-with, mcp-name"
    )
    assert told["access-control-max-age"] == "1800"
    assert "Access-Control-Request-Headers" in told["vary"]


def test_a_preflight_from_elsewhere_is_refused() -> None:
    doorkeeper = Doorkeeper(AdmissionPolicy(allowed_origins=("https://app.example",)))
    verdict = doorkeeper.judge(preflight("https://evil.example"), facts())
    assert isinstance(verdict, Answered)
    assert verdict.reply.status == 403
    wrong_host = head(
        ("host", "evil.example"),
        ("origin", "https://app.example"),
        ("access-control-request-method", "POST"),
        method="OPTIONS",
    )
    verdict = doorkeeper.judge(wrong_host, facts())
    assert isinstance(verdict, Answered)
    assert verdict.reply.status == 403


def test_without_cors_a_preflight_is_a_request_like_any_other() -> None:
    policy = AdmissionPolicy(
        allowed_origins=("https://app.example",), cors=CorsPolicy.preset("disabled")
    )
    doorkeeper = Doorkeeper(policy)
    assert isinstance(doorkeeper.judge(preflight("https://app.example"), facts()), Admitted)
    assert not doorkeeper.response_headers(preflight("https://app.example"), facts())


def test_every_answer_to_an_allowed_origin_says_so() -> None:
    doorkeeper = Doorkeeper(AdmissionPolicy(allowed_origins=("https://app.example",)))
    told = doorkeeper.response_headers(head(HOST, ("origin", "https://app.example")), facts())
    assert dict(told) == {
        "access-control-allow-origin": "https://app.example",
        "access-control-allow-credentials": "true",
        "access-control-expose-headers": "Mcp-Session-Id, WWW-Authenticate, Retry-After",
        "vary": "Origin",
    }
    again = doorkeeper.response_headers(head(HOST, ("origin", "https://app.example")), facts())
    assert again is told  # so that it is serialised once


@pytest.mark.parametrize("origin", [None, "https://evil.example", "null"])
def test_an_answer_to_nobody_else_does(origin: str | None) -> None:
    doorkeeper = Doorkeeper(AdmissionPolicy(allowed_origins=("https://app.example",)))
    headers = [HOST] if origin is None else [HOST, ("origin", origin)]
    # A cache must not give it to a page that may see it.
    assert dict(doorkeeper.response_headers(head(*headers), facts())) == {"vary": "Origin"}


def test_permissive_tells_every_origin_and_sends_no_credentials() -> None:
    policy = AdmissionPolicy(allowed_origins=("*",), cors=CorsPolicy.preset("permissive"))
    doorkeeper = Doorkeeper(policy)
    for headers in ([HOST], [HOST, ("origin", "https://any.example")]):
        told = doorkeeper.response_headers(head(*headers), facts())
        assert told["access-control-allow-origin"] == "*"
        assert "access-control-allow-credentials" not in told
    verdict = doorkeeper.judge(
        preflight("https://any.example", ("access-control-request-headers", "x-any")), facts()
    )
    assert isinstance(verdict, Answered)
    assert verdict.reply.headers["access-control-allow-headers"] == "x-any"


def test_a_plain_server_adds_nothing() -> None:
    assert not Doorkeeper().response_headers(head(HOST), facts())


def test_spellings_of_an_origin_do_not_pile_up() -> None:
    doorkeeper = Doorkeeper(AdmissionPolicy(allowed_origins=("https://app.example",)))
    for number in range(100):
        origin = f"https://app.example:{number * '0'}443"[:60]
        doorkeeper.response_headers(head(HOST, ("origin", origin)), facts())
    assert len(doorkeeper._told) <= 4


# -- Authentication --------------------------------------------------------------------


async def test_an_authenticator_names_the_principal_or_refuses() -> None:
    doorkeeper = Doorkeeper(authenticate=BearerTokens({"t0": "alice", "t1": "bob"}))

    async def admit(*values: str) -> str | int | None:
        headers = [("authorization", value) for value in values]
        verdict = await doorkeeper.admit(head(HOST, *headers), facts())
        if isinstance(verdict, Admitted):
            return verdict.principal
        assert verdict.reply.headers["www-authenticate"].startswith("Bearer")
        assert "t0" not in verdict.reason
        return verdict.reply.status

    assert await admit("Bearer t0") == "alice"
    assert await admit("bearer  t1") == "bob"
    for wrong in ("Bearer t2", "Bearer", "Basic t0", "Bearer t0 t1", "t0"):
        assert await admit(wrong) == 401
    assert await admit() == 401
    assert await admit("Bearer t0", "Bearer t0") == 401


async def test_nobody_is_authenticated_who_may_not_come_in() -> None:
    async def authenticate(head: RequestHead, facts: ConnectionFacts) -> str:
        await trio.lowlevel.checkpoint()
        raise AssertionError("asked for nothing")

    doorkeeper = Doorkeeper(authenticate=authenticate)
    verdict = await doorkeeper.admit(head(("host", "evil.example")), facts())
    assert isinstance(verdict, Answered)
    verdict = await doorkeeper.admit(preflight("http://localhost:9000"), facts())
    assert isinstance(verdict, Answered)
    assert verdict.reply.status == 204


async def test_an_authenticator_may_leave_the_client_anonymous() -> None:
    async def authenticate(head: RequestHead, facts: ConnectionFacts) -> None:
        await trio.lowlevel.checkpoint()

    verdict = await Doorkeeper(authenticate=authenticate).admit(head(HOST), facts())
    assert verdict == Admitted(None, msgspec.structs.replace(facts(), client_address="127.0.0.1"))


def test_challenges_are_quoted() -> None:
    reply = unauthorized(realm='a"b\\', error="invalid_token")
    assert reply.headers["www-authenticate"] == ('Bearer realm="a\\"b\\\\", error="invalid_token"')
    assert "www-authenticate" not in forbidden().headers
    assert forbidden(error="insufficient_scope").status == 403
    assert unauthorized("Basic", realm="x").headers["www-authenticate"] == 'Basic realm="x"'
    assert isinstance(unauthorized(), Reply)


@pytest.mark.parametrize("tokens", [{}, {"a b": "x"}, {"": "x"}])
def test_tokens_that_nobody_could_send_are_refused(tokens: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError):
        BearerTokens(tokens)


def test_only_the_principals_are_kept_and_no_token() -> None:
    assert "s3cret" not in repr(vars(BearerTokens({"s3cret": "me"})))


# -- client certificates ----------------------------------------------------------------


def shown() -> ConnectionFacts:
    """A connection over TLS whose client showed a certificate."""
    certificate = CertificateFacts(
        subject="",
        issuer="CN=ca",
        serial="1",
        common_name=None,
        dns_names=(),
        ip_addresses=(),
        uris=("spiffe://a.example/b",),
        emails=(),
        not_before=0,
        not_after=1,
        spki_sha256="",
        sha256="",
    )
    return ConnectionFacts(
        local_address=LOOPBACK,
        peer_address=("127.0.0.1", 50000),
        scheme="https",
        tls=TlsFacts(version="TLSv1.3", cipher="x", peer_certificate=certificate),
    )


HERE = ("host", "localhost:9000")


async def test_a_certificate_says_who_it_is_unless_an_authenticator_does() -> None:
    async def nobody(_head: RequestHead, _facts: ConnectionFacts) -> None:
        await trio.lowlevel.checkpoint()

    async def somebody(_head: RequestHead, facts: ConnectionFacts) -> str:
        await trio.lowlevel.checkpoint()
        assert facts.tls is not None
        return "somebody"

    async def refuse(_head: RequestHead, _facts: ConnectionFacts) -> Reply:
        await trio.lowlevel.checkpoint()
        return unauthorized()

    found = []
    for authenticate in (None, nobody, somebody):
        verdict = await Doorkeeper(authenticate=authenticate).admit(head(HERE), shown())
        assert isinstance(verdict, Admitted)
        found.append(verdict.principal)
    certified = "cert:uri:spiffe://a.example/b"
    assert found == [certified, certified, "somebody"]
    assert isinstance(await Doorkeeper(authenticate=refuse).admit(head(HERE), shown()), Answered)
    # What the host or the origin forbids, no certificate allows.
    elsewhere = head(("host", "evil.example"))
    assert isinstance(await Doorkeeper().admit(elsewhere, shown()), Answered)


async def test_a_proxys_certificate_does_not_say_who_is_behind_it() -> None:
    certified = "cert:uri:spiffe://a.example/b"
    forwarded = head(HERE, ("x-forwarded-for", "192.0.2.9"))
    for proxies, sent, principal, client in (
        (("127.0.0.1",), forwarded, None, "192.0.2.9"),
        # It does not tell, and so may be anybody.
        (("127.0.0.1",), head(HERE), None, "127.0.0.1"),
        # This is no proxy, whatever it says.
        (("192.0.2.0/24",), forwarded, certified, "127.0.0.1"),
        ((), forwarded, certified, "127.0.0.1"),
    ):
        doorkeeper = Doorkeeper(AdmissionPolicy(trusted_proxies=proxies))
        verdict = await doorkeeper.admit(sent, shown())
        assert isinstance(verdict, Admitted)
        assert (verdict.principal, verdict.facts.client_address) == (principal, client)
        assert verdict.facts.tls is not None


async def test_tls_without_a_certificate_says_nobody() -> None:
    plain = msgspec.structs.replace(shown(), tls=TlsFacts(version="TLSv1.3", cipher="x"))
    verdict = await Doorkeeper().admit(head(HERE), plain)
    assert isinstance(verdict, Admitted)
    assert verdict.principal is None
