"""Pins, staples and logs in real handshakes: who is refused, and that both sides are told."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import pytest

pytest.importorskip("OpenSSL")

import ocsp_wire
from ct_logs import Log, certificate_entry, log_list, signed_by, timestamp_list
from tls_files import TlsFiles
from tls_pairs import Pair, shake_hands

from trio_mcp_transport import (
    CertificateError,
    ChannelEvent,
    ConfigurationError,
    TlsError,
    TlsSettings,
    parse_endpoint,
)
from trio_mcp_transport.security.spki import spki_sha256
from trio_mcp_transport.security.staples import FunctionStapleSource
from trio_mcp_transport.security.tls_contexts import TlsClient, TlsServer
from trio_mcp_transport.testing import CertificateAuthority, IssuedCertificate
from trio_mcp_transport.tls_pins import format_pin

pytestmark = [pytest.mark.security, pytest.mark.tls]

NAME = "server.example"
DAY = 86_400.0
NOW = time.time()


class Meeting:
    """A client that trusts the authority and a server with one of its certificates."""

    def __init__(self, authority: CertificateAuthority, identity: IssuedCertificate) -> None:
        self.authority = authority
        self.identity = identity
        self.events: list[ChannelEvent] = []

    def client(self, **options: object) -> TlsClient:
        settings = TlsSettings(ca_pem=self.authority.certificate_pem)
        settings = msgspec.structs.replace(settings, **options)
        return TlsClient(settings, on_event=self.events.append)

    def server(self, staple: Callable[[], bytes] | None = None, **options: object) -> TlsServer:
        identity = self.identity
        settings = TlsSettings(cert_pem=identity.certificate_pem, key_pem=identity.key_pem)
        settings = msgspec.structs.replace(settings, **options)
        source = (
            None if staple is None else FunctionStapleSource(staple, on_event=self.events.append)
        )
        return TlsServer(settings, staple=source, on_event=self.events.append)

    def refusal(self, client: TlsClient, server: TlsServer, check: str) -> str:
        """Why the client refuses the server's certificate; the server must be told, too."""
        pair = shake(client, server)
        error = pair.client.error
        assert isinstance(error, CertificateError), error
        assert (error.check, error.name) == (check, NAME)
        assert isinstance(pair.server.error, TlsError), pair.server.error
        assert pair.server.facts is None
        if check in {"ocsp", "revoked"}:
            assert isinstance(pair.server.error, CertificateError)
            assert pair.server.error.check == "refused-by-peer"
        prefix = f"the certificate of {NAME} was refused ({check}): "
        assert str(error).startswith(prefix)
        assert self.events == []
        return str(error).removeprefix(prefix)

    def event(self) -> ChannelEvent:
        (event,) = self.events
        self.events.clear()
        return event


def shake(client: TlsClient, server: TlsServer) -> Pair:
    return shake_hands(client.begin(NAME), server.begin())


@pytest.fixture
def meeting(tls_files: TlsFiles) -> Meeting:
    return Meeting(tls_files.authority, tls_files.server)


def pin_of(identity: IssuedCertificate | CertificateAuthority) -> str:
    return format_pin(spki_sha256(identity.certificate))


OTHER_PIN = format_pin(bytes(32))


# -- pins ----------------------------------------------------------------------------


def test_a_pinned_server_is_accepted(meeting: Meeting) -> None:
    client = meeting.client(pins=(OTHER_PIN, pin_of(meeting.identity)))
    assert shake(client, meeting.server()).client_facts.pins == "matched"


def test_a_server_with_another_key_is_refused(meeting: Meeting) -> None:
    reason = meeting.refusal(meeting.client(pins=(OTHER_PIN,)), meeting.server(), "pin")
    assert reason == f"its public key {pin_of(meeting.identity)} does not match the pin"


def test_pins_that_only_report_let_another_key_pass(meeting: Meeting) -> None:
    client = meeting.client(pins=(OTHER_PIN,), pin_mode="report")
    pair = shake(client, meeting.server())
    assert pair.client_facts.pins == "mismatched"
    event = meeting.event()
    assert event.name == "pin.mismatched"
    assert pin_of(meeting.identity) in event.message
    assert NAME in event.message
    pair.exchange()


def test_the_key_of_the_authority_may_be_pinned(meeting: Meeting) -> None:
    pins = (pin_of(meeting.authority),)
    client = meeting.client(pins=pins, pin_scope="chain")
    assert shake(client, meeting.server()).client_facts.pins == "matched"
    reason = meeting.refusal(meeting.client(pins=pins), meeting.server(), "pin")
    assert "counts with the scope 'chain'" in reason


