"""Certificates that are renewed while the program runs, and ends that come near."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

pytest.importorskip("OpenSSL")

from msgspec.structs import replace
from odd_certificates import KINDS, odd_certificate
from tls_files import TlsFiles
from tls_pairs import Pair, shake_hands

from trio_mcp_transport import CertificateError, ChannelEvent, ConfigurationError, TlsSettings
from trio_mcp_transport.security import TlsClient, TlsServer
from trio_mcp_transport.security.tls_rotation import FileWatch
from trio_mcp_transport.testing import CertificateAuthority, IssuedCertificate

pytestmark = pytest.mark.tls

DAY = 86_400.0


class Clock:
    """Seconds since 1970 that pass when a test says so."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Renewed:
    """A server whose certificate files are written anew."""

    def __init__(self, files: TlsFiles, directory: Path, **options: object) -> None:
        self.files = files
        self.events: list[ChannelEvent] = []
        self.cert, self.key = directory / "server.pem", directory / "server.key"
        self.issued = files.authority.issue_server("localhost")
        self.issued.write(self.cert, self.key)
        start = self.issued.certificate.not_valid_before_utc.timestamp()
        self.clock = Clock(start + 60)
        settings = TlsSettings(cert_file=str(self.cert), key_file=str(self.key))
        self.server = TlsServer(
            replace(settings, **options), on_event=self.events.append, clock=self.clock
        )
        self.client = TlsClient(files.client_settings)

    def connect(self) -> Pair:
        return shake_hands(self.client.begin("localhost"), self.server.begin())

    def shown(self) -> str:
        certificate = self.connect().client_facts.peer_certificate
        assert certificate is not None
        return certificate.serial

    def renew(self) -> str:
        issued = self.files.authority.issue_server("localhost")
        issued.write(self.cert, self.key)
        return serial(issued)


def serial(issued: IssuedCertificate) -> str:
    return f"{issued.certificate.serial_number:x}"


def test_a_renewed_certificate_is_shown_after_the_interval(
    tls_files: TlsFiles, tmp_path: Path
) -> None:
    renewed = Renewed(tls_files, tmp_path)
    old, new = renewed.shown(), renewed.renew()
    renewed.clock.now += 59
    assert renewed.shown() == old
    renewed.clock.now += 1
    assert renewed.shown() == new
    assert [facts.serial for facts in renewed.server.certificates] == [new]
    assert renewed.events == []


def test_a_clock_that_is_set_back_does_not_keep_files_from_being_read(
    tls_files: TlsFiles, tmp_path: Path
) -> None:
    renewed = Renewed(tls_files, tmp_path)
    new = renewed.renew()
    renewed.clock.now -= DAY / 24
    assert renewed.shown() == new


def test_with_an_infinite_interval_only_a_reload_reads_anew(
    tls_files: TlsFiles, tmp_path: Path
) -> None:
    renewed = Renewed(tls_files, tmp_path, reload_interval=math.inf)
    old, new = renewed.shown(), renewed.renew()
    renewed.clock.now += DAY
    assert renewed.shown() == old
    renewed.server.reload()
    assert renewed.shown() == new


def test_connections_that_are_there_go_on_with_what_they_began_with(
    tls_files: TlsFiles, tmp_path: Path
) -> None:
    renewed = Renewed(tls_files, tmp_path)
    before = renewed.connect()
    half = renewed.server.begin()  # its handshake is still to come
    renewed.renew()
    renewed.server.reload()
    before.exchange()
    pair = shake_hands(renewed.client.begin("localhost"), half)
    assert pair.server_facts.own_certificate is not None
    assert pair.server_facts.own_certificate.serial == serial(renewed.issued)
    pair.exchange()


