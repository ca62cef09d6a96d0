"""The one decision before anything of an HTTP request is read: may it come in?

Called by every server (Trio, ASGI, an upgrade to WebSocket) with a request's head, before
its body is read. Order: Host, then Origin, then (never for a preflight) authentication.
The decision is `Doorkeeper.judge`, pure; only the authenticator is awaited. On by default:
a server that was given no policy has `AdmissionPolicy()`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from .cors import CorsPolicy
from .facts import ConnectionFacts
from .response_headers import ResponseHeaderPolicy

if TYPE_CHECKING:
    from ..sansio.headers import Headers
    from ..sansio.http1 import RequestHead
    from ..sansio.mcp_http.replies import Reply

__all__ = [
    "AdmissionPolicy",
    "Admitted",
    "Answered",
    "Authenticator",
    "ConnectionFacts",
    "Doorkeeper",
    "Verdict",
]


class Admitted(msgspec.Struct, frozen=True):
    """The request may come in.

    Attributes:
        principal: Who sent it, as the authenticator says; None without one.
        facts: The connection as policies see it: behind a trusted proxy with the real
            client's address and scheme.
    """

    principal: str | None
    facts: ConnectionFacts


class Answered(msgspec.Struct, frozen=True):
    """The request goes no further: a refusal, or the answer to a preflight.

    Attributes:
        reply: What to send, `Doorkeeper.response_headers` not yet among its headers.
        reason: For logs: one line, nothing secret; empty for a preflight.
    """

    reply: Reply
    reason: str


Verdict: TypeAlias = Admitted | Answered
#: ``await authenticate(head, facts)`` returns the principal (None: anonymous is fine), or
#: the reply that refuses, usually `unauthorized(...)`.
Authenticator: TypeAlias = "Callable[[RequestHead, ConnectionFacts], Awaitable[str | None | Reply]]"


class AdmissionPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Who may talk to a server.

    Attributes:
        allowed_hosts: Values of Host that are right beside those that the socket implies:
            ``example.com`` (any port), ``example.com:8443``, ``*.example.com``.
        allowed_origins: Origins of web pages that may call, such as
            ``https://app.example.com``; the server's own origin always may.
        check_host: False lets any Host in: DNS rebinding is then possible.
        check_origin: False lets any web page in.
        trusted_proxies: Networks whose Forwarded and X-Forwarded-* headers are believed.
        cors: What browsers are told about other origins.
        response_headers: The security headers on every answer.
    """

    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    check_host: bool = True
    check_origin: bool = True
    trusted_proxies: tuple[str, ...] = ()
    cors: CorsPolicy = CorsPolicy()
    response_headers: ResponseHeaderPolicy = ResponseHeaderPolicy()


class Doorkeeper:
    """An `AdmissionPolicy` at work. One per listener; holds no state of connections.

    Args:
        policy: What is allowed.
        authenticate: Asked last, for everything but preflights; None lets all in.
    """

    def __init__(
        self,
        policy: AdmissionPolicy = AdmissionPolicy(),
        *,
        authenticate: Authenticator | None = None,
    ) -> None:
        self.policy = policy
        self._authenticate = authenticate

    def judge(self, head: RequestHead, facts: ConnectionFacts) -> Verdict:
        """Host, Origin and preflight: the whole decision but for authentication. Pure."""
        raise NotImplementedError

    async def admit(self, head: RequestHead, facts: ConnectionFacts) -> Verdict:
        """`judge`, then the authenticator. May not checkpoint if there is none.

        An exception of the authenticator is not caught: the request must be refused.
        """
        raise NotImplementedError

    def response_headers(self, head: RequestHead, facts: ConnectionFacts) -> Headers:
        """What every answer to this request carries beside its own headers.

        CORS and security headers, on errors and refusals too. Empty in the plain case, so
        that it can be skipped.
        """
        raise NotImplementedError
