"""OpenSSL's contexts, built from settings. The only module here that imports OpenSSL.

Called by `tls_contexts`, which imports it when the first client or server is made, as
OpenSSL is an extra. A context cannot be changed once it has made a connection, so whatever
changes means new contexts; connections that exist keep theirs.

What OpenSSL calls back finds its connection's `Verification` as the connection's app data.
None of these functions raises: pyOpenSSL keeps what they raise with the context, where it
would come out of another connection's next call, or prints it. The one exception is ALPN's,
whose alert can be had in no other way, and which is raised by the same call.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from typing import Final

from cryptography import x509
from OpenSSL import SSL, crypto
from service_identity.hazmat import DNS_ID

from ..abc import ChannelEvent, EventHandler
from ..errors import ConfigurationError, TlsHandshakeFailed
from ..reporting import report
from ..tls_settings import TlsSettings
from .staples import StapleSource
from .tls_certificates import Identity, host_names, load_authorities, printable
from .tls_verification import Policy, Verification

__all__ = [
    "client_connection",
    "client_context",
    "encode_name",
    "server_connection",
    "server_contexts",
]

#: TLS 1.2: only ephemeral elliptic-curve key exchange with authenticated encryption, and
#: security level 2 (112 bits: RSA from 2048, no SHA-1 signatures).
_TLS12_CIPHERS: Final = b"ECDHE+AESGCM:ECDHE+CHACHA20:@SECLEVEL=2"
_VERSIONS: Final = {"1.2": SSL.TLS1_2_VERSION, "1.3": SSL.TLS1_3_VERSION}
#: What a session belongs to; needed where a server looks at client certificates.
_SESSION_CONTEXT: Final = b"trio-mcp-transport"
#: RFC 1035, section 2.3.4, for names without the final dot.
_MAX_NAME: Final = 253
#: Seconds for which a session can be resumed: for so long nobody looks at its certificate.
_SESSION_SECONDS: Final = 3600


def client_context(
    settings: TlsSettings, identities: Sequence[Identity], policy: Policy
) -> SSL.Context:
    """The context of a client.

    Args:
        settings: The settings.
        identities: Its certificate, or none.
        policy: What the certificates of servers are measured by.

    Raises:
        ConfigurationError: OpenSSL refuses something, or a file cannot be read.
    """
    context = _context(SSL.TLS_CLIENT_METHOD, settings, policy.on_event)
    _trust(context, settings)
    if not settings.names_authorities:
        context.set_default_verify_paths()
    for identity in identities:
        _use(context, identity)
    context.set_verify(SSL.VERIFY_PEER, _on_certificate)
    if settings.alpn:
        context.set_alpn_protos([protocol.encode() for protocol in settings.alpn])
    if policy.staples is not None:
        context.set_ocsp_client_callback(_on_staple)
    # Sessions are kept by `TlsClient`, not here.
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    if not settings.session_resumption:
        context.set_options(SSL.OP_NO_TICKET)
    return context


def encode_name(name: str) -> bytes:
    """A host name as it is asked for, and as certificates have it: A-labels, in lower case.

    Raises:
        ConfigurationError: It is no host name.
    """
    try:
        encoded = DNS_ID(name).hostname
    except (ValueError, TypeError) as error:
        raise ConfigurationError(f"{name!r} is no host name") from error
    if len(encoded) > _MAX_NAME:  # OpenSSL would not ask for it, and not say so
        raise ConfigurationError(f"{printable(name)!r} is no host name: it is too long")
    return encoded


def client_connection(
    context: SSL.Context,
    verification: Verification,
    server_name: bytes | None,
    session: SSL.Session | None,
    *,
    staple: bool,
) -> SSL.Connection:
    """A client's connection, ready for its handshake.

    Args:
        context: What it is made from.
        verification: Judges the server's certificate.
        server_name: The name to ask for (SNI); None for none.
        session: What to resume; None for nothing.
        staple: Whether to ask for a staple.
    """
    connection = SSL.Connection(context, None)
    connection.set_app_data(verification)
    if server_name is not None:
        connection.set_tlsext_host_name(server_name)
    if staple:
        connection.request_ocsp()
    if session is not None:
        connection.set_session(session)
    return connection


def server_contexts(
    settings: TlsSettings,
    identities: Sequence[Identity],
    policy: Policy,
    staples: StapleSource | None,
) -> list[SSL.Context]:
    """The contexts of a server, one for each certificate; connections are made from the first.

    Args:
        settings: The settings.
        identities: The main certificate and the further ones, in order.
        policy: What client certificates are measured by.
        staples: Gives what is stapled.

    Raises:
        ConfigurationError: OpenSSL refuses something, or a file cannot be read.
    """
    contexts = [_server_context(settings, each, policy, staples) for each in identities]
    main = contexts[0]
    if len(contexts) > 1:
        table: dict[str, SSL.Context] = {}
        for identity, context in zip(identities, contexts, strict=True):
            for name in host_names(identity.facts):
                table.setdefault(name, context)
        main.set_tlsext_servername_callback(_chooser(table))
    return contexts


def server_connection(context: SSL.Context, verification: Verification) -> SSL.Connection:
    """A server's connection, ready for its handshake."""
    connection = SSL.Connection(context, None)
    connection.set_app_data(verification)
    return connection


