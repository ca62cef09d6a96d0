"""Which redirect a client of MCP follows: one that repeats the request at the same origin.

Pure. A redirect could send credentials, arguments and the session id to somebody else;
therefore none is followed by itself, and this decides about each one. The `endpoint` event
of HTTP+SSE obeys the same rule.
"""

from __future__ import annotations

from urllib.parse import SplitResult, urljoin, urlsplit, urlunsplit

from ...errors import UnexpectedRedirect
from ...http_origins import DEFAULT_PORTS, Origin, normalise_host

__all__ = ["MAX_REDIRECTS", "is_redirect", "is_same_origin", "redirect_target", "resolve"]

#: Redirects that one request may take; a server needs one, for a slash.
MAX_REDIRECTS = 5


def is_redirect(status: int) -> bool:
    """Whether a status asks for another request elsewhere."""
    return status in {300, 301, 302, 303, 305, 307, 308}


def redirect_target(url: str, status: int, location: str | None, *, taken: int = 0) -> str:
    """Where to send the same request again.

    Args:
        url: Where it was sent.
        status: What the server answered.
        location: Its `Location`.
        taken: How many redirects the request has taken already.

    Raises:
        UnexpectedRedirect: It is not to be followed; the text says why, without the URL.
    """
    location = location or ""

    def refuse(why: str) -> UnexpectedRedirect:
        return UnexpectedRedirect(
            f"the server redirects ({status}), which is not followed: {why}",
            status=status,
            location=location,
        )

    # RFC 9110, section 15.4: the other ones let the client change the method, or do so.
    if status not in {307, 308}:
        raise refuse("only 307 and 308 repeat the request as it is")
    if taken >= MAX_REDIRECTS:
        raise refuse(f"there were {taken} already")
    target = resolve(url, location) if location else None
    if target is None:
        raise refuse("it does not say to where")
    if not is_same_origin(url, target) and not _is_upgrade(url, target):
        raise refuse("it leads to another origin")
    return target


def resolve(base: str, reference: str) -> str | None:
    """An absolute http(s) URL without fragment; None where the reference gives none.

    Nobody's name may stand in it: it would be sent along as credentials.
    """
    try:
        parts = urlsplit(urljoin(base, reference))
        port_is_fine = parts.port != 0
    except ValueError:
        return None
    if parts.scheme not in DEFAULT_PORTS or not parts.hostname or not port_is_fine:
        return None
    if "@" in parts.netloc or not all("!" <= character <= "~" for character in reference):
        return None
    return urlunsplit(parts._replace(fragment="", path=parts.path or "/"))


def is_same_origin(one: str, other: str) -> bool:
    """Whether two absolute URLs have scheme, host and port in common."""
    return _origin(urlsplit(one)) == _origin(urlsplit(other))


def _origin(parts: SplitResult) -> Origin:
    port = parts.port
    if port is None:
        port = DEFAULT_PORTS[parts.scheme]
    return Origin(parts.scheme, normalise_host(parts.hostname or ""), port)


def _is_upgrade(one: str, other: str) -> bool:
    """Whether it is the same host by TLS, both at the schemes' own ports."""
    before, after = _origin(urlsplit(one)), _origin(urlsplit(other))
    return (before.scheme, before.port) == ("http", 80) and after == Origin(
        "https", before.host, 443
    )
