"""`serve` with certificates, and clients of it: flags, options, SIGHUP, refusals."""

from __future__ import annotations

import re
import shlex
import shutil
import signal
import socket
import sys
from pathlib import Path

import pytest
from cli_process import run_cli, running

from trio_mcp_transport import ConfigurationError, parse_endpoint
from trio_mcp_transport.cli import main
from trio_mcp_transport.cli.cert import Files, make_certificates
from trio_mcp_transport.cli.endpoints import check_authenticated
from trio_mcp_transport.cli.tls import demands_certificate, group_by_tls, with_tls

pytest.importorskip("OpenSSL", reason="the extra `tls` is not installed")

pytestmark = [pytest.mark.cli, pytest.mark.tls]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    directory = str(tmp_path_factory.mktemp("certificates"))
    make_certificates(directory)
    return Files.within(directory)


# -- flags -------------------------------------------------------------------------------


def filled(text: str, cert: str | None, key: str | None, client_ca: str | None) -> str:
    (endpoint,) = with_tls([parse_endpoint(text)], cert, key, client_ca)
    return str(endpoint).partition("?")[2]


def test_the_flags_are_the_options_of_every_endpoint_with_tls() -> None:
    for scheme in ("tls://[::1]:1", "tls+unix:/x", "https://[::1]:1/", "wss://[::1]:1/"):
        found = filled(scheme, "cert", "key", None)
        assert found == filled(f"{scheme}?cert_file=cert&key_file=key", None, None, None)
        assert "cert_file=cert" in found
        found = filled(scheme, "cert", None, "ca")
        assert found == filled(f"{scheme}?cert_file=cert&client_ca=ca", None, None, None)
        assert "client_auth=required" in found


def test_an_endpoints_own_options_beat_the_flags() -> None:
    own = "tls://localhost:1?cert_file=own&ca_file=mine&client_auth=optional"
    found = filled(own, "cert", "key", "ca")
    assert found == filled(own, None, None, None)


def test_other_endpoints_are_left_alone() -> None:
    endpoints = [parse_endpoint("tcp://localhost:1"), parse_endpoint("tls://localhost:1")]
    plain, encrypted = with_tls(endpoints, "cert", None, None)
    assert plain == endpoints[0]
    assert encrypted != endpoints[1]


@pytest.mark.parametrize(
    ("endpoint", "flags", "reason"),
    [
        ("tcp://localhost:1", ("cert", None, None), "for endpoints with TLS"),
        ("http://localhost:1/", (None, None, "ca"), "for endpoints with TLS"),
        ("tls://localhost:1", (None, "key", None), "--tls-key: give its certificate"),
    ],
)
def test_flags_without_effect_are_refused(
    endpoint: str, flags: tuple[str | None, str | None, str | None], reason: str
) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        with_tls([parse_endpoint(endpoint)], *flags)


def test_a_certificate_of_the_client_is_proof_enough_for_any_address() -> None:
    open_to_all = parse_endpoint("https://0.0.0.0:1/?cert_file=cert")
    with pytest.raises(ConfigurationError, match="--client-ca for a certificate"):
        check_authenticated([open_to_all])
    (demanding,) = with_tls([open_to_all], None, None, "ca")
    assert demands_certificate(demanding)
    check_authenticated([demanding])
    assert not demands_certificate(parse_endpoint("tcp://0.0.0.0:1"))
    optional = parse_endpoint("tls://0.0.0.0:1?cert_file=c&ca_file=a&client_auth=optional")
    with pytest.raises(ConfigurationError, match="nobody has to prove"):
        check_authenticated([optional])


