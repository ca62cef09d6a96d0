"""Sessions that are resumed: when they are, and that nothing is forgotten by it."""

from __future__ import annotations

import gc
from collections.abc import Callable

import pytest

pytest.importorskip("OpenSSL")

from msgspec.structs import replace
from OpenSSL import SSL
from tls_files import TlsFiles
from tls_pairs import Pair, shake_hands

from trio_mcp_transport import CertificateError, TlsHandshakeFailed, TlsSettings
from trio_mcp_transport.security import TlsClient, TlsServer
from trio_mcp_transport.security import tls_contexts as module

pytestmark = pytest.mark.tls


class Meetings:
    """One client and one server that meet again and again."""

    def __init__(
        self,
        client: TlsSettings,
        server: TlsSettings,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.client = TlsClient(client) if clock is None else TlsClient(client, clock=clock)
        self.server = TlsServer(server)

    def meet(self, host: str = "localhost", port: int = 1) -> Pair:
        pair = shake_hands(self.client.begin(host, port), self.server.begin())
        assert pair.client.error is None
        pair.exchange()
        pair.close()
        return pair

    def resumed(self, host: str = "localhost", port: int = 1) -> bool:
        found = self.meet(host, port).client_facts.resumed
        assert found is not None
        return found


def test_the_second_connection_resumes_and_knows_the_same_certificate(tls_files: TlsFiles) -> None:
    meetings = Meetings(tls_files.client_settings, tls_files.server_settings)
    first, second = meetings.meet(), meetings.meet()
    assert first.client_facts.resumed is False
    assert second.client_facts.resumed is True
    assert second.client_facts.peer_certificate == first.client_facts.peer_certificate
    assert second.client_facts.ocsp == "unchecked"
    assert first.client_facts.ocsp == "missing"
    assert meetings.resumed()  # by a ticket of the second


def test_tls_1_2_resumes_as_well(tls_files: TlsFiles) -> None:
    meetings = Meetings(
        replace(tls_files.client_settings, min_tls="1.2"),
        replace(tls_files.server_settings, min_tls="1.2"),
    )
    for resumed in (False, True, True):
        session = meetings.client.begin("localhost")
        session.machine.connection.set_options(SSL.OP_NO_TLSv1_3)
        pair = shake_hands(session, meetings.server.begin())
        pair.exchange()
        pair.close()
        assert pair.client_facts.version == "TLSv1.2"
        assert pair.client_facts.resumed is resumed


@pytest.mark.parametrize("side", ["client", "server"])
def test_either_side_can_switch_it_off(tls_files: TlsFiles, side: str) -> None:
    client, server = tls_files.client_settings, tls_files.server_settings
    if side == "client":
        client = replace(client, session_resumption=False)
    else:
        server = replace(server, session_resumption=False)
    meetings = Meetings(client, server)
    assert [meetings.resumed() for _ in range(3)] == [False] * 3


@pytest.mark.parametrize("client_auth", ["optional", "required"])
def test_a_server_looks_at_client_certificates_in_every_handshake(
    tls_files: TlsFiles, client_auth: str
) -> None:
    server = replace(tls_files.mutual_server_settings, client_auth=client_auth)
    meetings = Meetings(tls_files.mutual_client_settings, server)
    for _ in range(3):
        pair = meetings.meet()
        assert pair.client_facts.resumed is False
        assert pair.server_facts.principal is not None


def test_where_staples_are_required_nothing_is_resumed(tls_files: TlsFiles) -> None:
    settings = replace(
        tls_files.server_settings, ocsp_staple_file=str(tls_files.directory / "resumption.der")
    )
    (tls_files.directory / "resumption.der").write_bytes(
        tls_files.authority.ocsp_response(tls_files.server)
    )
    meetings = Meetings(replace(tls_files.client_settings, ocsp="require"), settings)
    for _ in range(3):
        facts = meetings.meet().client_facts
        assert (facts.resumed, facts.ocsp) == (False, "good")


def test_a_resumed_connection_to_what_must_staple_needs_no_staple_again(
    tls_files: TlsFiles,
) -> None:
    issued = tls_files.authority.issue_server("localhost", must_staple=True)
    path = tls_files.directory / "must-staple.der"
    path.write_bytes(tls_files.authority.ocsp_response(issued))
    server = TlsSettings(
        cert_pem=issued.certificate_pem, key_pem=issued.key_pem, ocsp_staple_file=str(path)
    )
    meetings = Meetings(tls_files.client_settings, server)
    assert meetings.meet().client_facts.ocsp == "good"
    assert meetings.resumed()


def test_where_the_ticket_is_worth_nothing_all_checks_are_made(tls_files: TlsFiles) -> None:
    issued = tls_files.authority.issue_server("localhost", must_staple=True)
    path = tls_files.directory / "other-staple.der"
    path.write_bytes(tls_files.authority.ocsp_response(issued))
    server = TlsSettings(cert_pem=issued.certificate_pem, key_pem=issued.key_pem)
    meetings = Meetings(tls_files.client_settings, replace(server, ocsp_staple_file=str(path)))
    meetings.meet()
    meetings.server = TlsServer(server)  # other ticket keys, and no staple
    pair = shake_hands(meetings.client.begin("localhost", 1), meetings.server.begin())
    assert isinstance(pair.client.error, CertificateError)
    assert pair.client.error.check == "ocsp"


def test_sessions_are_kept_by_host_and_port(tls_files: TlsFiles) -> None:
    meetings = Meetings(tls_files.client_settings, tls_files.server_settings)
    assert not meetings.resumed("localhost", 1)
    assert not meetings.resumed("localhost", 2)
    assert not meetings.resumed("127.0.0.1", 1)
    assert meetings.resumed("localhost", 1)
    assert meetings.resumed("127.0.0.1", 1)


def test_a_session_is_offered_once(tls_files: TlsFiles) -> None:
    meetings = Meetings(tls_files.client_settings, tls_files.server_settings)
    meetings.meet()
    first = meetings.client.begin("localhost", 1)
    second = meetings.client.begin("localhost", 1)
    assert shake_hands(first, meetings.server.begin()).client_facts.resumed
    assert not shake_hands(second, meetings.server.begin()).client_facts.resumed


def test_a_connection_without_data_leaves_nothing_to_resume(tls_files: TlsFiles) -> None:
    meetings = Meetings(tls_files.client_settings, tls_files.server_settings)
    shake_hands(meetings.client.begin("localhost", 1), meetings.server.begin()).close()
    assert not meetings.resumed()


def test_a_connection_that_broke_off_is_not_resumed(tls_files: TlsFiles) -> None:
    meetings = Meetings(tls_files.client_settings, tls_files.server_settings)
    shake_hands(meetings.client.begin("localhost", 1), meetings.server.begin()).exchange()
    gc.collect()
    assert not meetings.resumed()


def test_only_so_many_sessions_are_kept(
    tls_files: TlsFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_TLS_SESSIONS", 2)
    meetings = Meetings(tls_files.client_settings, tls_files.server_settings)
    for port in (1, 2, 3):
        meetings.meet(port=port)
    assert meetings.resumed(port=3)
    assert meetings.resumed(port=2)
    assert not meetings.resumed(port=1)


def test_the_sessions_that_were_used_least_lately_go_first(
    tls_files: TlsFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_TLS_SESSIONS", 2)
    meetings = Meetings(tls_files.client_settings, tls_files.server_settings)
    pairs = [
        shake_hands(meetings.client.begin("localhost", 1), meetings.server.begin())
        for _ in range(2)
    ]
    for pair in pairs:
        pair.exchange()
        pair.close()
    for port in (2, 1, 3):
        meetings.meet(port=port)
    assert meetings.resumed(port=1)
    assert not meetings.resumed(port=2)


def test_a_connection_leaves_one_session_however_often_it_is_asked(tls_files: TlsFiles) -> None:
    meetings = Meetings(tls_files.client_settings, tls_files.server_settings)
    pair = meetings.meet()
    pair.client.session.remember()
    sessions = [meetings.client.begin("localhost", 1) for _ in range(2)]
    facts = [shake_hands(each, meetings.server.begin()).client_facts for each in sessions]
    assert [each.resumed for each in facts] == [True, False]


def test_several_connections_at_a_time_leave_several_sessions(tls_files: TlsFiles) -> None:
    meetings = Meetings(tls_files.client_settings, tls_files.server_settings)
    pairs = [
        shake_hands(meetings.client.begin("localhost", 1), meetings.server.begin())
        for _ in range(6)
    ]
    for pair in pairs:
        pair.exchange()
        pair.close()
    sessions = [meetings.client.begin("localhost", 1) for _ in range(6)]
    facts = [shake_hands(each, meetings.server.begin()).client_facts for each in sessions]
    assert [each.resumed for each in facts] == [True] * 4 + [False] * 2


def test_another_client_with_other_demands_resumes_nothing(tls_files: TlsFiles) -> None:
    lax = Meetings(
        replace(tls_files.client_settings, verify_hostname=False), tls_files.server_settings
    )
    lax.meet("other.example")
    strict = TlsClient(tls_files.client_settings)
    pair = shake_hands(strict.begin("other.example", 1), lax.server.begin())
    assert isinstance(pair.client.error, CertificateError)


def test_a_reload_ends_what_could_be_resumed(tls_files: TlsFiles) -> None:
    meetings = Meetings(tls_files.client_settings, tls_files.server_settings)
    meetings.meet()
    meetings.client.reload()
    assert not meetings.resumed()
    pair = shake_hands(meetings.client.begin("localhost", 1), meetings.server.begin())
    meetings.client.reload()
    pair.exchange()
    pair.close()  # its session is of a context that is no more
    assert not meetings.resumed()


def test_what_has_expired_since_is_not_resumed(tls_files: TlsFiles) -> None:
    now = [tls_files.server.certificate.not_valid_before_utc.timestamp() + 60]
    meetings = Meetings(tls_files.client_settings, tls_files.server_settings, clock=lambda: now[0])
    meetings.meet()
    now[0] = tls_files.server.certificate.not_valid_after_utc.timestamp() + 60
    pair = shake_hands(meetings.client.begin("localhost", 1), meetings.server.begin())
    error = pair.client.error
    assert isinstance(error, CertificateError)
    assert (error.check, error.name) == ("expired", "localhost")
    assert "since the session that was resumed began" in str(error)


def test_a_server_that_resumes_what_was_not_offered_is_refused(tls_files: TlsFiles) -> None:
    meetings = Meetings(tls_files.client_settings, tls_files.server_settings)
    kept = meetings.meet().client.session.machine.connection.get_session()
    assert kept is not None
    meetings.client._sessions.clear()
    session = meetings.client.begin("localhost", 1)
    session.machine.connection.set_session(kept)  # behind the session's back
    error = shake_hands(session, meetings.server.begin()).client.error
    assert isinstance(error, TlsHandshakeFailed)
    assert "a session that it was not offered" in str(error)


def test_a_session_can_be_resumed_for_an_hour(tls_files: TlsFiles) -> None:
    # For so long nobody looks at a certificate; OpenSSL's own limit is another.
    client, server = TlsClient(tls_files.client_settings), TlsServer(tls_files.server_settings)
    assert client._state.context.get_timeout() == 3600
    assert server._state.context.get_timeout() == 3600
