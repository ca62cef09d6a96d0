"""OpenSSL and curl against our TLS, and ours against OpenSSL: who gets in, who is refused."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec
import pytest
import trio

pytest.importorskip("OpenSSL")

from ct_logs import Log, log_list, signed_by
from openssl_programs import (
    PATIENCE,
    Ended,
    needs_curl,
    needs_openssl,
    run,
    s_client,
    s_server,
)
from tls_files import TlsFiles

from trio_mcp_transport import (
    CertificateError,
    TlsError,
    TlsFacts,
    TlsHandshakeFailed,
    TlsSettings,
)
from trio_mcp_transport.security.spki import spki_sha256
from trio_mcp_transport.security.tls_contexts import TlsClient, TlsServer
from trio_mcp_transport.testing import CertificateAuthority, IssuedCertificate
from trio_mcp_transport.tls_pins import format_pin
from trio_mcp_transport.transports.tls_stream import TlsStream

pytestmark = [pytest.mark.hardening, pytest.mark.tls, needs_openssl]

NAME = "server.example"
DAY = 86_400.0
NOW = time.time()
#: Programs of a distribution refuse old versions by themselves; this lets them try.
OLD = ("-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0")
RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nserved"


# -- our server ----------------------------------------------------------------------


@dataclass
class Served:
    """Our server: where it is, and what became of each connection."""

    port: int
    outcomes: list[TlsFacts | TlsError] = field(default_factory=list)

    @property
    def facts(self) -> TlsFacts:
        (outcome,) = self.outcomes
        assert isinstance(outcome, TlsFacts), outcome
        return outcome

    @property
    def error(self) -> TlsError:
        (outcome,) = self.outcomes
        assert isinstance(outcome, TlsError), outcome
        return outcome

    def refusal(self, check: str) -> CertificateError:
        error = self.error
        assert isinstance(error, CertificateError), error
        assert error.check == check
        return error


@asynccontextmanager
async def serving(settings: TlsSettings) -> AsyncGenerator[Served, None]:
    """A server that answers one line, or one HTTP request, and closes."""
    server = TlsServer(settings, on_event=lambda _: None)
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    served = Served(listener.socket.getsockname()[1])

    async def handle(stream: trio.SocketStream) -> None:
        async with TlsStream(stream, server.begin()) as tls:
            try:
                served.outcomes.append(await tls.do_handshake())
                received = b""
                while b"\n" not in received:
                    received += await tls.receive_some() or b"\n"
                await tls.send_all(RESPONSE if b"HTTP" in received else received.upper())
            except TlsError as error:
                served.outcomes.append(error)
            except trio.BrokenResourceError:
                pass

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            await nursery.start(trio.serve_listeners, handle, [listener])
            try:
                yield served
            finally:
                nursery.cancel_scope.cancel()


async def test_s_client_is_served(tls_files: TlsFiles) -> None:
    async with serving(tls_files.server_settings) as served:
        ended = await s_client(served.port, *trusting(tls_files))
    assert ended.status == 0, ended.text
    assert "HELLO" in ended.output
    assert served.facts.version == "TLSv1.3"
    assert served.facts.server_name == NAME


@needs_curl
async def test_curl_is_served_and_finds_the_same_pin(tls_files: TlsFiles) -> None:
    pin = format_pin(spki_sha256(tls_files.server.certificate)).replace("/", "//", 1)
    async with serving(tls_files.server_settings) as served:
        ended = await curl(served, tls_files, "--pinnedpubkey", pin)
    assert (ended.status, ended.output) == (0, "served"), ended.text


@needs_curl
@pytest.mark.parametrize(
    ("options", "status"),
    [
        (("--cacert", "/dev/null"), 77),
        (("--capath", "/nowhere", "--cacert", "{stranger}"), 60),
        (("--pinnedpubkey", f"sha256//{'A' * 43}="), 90),
        (("--tls-max", "1.1"), 35),
        (("--tls-max", "1.2"), 35),
    ],
)
async def test_curl_and_our_server_do_not_agree(
    tls_files: TlsFiles, tmp_path: Path, options: tuple[str, ...], status: int
) -> None:
    stranger = CertificateAuthority.create().write(tmp_path / "stranger.pem")
    filled = [option.format(stranger=stranger) for option in options]
    async with serving(tls_files.server_settings) as served:
        ended = await curl(served, tls_files, *filled)
    assert ended.status == status, ended.text
    assert ended.output == ""


@needs_curl
async def test_curl_does_not_talk_to_a_server_of_another_name(tls_files: TlsFiles) -> None:
    async with serving(tls_files.server_settings) as served:
        ended = await curl(served, tls_files, name="other.example")
    assert ended.status == 60, ended.text
    assert "other.example" in ended.errors


@pytest.mark.parametrize("options", [OLD, ("-tls1_2",)])
async def test_old_versions_are_refused(tls_files: TlsFiles, options: tuple[str, ...]) -> None:
    async with serving(tls_files.server_settings) as served:
        ended = await s_client(served.port, *trusting(tls_files), *options)
    assert "HELLO" not in ended.output
    assert "alert protocol version" in ended.errors
    assert isinstance(served.error, TlsHandshakeFailed)
    assert "unsupported protocol" in str(served.error)


async def test_tls_1_2_is_served_when_allowed_and_1_1_is_not(tls_files: TlsFiles) -> None:
    settings = msgspec.structs.replace(tls_files.server_settings, min_tls="1.2")
    async with serving(settings) as served:
        ended = await s_client(served.port, *trusting(tls_files), "-tls1_2")
        assert "HELLO" in ended.output
        assert served.facts.version == "TLSv1.2"
        served.outcomes.clear()
        ended = await s_client(served.port, *trusting(tls_files), *OLD)
        assert "HELLO" not in ended.output
        assert "unsupported protocol" in str(served.error)


async def test_what_is_no_tls_is_told_so(tls_files: TlsFiles) -> None:
    async with serving(tls_files.server_settings) as served:
        stream = await trio.open_tcp_stream("127.0.0.1", served.port)
        async with stream:
            await stream.send_all(b"GET / HTTP/1.1\r\n\r\n")
            while await stream.receive_some():
                pass
    assert str(served.error) == "the peer speaks plain HTTP, not TLS"


# -- client certificates ---------------------------------------------------------------


def shown(files: TlsFiles, identity: IssuedCertificate, directory: Path) -> tuple[str, ...]:
    cert, key = identity.write(directory / "shown.pem", directory / "shown.key")
    return (*trusting(files), "-cert", cert, "-key", key)


async def test_a_client_with_a_certificate_gets_in(tls_files: TlsFiles, tmp_path: Path) -> None:
    async with serving(tls_files.mutual_server_settings) as served:
        options = shown(tls_files, tls_files.client, tmp_path)
        ended = await s_client(served.port, *options)
    assert "HELLO" in ended.output
    assert served.facts.principal == "cert:uri:spiffe://example.org/client"


async def test_a_client_without_one_is_refused(tls_files: TlsFiles) -> None:
    async with serving(tls_files.mutual_server_settings) as served:
        ended = await s_client(served.port, *trusting(tls_files))
    assert "HELLO" not in ended.output
    assert "alert certificate required" in ended.errors
    error = served.refusal("client-certificate")
    assert str(error) == "the client showed no certificate, and one is required"


@pytest.mark.parametrize(
    ("make", "check", "text", "alert"),
    [
        (
            lambda files: files.authority.issue_client(
                "Old", not_before=NOW - 9 * DAY, not_after=NOW - DAY
            ),
            "expired",
            "the certificate of CN=Old was refused (expired): it expired on 20",
            "alert certificate expired",
        ),
        (
            lambda files: files.authority.issue_client("Early", not_before=NOW + DAY),
            "not-yet-valid",
            "the certificate of CN=Early was refused (not-yet-valid): it is not valid before 20",
            "alert bad certificate",
        ),
        (
            lambda _: CertificateAuthority.create("Stranger").issue_client("Foreign"),
            "untrusted",
            "the certificate of CN=Foreign was refused (untrusted): its issuer 'CN=Stranger'",
            "alert unknown ca",
        ),
        (
            lambda files: files.authority.issue_server("a.example", common_name="Server"),
            "purpose",
            "the certificate of CN=Server was refused (purpose): it is not for clients",
            "alert unsupported certificate",
        ),
    ],
)
async def test_a_client_with_a_bad_one_is_refused(
    tls_files: TlsFiles,
    tmp_path: Path,
    make: Callable[[TlsFiles], IssuedCertificate],
    check: str,
    text: str,
    alert: str,
) -> None:
    async with serving(tls_files.mutual_server_settings) as served:
        options = shown(tls_files, make(tls_files), tmp_path)
        ended = await s_client(served.port, *options)
    assert "HELLO" not in ended.output
    assert alert in ended.errors
    assert str(served.refusal(check)).startswith(text)


# -- staples ---------------------------------------------------------------------------


async def test_s_client_gets_our_staple(tls_files: TlsFiles, tmp_path: Path) -> None:
    staple = tmp_path / "staple.der"
    staple.write_bytes(tls_files.authority.ocsp_response(tls_files.server))
    settings = msgspec.structs.replace(tls_files.server_settings, ocsp_staple_file=str(staple))
    async with serving(settings) as served:
        ended = await s_client(served.port, *trusting(tls_files), "-status")
        assert "OCSP Response Status: successful (0x0)" in ended.output
        assert "Cert Status: good" in ended.output
    async with serving(tls_files.server_settings) as served:
        ended = await s_client(served.port, *trusting(tls_files), "-status")
        assert "OCSP response: no response sent" in ended.output


@needs_curl
@pytest.mark.parametrize(("status", "ends_with"), [("good", 0), ("revoked", 91)])
async def test_curl_verifies_our_staple(
    tls_files: TlsFiles, tmp_path: Path, status: Literal["good", "revoked"], ends_with: int
) -> None:
    # curl wants the issuer to be among the certificates that the server shows: no root is.
    authority = tls_files.authority.intermediate()
    identity = authority.issue_server(NAME)
    staple = tmp_path / "staple.der"
    staple.write_bytes(authority.ocsp_response(identity, status))
    settings = TlsSettings(
        cert_pem=identity.certificate_pem,
        key_pem=identity.key_pem,
        ocsp_staple_file=str(staple),
    )
    async with serving(settings) as served:
        ended = await curl(served, tls_files, "--cert-status")
    assert ended.status == ends_with, ended.text
    assert ended.output == ("served" if status == "good" else "")


# -- our client ------------------------------------------------------------------------


@dataclass
class Refusal:
    """A server that our client must not talk to, and what it must say."""

    identity: Callable[[TlsFiles], IssuedCertificate]
    check: str
    text: str
    name: str = NAME


def server_certificate(files: TlsFiles) -> IssuedCertificate:
    return files.server


REFUSALS = {
    "wrong host": Refusal(
        server_certificate,
        "host-name",
        "the certificate of other.example was refused (host-name): it is for localhost,",
        name="other.example",
    ),
    "wrong address": Refusal(
        server_certificate,
        "host-name",
        "the certificate of 127.0.0.2 was refused (host-name): it is for localhost,",
        name="127.0.0.2",
    ),
    "expired": Refusal(
        lambda files: files.authority.issue_server(
            NAME, not_before=NOW - 9 * DAY, not_after=NOW - DAY
        ),
        "expired",
        f"the certificate of {NAME} was refused (expired): it expired on 20",
    ),
    "not yet valid": Refusal(
        lambda files: files.authority.issue_server(NAME, not_before=NOW + DAY),
        "not-yet-valid",
        f"the certificate of {NAME} was refused (not-yet-valid): it is not valid before 20",
    ),
    "unknown authority": Refusal(
        lambda _: CertificateAuthority.create("Stranger").issue_server(NAME),
        "untrusted",
        f"the certificate of {NAME} was refused (untrusted):"
        " its issuer 'CN=Stranger' is not trusted",
    ),
    "self-signed": Refusal(
        lambda _: self_signed(),
        "self-signed",
        f"the certificate of {NAME} was refused (self-signed): it is self-signed",
    ),
    "for clients": Refusal(
        lambda files: files.authority.issue_client("Some Client", sans=[NAME]),
        "purpose",
        f"the certificate of {NAME} was refused (purpose): it is not for servers",
    ),
}


def self_signed() -> IssuedCertificate:
    authority = CertificateAuthority.create(NAME)
    return IssuedCertificate(authority.certificate, authority.key)


async def reach(port: int, settings: TlsSettings, name: str = NAME) -> tuple[TlsFacts, bytes]:
    """Connect with our client, send a line, and receive one."""
    client = TlsClient(settings, on_event=lambda _: None)
    with trio.fail_after(PATIENCE):
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        async with TlsStream(stream, client.begin(name)) as tls:
            facts = await tls.do_handshake()
            await tls.send_all(b"olleh\n")
            received = b""
            while not received.endswith(b"\n"):
                received += await tls.receive_some() or b"\n"
            return facts, received


def identified(identity: IssuedCertificate, directory: Path) -> tuple[str, ...]:
    cert, key = identity.write(directory / "server.pem", directory / "server.key")
    return ("-cert", cert, "-key", key)


@pytest.mark.parametrize("name", [NAME, "localhost", "127.0.0.1", "::1"])
async def test_our_client_reaches_s_server(tls_files: TlsFiles, tmp_path: Path, name: str) -> None:
    async with s_server(*identified(tls_files.server, tmp_path)) as port:
        facts, received = await reach(port, tls_files.client_settings, name)
    assert received == b"hello\n"
    assert facts.peer_certificate is not None
    assert facts.server_name == (name if name[0].isalpha() else None)


@pytest.mark.parametrize("reason", REFUSALS)
async def test_our_client_refuses_s_server(
    tls_files: TlsFiles, tmp_path: Path, reason: str
) -> None:
    refusal = REFUSALS[reason]
    options = identified(refusal.identity(tls_files), tmp_path)
    async with s_server(*options) as port:
        with pytest.raises(CertificateError) as caught:
            await reach(port, tls_files.client_settings, refusal.name)
    assert (caught.value.check, caught.value.name) == (refusal.check, refusal.name)
    assert str(caught.value).startswith(refusal.text)


@pytest.mark.parametrize("min_tls", ["1.3", "1.2"])
async def test_our_client_refuses_tls_1_1(
    tls_files: TlsFiles, tmp_path: Path, min_tls: str
) -> None:
    options = (*identified(tls_files.server, tmp_path), *OLD)
    settings = msgspec.structs.replace(tls_files.client_settings, min_tls=min_tls)
    async with s_server(*options) as port:
        with pytest.raises(TlsHandshakeFailed) as caught:
            await reach(port, settings)
    assert "protocol" in str(caught.value)


async def test_our_client_without_a_certificate_is_told_that_one_is_missing(
    tls_files: TlsFiles, tmp_path: Path
) -> None:
    """With TLS 1.3 the server says so when the client has taken the handshake for complete."""
    options = (
        *identified(tls_files.server, tmp_path),
        *("-Verify", "1", "-verify_return_error", "-CAfile", tls_files.ca_file),
    )
    async with s_server(*options) as port:
        with pytest.raises(trio.BrokenResourceError) as caught:
            await reach(port, tls_files.client_settings)
        assert "certificate_required" in str(caught.value)
        _, received = await reach(port, tls_files.mutual_client_settings)
        assert received == b"hello\n"


def stale(files: TlsFiles) -> bytes:
    return files.authority.ocsp_response(
        files.server, this_update=NOW - 9 * DAY, next_update=NOW - DAY
    )


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda files: files.authority.ocsp_response(files.server), ""),
        (
            lambda files: files.authority.ocsp_response(files.server, "revoked"),
            "its OCSP staple says revoked on 20",
        ),
        (stale, "its OCSP staple expired on 20"),
        (
            lambda files: CertificateAuthority.create().ocsp_response(files.server),
            "its OCSP staple is not signed by its issuer",
        ),
        (lambda _: None, "the server stapled no OCSP response"),
    ],
    ids=["good", "revoked", "stale", "forged", "missing"],
)
async def test_what_s_server_staples_is_verified(
    tls_files: TlsFiles,
    tmp_path: Path,
    make: Callable[[TlsFiles], bytes | None],
    reason: str,
) -> None:
    options = identified(tls_files.server, tmp_path)
    staple = make(tls_files)
    if staple is not None:
        (tmp_path / "staple.der").write_bytes(staple)
        options += ("-status_file", str(tmp_path / "staple.der"))
    settings = msgspec.structs.replace(tls_files.client_settings, ocsp="require")
    async with s_server(*options) as port:
        if not reason:
            facts, _ = await reach(port, settings)
            assert facts.ocsp == "good"
        else:
            with pytest.raises(CertificateError) as caught:
                await reach(port, settings)
            check = "revoked" if "revoked" in reason else "ocsp"
            assert caught.value.check == check
            prefix = f"the certificate of {NAME} was refused ({check}): "
            assert str(caught.value).startswith(prefix + reason)


async def test_s_server_has_the_pinned_key_and_the_logs_know_it(
    tls_files: TlsFiles, tmp_path: Path
) -> None:
    logs = [Log("a", "A"), Log("b", "B")]
    identity = tls_files.authority.issue_server(NAME, sct_list=signed_by(*logs, moment=NOW - DAY))
    pin = format_pin(spki_sha256(identity.certificate))
    (tmp_path / "logs.json").write_bytes(log_list(*logs))
    wanted = {"ct": "require", "ct_log_file": str(tmp_path / "logs.json"), "pins": (pin,)}
    unmet: list[tuple[str, dict[str, object]]] = [
        ("pin", {"pins": ("00" * 32,)}),
        ("transparency", {"ct_log_file": str(tmp_path / "others.json")}),
    ]
    others = log_list(logs[0], Log("b", "B"))
    (tmp_path / "others.json").write_bytes(others)
    async with s_server(*identified(identity, tmp_path)) as port:
        settings = msgspec.structs.replace(tls_files.client_settings, **wanted)
        facts, _ = await reach(port, settings)
        assert (facts.pins, facts.transparency) == ("matched", "satisfied")
        for check, changes in unmet:
            with pytest.raises(CertificateError) as caught:
                await reach(port, msgspec.structs.replace(settings, **changes))
            assert caught.value.check == check


# -- the programs ----------------------------------------------------------------------


def trusting(files: TlsFiles) -> tuple[str, ...]:
    """Options with which s_client insists on our server."""
    return (
        *("-CAfile", files.ca_file, "-verify_return_error"),
        *("-servername", NAME, "-verify_hostname", NAME),
    )


async def curl(served: Served, files: TlsFiles, *options: str, name: str = NAME) -> Ended:
    return await run(
        *("curl", "--silent", "--show-error", "--noproxy", "*"),
        *("--cacert", files.ca_file, "--resolve", f"{name}:{served.port}:127.0.0.1"),
        *options,
        f"https://{name}:{served.port}/",
    )