def test_what_the_server_shows_besides_its_chain_matches_no_pin(meeting: Meeting) -> None:
    """The pinned certificate is sent along, but nothing in the verified chain has its key."""
    pinned = CertificateAuthority.create("Pinned")
    identity = meeting.identity
    meeting.identity = IssuedCertificate(identity.certificate, identity.key, (pinned.certificate,))
    client = meeting.client(pins=(pin_of(pinned),), pin_scope="chain")
    reason = meeting.refusal(client, meeting.server(), "pin")
    assert reason.startswith("no public key of its chain matches the pin")


@pytest.mark.parametrize("pin_scope", ["leaf", "chain"])
def test_a_resumed_connection_is_to_the_pinned_server_still(
    meeting: Meeting, pin_scope: str
) -> None:
    pinned = meeting.identity if pin_scope == "leaf" else meeting.authority
    client = meeting.client(pins=(pin_of(pinned),), pin_scope=pin_scope)
    server = meeting.server()
    first = shake(client, server)
    first.exchange()
    second = shake(client, server)
    assert second.client_facts.resumed
    assert second.client_facts.pins == "matched"


def test_a_server_pins_the_keys_of_its_clients(tls_files: TlsFiles, meeting: Meeting) -> None:
    client = meeting.client(
        cert_pem=tls_files.client.certificate_pem, key_pem=tls_files.client.key_pem
    )

    def server(pin: str) -> TlsServer:
        return meeting.server(
            pins=(pin,), client_auth="required", ca_pem=tls_files.authority.certificate_pem
        )

    pair = shake(client, server(pin_of(tls_files.client)))
    assert pair.server_facts.pins == "matched"
    pair = shake(client, server(OTHER_PIN))
    error = pair.server.error
    assert isinstance(error, CertificateError)
    assert (error.check, error.name) == ("pin", "CN=Some Client")
    assert pair.client.error is not None


# -- staples -------------------------------------------------------------------------


def good(meeting: Meeting) -> Callable[[], bytes]:
    return lambda: meeting.authority.ocsp_response(meeting.identity)


def test_a_good_staple_is_accepted(meeting: Meeting) -> None:
    for mode in ("if-present", "require"):
        pair = shake(meeting.client(ocsp=mode), meeting.server(good(meeting)))
        assert pair.client_facts.ocsp == "good"


def test_a_staple_is_verified_without_being_asked_for(meeting: Meeting) -> None:
    """That is the default; a server that staples nothing will do as well."""
    assert shake(meeting.client(), meeting.server(good(meeting))).client_facts.ocsp == "good"
    assert shake(meeting.client(), meeting.server()).client_facts.ocsp == "missing"
    assert shake(meeting.client(ocsp="off"), meeting.server()).client_facts.ocsp == "unchecked"


@pytest.mark.parametrize("mode", ["if-present", "require"])
def test_a_revoked_certificate_is_refused(meeting: Meeting, mode: str) -> None:
    def revoked() -> bytes:
        return meeting.authority.ocsp_response(meeting.identity, "revoked")

    server = meeting.server(revoked)
    assert shake(meeting.client(ocsp="off"), server).client_facts.ocsp == "unchecked"
    assert isinstance(shake(meeting.client(), server).client.error, CertificateError)
    assert meeting.event().name == "staple.revoked"
    reason = meeting.refusal(meeting.client(ocsp=mode), server, "revoked")
    assert reason.startswith("its OCSP staple says revoked on 20")


def test_a_missing_staple_is_refused_where_it_is_required(meeting: Meeting) -> None:
    reason = meeting.refusal(meeting.client(ocsp="require"), meeting.server(), "ocsp")
    assert reason == "the server stapled no OCSP response"


def test_a_server_that_leaves_out_what_its_certificate_promises_is_refused(
    meeting: Meeting,
) -> None:
    meeting.identity = meeting.authority.issue_server(NAME, must_staple=True)
    reason = meeting.refusal(meeting.client(), meeting.server(), "ocsp")
    assert "its certificate promises one (must-staple)" in reason
    assert shake(meeting.client(), meeting.server(good(meeting))).client_facts.ocsp == "good"
    assert shake(meeting.client(ocsp="off"), meeting.server()).client_facts.ocsp == "unchecked"


def test_a_resumed_connection_needs_no_new_staple_unless_one_is_required(
    meeting: Meeting,
) -> None:
    """Servers staple nothing when they resume, must-staple or not."""
    meeting.identity = meeting.authority.issue_server(NAME, must_staple=True)
    server = meeting.server(good(meeting))
    for mode, resumed, ocsp in (("if-present", True, "unchecked"), ("require", False, "good")):
        client = meeting.client(ocsp=mode)
        first = shake(client, server)
        first.exchange()
        again = shake(client, server).client_facts
        assert (again.resumed, again.ocsp) == (resumed, ocsp)


