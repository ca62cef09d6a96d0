"""An MCP server over TLS that asks its authority's OCSP responder, and staples the answer."""

import sys
import urllib.request
from pathlib import Path

import trio
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from tool_server import router

from trio_mcp_transport import TlsSettings, serve_peers
from trio_mcp_transport.security import AsyncStapleSource, TlsServer


def ask(responder: str, leaf: x509.Certificate, issuer: x509.Certificate) -> bytes:
    question = ocsp.OCSPRequestBuilder().add_certificate(leaf, issuer, SHA1()).build()
    request = urllib.request.Request(
        responder,
        data=question.public_bytes(Encoding.DER),
        headers={"Content-Type": "application/ocsp-request"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        content: bytes = answer.read(100_000)
        return content


def stapled(cert_file: str, responder: str) -> AsyncStapleSource:
    # The server's certificate, and behind it that of who signed it.
    leaf, issuer, *_ = x509.load_pem_x509_certificates(Path(cert_file).read_bytes())

    async def fetch() -> bytes:
        return await trio.to_thread.run_sync(ask, responder, leaf, issuer)

    return AsyncStapleSource(fetch)


async def serve(endpoint: str, tls: TlsServer, staples: AsyncStapleSource) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(staples.run)  # the first staple is there before anybody connects
        await serve_peers(router, endpoint, tls=tls)


if __name__ == "__main__":
    endpoint, cert_file, key_file, responder = sys.argv[1:]
    staples = stapled(cert_file, responder)
    settings = TlsSettings(cert_file=cert_file, key_file=key_file)
    trio.run(serve, endpoint, TlsServer(settings, staple=staples), staples)
