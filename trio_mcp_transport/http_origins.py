"""Origins, authorities and networks as text: parsed strictly, compared exactly.

Called by `http_endpoints` (to check what is configured) and by `security` (to compare what
a request carries). Pure. A host is compared as a whole and never by how its text begins:
``http://localhost.evil.example`` is not localhost.
"""

from __future__ import annotations

import ipaddress
import re

import msgspec

from .errors import ConfigurationError

__all__ = [
    "DEFAULT_PORTS",
    "HostPattern",
    "IPAddress",
    "IPNetwork",
    "Origin",
    "normalise_host",
    "parse_address",
    "parse_authority",
    "parse_configured_origin",
    "parse_host_pattern",
    "parse_network",
    "parse_origin",
]

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

#: RFC 9110, sections 4.2.1 and 4.2.2.
DEFAULT_PORTS = {"http": 80, "https": 443}

# What stands in a URL between "//" and the path, without a user: a name (letters, digits,
# "-", "_" as Docker and Windows make them, and dots), an IPv4 address, or "[...]".
_AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)(?::([0-9]{1,5}))?")
_ORIGIN = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)")
_NAME = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*")


class Origin(msgspec.Struct, frozen=True):
    """Scheme, host and port: what a browser takes for one site (RFC 6454).

    Attributes:
        scheme: In lower case.
        host: As `normalise_host` gives it.
        port: The scheme's own when none was written; 0 where the scheme has no ports.
    """

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if DEFAULT_PORTS.get(self.scheme, 0) == self.port else f":{self.port}"
        return f"{self.scheme}://{host}{port}"


class HostPattern(msgspec.Struct, frozen=True):
    """One allowed value of Host.

    Attributes:
        host: As `normalise_host` gives it, without the ``*.`` of a wildcard.
        port: The only port, or None for any.
        subdomains: Whether it stands for every name below `host` (and not `host` itself).
    """

    host: str
    port: int | None = None
    subdomains: bool = False

    def matches(self, host: str, port: int) -> bool:
        """Whether a host (from `parse_authority`) and its port are meant."""
        if self.port is not None and self.port != port:
            return False
        return host.endswith("." + self.host) if self.subdomains else host == self.host


def parse_address(host: str) -> IPAddress | None:
    """The address that a text is; IPv4 addresses mapped into IPv6 come out as IPv4."""
    try:
        # A zone ("%eth0") says where the address is, not which it is.
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def normalise_host(host: str) -> str:
    """A host as it can be compared: lower case, no final dot, addresses in one spelling.

    Args:
        host: A name or an address, IPv6 without brackets.
    """
    address = parse_address(host)
    if address is not None:
        return str(address)
    return host.lower().removesuffix(".")


def parse_authority(text: str, default_port: int) -> tuple[str, int] | None:
    """Host and port of a Host header; None if it is not one.

    Args:
        text: As received: ``HOST``, ``HOST:PORT``, an IPv6 address in brackets.
        default_port: The port that is meant when none stands there.
    """
    found = _AUTHORITY.fullmatch(text)
    if found is None:
        return None
    host, port = found.groups()
    if host.startswith("["):
        address = parse_address(host[1:-1])
        if address is None or ":" not in host:
            return None
        host = str(address)
    else:
        host = normalise_host(host)
        # A last label of digits would be read as an IPv4 address (WHATWG URL, 3.5), in
        # some spelling that we do not know.
        if parse_address(host) is None and (
            _NAME.fullmatch(host) is None or _is_number(host.rpartition(".")[2])
        ):
            return None
    number = default_port if port is None else int(port)
    return (host, number) if 0 < number <= 65535 else None


def _is_number(label: str) -> bool:
    return label.isdigit() or re.fullmatch(r"0x[0-9a-f]*", label) is not None


def parse_origin(text: str) -> Origin | None:
    """The origin that a text is, as browsers write it; None for anything else.

    ``null`` is none either: it is what all pages have that have no origin.
    """
    found = _ORIGIN.fullmatch(text)
    if found is None:
        return None
    scheme = found.group(1).lower()
    if scheme in DEFAULT_PORTS:
        authority = parse_authority(found.group(2), DEFAULT_PORTS[scheme])
    else:
        # Browser extensions and the like have a name and no port.
        host = found.group(2).lower()
        authority = (host, 0) if _NAME.fullmatch(host) else None
    return None if authority is None else Origin(scheme, *authority)


def parse_host_pattern(name: str, text: str) -> HostPattern:
    """Read one allowed host: ``example.com``, ``example.com:8443``, ``*.example.com``.

    Args:
        name: The option, for the error.
        text: As written.

    Raises:
        ConfigurationError: It is no host, or one that must never be allowed.
    """
    if text in {"*", "*:*"}:
        raise ConfigurationError(f"{name}: to allow any Host, say check_host=false")
    subdomains = text.startswith("*.")
    bare = text.removeprefix("*.")
    found = parse_authority(bare, 1)
    has_port = bare.rpartition(":")[2].isdigit() and not bare.endswith("]")
    if found is None or (subdomains and parse_address(found[0]) is not None):
        raise ConfigurationError(
            f"{name}: {text[:100]!r} is no host (such as example.com, example.com:8443,"
            " *.example.com or [::1])"
        )
    host, port = found
    address = parse_address(host)
    if address is not None and address.is_unspecified:
        raise ConfigurationError(f"{name}: {host} is no address that anybody can be at")
    return HostPattern(host, port if has_port else None, subdomains)


def parse_configured_origin(name: str, text: str) -> Origin:
    """Read one allowed origin, such as ``https://app.example.com``.

    Args:
        name: The option, for the error.
        text: As written; nothing may follow the port.

    Raises:
        ConfigurationError: It is none; the text repeats it.
    """
    found = parse_origin(text)
    if found is None:
        raise ConfigurationError(
            f"{name}: {text[:100]!r} is no origin: SCHEME://HOST or SCHEME://HOST:PORT,"
            " nothing behind it"
        )
    return found


def parse_network(name: str, text: str) -> IPNetwork:
    """Read one address or network (``10.0.0.0/8``).

    Raises:
        ConfigurationError: It is none, or has bits set behind its prefix.
    """
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise ConfigurationError(f"{name}: {error}") from None