class Expired(FunctionStapleSource):
    """A server that staples what it should not any more."""

    def __init__(self, staple: bytes) -> None:
        super().__init__(lambda: staple)
        self._old = staple

    def staple_for(self, leaf: object, now: float) -> bytes:
        return self._old


@pytest.mark.parametrize("mode", ["if-present", "require"])
def test_a_stale_staple_is_refused(meeting: Meeting, mode: str) -> None:
    stale = meeting.authority.ocsp_response(
        meeting.identity, this_update=NOW - 8 * DAY, next_update=NOW - DAY
    )
    settings = meeting.server().settings
    server = TlsServer(settings, staple=Expired(stale))
    reason = meeting.refusal(meeting.client(ocsp=mode), server, "ocsp")
    assert reason.startswith("its OCSP staple expired on 20")
    assert shake(meeting.client(ocsp=mode, ocsp_skew=2 * DAY), server).client_facts.ocsp == "good"


def test_no_limit_for_how_old_a_staple_may_be_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="ocsp_skew must have an end"):
        parse_endpoint("tls://a.example:1?ocsp_skew=0")


def test_our_own_server_does_not_staple_what_has_expired(meeting: Meeting) -> None:
    stale = meeting.authority.ocsp_response(
        meeting.identity, this_update=NOW - 8 * DAY, next_update=NOW - DAY
    )
    server = meeting.server(lambda: stale)
    assert shake(meeting.client(), server).client_facts.ocsp == "missing"
    assert meeting.event().name == "staple.failed"


def test_a_staple_of_somebody_else_is_refused(meeting: Meeting) -> None:
    stranger = CertificateAuthority.create()
    forged = stranger.ocsp_response(meeting.identity)
    server = TlsServer(meeting.server().settings, staple=Expired(forged))
    reason = meeting.refusal(meeting.client(), server, "ocsp")
    assert reason.startswith("its OCSP staple is not signed by its issuer")


def test_a_staple_file_is_stapled_and_renewed(meeting: Meeting, tmp_path: Path) -> None:
    path = tmp_path / "staple.der"
    server = meeting.server(ocsp_staple_file=str(path), reload_interval=1e-9)
    client = meeting.client(ocsp="require", session_resumption=False)
    assert isinstance(shake(client, server).client.error, CertificateError)
    assert meeting.event().name == "staple.failed"
    path.write_bytes(meeting.authority.ocsp_response(meeting.identity))
    assert shake(client, server).client_facts.ocsp == "good"
    path.write_bytes(meeting.authority.ocsp_response(meeting.identity, "revoked"))
    os.utime(path, (1, 1))
    assert isinstance(shake(client, server).client.error, CertificateError)
    assert meeting.event().name == "staple.revoked"


def test_reloading_a_server_reloads_its_staple(meeting: Meeting, tmp_path: Path) -> None:
    path = tmp_path / "staple.der"
    path.write_bytes(meeting.authority.ocsp_response(meeting.identity))
    server = meeting.server(ocsp_staple_file=str(path))
    assert shake(meeting.client(), server).client_facts.ocsp == "good"
    path.write_bytes(meeting.authority.ocsp_response(meeting.identity, "revoked"))
    assert shake(meeting.client(), server).client_facts.ocsp == "good"
    server.reload()
    assert isinstance(shake(meeting.client(), server).client.error, CertificateError)
    assert meeting.event().name == "staple.revoked"


def test_a_staple_goes_with_its_certificate_alone(meeting: Meeting, tmp_path: Path) -> None:
    """The client chose another certificate of the server by its name."""
    cert, key = tmp_path / "other.pem", tmp_path / "other.key"
    meeting.authority.issue_server("other.example").write(cert, key)
    server = meeting.server(good(meeting), sni_certificates=(f"{cert}:{key}",))
    client = meeting.client()
    assert shake(client, server).client_facts.ocsp == "good"
    facts = shake_hands(client.begin("other.example"), server.begin()).client_facts
    assert facts.ocsp == "missing"


def test_a_staple_source_that_fails_staples_nothing(meeting: Meeting) -> None:
    def fetch() -> bytes:
        raise OSError("no route to the responder")

    assert shake(meeting.client(), meeting.server(fetch)).client_facts.ocsp == "missing"
    assert "no route to the responder" in meeting.event().message


def test_an_intermediate_signs_the_staple(tls_files: TlsFiles) -> None:
    authority = tls_files.authority.intermediate()
    meeting = Meeting(authority, authority.issue_server(NAME))
    client = TlsClient(TlsSettings(ca_file=tls_files.ca_file, ocsp="require"))
    assert shake(client, meeting.server(good(meeting))).client_facts.ocsp == "good"
    wrong = tls_files.authority.ocsp_response(meeting.identity)
    server = TlsServer(meeting.server().settings, staple=Expired(wrong))
    meeting.refusal(client, server, "ocsp")