def test_what_cannot_be_used_is_reported_once_and_the_old_certificate_stays(
    tls_files: TlsFiles, tmp_path: Path
) -> None:
    renewed = Renewed(tls_files, tmp_path)
    old = renewed.shown()
    renewed.cert.write_text("half a certif")
    for _ in range(3):
        renewed.clock.now += 60
        assert renewed.shown() == old
    assert [event.name for event in renewed.events] == ["reload.failed"]
    assert str(renewed.cert) in renewed.events[0].message
    assert isinstance(renewed.events[0].error, ConfigurationError)
    with pytest.raises(ConfigurationError, match="no certificate in PEM"):
        renewed.server.reload()
    assert renewed.shown() == old
    new = renewed.renew()
    renewed.clock.now += 60
    assert renewed.shown() == new


@pytest.mark.parametrize("kind", KINDS)
def test_an_odd_certificate_is_reported_and_the_old_one_stays(
    tls_files: TlsFiles, tmp_path: Path, kind: str
) -> None:
    renewed = Renewed(tls_files, tmp_path)
    old, odd = renewed.shown(), odd_certificate(kind)
    renewed.cert.write_text(odd.pem)
    renewed.key.write_text(odd.key_pem)
    renewed.clock.now += 60
    assert renewed.shown() == old
    assert [event.name for event in renewed.events] == ["reload.failed"]
    assert "malformed" in renewed.events[0].message
    with pytest.raises(ConfigurationError, match="malformed"):
        renewed.server.reload()


