"""The TLS machine in a program without event loop, as the page on other event loops shows."""

from __future__ import annotations

import runpy
import subprocess
import sys

import pytest
import trio

pytest.importorskip("OpenSSL")

from test_docs import EXAMPLES
from tls_files import TlsFiles

from trio_mcp_transport import CertificateError, Router, serve_peers

pytestmark = [pytest.mark.docs, pytest.mark.tls]


async def test_a_program_without_event_loop_pings_a_server(
    tls_files: TlsFiles, capsys: pytest.CaptureFixture[str]
) -> None:
    example = runpy.run_path(str(EXAMPLES / "tls_blocking.py"))
    router = Router(name="server", version="1.0")
    url = f"tls://127.0.0.1:0?cert_file={tls_files.server_cert}&key_file={tls_files.server_key}"
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            [bound] = await nursery.start(serve_peers, router, url)
            port = bound.partition("127.0.0.1:")[2].partition("?")[0]

            async def ping(ca_file: str) -> None:
                await trio.to_thread.run_sync(example["main"], "127.0.0.1", port, ca_file)

            await ping(tls_files.ca_file)
            version, answer = capsys.readouterr().out.splitlines()
            assert version == "TLSv1.3"
            assert answer.startswith("Response(id=1")
            with pytest.raises(CertificateError):
                await trio.to_thread.run_sync(
                    example["main"], "127.0.0.1", port, tls_files.client_cert
                )
            nursery.cancel_scope.cancel()


def test_the_face_can_be_imported_without_openssl() -> None:
    program = (
        "import sys; sys.modules['OpenSSL'] = None;"
        "from trio_mcp_transport.sansio.tls import TlsData, TlsMachine"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
