"""The options of TLS: each is checked where it is written, and no secret is shown."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable

import msgspec
import pytest

from trio_mcp_transport import (
    CertificateError,
    CertificateFacts,
    ConfigurationError,
    ConnectFailed,
    TlsError,
    TlsFacts,
    TlsHandshakeFailed,
    TlsSettings,
)

pytestmark = pytest.mark.tls

PIN = "sha256/" + "A" * 43 + "="
SERVER = {"cert_file": "server.pem", "key_file": "server.key"}


def make(**options: object) -> TlsSettings:
    return TlsSettings(**options)  # type: ignore[arg-type]  # whatever a caller may write


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"min_tls": "1.1"}, r"^min_tls must be one of 1\.[23], 1\.[23], not '1\.1'"),
        ({"client_auth": "maybe"}, "^client_auth must be one of "),
        ({"ocsp": True}, "^ocsp must be one of "),
        ({"ct": "enforce"}, "^ct must be one of "),
        ({"pin_mode": "log"}, "^pin_mode must be one of "),
        ({"pin_scope": "root"}, "^pin_scope must be one of "),
        ({"verify_hostname": "no"}, "^verify_hostname: "),
        ({"tls_handshake_timeout": 0}, "^tls_handshake_timeout: "),
        ({"tls_handshake_timeout": math.nan}, "^tls_handshake_timeout"),
        ({"reload_interval": -1}, "^reload_interval: "),
        ({"ocsp_skew": -1}, "^ocsp_skew: "),
        ({"ocsp_skew": math.inf}, "^ocsp_skew must have an end"),
        ({"ct_min_logs": 0}, "^ct_min_logs: "),
        ({"cert_file": ""}, "^cert_file must be a path"),
        ({"ca_file": "a\0b"}, "^ca_file must be a path"),
        ({"keylog_file": ""}, "^keylog_file must be a path"),
        ({"cert_file": "a", "cert_pem": "b"}, "^cert_file and cert_pem exclude"),
        ({"cert_file": "a", "key_file": "a", "key_pem": "b"}, "^key_file and key_pem exclude"),
        ({**SERVER, "sni_certificates": (":key",)}, "^sni_certificates: each is written "),
        ({**SERVER, "sni_certificates": ("cert:",)}, "^sni_certificates: each is written "),
        ({"server_name": ""}, "^server_name must be"),
        ({"server_name": "a b"}, "^server_name must be"),
        ({"server_name": "*.example"}, "^server_name must be"),
        ({"alpn": ("",)}, "^alpn: "),
        ({"alpn": ("x" * 256,)}, "^alpn: "),
        ({"alpn": tuple(f"{n:0255}" for n in range(257))}, "^alpn: too many"),
        ({"pins": ("sha256/short",)}, "^pins: .*short.* is no pin"),
        ({"pin_mode": "report"}, "^pin_mode has no effect without pins"),
        ({"pin_scope": "chain"}, "^pin_scope has no effect without pins"),
        ({"ct_min_logs": 3}, "^ct_min_logs has no effect without ct="),
        ({"ct_min_operators": 1}, "^ct_min_operators has no effect without ct="),
        ({"ocsp": "off", "ocsp_skew": 1.0}, "^ocsp_skew has no effect with ocsp=off"),
        ({"ct": "require"}, "^ct=require needs ct_log_file"),
        ({"ct_log_file": "logs.json"}, "^ct_log_file has no effect"),
        (
            {"ct": "report", "ct_log_file": "logs.json", "ct_min_operators": 3},
            "^ct_min_operators=3 cannot be more than ct_min_logs=2",
        ),
    ],
)
def test_what_cannot_be_is_refused_by_name(options: dict[str, object], complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        make(**options)


def test_tls_1_3_with_verification_is_the_default() -> None:
    settings = TlsSettings()
    assert settings.min_tls == "1.3"
    assert settings.verify_hostname
    assert settings.ocsp == "if-present"
    settings.check_side("client")


@pytest.mark.parametrize(
    "options",
    [
        {"server_name": "a.example"},
        {"verify_hostname": False},
        {"ocsp": "require"},
        {"ocsp_skew": 1.0},
        {"ct": "report", "ct_log_file": "logs.json"},
    ],
)
def test_a_server_refuses_what_only_a_client_can_use(options: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError, match=f"^{next(iter(options))} is for connecting"):
        make(**SERVER, **options).check_side("server")


@pytest.mark.parametrize(
    "options",
    [
        {"client_auth": "required"},
        {"sni_certificates": ("a.pem",)},
        {"ocsp_staple_file": "staple.der"},
    ],
)
def test_a_client_refuses_what_only_a_server_can_use(options: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError, match=f"^{next(iter(options))} is for listening"):
        make(**SERVER, **options).check_side("client")


@pytest.mark.parametrize("options", [{}, {"pins": (PIN,), "pin_mode": "report"}])
def test_a_client_that_accepts_any_name_must_say_whom_it_trusts(
    options: dict[str, object],
) -> None:
    with pytest.raises(ConfigurationError, match=r"^verify_hostname=false needs ca_file"):
        make(**options, verify_hostname=False).check_side("client")


@pytest.mark.parametrize(
    "options", [{"ca_file": "x"}, {"ca_path": "x"}, {"ca_pem": "x"}, {"pins": (PIN,)}]
)
def test_a_client_that_says_whom_it_trusts_may_accept_any_name(
    options: dict[str, object],
) -> None:
    make(**options, verify_hostname=False).check_side("client")


@pytest.mark.parametrize("name", ["key_file", "key_pem", "key_password"])
def test_a_client_refuses_a_key_without_its_certificate(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^{name} needs cert_file or cert_pem"):
        make(**{name: "x"}).check_side("client")
    make(**{name: "x"}, cert_pem="y").check_side("client")


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({}, "^cert_file is missing"),
        ({"key_file": "x", "sni_certificates": ("a",)}, "^cert_file is missing"),
        ({**SERVER, "client_auth": "required"}, "^client_auth=required needs ca_file"),
        ({**SERVER, "client_auth": "optional"}, "^client_auth=optional needs ca_file"),
        ({**SERVER, "ca_file": "ca.pem"}, "^ca_file is for client certificates"),
        ({**SERVER, "ca_pem": "..."}, "^ca_pem is for client certificates"),
        ({**SERVER, "pins": (PIN,)}, "^pins are for client certificates"),
        (
            {**SERVER, "pins": (PIN,), "client_auth": "optional", "ca_file": "ca.pem"},
            "^pins are for client certificates",
        ),
    ],
)
def test_a_server_refuses_what_would_let_in_whom_it_should_not(
    options: dict[str, object], complaint: str
) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        make(**options).check_side("server")


@pytest.mark.parametrize("trust", ["ca_file", "ca_path", "ca_pem"])
def test_each_way_to_name_the_authority_will_do_for_client_certificates(trust: str) -> None:
    make(**SERVER, client_auth="required", pins=(PIN,), **{trust: "x"}).check_side("server")


def test_what_is_secret_or_long_is_never_shown() -> None:
    settings = TlsSettings(
        cert_pem="CERTIFICATE", key_pem="PRIVATE-KEY", key_password="hunter2", ca_pem="AUTHORITY"
    )
    for shown in (repr(settings), str(settings), str(settings.__rich_repr__())):
        assert "key_pem" in shown
        assert not {"CERTIFICATE", "PRIVATE-KEY", "hunter2", "AUTHORITY"} & set(
            shown.replace("'", " ").split()
        )
        assert "hunter2" not in shown


def test_the_text_shows_what_was_set_and_nothing_else() -> None:
    assert repr(TlsSettings(min_tls="1.2", alpn=("mcp",))) == (
        "TlsSettings(min_tls='1.2', alpn=('mcp',))"
    )


def test_a_list_becomes_a_tuple_of_its_own() -> None:
    given = ["a", "b"]
    settings = make(alpn=given)
    given.clear()
    assert settings.alpn == ("a", "b")


# -- Facts ---------------------------------------------------------------------------


def facts(**changes: object) -> CertificateFacts:
    plain = CertificateFacts(
        subject="CN=x",
        issuer="CN=y",
        serial="1",
        common_name=None,
        dns_names=(),
        ip_addresses=(),
        uris=(),
        emails=(),
        not_before=0.0,
        not_after=100.0,
        spki_sha256="",
        sha256="",
    )
    return msgspec.structs.replace(plain, **changes)


@pytest.mark.parametrize(
    ("changes", "principal"),
    [
        ({}, None),
        ({"common_name": "Some Client"}, "cert:cn:Some Client"),
        ({"common_name": "a\nb%0Aü"}, "cert:cn:a%0Ab%250A%C3%BC"),
        ({"common_name": "a.example", "ip_addresses": ("192.0.2.1",)}, "cert:ip:192.0.2.1"),
        ({"emails": ("a@example.com",), "ip_addresses": ("::1",)}, "cert:email:a@example.com"),
        ({"dns_names": ("c.example",), "emails": ("a@example.com",)}, "cert:dns:c.example"),
        ({"uris": ("https://a/b",), "dns_names": ("c.example",)}, "cert:uri:https://a/b"),
        ({"uris": ("https://a/b", "spiffe://a/b")}, "cert:uri:spiffe://a/b"),
        ({"dns_names": ("ADMIN.Example.",)}, "cert:dns:admin.example"),
        ({"uris": ("",), "dns_names": ("", "."), "common_name": "x"}, "cert:cn:x"),
        ({"uris": ("", "urn:a"), "emails": ("",)}, "cert:uri:urn:a"),
        ({"common_name": ""}, None),
    ],
)
def test_the_principal_is_the_most_specific_name(
    changes: dict[str, object], principal: str | None
) -> None:
    certificate = facts(**changes)
    assert certificate.principal == principal
    assert TlsFacts(version="", cipher="", peer_certificate=certificate).principal == principal


def test_without_a_certificate_there_is_no_principal() -> None:
    assert TlsFacts(version="TLSv1.3", cipher="x").principal is None


def test_a_name_of_one_kind_is_never_taken_for_one_of_another_kind() -> None:
    assert facts(common_name="admin").principal != facts(dns_names=("admin",)).principal


def test_the_time_that_is_left_may_be_negative() -> None:
    assert facts().expires_in(90.0) == pytest.approx(10.0)
    assert facts().expires_in(130.0) == pytest.approx(-30.0)


def test_all_names_are_listed() -> None:
    certificate = facts(dns_names=("a",), ip_addresses=("b",), uris=("c",), emails=("d",))
    assert certificate.names == ("a", "b", "c", "d")


# -- Errors --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        TlsHandshakeFailed("no", alert="unknown_ca"),
        CertificateError("no", check="expired", name="a.example", depth=1),
        TlsError("no"),
    ],
)
@pytest.mark.parametrize("again", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))])
def test_errors_can_be_copied_with_all_that_they_know(
    error: TlsError, again: Callable[[TlsError], TlsError]
) -> None:
    second = again(error)
    assert type(second) is type(error)
    assert str(second) == "no"
    assert vars(second) == vars(error)
    assert isinstance(second, ConnectFailed)
