"""The options of TLS, of both sides, as frozen plain data.

Part of endpoints (their field `tls`, whose fields stand in endpoint strings by the same
names), and given to `TlsClient` and `TlsServer`, which are the only readers. Pure: nothing
is opened here, so that a missing file is found when a connection or a listener is made.

Keys and passwords are never shown, in `repr` neither.
"""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

import msgspec

from .endpoint_values import declared_types, struct_fields
from .errors import ConfigurationError
from .limits import OCSP_CLOCK_SKEW, TLS_HANDSHAKE_TIMEOUT, TLS_RELOAD_INTERVAL
from .tls_pins import parse_pin

__all__ = [
    "ClientAuthentication",
    "OcspMode",
    "PinMode",
    "PinScope",
    "TlsSettings",
    "TlsSide",
    "TlsVersion",
    "TransparencyMode",
]

TlsVersion = Literal["1.3", "1.2"]
ClientAuthentication = Literal["none", "optional", "required"]
PinMode = Literal["enforce", "report"]
PinScope = Literal["leaf", "chain"]
OcspMode = Literal["off", "if-present", "require"]
TransparencyMode = Literal["off", "report", "require"]
TlsSide = Literal["client", "server"]

_Positive = Annotated[int, msgspec.Meta(ge=1)]
_Seconds = Annotated[float, msgspec.Meta(gt=0)]

#: What only whoever connects can use.
_CLIENT_ONLY = (
    "server_name",
    "verify_hostname",
    "ocsp",
    "ocsp_skew",
    "ct",
    "ct_log_file",
    "ct_min_logs",
    "ct_min_operators",
)
#: What only whoever listens can use.
_SERVER_ONLY = ("client_auth", "sni_certificates", "ocsp_staple_file")
_TRUST = ("ca_file", "ca_path", "ca_pem")
#: What is never shown.
_HIDDEN = ("key_password", "key_pem", "cert_pem", "ca_pem")


class TlsSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a side of TLS behaves: whom it trusts, who it is, and what it demands.

    One struct serves both sides, as one endpoint does; what only the other side can use is
    refused by `check_side`. By default a client trusts the system's authorities and checks
    the certificate's name, and TLS 1.3 is the only version.

    Attributes:
        min_tls: The oldest version that is spoken. ``1.2`` allows ECDHE with AEAD ciphers
            only, without renegotiation and compression.
        alpn: Protocols offered, or accepted, in order of preference; none is fine too.
        cert_file: Own certificate, PEM, with the intermediate certificates behind it.
        key_file: Its private key, PEM (PKCS #8, or the older forms of RSA and EC); it may
            stand in `cert_file` instead.
        key_password: What the private key is encrypted with. Never shown.
        cert_pem: Like `cert_file`, the text itself.
        key_pem: Like `key_file`, the text itself. Never shown.
        ca_file: Whom to trust, PEM: a client trusts these instead of the system's
            authorities; a server accepts client certificates of these.
        ca_path: Likewise, a directory as ``openssl rehash`` makes it.
        ca_pem: Likewise, the text itself. All three may be given together.
        pins: The public keys that the peer may have: the SHA-256 of its
            SubjectPublicKeyInfo in base64 or hex. None: any key will do.
        pin_mode: ``report`` lets a peer with another key in and reports it as an event.
        pin_scope: ``leaf``: the peer's own key must be pinned. ``chain``: that of any
            certificate of the verified chain will do.
        session_resumption: Whether later connections are set up with less work. A server
            that asks for client certificates never resumes: each handshake looks at them.
        tls_handshake_timeout: Seconds in which a handshake must be complete.
        keylog_file: Append the secrets of each connection to this file (NSS key log format),
            so that Wireshark can read along. Whoever has it can read everything.
        reload_interval: Seconds between looks at the files; changed ones are used for the
            connections that come after. `math.inf`: never.

        server_name: Client: the name or address that the certificate must be for; None for
            the host that was connected to.
        verify_hostname: Client: false accepts a trusted certificate for any name, and needs
            to be told whom to trust, by authorities or by pins.
        ocsp: Client: whether the server shall staple proof that its certificate was not
            revoked: ``require`` refuses without, ``if-present`` checks what comes (and
            refuses without where the certificate itself demands it: must-staple).
        ocsp_skew: Client: seconds that the clocks of responder and client may differ.
        ct: Client: Certificate Transparency: ``require`` refuses a certificate that is not
            in enough logs, ``report`` only reports it.
        ct_log_file: Client: the logs that count, as JSON (log list, version 3).
        ct_min_logs: Client: logs that must have it.
        ct_min_operators: Client: different operators among those.

        client_auth: Server: whether clients show a certificate: ``required`` refuses those
            without; ``optional`` lets them in without an identity.
        sni_certificates: Server: further certificates, ``CERT_FILE`` or
            ``CERT_FILE:KEY_FILE`` each, chosen by the name that the client asks for; names
            that none of them has get the main one.
        ocsp_staple_file: Server: OCSP response (DER) to staple to the main certificate.
    """

    #: Fields that endpoints must not show either.
    secrets: ClassVar[tuple[str, ...]] = ("key_password", "key_pem")

    min_tls: TlsVersion = "1.3"
    alpn: tuple[str, ...] = ()
    cert_file: str | None = None
    key_file: str | None = None
    key_password: str | None = None
    cert_pem: str | None = None
    key_pem: str | None = None
    ca_file: str | None = None
    ca_path: str | None = None
    ca_pem: str | None = None
    pins: tuple[str, ...] = ()
    pin_mode: PinMode = "enforce"
    pin_scope: PinScope = "leaf"
    session_resumption: bool = True
    tls_handshake_timeout: _Seconds = TLS_HANDSHAKE_TIMEOUT
    keylog_file: str | None = None
    reload_interval: _Seconds = TLS_RELOAD_INTERVAL

    server_name: str | None = None
    verify_hostname: bool = True
    ocsp: OcspMode = "if-present"
    ocsp_skew: Annotated[float, msgspec.Meta(ge=0)] = OCSP_CLOCK_SKEW
    ct: TransparencyMode = "off"
    ct_log_file: str | None = None
    ct_min_logs: _Positive = 2
    ct_min_operators: _Positive = 2

    client_auth: ClientAuthentication = "none"
    sni_certificates: tuple[str, ...] = ()
    ocsp_staple_file: str | None = None

    def __post_init__(self) -> None:
        """Check every field, and what they say together.

        Raises:
            ConfigurationError: Something is wrong; the text starts with the name of the
                field and repeats no secret.
        """
        self._check_types()
        for name in ("cert_file", "key_file", "ca_file", "ca_path", "keylog_file"):
            self._check_path(name, getattr(self, name))
        for name in ("ct_log_file", "ocsp_staple_file"):
            self._check_path(name, getattr(self, name))
        self._check_identity()
        for name in ("ocsp_skew", "tls_handshake_timeout", "reload_interval"):
            if math.isnan(getattr(self, name)):
                raise ConfigurationError(f"{name} must be seconds, not nan")
        if math.isinf(self.ocsp_skew):  # in text that is 0: a staple would never be too old
            raise ConfigurationError("ocsp_skew must have an end: say how many seconds, from 1 on")
        if self.server_name is not None and (
            not self.server_name or any(c <= " " or c in "/*@" for c in self.server_name)
        ):
            raise ConfigurationError("server_name must be a host name or an IP address")
        for protocol in self.alpn:
            # RFC 7301, section 3.1: 1 to 255 bytes, and all of them in 65,535.
            if not 1 <= len(protocol.encode()) <= 255:
                raise ConfigurationError("alpn: a protocol's name has 1 to 255 bytes")
        if sum(1 + len(protocol.encode()) for protocol in self.alpn) > 65_535:
            raise ConfigurationError("alpn: too many protocols")
        self._check_pins()
        if self.ocsp == "off" and self.ocsp_skew != OCSP_CLOCK_SKEW:
            raise ConfigurationError("ocsp_skew has no effect with ocsp=off")
        self._check_transparency()

    # -- Which side ------------------------------------------------------------------

    def refuse_options_of(self, side: TlsSide) -> None:
        """Raise if an option is set that only the named side can use.

        Raises:
            ConfigurationError: The text names the option.
        """
        names, doing = (
            (_CLIENT_ONLY, "connecting") if side == "client" else (_SERVER_ONLY, "listening")
        )
        for field in struct_fields(type(self)):
            if field.name in names and getattr(self, field.name) != field.default:
                raise ConfigurationError(f"{field.name} is for {doing} with TLS, not here")

    def check_side(self, side: TlsSide) -> None:
        """Raise unless these settings make sense for the named side.

        Raises:
            ConfigurationError: Something is missing, or cannot have any effect.
        """
        if side == "client":
            self.refuse_options_of("server")
            for name in ("key_file", "key_pem", "key_password"):
                # Not before: a program may add the certificate to an endpoint that has it.
                if getattr(self, name) is not None and not self.has_certificate:
                    raise ConfigurationError(f"{name} needs cert_file or cert_pem")
            pinned = self.pins and self.pin_mode == "enforce"
            if not (self.verify_hostname or self.names_authorities or pinned):
                # Anybody can have a certificate of a public authority for some name.
                raise ConfigurationError(
                    "verify_hostname=false needs ca_file, ca_path, ca_pem or pins: whose"
                    " certificates are accepted for any name"
                )
            return
        self.refuse_options_of("client")
        if not self.has_certificate:
            raise ConfigurationError(
                "cert_file is missing: a server needs a certificate and its key"
                " (`trio-mcp cert DIR` makes some to try things out)"
            )
        trust = next((name for name in _TRUST if getattr(self, name) is not None), None)
        if self.client_auth == "none":
            if trust is not None:
                raise ConfigurationError(
                    f"{trust} is for client certificates when listening, and has no effect"
                    " without client_auth=required or client_auth=optional"
                )
        elif trust is None:
            # Anything else would let in whoever has any certificate of a public authority.
            raise ConfigurationError(
                f"client_auth={self.client_auth} needs ca_file, ca_path or ca_pem:"
                " whose client certificates are accepted"
            )
        if self.pins and self.client_auth != "required":
            raise ConfigurationError(
                "pins are for client certificates when listening: they need"
                " client_auth=required, as a client without one would pass them by"
            )

    @property
    def has_certificate(self) -> bool:
        """Whether there is an own certificate."""
        return self.cert_file is not None or self.cert_pem is not None

    @property
    def names_authorities(self) -> bool:
        """Whether it says whom to trust; a client trusts the system's authorities if not."""
        return any(getattr(self, name) is not None for name in _TRUST)

    # -- As text ---------------------------------------------------------------------

    def __rich_repr__(self) -> list[tuple[str, object]]:
        # msgspec's own would show every field, keys among them.
        return [
            (field.name, "***" if field.name in _HIDDEN else getattr(self, field.name))
            for field in struct_fields(type(self))
            if getattr(self, field.name) != field.default
        ]

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in self.__rich_repr__())
        return f"{type(self).__name__}({shown})"

    # -- Checks ----------------------------------------------------------------------

    def _check_types(self) -> None:
        types = declared_types(type(self))
        for field in struct_fields(type(self)):
            value = getattr(self, field.name)
            declared = types[field.name]
            if isinstance(declared, msgspec.inspect.LiteralType) and value not in declared.values:
                allowed = ", ".join(map(str, declared.values))
                raise ConfigurationError(f"{field.name} must be one of {allowed}, not {value!r}")
            try:
                # Also copies: a list becomes the declared tuple.
                checked = msgspec.convert(value, field.type)
            except msgspec.ValidationError as error:
                # Values are not repeated: some are secrets.
                raise ConfigurationError(f"{field.name}: {error}") from None
            msgspec.structs.force_setattr(self, field.name, checked)

    def _check_path(self, name: str, path: str | None) -> None:
        if path is not None and (not path or "\0" in path):
            raise ConfigurationError(f"{name} must be a path")

    def _check_identity(self) -> None:
        for kind in ("cert", "key"):
            if (
                getattr(self, f"{kind}_file") is not None
                and getattr(self, f"{kind}_pem") is not None
            ):
                raise ConfigurationError(f"{kind}_file and {kind}_pem exclude each other")
        for pair in self.sni_certificates:
            certificate, colon, key = pair.partition(":")
            if not certificate or (colon and not key) or "\0" in pair:
                raise ConfigurationError(
                    "sni_certificates: each is written CERT_FILE or CERT_FILE:KEY_FILE"
                )

    def _check_pins(self) -> None:
        for pin in self.pins:
            try:
                parse_pin(pin)
            except ConfigurationError as error:
                raise ConfigurationError(f"pins: {error}") from None
        for name, default in (("pin_mode", "enforce"), ("pin_scope", "leaf")):
            if not self.pins and getattr(self, name) != default:
                raise ConfigurationError(f"{name} has no effect without pins")

    def _check_transparency(self) -> None:
        if self.ct != "off" and self.ct_log_file is None:
            raise ConfigurationError(f"ct={self.ct} needs ct_log_file: the logs that count")
        if self.ct == "off" and self.ct_log_file is not None:
            raise ConfigurationError("ct_log_file has no effect without ct=report or ct=require")
        for name in ("ct_min_logs", "ct_min_operators"):
            if self.ct == "off" and getattr(self, name) != 2:
                raise ConfigurationError(f"{name} has no effect without ct=report or ct=require")
        if self.ct != "off" and self.ct_min_operators > self.ct_min_logs:
            raise ConfigurationError(
                f"ct_min_operators={self.ct_min_operators} cannot be more than"
                f" ct_min_logs={self.ct_min_logs}"
            )