def test_what_nobody_thought_of_is_reported_and_the_old_certificate_stays(
    tls_files: TlsFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    renewed = Renewed(tls_files, tmp_path)
    old = renewed.shown()

    def fail(server: TlsServer) -> None:
        raise RuntimeError("key material")

    monkeypatch.setattr(TlsServer, "_load", fail)
    renewed.renew()
    renewed.clock.now += 60
    assert renewed.shown() == old
    message = "changed certificate files are not used: the certificate files cannot be used"
    assert [event.message for event in renewed.events] == [f"{message}: RuntimeError"]
    error = renewed.events[0].error
    assert error is not None
    assert isinstance(error.__cause__, RuntimeError)


def test_what_failed_for_a_passing_reason_is_tried_again_though_no_file_has_changed(
    tls_files: TlsFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    renewed = Renewed(tls_files, tmp_path)
    old, new = renewed.shown(), renewed.renew()

    def fail(server: TlsServer) -> None:
        raise ConfigurationError(f"cert_file: Too many open files ({len(reasons)})")

    reasons = ["the same"]
    with monkeypatch.context() as patched:
        patched.setattr(TlsServer, "_load", fail)
        for _ in range(3):
            renewed.clock.now += 60
            assert renewed.shown() == old
        assert len(renewed.events) == 1
        reasons.append("another")
        renewed.clock.now += 60
        assert renewed.shown() == old
    assert [event.name for event in renewed.events] == ["reload.failed"] * 2
    renewed.clock.now += 59
    assert renewed.shown() == old
    renewed.clock.now += 1
    assert renewed.shown() == new


def test_a_reload_that_failed_is_tried_again_after_the_interval(
    tls_files: TlsFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    renewed = Renewed(tls_files, tmp_path)
    new = renewed.renew()

    def fail(server: TlsServer) -> None:
        raise ConfigurationError("cert_file: Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr(TlsServer, "_load", fail)
        with pytest.raises(ConfigurationError, match=r"^cert_file: Too many"):
            renewed.server.reload()
        renewed.clock.now += 60
        renewed.connect()
        assert renewed.events == []  # whoever called it was told
    renewed.clock.now += 60
    assert renewed.shown() == new


def test_a_file_that_may_be_read_now_is_a_change(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("...")
    path.chmod(0o600)
    watch = FileWatch((str(path),), 60.0, 0.0)
    before = path.stat()
    path.chmod(0o640)
    after = path.stat()
    assert (after.st_mtime_ns, after.st_size) == (before.st_mtime_ns, before.st_size)
    assert watch.look()


def test_a_certificate_that_comes_before_its_key_is_used_when_both_are_there(
    tls_files: TlsFiles, tmp_path: Path
) -> None:
    renewed = Renewed(tls_files, tmp_path)
    old = renewed.shown()
    issued = tls_files.authority.issue_server("localhost")
    renewed.cert.write_text(issued.certificate_pem)
    renewed.clock.now += 60
    assert renewed.shown() == old
    assert "is not the key of the first certificate" in renewed.events[0].message
    renewed.key.write_text(issued.key_pem)
    renewed.clock.now += 60
    assert renewed.shown() == serial(issued)


def test_files_that_vanish_change_nothing(tls_files: TlsFiles, tmp_path: Path) -> None:
    renewed = Renewed(tls_files, tmp_path)
    old = renewed.shown()
    renewed.cert.unlink()
    renewed.clock.now += 60
    assert renewed.shown() == old
    assert [event.name for event in renewed.events] == ["reload.failed"]
    assert "No such file" in renewed.events[0].message


def test_what_is_written_while_it_is_read_is_read_again(
    tls_files: TlsFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    renewed = Renewed(tls_files, tmp_path)
    load = TlsServer._load

    def load_and_be_overtaken(server: TlsServer) -> None:
        load(server)
        monkeypatch.setattr(TlsServer, "_load", load)
        renewed.renew()

    monkeypatch.setattr(TlsServer, "_load", load_and_be_overtaken)
    renewed.renew()
    renewed.clock.now += 60
    assert renewed.shown() != serial_in(renewed.cert)
    renewed.clock.now += 60
    assert renewed.shown() == serial_in(renewed.cert)


def serial_in(path: Path) -> str:
    from cryptography import x509

    return f"{x509.load_pem_x509_certificate(path.read_bytes()).serial_number:x}"


def test_a_file_of_the_same_size_and_time_in_the_place_of_another_is_a_change(
    tmp_path: Path,
) -> None:
    path, other = tmp_path / "a", tmp_path / "b"
    path.write_text("old")
    watch = FileWatch((str(path),), 60.0, 0.0)
    other.write_text("new")
    before = path.stat()
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert not watch.look()
    other.replace(path)
    assert watch.look()
    assert not watch.look()


def test_what_a_reload_has_read_is_not_read_again(tls_files: TlsFiles, tmp_path: Path) -> None:
    renewed = Renewed(tls_files, tmp_path)
    renewed.renew()
    renewed.server.reload()
    read = renewed.server._state
    renewed.clock.now += 60
    renewed.connect()
    assert renewed.server._state is read


@pytest.mark.parametrize("same", ["size and inode", "time"])
def test_a_change_is_seen_though_something_of_the_file_is_the_same(
    tls_files: TlsFiles, tmp_path: Path, same: str
) -> None:
    renewed = Renewed(tls_files, tmp_path)
    before = renewed.cert.stat()
    issued = tls_files.authority.issue_server("localhost")
    if same == "time":
        issued.write(renewed.cert, renewed.key)
        os.utime(renewed.cert, ns=(before.st_atime_ns, before.st_mtime_ns))
    else:
        renewed.cert.write_text(issued.certificate_pem)
        renewed.key.write_text(issued.key_pem)
        os.utime(renewed.cert, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    renewed.clock.now += 60
    assert renewed.shown() == serial(issued)


def test_further_certificates_and_client_authorities_are_renewed_as_well(
    tls_files: TlsFiles, tmp_path: Path
) -> None:
    authority_file = tmp_path / "clients.pem"
    first, second = CertificateAuthority.create("First"), CertificateAuthority.create("Second")
    first.write(authority_file)
    further = (tmp_path / "a.pem", tmp_path / "a.key")
    tls_files.authority.issue_server("a.example").write(*further)
    renewed = Renewed(
        tls_files,
        tmp_path,
        sni_certificates=(":".join(map(str, further)),),
        client_auth="required",
        ca_file=str(authority_file),
    )
    issued = second.issue_client("Second's")
    settings = replace(
        tls_files.client_settings, cert_pem=issued.certificate_pem, key_pem=issued.key_pem
    )
    client = TlsClient(settings)
    refused = shake_hands(client.begin("a.example"), renewed.server.begin()).server.error
    assert isinstance(refused, CertificateError)
    second.write(authority_file)
    newer = tls_files.authority.issue_server("a.example")
    newer.write(*further)
    renewed.clock.now += 60
    pair = shake_hands(client.begin("a.example"), renewed.server.begin())
    assert pair.server_facts.principal == "cert:cn:Second's"
    assert pair.client_facts.peer_certificate is not None
    assert pair.client_facts.peer_certificate.serial == serial(newer)


def test_a_client_renews_its_own_certificate_and_whom_it_trusts(
    tls_files: TlsFiles, tmp_path: Path
) -> None:
    paths = tls_files.authority.issue_client("Old").write(tmp_path / "c.pem", tmp_path / "c.key")
    trusted = CertificateAuthority.create("Somebody else")
    ca_file = trusted.write(tmp_path / "ca.pem")
    clock = Clock(trusted.certificate.not_valid_before_utc.timestamp() + 60)
    settings = TlsSettings(ca_file=ca_file, cert_file=paths[0], key_file=paths[1])
    client = TlsClient(settings, clock=clock)
    server = TlsServer(tls_files.mutual_server_settings)
    refused = shake_hands(client.begin("localhost"), server.begin()).client.error
    assert isinstance(refused, CertificateError)
    tls_files.authority.write(ca_file)
    tls_files.authority.issue_client("New").write(*paths)
    clock.now += 60
    pair = shake_hands(client.begin("localhost"), server.begin())
    assert pair.server_facts.principal == "cert:cn:New"


# -- Ends that come near -------------------------------------------------------------


def test_a_near_end_is_reported_once_a_day(tls_files: TlsFiles, tmp_path: Path) -> None:
    renewed = Renewed(tls_files, tmp_path)
    end = renewed.issued.certificate.not_valid_after_utc.timestamp()
    renewed.clock.now = end - 30 * DAY - 60
    renewed.connect()
    assert renewed.events == []
    renewed.clock.now = end - 29 * DAY
    renewed.connect()
    renewed.clock.now += 60
    renewed.connect()
    assert [event.name for event in renewed.events] == ["certificate.expiring"]
    assert renewed.events[0].message == "the own certificate of localhost expires in 29.0 days"
    renewed.clock.now += DAY
    renewed.connect()
    renewed.clock.now = end + DAY
    renewed.connect()
    assert [event.message.partition("localhost ")[2] for event in renewed.events] == [
        "expires in 29.0 days",
        "expires in 28.0 days",
        "expired 1.0 days ago",
    ]


def test_a_renewed_certificate_starts_anew(tls_files: TlsFiles, tmp_path: Path) -> None:
    renewed = Renewed(tls_files, tmp_path)
    end = renewed.issued.certificate.not_valid_after_utc.timestamp()
    renewed.clock.now = end - DAY
    renewed.connect()
    issued = tls_files.authority.issue_server("localhost", not_after=end + 10 * DAY)
    issued.write(renewed.cert, renewed.key)
    renewed.clock.now += 60
    renewed.connect()
    assert [event.message.partition("localhost ")[2] for event in renewed.events] == [
        "expires in 1.0 days",
        "expires in 11.0 days",
    ]


def test_a_certificate_of_a_day_is_near_its_end_in_its_last_third(
    tls_files: TlsFiles, tmp_path: Path
) -> None:
    issued = tls_files.authority.issue_client("Short", not_before=0.0, not_after=DAY)
    clock = Clock(0.6 * DAY)
    events: list[ChannelEvent] = []
    settings = replace(
        tls_files.client_settings, cert_pem=issued.certificate_pem, key_pem=issued.key_pem
    )
    client = TlsClient(settings, on_event=events.append, clock=clock)
    client.begin("localhost")
    assert events == []
    clock.now = 0.7 * DAY
    client.begin("localhost")
    assert [event.message for event in events] == [
        "the own certificate of CN=Short expires in 0.3 days"
    ]


def test_a_client_without_a_certificate_has_none_that_could_end(tls_files: TlsFiles) -> None:
    events: list[ChannelEvent] = []
    clock = Clock(4e9)
    TlsClient(tls_files.client_settings, on_event=events.append, clock=clock).begin("localhost")
    assert events == []