# -- Contexts ------------------------------------------------------------------------


def _context(method: int, settings: TlsSettings, on_event: EventHandler | None) -> SSL.Context:
    context = SSL.Context(method)
    context.set_min_proto_version(_VERSIONS[settings.min_tls])
    context.set_cipher_list(_TLS12_CIPHERS)
    context.set_options(
        SSL.OP_NO_RENEGOTIATION | SSL.OP_NO_COMPRESSION | SSL.OP_CIPHER_SERVER_PREFERENCE
    )
    # 34 KiB less for each connection that is idle.
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    context.set_timeout(_SESSION_SECONDS)
    if settings.keylog_file is not None:
        context.set_keylog_callback(_key_log(settings.keylog_file, on_event))
    return context


def _server_context(
    settings: TlsSettings, identity: Identity, policy: Policy, staples: StapleSource | None
) -> SSL.Context:
    context = _context(SSL.TLS_SERVER_METHOD, settings, policy.on_event)
    _use(context, identity)
    context.set_session_id(_SESSION_CONTEXT)
    # Tickets hold all of a session, so there is nothing to keep here.
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    asks = settings.client_auth != "none"
    if asks:
        for authority in _trust(context, settings):
            context.add_client_ca(authority)
        mode = SSL.VERIFY_PEER
        if settings.client_auth == "required":
            mode |= SSL.VERIFY_FAIL_IF_NO_PEER_CERT
        context.set_verify(mode, _on_certificate)
    else:
        context.set_verify(SSL.VERIFY_NONE)
    if asks or not settings.session_resumption:
        # TLS 1.3 tickets are sent all the same, but nothing is kept that they could name.
        context.set_options(SSL.OP_NO_TICKET)
    if settings.alpn:
        context.set_alpn_select_callback(_selector(settings.alpn))
    if staples is not None:
        context.set_ocsp_server_callback(_stapler(identity, policy, staples))
    return context


def _use(context: SSL.Context, identity: Identity) -> None:
    try:
        context.use_certificate(identity.certificate)
        for certificate in identity.chain:
            context.add_extra_chain_cert(certificate)
        context.use_privatekey(identity.key)
        context.check_privatekey()
    except (SSL.Error, crypto.Error) as error:
        raise ConfigurationError(
            f"{identity.label}: OpenSSL refuses it: {_reason(error)}"
        ) from None


def _trust(context: SSL.Context, settings: TlsSettings) -> list[x509.Certificate]:
    """Trust `ca_file`, `ca_path` and `ca_pem`; return the certificates that were read."""
    authorities = load_authorities(settings)
    store = context.get_cert_store()
    assert store is not None  # every context has one
    try:
        for certificate in authorities:
            store.add_cert(crypto.X509.from_cryptography(certificate))
        if settings.ca_path is not None:
            context.load_verify_locations(None, settings.ca_path)
    except (SSL.Error, crypto.Error) as error:
        raise ConfigurationError(
            f"ca_file, ca_path: OpenSSL refuses it: {_reason(error)}"
        ) from None
    if settings.names_authorities:
        # Whoever names an intermediate, or the server's own certificate, trusts just that.
        store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN)
    return authorities


