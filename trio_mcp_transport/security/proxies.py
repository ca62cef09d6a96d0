"""The real client behind trusted proxies: Forwarded (RFC 7239) and X-Forwarded-For.

Called by `admission` for every request; pure. Such headers are believed only on a
connection that comes from a trusted network, and are read from their end: each proxy
appends what it saw, so the last entry is the trusted proxy's own, and the first one may be
what the client invented.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec

from ..http_origins import IPNetwork, parse_address
from ..sansio.headers import Headers
from .facts import ConnectionFacts

__all__ = ["ProxyHeader", "facts_behind_proxies"]

ProxyHeader = Literal["auto", "forwarded", "x-forwarded-for"]

#: Proxies in a row. Nobody has more; a longer list is an attempt to make it costly.
_MAX_HOPS = 32
# RFC 7239, section 4: name=token or name="quoted".
_PARAMETER = re.compile(r'\s*([A-Za-z-]+)=(?:"((?:[^"\\]|\\.)*)"|([^\s;,"]*))\s*')
_ESCAPE = re.compile(r"\\(.)")


def facts_behind_proxies(
    headers: Headers,
    facts: ConnectionFacts,
    trusted: Sequence[IPNetwork],
    header: ProxyHeader = "auto",
) -> ConnectionFacts:
    """The facts with the real client's address and scheme.

    Args:
        headers: The request's.
        facts: What the socket tells.
        trusted: Whose word counts. Without any, `facts` come back as they are.
        header: Which header the proxies set. ``auto`` takes the one that is there; if both
            are, one of them may be the client's invention, so unless both say the same
            the client counts as unknown, and the proxy's address stands for it.

    Returns:
        `client_address` is the last address in the list that is not a trusted proxy's, or
        the farthest trusted one where the list cannot be read beyond it.
    """
    peer = facts.peer_address
    if not trusted or not isinstance(peer, tuple) or not _is_in(peer[0], trusted):
        return facts
    found: set[tuple[str, str | None]] = set()
    if header != "x-forwarded-for" and "forwarded" in headers:
        found.add(_walk(_forwarded(headers["forwarded"]), peer[0], trusted))
    if header != "forwarded" and "x-forwarded-for" in headers:
        scheme = headers.get("x-forwarded-proto", "").rpartition(",")[2].strip()
        last = headers["x-forwarded-for"].split(",")[-_MAX_HOPS:]
        found.add(_walk([(hop, scheme) for hop in reversed(last)], peer[0], trusted))
    if len(found) != 1:
        return facts
    ((client, seen),) = found
    scheme = seen.lower() if seen and seen.lower() in {"http", "https"} else facts.scheme
    return msgspec.structs.replace(facts, client_address=client, scheme=scheme)


def _walk(
    hops: Sequence[tuple[str, str | None]], nearest: str, trusted: Sequence[IPNetwork]
) -> tuple[str, str | None]:
    """Go from the nearest hop outwards to the first that is not trusted."""
    client, scheme = nearest, None
    for text, seen in hops:
        address = _address_of(text)
        if address is None:
            break
        client, scheme = address, seen
        if not _is_in(address, trusted):
            break
    return client, scheme


def _forwarded(value: str) -> list[tuple[str, str | None]]:
    """The elements of Forwarded, the nearest first; cut where they are malformed."""
    elements = []
    for element in _split_quoted(value):
        found: dict[str, str] = {}
        for part in element:
            match = _PARAMETER.fullmatch(part)
            if match is None:
                found = {}
                break
            name, quoted, plain = match.groups()
            found[name.lower()] = plain if quoted is None else _ESCAPE.sub(r"\1", quoted)
        elements.append((found.get("for", ""), found.get("proto")))
    return elements[: -_MAX_HOPS - 1 : -1]


def _split_quoted(value: str) -> Iterator[list[str]]:
    """Split at commas, and each part at semicolons, but not inside of quotes."""
    parts, start, quoted, escaped = [], 0, False, False
    for position, character in enumerate(value):
        if quoted:
            quoted = escaped or character != '"'
            escaped = not escaped and character == "\\"
        elif character == '"':
            quoted = True
        elif character in ",;":
            parts.append(value[start:position])
            start = position + 1
            if character == ",":
                yield parts
                parts = []
    yield [*parts, value[start:]]


def _address_of(text: str) -> str | None:
    """The address in ``192.0.2.1``, ``192.0.2.1:80``, ``2001:db8::1``, ``[2001:db8::1]:80``."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    address = parse_address(text)
    return None if address is None else str(address)


def _is_in(host: str, networks: Sequence[IPNetwork]) -> bool:
    address = parse_address(host)
    return address is not None and any(address in network for network in networks)
