"""An `HttpEndpoint` taken apart: which of its fields are whose options.

Called by `http_server`, `http_client` and `interop.asgi`. Nothing is decided here and
nothing opened; that every field gets somewhere, and the defaults are one and the same, is
what its test holds.
"""

from __future__ import annotations

import msgspec

from ..endpoints import TcpEndpoint
from ..errors import ConfigurationError, FeatureUnavailable
from ..http_endpoints import HttpEndpoint
from ..limits import HTTP_BODY_TIMEOUT, HTTP_IDLE_TIMEOUT
from ..sansio.mcp_http.options import HttpServerOptions
from ..security.admission import ANY, AdmissionPolicy, Authenticator, Doorkeeper
from ..security.authentication import BearerTokens
from ..security.cors import CorsPolicy
from ..security.response_headers import ResponseHeaderPolicy
from ..web_endpoints import WebEndpoint
from .http_connection import HttpConnectionOptions
from .websocket_settings import WebSocketServing

__all__ = [
    "admission_policy",
    "check_connecting",
    "check_listening",
    "connection_options",
    "make_doorkeeper",
    "server_options",
    "tcp_options",
    "websocket_serving",
]

#: What a server calls whoever has the token of its endpoint.
TOKEN_HOLDER = "bearer"


def check_connecting(endpoint: WebEndpoint, *, own_client: bool = False) -> None:
    """Refuse what a client cannot do with this endpoint, before anything is sent.

    Args:
        endpoint: Where to connect to.
        own_client: Whether requests go through a client that the caller brought, which
            then has the TLS settings.

    Raises:
        ConfigurationError: An option is for listening, or two contradict each other.
        FeatureUnavailable: It needs what this installation does not have.
    """
    endpoint.refuse_options_of("server")
    if endpoint.auth == "oauth2":
        raise FeatureUnavailable(
            f"{endpoint.label}: auth=oauth2 needs a client for OAuth, which this version does"
            " not have: fetch the token yourself and say auth=bearer"
        )
    if own_client:
        _refuse_what_a_client_brings(endpoint)


def _refuse_what_a_client_brings(endpoint: WebEndpoint) -> None:
    given = [
        field.name
        for field in msgspec.structs.fields(endpoint.tls)
        if getattr(endpoint.tls, field.name) != field.default
    ]
    if endpoint.proxy is not None:
        given.append("proxy")
    if isinstance(endpoint, HttpEndpoint) and endpoint.compression.algorithms:
        given.append("compression")
    if given:
        raise ConfigurationError(f"{endpoint.label}: {given[0]} is a matter of the `client=` given")


def check_listening(endpoint: WebEndpoint) -> None:
    """Refuse what a server cannot do with this endpoint, before anything is opened.

    Raises:
        ConfigurationError: An option is for connecting, or is none of a server.
    """
    endpoint.refuse_options_of("client")
    if endpoint.auth == "oauth2":
        raise ConfigurationError(
            f"{endpoint.label}: auth=oauth2 is for connecting; a server has auth=bearer or an"
            " authenticator of its own"
        )


def server_options(endpoint: HttpEndpoint) -> HttpServerOptions:
    """What is served where.

    Raises:
        ConfigurationError: The revision is unknown or not of the era, or a limit is wrong.
    """
    sse_path, message_path = endpoint.sse_path, endpoint.message_path
    if endpoint.sse_only:
        sse_path = endpoint.path
        message_path = message_path or endpoint.path.rstrip("/") + "/messages"
    defaults = HttpServerOptions()
    return HttpServerOptions(
        path=None if endpoint.sse_only else endpoint.path,
        era=endpoint.era,
        revisions=defaults.revisions if endpoint.revision is None else (endpoint.revision,),
        response=endpoint.response,
        stateless=endpoint.stateless,
        resumable=endpoint.resumable,
        sse_path=sse_path,
        message_path=message_path,
        rpc_path=endpoint.rpc_path,
        notify_path=endpoint.notify_path,
        max_message_bytes=endpoint.options.max_message_bytes,
        max_sessions=endpoint.max_sessions,
        max_exchanges=endpoint.max_exchanges,
        max_unsent_bytes=endpoint.max_unsent_bytes,
        retry_after=endpoint.retry_after,
        session_idle_timeout=endpoint.session_idle_timeout,
        keep_alive_interval=endpoint.keep_alive_interval,
        quiet_interval=endpoint.quiet_interval,
        grace_timeout=endpoint.grace_timeout,
        retry_interval=endpoint.retry_interval,
        compression=endpoint.compression,
    )


def connection_options(endpoint: WebEndpoint) -> HttpConnectionOptions:
    """The limits of one connection.

    What `ChannelOptions` say about connections of every transport holds as well: the first
    message (`handshake_timeout`) has come when a request has, and a connection that is
    idle between requests is read from (`idle_read_timeout`).
    """
    return HttpConnectionOptions(
        head_timeout=min(endpoint.head_timeout, endpoint.options.handshake_timeout),
        body_timeout=min(
            endpoint.body_timeout if isinstance(endpoint, HttpEndpoint) else HTTP_BODY_TIMEOUT,
            endpoint.options.handshake_timeout,
        ),
        keep_alive_timeout=min(
            HTTP_IDLE_TIMEOUT if endpoint.idle_timeout is None else endpoint.idle_timeout,
            endpoint.options.idle_read_timeout,
        ),
        write_timeout=endpoint.options.write_timeout,
    )


def tcp_options(endpoint: WebEndpoint) -> TcpEndpoint:
    """Where to listen, and the options of sockets."""
    return TcpEndpoint(
        host=endpoint.host,
        port=endpoint.port,
        max_connections=endpoint.max_connections,
        options=endpoint.options,
    )


def websocket_serving(endpoint: HttpEndpoint) -> WebSocketServing | None:
    """Where requests may become WebSockets; None for nowhere."""
    if not endpoint.websocket or endpoint.sse_only:
        return None
    return WebSocketServing(path=endpoint.path, retry_after=endpoint.retry_after)


def admission_policy(endpoint: WebEndpoint) -> AdmissionPolicy:
    """Who may come in."""
    any_origin = endpoint.cors == "permissive"
    return AdmissionPolicy(
        allowed_hosts=endpoint.allowed_hosts,
        allowed_origins=(ANY,) if any_origin else endpoint.allowed_origins,
        check_host=endpoint.check_host,
        check_origin=endpoint.check_origin,
        trusted_proxies=endpoint.trusted_proxies,
        proxy_header=endpoint.proxy_header,
        cors=CorsPolicy.preset(endpoint.cors),
        response_headers=ResponseHeaderPolicy.preset(endpoint.security_headers),
    )


def make_doorkeeper(endpoint: WebEndpoint) -> Doorkeeper:
    """The policy at work, with the endpoint's token if it has one."""
    authenticate: Authenticator | None = None
    if endpoint.bearer_token is not None:
        authenticate = BearerTokens({endpoint.bearer_token: TOKEN_HOLDER})
    return Doorkeeper(admission_policy(endpoint), authenticate=authenticate)