def _reason(error: SSL.Error | crypto.Error) -> str:
    """OpenSSL's own words, without anything else."""
    entries = error.args[0] if error.args else ()
    return "; ".join(str(entry[2]) for entry in entries) or "unknown error"


# -- What OpenSSL calls back ---------------------------------------------------------


def _on_certificate(
    connection: SSL.Connection, certificate: crypto.X509, code: int, depth: int, is_good: int
) -> bool:
    verification = connection.get_app_data()
    if not isinstance(verification, Verification):
        return False
    return verification.on_certificate(certificate.to_cryptography, code, depth, bool(is_good))


def _on_staple(connection: SSL.Connection, staple: bytes, _data: object) -> bool:
    verification = connection.get_app_data()
    return isinstance(verification, Verification) and verification.on_staple(staple)


def _chooser(table: dict[str, SSL.Context]) -> Callable[[SSL.Connection], None]:
    def choose(connection: SSL.Connection) -> None:
        asked = connection.get_servername()
        if asked is None:
            return
        # Bytes of the peer: what is no name is not in the table.
        name = asked.decode("ascii", "replace").lower().rstrip(".")
        label, _, rest = name.partition(".")
        context = table.get(name) or (table.get(f"*.{rest}") if label else None)
        if context is not None and context is not connection.get_context():
            connection.set_context(context)

    return choose


def _selector(
    protocols: Sequence[str],
) -> Callable[[SSL.Connection, list[bytes]], bytes]:
    known = [protocol.encode() for protocol in protocols]

    def select(_connection: SSL.Connection, offered: list[bytes]) -> bytes:
        for protocol in known:
            if protocol in offered:
                return protocol
        # RFC 7301, section 3.2: no_application_protocol. pyOpenSSL sends it for exceptions.
        # Of what the peer offers only so much is told as a line of a log may hold.
        names = ", ".join(each.decode("ascii", "backslashreplace") for each in offered)
        raise TlsHandshakeFailed(
            f"no protocol of ALPN in common: the client offers {printable(names)}, and this"
            f" server has {', '.join(protocols)}"
        )

    return select


def _stapler(
    identity: Identity, policy: Policy, staples: StapleSource
) -> Callable[[SSL.Connection, object], bytes]:
    def staple(_connection: SSL.Connection, _data: object) -> bytes:
        try:
            return staples.staple_for(identity.certificate, policy.clock())
        except Exception as error:
            message = f"{identity.label}: nothing is stapled, as its source failed"
            report(
                policy.on_event, ChannelEvent(name="staple.failed", message=message, error=error)
            )
            return b""

    return staple


def _key_log(path: str, on_event: EventHandler | None) -> Callable[[SSL.Connection, bytes], None]:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0)

    def append(line: bytes) -> int:
        descriptor = os.open(path, flags, 0o600)
        try:
            os.write(descriptor, line)
            return os.fstat(descriptor).st_mode
        finally:
            os.close(descriptor)

    try:
        mode = append(b"")
        if os.name == "posix" and stat.S_ISREG(mode) and mode & (stat.S_IRGRP | stat.S_IROTH):
            # It was there before; one that is made here is for its owner alone.
            raise ConfigurationError(
                f"keylog_file {path}: others may read it, and with it all that passes: chmod 600"
            )
    except OSError as error:
        raise ConfigurationError(f"keylog_file {path}: {error.strerror}") from error

    def on_line(_connection: SSL.Connection, line: bytes) -> None:
        try:
            append(line + b"\n")
        except OSError as error:
            message = f"keylog_file {path}: {error.strerror}"
            report(on_event, ChannelEvent(name="keylog.failed", message=message, error=error))

    return on_line
