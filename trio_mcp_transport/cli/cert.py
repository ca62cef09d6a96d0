"""`trio-mcp cert`: certificates for trying out TLS on one's own machines."""

from __future__ import annotations

import argparse
import datetime
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from ..errors import ConfigurationError
from ..testing.certificates import CertificateAuthority
from .running import ExitStatus
from .terminal import print_text

__all__ = ["CLIENT_NAME", "Files", "add_arguments", "make_certificates", "run"]

#: What the server's certificate is for whatever else is asked for.
LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
#: The subject of the client's certificate.
CLIENT_NAME = "trio-mcp client"
DEFAULT_DAYS = 397


class Files(NamedTuple):
    """Where everything is."""

    ca: str
    server_cert: str
    server_key: str
    client_cert: str
    client_key: str

    @classmethod
    def within(cls, directory: str) -> Files:
        """The files of a directory."""
        names = ("ca.pem", "server.pem", "server.key", "client.pem", "client.key")
        return cls(*(os.path.join(directory, name) for name in names))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `cert`."""
    parser.epilog = (
        "Writes ca.pem, server.pem, server.key, client.pem and client.key; only the owner can"
        " read the keys. The authority's own key is thrown away: whoever trusts ca.pem trusts"
        " these two certificates and no others. They are for trying things out. Needs the extra"
        " `tls`."
    )
    parser.add_argument("directory", metavar="DIR", help="where to; made if it is not there")
    parser.add_argument(
        "--name",
        action="append",
        default=[],
        metavar="NAME",
        help="a host name or address that the server has, any number of times, beside "
        + ", ".join(LOCAL_NAMES),
    )
    parser.add_argument(
        "--days",
        type=_days,
        default=DEFAULT_DAYS,
        metavar="N",
        help="how long they are valid (default: %(default)s)",
    )
    parser.add_argument("--force", action="store_true", help="replace what is there")


def _days(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 10_000):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of days")
    return int(text)


def run(arguments: argparse.Namespace) -> int:
    """Make the certificates and say how to use them.

    Raises:
        ConfigurationError: Something is there already, or a name is none.
        FeatureUnavailable: The extra `tls` is missing.
        OSError: They cannot be written.
        StdoutClosed: Nobody reads what is said.
    """
    directory: str = arguments.directory
    files = Files.within(directory)
    there = [path for path in files if os.path.lexists(path)]
    if there and not arguments.force:
        raise ConfigurationError(f"{', '.join(there)}: already there; --force replaces them")
    names = [*LOCAL_NAMES, *(name for name in arguments.name if name not in LOCAL_NAMES)]
    until = make_certificates(directory, names, days=arguments.days)
    print_text(_explanation(files, names, until))
    return ExitStatus.OK


def make_certificates(
    directory: str, names: Sequence[str] = LOCAL_NAMES, *, days: int = DEFAULT_DAYS
) -> datetime.date:
    """Write the files of a new authority, replacing what is there.

    Returns:
        The last day on which they are valid.

    Raises:
        ConfigurationError: A name is none.
        FeatureUnavailable: The extra `tls` is missing.
        OSError: They cannot be written.
    """
    end = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)
    not_after = end.timestamp()
    authority = CertificateAuthority.create("trio-mcp cert", not_after=not_after)
    for name in names:
        if not name or any(sign.isspace() or sign == "/" for sign in name):
            raise ConfigurationError(f"--name: {name!r} is no host name and no address")
    server = authority.issue_server(*names, not_after=not_after)
    client = authority.issue_client(CLIENT_NAME, not_after=not_after)
    Path(directory).mkdir(mode=0o700, parents=True, exist_ok=True)
    files = Files.within(directory)
    server.write(files.server_cert, files.server_key)
    client.write(files.client_cert, files.client_key)
    authority.write(files.ca)
    return end.date()


def _explanation(files: Files, names: Sequence[str], until: datetime.date) -> str:
    def endpoint(url: str, **options: str) -> str:
        query = "&".join(f"{key}={quote(value)}" for key, value in options.items())
        return shlex.quote(f"{url}?{query}")

    def path(name: str) -> str:
        return shlex.quote(name)

    pair = f"--tls-cert {path(files.server_cert)} --tls-key {path(files.server_key)}"
    https = endpoint("https://127.0.0.1:9443/mcp", ca_file=files.ca)
    mutual = endpoint(
        "tls://127.0.0.1:9444",
        ca_file=files.ca,
        cert_file=files.client_cert,
        key_file=files.client_key,
    )
    return "\n".join([
        f"Certificates for {', '.join(names)}, and for a client, valid until {until}:",
        "",
        f"  {files.ca}  whom both sides trust",
        f"  {files.server_cert}, {files.server_key}",
        f"  {files.client_cert}, {files.client_key}",
        "",
        "A server, and a client that trusts it:",
        "",
        f"  trio-mcp serve --listen https://127.0.0.1:9443/mcp {pair}",
        f"  trio-mcp call {https}",
        "",
        "A server that wants to know its clients, and one that it knows:",
        "",
        f"  trio-mcp serve --listen tls://127.0.0.1:9444 {pair} --client-ca {path(files.ca)}",
        f"  trio-mcp call {mutual}",
    ])
