"""Certificates for tests, made once: an authority, a server and a client, as files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from trio_mcp_transport import TlsSettings
from trio_mcp_transport.testing.certificates import CertificateAuthority, IssuedCertificate

#: What the server's certificate is for.
NAMES = ("localhost", "server.example", "127.0.0.1", "::1")
SPIFFE_ID = "spiffe://example.org/client"


@dataclass(frozen=True)
class TlsFiles:
    """An authority with a server's and a client's certificate, in memory and as files."""

    directory: Path
    authority: CertificateAuthority
    server: IssuedCertificate
    client: IssuedCertificate
    ca_file: str
    server_cert: str
    server_key: str
    client_cert: str
    client_key: str

    @property
    def server_settings(self) -> TlsSettings:
        """A server with its certificate."""
        return TlsSettings(cert_file=self.server_cert, key_file=self.server_key)

    @property
    def mutual_server_settings(self) -> TlsSettings:
        """A server that wants a client certificate of the authority."""
        return TlsSettings(
            cert_file=self.server_cert,
            key_file=self.server_key,
            ca_file=self.ca_file,
            client_auth="required",
        )

    @property
    def client_settings(self) -> TlsSettings:
        """A client that trusts the authority."""
        return TlsSettings(ca_file=self.ca_file)

    @property
    def mutual_client_settings(self) -> TlsSettings:
        """A client that trusts the authority and shows its certificate."""
        return TlsSettings(
            ca_file=self.ca_file, cert_file=self.client_cert, key_file=self.client_key
        )


def make_tls_files(directory: Path) -> TlsFiles:
    """Make everything anew."""
    authority = CertificateAuthority.create()
    server = authority.issue_server(*NAMES)
    client = authority.issue_client("Some Client", sans=[SPIFFE_ID])
    server_cert, server_key = server.write(directory / "server.pem", directory / "server.key")
    client_cert, client_key = client.write(directory / "client.pem", directory / "client.key")
    return TlsFiles(
        directory=directory,
        authority=authority,
        server=server,
        client=client,
        ca_file=authority.write(directory / "ca.pem"),
        server_cert=server_cert,
        server_key=server_key,
        client_cert=client_cert,
        client_key=client_key,
    )
