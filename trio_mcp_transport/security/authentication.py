"""Authentication of HTTP requests: the answers that refuse, and the simplest authenticator.

Used as the `authenticate` of a `Doorkeeper`; an application writes its own likewise. No
token is ever shown, stored longer than needed as text, or compared byte by byte.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping

from ..errors import ConfigurationError
from ..sansio.http1 import RequestHead
from ..sansio.mcp_http.replies import Reply, error_reply
from .facts import ConnectionFacts

__all__ = ["BearerTokens", "forbidden", "unauthorized"]

# RFC 6750, section 2.1; the scheme's case does not count (RFC 9110, section 11.1).
_BEARER = re.compile(r"(?i:bearer) +([A-Za-z0-9._~+/-]+=*)")


def unauthorized(scheme: str = "Bearer", /, **parameters: str) -> Reply:
    """401, with the ``WWW-Authenticate`` that it must have (RFC 9110, section 15.5.2).

    Args:
        scheme: The authentication scheme.
        **parameters: Of the challenge, such as ``realm``, ``error``, ``scope`` and
            ``resource_metadata``.
    """
    challenge = _challenge(scheme, parameters)
    return error_reply(
        401, -32600, "authentication required", headers=[("www-authenticate", challenge)]
    )


def forbidden(scheme: str = "Bearer", /, **parameters: str) -> Reply:
    """403: who it is is known and does not suffice, such as for want of a scope.

    Args:
        scheme: The authentication scheme.
        **parameters: Of the challenge; without any there is none.
    """
    headers = [("www-authenticate", _challenge(scheme, parameters))] if parameters else []
    return error_reply(403, -32600, "forbidden", headers=headers)


def _challenge(scheme: str, parameters: Mapping[str, str]) -> str:
    quoted = (
        '{}="{}"'.format(name, value.replace("\\", "\\\\").replace('"', '\\"'))
        for name, value in parameters.items()
    )
    return f"{scheme} {', '.join(quoted)}".rstrip()


class BearerTokens:
    """An authenticator that knows its tokens: ``Authorization: Bearer TOKEN``.

    Args:
        principals: Each token with the name of whoever has it.

    Raises:
        ConfigurationError: There is no token, or one that cannot be sent.
    """

    def __init__(self, principals: Mapping[str, str]) -> None:
        if not principals:
            raise ConfigurationError("without a token nobody could come in")
        for token in principals:
            if _BEARER.fullmatch(f"Bearer {token}") is None:
                raise ConfigurationError("a token has a character that no token has")
        self._principals = {_digest(token): name for token, name in principals.items()}

    async def __call__(self, head: RequestHead, facts: ConnectionFacts) -> str | Reply:
        """The name for the request's token, or the reply that refuses it."""
        values = head.headers.get_all("authorization")
        if not values:
            return unauthorized()
        found = _BEARER.fullmatch(values[0]) if len(values) == 1 else None
        name = None if found is None else self._find(_digest(found.group(1)))
        return unauthorized(error="invalid_token") if name is None else name

    def _find(self, digest: bytes) -> str | None:
        # Every token is compared, in constant time, so that time tells nothing.
        matches = [n for known, n in self._principals.items() if hmac.compare_digest(known, digest)]
        return matches[0] if matches else None


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("ascii")).digest()
