"""The commands on pins, stapling and Certificate Transparency do what the page says."""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from textwrap import dedent

import pytest
from test_docs import DOCS, EXAMPLES, free_address, programs, run, wait_for_address

pytest.importorskip("OpenSSL")

from ct_logs import Log, log_list, signed_by

from trio_mcp_transport.security.spki import spki_sha256
from trio_mcp_transport.testing import CertificateAuthority, IssuedCertificate

pytestmark = [
    pytest.mark.docs,
    pytest.mark.tls,
    pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl"),
]
__all__ = ["programs"]  # the fixture that makes `python` this interpreter

SERVER = "127.0.0.1:9443"
RESPONDER = "127.0.0.1:2560"
LISTED = '"tools"'


def commands() -> list[str]:
    """The commands of the page, in order."""
    page = (DOCS / "howto" / "tls-hardening.rst").read_text()
    blocks = re.findall(r"^ *\.\. code-block:: bash\n\n((?: +.*\n|\n(?= ))+)", page, re.MULTILINE)
    return [dedent(block).strip() for block in blocks]


class Page:
    """The commands of the page, each run once, at addresses of this machine's choosing."""

    def __init__(self, directory: Path) -> None:
        self.left = commands()
        self.directory = directory
        self.addresses = {SERVER: free_address(), RESPONDER: free_address()}

    def take(self, beginning: str) -> str:
        """The next command, which begins so."""
        command = self.left.pop(0)
        assert command.startswith(beginning), command
        for shown, address in self.addresses.items():
            command = command.replace(shown, address)
        return command

    def run(self, beginning: str) -> str:
        return run(self.take(beginning), self.directory)

    @contextmanager
    def served(self, beginning: str) -> Generator[None, None, None]:
        """The next command is a server: it runs until the block is left."""
        command = f"exec {self.take(beginning)}"
        with subprocess.Popen(
            ["bash", "-c", command], cwd=self.directory, stderr=subprocess.DEVNULL
        ) as process:
            try:
                wait_for_address(self.addresses[SERVER])
                yield
            finally:
                process.terminate()

    def refused(self, beginning: str) -> str:
        """Run the next command, which must fail; what it said."""
        command = ["bash", "-c", self.take(beginning)]
        done = subprocess.run(
            command, cwd=self.directory, capture_output=True, text=True, check=False, timeout=100
        )
        assert done.returncode == 1, done
        return done.stderr


@contextmanager
def responding(
    address: str, authority: CertificateAuthority, about: IssuedCertificate
) -> Generator[None, None, None]:
    """An OCSP responder that has one answer."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            content = authority.ocsp_response(about)
            self.send_response(200)
            self.send_header("Content-Type", "application/ocsp-response")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    host, _, port = address.partition(":")
    with ThreadingHTTPServer((host, int(port)), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


def test_the_commands_do_what_the_page_says(tmp_path: Path) -> None:
    page = Page(tmp_path)
    certs = tmp_path / "certs"
    # -- pins: with the certificates that the page makes
    page.run("trio-mcp cert certs")
    with page.served("trio-mcp serve"):
        page.run("openssl x509 -in certs/server.pem -pubkey")
        right = page.left[0]
        assert LISTED in page.run("trio-mcp call")
        page.run("openssl genpkey")
        assert len((certs / "next-pin").read_text()) == 65
        assert LISTED in page.run("trio-mcp call")
        page.run("openssl req")
        page.left.insert(1, page.left[0].replace("&pin_mode=report", ""))
        assert LISTED in page.run("trio-mcp call")
        assert "was refused (pin): its public key" in page.refused("trio-mcp call")
        (certs / "pin").write_text((certs / "next-pin").read_text())
        page.left.insert(0, right)
        assert "was refused (pin): its public key" in page.refused("trio-mcp call")
    # -- stapling, logs: with an authority whose key is at hand
    logs = [Log("a", "A"), Log("b", "B")]
    root = CertificateAuthority.create()
    authority = root.intermediate()
    scts = signed_by(*logs, moment=time.time() - 60)
    identity = authority.issue_server("127.0.0.1", sct_list=scts)
    root.write(certs / "ca.pem")
    authority.write(certs / "issuer.pem")
    identity.write(certs / "server.pem", certs / "server.key")
    page.run("openssl x509 -in certs/server.pem -noout -ocsp_uri")
    with responding(page.addresses[RESPONDER], authority, identity):
        page.run("openssl ocsp")
        with page.served("trio-mcp serve"):
            required = page.left[0]
            assert LISTED in page.run("trio-mcp call")
        page.left[0] = page.left[0].replace("stapling_server.py", f"{EXAMPLES}/stapling_server.py")
        page.left.insert(1, required)
        with page.served("python"):
            assert LISTED in page.run("trio-mcp call")
            assert page.left.pop(0).startswith("curl -o certs/log_list.json https://")
            (certs / "log_list.json").write_bytes(log_list(*logs))
            page.left.append(page.left[0])
            assert LISTED in page.run("trio-mcp call")
            (certs / "log_list.json").write_bytes(log_list(Log("a", "A"), Log("b", "B")))
            assert "was refused (transparency): 0 logs" in page.refused("trio-mcp call")
    assert page.left == []


def test_the_pin_is_that_of_the_key(tmp_path: Path) -> None:
    identity = CertificateAuthority.create().issue_server("a.example")
    (tmp_path / "certs").mkdir()
    identity.write(tmp_path / "certs" / "server.pem", tmp_path / "certs" / "server.key")
    (command,) = [each for each in commands() if "-pubkey" in each]
    run(command, tmp_path)
    pin = (tmp_path / "certs" / "pin").read_text()
    assert pin == f"{spki_sha256(identity.certificate).hex()}\n"