def test_what_is_alike_has_one_server_side(files: Files) -> None:
    pair = f"cert_file={files.server_cert}&key_file={files.server_key}"
    texts = [
        f"https://localhost:1/?{pair}",
        "tcp://localhost:2",
        f"wss://localhost:3/?{pair}",
        f"tls://localhost:4?{pair}",
        f"https://localhost:5/?{pair}&min_tls=1.2",
    ]
    groups = group_by_tls([parse_endpoint(text) for text in texts])
    assert [[each.label for each in group.endpoints] for group in groups] == [
        ["tcp://localhost:2"],
        ["https://localhost:1/", "wss://localhost:3/"],
        ["tls://localhost:4"],
        ["https://localhost:5/"],
    ]
    assert [group.server is None for group in groups] == [True, False, False, False]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--listen", "tls://127.0.0.1:0"], "cert_file is missing"),
        (["--listen", "tls://127.0.0.1:0", "--tls-cert", "/nowhere.pem"], "/nowhere.pem"),
        (["--listen", "tcp://127.0.0.1:0", "--tls-cert", "x"], "for endpoints with TLS"),
    ],
)
def test_a_certificate_that_cannot_be_used_is_one_line_and_status_2(
    words: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", *words]) == 2
    told = capsys.readouterr().err
    assert reason in told
    assert told.count("\n") == 1


# -- processes ---------------------------------------------------------------------------


def free_ports(count: int) -> list[str]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [str(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.mark.integration
async def test_the_commands_that_cert_prints_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "with space"
    assert main(["cert", str(directory)]) == 0
    told = capsys.readouterr().out
    for port, free in zip(("9443", "9444"), free_ports(2), strict=True):
        told = told.replace(f":{port}", f":{free}")
    commands = [shlex.split(line)[1:] for line in re.findall(r"^ +(trio-mcp .*)$", told, re.M)]
    assert [words[0] for words in commands] == ["serve", "call", "serve", "call"]
    (first, call), (second, mutual_call) = commands[:2], commands[2:]
    async with running(*first) as plain, running(*second) as mutual:
        await plain.wait_listening("https")
        await mutual.wait_listening("tls")
        for words in (call, mutual_call):
            done = await run_cli(*words)
            assert done.status == 0, done.err
            assert done.messages[0].keys() >= {"tools"}
        # Nobody comes in without a certificate, and nobody trusts the server without its CA.
        done = await run_cli("call", re.sub(r"&cert_file=.*", "", mutual_call[1]))
        assert done.status == 1
        assert "certificate" in done.err
        done = await run_cli("call", call[1].partition("?")[0])
        assert done.status == 1
        assert "certificate" in done.err


@pytest.mark.integration
@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGHUP")
async def test_sighup_reads_the_certificates_again_and_keeps_those_that_work(
    tmp_path: Path,
) -> None:
    files = Files.within(str(tmp_path))
    make_certificates(str(tmp_path))
    old_ca = shutil.copy(files.ca, tmp_path / "old.pem")
    listen = f"tls://127.0.0.1:0?cert_file={files.server_cert}&key_file={files.server_key}"
    async with running("serve", "--listen", listen, "--listen", "tcp://127.0.0.1:0") as server:
        url = (await server.wait_listening("tls")).partition("?")[0]
        assert (await run_cli("call", f"{url}?ca_file={old_ca}")).status == 0
        make_certificates(str(tmp_path))
        server.signal(signal.SIGHUP)
        await server.wait_err("certificates are read again")
        assert (await run_cli("call", f"{url}?ca_file={files.ca}")).status == 0
        refused = await run_cli("call", f"{url}?ca_file={old_ca}")
        assert refused.status == 1
        assert "certificate" in refused.err
        shutil.copy(files.server_key, files.server_cert)  # not a certificate
        server.signal(signal.SIGHUP)
        await server.wait_err(f"stay in use.*{re.escape(files.server_cert)}")
        assert (await run_cli("call", f"{url}?ca_file={files.ca}")).status == 0


@pytest.mark.integration
@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGHUP")
async def test_without_tls_a_hangup_is_the_end() -> None:
    async with running("serve", "--listen", "tcp://127.0.0.1:0") as server:
        await server.wait_listening()
        server.signal(signal.SIGHUP)
        assert await server.process.wait() == -signal.SIGHUP
