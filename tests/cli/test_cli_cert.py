"""`trio-mcp cert`: what it writes, what it refuses, and that it says how to go on."""

from __future__ import annotations

import datetime
import stat
import sys
from pathlib import Path

import pytest

from trio_mcp_transport.cli import main

pytest.importorskip("OpenSSL", reason="the extra `tls` is not installed")

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID

pytestmark = [pytest.mark.cli, pytest.mark.tls]

FILES = ["ca.pem", "client.key", "client.pem", "server.key", "server.pem"]


def certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def names_of(path: Path) -> set[str]:
    found = certificate(path).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    names = found.value.get_values_for_type(x509.DNSName)
    addresses = found.value.get_values_for_type(x509.IPAddress)
    return {*names, *map(str, addresses)}


def test_it_writes_an_authority_and_a_pair_for_each_side(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "new" / "certs"
    assert main(["cert", str(directory)]) == 0
    assert sorted(path.name for path in directory.iterdir()) == FILES
    authority = certificate(directory / "ca.pem")
    for side, usage in (
        ("server", ExtendedKeyUsageOID.SERVER_AUTH),
        ("client", ExtendedKeyUsageOID.CLIENT_AUTH),
    ):
        issued = certificate(directory / f"{side}.pem")
        issued.verify_directly_issued_by(authority)
        found = issued.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
        assert list(found.value) == [usage]
        key = load_pem_private_key((directory / f"{side}.key").read_bytes(), None)
        assert key.public_key() == issued.public_key()
    assert names_of(directory / "server.pem") == {"localhost", "127.0.0.1", "::1"}
    told = capsys.readouterr().out
    for name in FILES:
        assert str(directory / name) in told
    assert "PRIVATE KEY" not in told


@pytest.mark.skipif(sys.platform == "win32", reason="there are no permissions")
def test_only_the_owner_can_read_the_keys_and_nobody_else_the_directory(tmp_path: Path) -> None:
    directory = tmp_path / "certs"
    assert main(["cert", str(directory)]) == 0
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    for side in ("server", "client"):
        assert stat.S_IMODE((directory / f"{side}.key").stat().st_mode) == 0o600


def test_a_directory_of_somebody_else_keeps_its_permissions(tmp_path: Path) -> None:
    before = tmp_path.stat().st_mode
    assert main(["cert", str(tmp_path)]) == 0
    assert tmp_path.stat().st_mode == before


def test_further_names_and_addresses_are_in_the_servers_certificate(tmp_path: Path) -> None:
    assert main(["cert", str(tmp_path), "--name", "box.local", "--name", "10.0.0.7"]) == 0
    assert names_of(tmp_path / "server.pem") >= {"localhost", "box.local", "10.0.0.7"}


def test_they_are_valid_for_as_long_as_was_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cert", str(tmp_path), "--days", "2"]) == 0
    for name in ("ca.pem", "server.pem", "client.pem"):
        issued = certificate(tmp_path / name)
        left = issued.not_valid_after_utc - datetime.datetime.now(datetime.UTC)
        assert datetime.timedelta(days=1) < left <= datetime.timedelta(days=2)
    assert f"valid until {certificate(tmp_path / 'ca.pem').not_valid_after_utc:%Y-%m-%d}:" in (
        capsys.readouterr().out
    )


@pytest.mark.parametrize("name", FILES)
def test_nothing_is_replaced_unless_it_is_asked_for(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_text("precious")
    assert main(["cert", str(tmp_path)]) == 2
    assert f"{tmp_path / name}: already there; --force replaces" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "precious"
    assert main(["cert", str(tmp_path), "--force"]) == 0
    assert (tmp_path / name).read_text().startswith("-----BEGIN")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--name", ""], "'' is no host name and no address"),
        (["--name", "two words"], "'two words' is no host name"),
        (["--name", "https://example.com/"], "is no host name"),
        (["--name", "bücher.example"], "A-label"),
        (["--days", "0"], "'0' is no number of days"),
        (["--days", "-1"], "no number of days"),
        (["--days", "many"], "'many' is no number of days"),
    ],
)
def test_what_is_no_name_and_no_number_is_refused_before_anything_is_written(
    words: list[str], reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cert", str(tmp_path / "certs"), *words]) == 2
    assert reason in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_to_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert main(["cert", str(tmp_path / "file")]) == 1
    told = capsys.readouterr().err
    assert str(tmp_path / "file") in told
    assert told.count("\n") == 1


def test_without_the_extra_it_says_what_to_install(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["cert", str(tmp_path / "certs")]) != 0
    assert "trio-mcp-transport[tls]" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