# -- logs ----------------------------------------------------------------------------

A, B, C = Log("a", "Operator A"), Log("b", "Operator B"), Log("c", "Operator C")


def known_to(meeting: Meeting, *logs: Log) -> None:
    scts = signed_by(*logs, moment=NOW - DAY)
    meeting.identity = meeting.authority.issue_server(NAME, sct_list=scts)


@pytest.fixture
def ct_log_file(tmp_path: Path) -> str:
    path = tmp_path / "log_list.json"
    path.write_bytes(log_list(A, B, C))
    return str(path)


def test_a_certificate_in_enough_logs_is_accepted(meeting: Meeting, ct_log_file: str) -> None:
    known_to(meeting, A, B)
    for ocsp in ("off", "if-present"):
        client = meeting.client(ct="require", ct_log_file=ct_log_file, ocsp=ocsp)
        facts = shake(client, meeting.server()).client_facts
        assert (facts.transparency, facts.sct_count) == ("satisfied", 2)


@pytest.mark.parametrize("ocsp", ["off", "if-present"])
def test_a_certificate_in_too_few_logs_is_refused(
    meeting: Meeting, ct_log_file: str, ocsp: str
) -> None:
    known_to(meeting, A, Log("unknown", "Operator B"))
    client = meeting.client(ct="require", ct_log_file=ct_log_file, ocsp=ocsp)
    reason = meeting.refusal(client, meeting.server(), "transparency")
    assert reason == (
        "1 logs of 1 operators vouch for it, and 2 of 2 are asked for"
        " (one is of a log that is not on the list)"
    )
    client = meeting.client(
        ct="require", ct_log_file=ct_log_file, ct_min_logs=1, ct_min_operators=1
    )
    assert shake(client, meeting.server()).client_facts.sct_count == 1


def test_too_few_logs_may_be_only_reported(meeting: Meeting, ct_log_file: str) -> None:
    client = meeting.client(ct="report", ct_log_file=ct_log_file)
    facts = shake(client, meeting.server()).client_facts
    assert (facts.transparency, facts.sct_count) == ("insufficient", 0)
    event = meeting.event()
    assert event.name == "transparency.failed"
    assert f"{NAME}: 0 logs of 0 operators" in event.message


def test_what_the_staple_brings_counts(meeting: Meeting, ct_log_file: str) -> None:
    def stapled(logs: Sequence[Log]) -> Callable[[], bytes]:
        leaf, issuer = meeting.identity.certificate, meeting.authority.certificate
        scts = timestamp_list([log.sign(certificate_entry(leaf), NOW - DAY) for log in logs])
        answer = ocsp_wire.Answer(leaf, issuer, NOW - DAY, NOW + DAY)
        answer.extensions = [ocsp_wire.extension(ocsp_wire.SCT_LIST, ocsp_wire.der(4, scts))]
        return lambda: ocsp_wire.response(answer, responder=issuer, key=meeting.authority.key)

    known_to(meeting, A)
    client = meeting.client(ct="require", ct_log_file=ct_log_file)
    facts = shake(client, meeting.server(stapled([B]))).client_facts
    assert (facts.ocsp, facts.transparency, facts.sct_count) == ("good", "satisfied", 2)
    meeting.refusal(client, meeting.server(stapled([A])), "transparency")
    meeting.refusal(client, meeting.server(), "transparency")


def test_a_resumed_connection_keeps_what_was_found(meeting: Meeting, ct_log_file: str) -> None:
    known_to(meeting, A, B)
    client, server = meeting.client(ct="require", ct_log_file=ct_log_file), meeting.server()
    first = shake(client, server)
    first.exchange()
    facts = shake(client, server).client_facts
    assert facts.resumed
    assert (facts.transparency, facts.sct_count) == ("satisfied", 2)


def test_a_log_list_that_is_none_is_refused_before_anybody_connects(
    meeting: Meeting, tmp_path: Path
) -> None:
    path = tmp_path / "log_list.json"
    path.write_text('{"operators": 1}')
    with pytest.raises(ConfigurationError) as caught:
        meeting.client(ct="require", ct_log_file=str(path))
    assert str(path) in str(caught.value)
    assert "this is no log list of version 3" in str(caught.value)


def test_tls_1_2_has_all_of_it(meeting: Meeting, ct_log_file: str) -> None:
    known_to(meeting, A, B)
    server = meeting.server(good(meeting), min_tls="1.2")
    everything = {
        "min_tls": "1.2",
        "pins": (pin_of(meeting.identity),),
        "ocsp": "require",
        "ct": "require",
        "ct_log_file": ct_log_file,
    }
    client = meeting.client(**everything)
    assert shake(client, server).client_facts.pins == "matched"
