"""The exceptions that every layer shares.

Pure: this module knows nothing of Trio. The exceptions that end a channel are also
Trio's own (`trio.BrokenResourceError`) and therefore live in `abc.py`.

    TransportError
     +-- ConfigurationError      an endpoint, option or environment variable is wrong
     +-- FeatureUnavailable      an extra is not installed, or the platform cannot do it
     +-- ConnectFailed           no channel came into being
     |    +-- ConnectTimeout
     |    +-- TlsError             the two sides cannot talk TLS, or must not
     |         +-- TlsHandshakeFailed    it came to no agreement, or was broken off
     |         +-- CertificateError      a certificate was refused, by us or by the peer
     +-- MessageTooLarge         one message is over the limit; nothing was sent
     +-- ProtocolError
     |    +-- LocalProtocolError   this program misused a machine
     |    +-- RemoteProtocolError  the peer broke the protocol
     +-- RpcError                an error answer, received or to be sent
     |    +-- MethodNotFound     this router has no such method
     +-- RequestTimeout          no answer in time; the peer was told
     +-- RequestIdInUse          the id belongs to a request in flight
     +-- HttpError               an HTTP server answered, but not with a message
          +-- AuthenticationRequired   401
          +-- Forbidden                403
          +-- EndpointNotFound         404
          +-- SessionExpired           404, to a request of a session
          +-- ServerBusy               429 or 503
          +-- HttpStatusError          any other status that is no success
          +-- UnexpectedRedirect       a redirect that is not followed
          +-- InvalidHttpResponse      success, but nothing that MCP allows
"""

from __future__ import annotations

from typing import Literal, Self, TypeVar

import msgspec

__all__ = [
    "AuthenticationRequired",
    "CertificateCheck",
    "CertificateError",
    "Challenge",
    "ConfigurationError",
    "ConnectFailed",
    "ConnectTimeout",
    "EndpointNotFound",
    "FeatureUnavailable",
    "Forbidden",
    "HttpError",
    "HttpStatusError",
    "InvalidHttpResponse",
    "LocalProtocolError",
    "MessageTooLarge",
    "MethodNotFound",
    "ProtocolError",
    "RemoteProtocolError",
    "RequestIdInUse",
    "RequestTimeout",
    "RpcError",
    "ServerBusy",
    "SessionExpired",
    "TlsError",
    "TlsHandshakeFailed",
    "TransportError",
    "UnexpectedRedirect",
]

#: What a certificate was refused for. ``refused-by-peer`` is this side's own certificate.
CertificateCheck = Literal[
    "host-name",
    "expired",
    "not-yet-valid",
    "untrusted",
    "self-signed",
    "purpose",
    "revoked",
    "invalid",
    "pin",
    "ocsp",
    "transparency",
    "client-certificate",
    "refused-by-peer",
]


class TransportError(Exception):
    """Base of every failure that this package raises and Trio has no exception for."""


class ConfigurationError(TransportError, ValueError):
    """An endpoint, option or environment variable is wrong; the text names which."""


class FeatureUnavailable(TransportError):
    """This installation or this machine cannot do what was asked.

    The text says what to do about it: which `pip install` to run, or which platform
    has the feature.
    """


class ConnectFailed(TransportError, OSError):
    """No channel came into being; the cause is chained."""


class ConnectTimeout(ConnectFailed, TimeoutError):
    """The channel was not ready within `connect_timeout`."""


class TlsError(ConnectFailed):
    """TLS failed; the text says what, and holds nothing of keys.

    A client raises it out of connecting. A server reports it as the event
    ``handshake.failed`` and goes on.
    """


class TlsHandshakeFailed(TlsError):
    """No agreement was reached: version, cipher or protocol, or no TLS was spoken at all.

    Attributes:
        alert: The alert by which the peer ended it, as RFC 8446, section 6, names it
            (``handshake_failure``); None when it was this side or the connection.
    """

    def __init__(self, message: str, *, alert: str | None = None) -> None:
        super().__init__(message)
        self.alert = alert

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild_tls, (type(self), self.args, self.__dict__)


class CertificateError(TlsError):
    """A certificate was refused: the peer's by this side, or this side's by the peer.

    Attributes:
        check: The check that failed.
        name: For which name: the host that was asked for, else the certificate's subject;
            None where there is none.
        depth: Whose certificate: 0 is the peer's own, 1 that of who signed it...; None
            where that is not known.
    """

    def __init__(
        self, message: str, *, check: CertificateCheck, name: str | None, depth: int | None = None
    ) -> None:
        super().__init__(message)
        self.check: CertificateCheck = check
        self.name = name
        self.depth = depth

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild_tls, (type(self), self.args, self.__dict__)


def _rebuild_tls(kind: type[TlsError], args: tuple[str, ...], facts: dict[str, object]) -> TlsError:
    error = kind.__new__(kind)
    OSError.__init__(error, *args)  # whose `__new__` leaves that to classes with an `__init__`
    error.__dict__.update(facts)
    return error


class MessageTooLarge(TransportError, ValueError):
    """One message is larger than the limit; nothing of it was queued.

    Attributes:
        size: Bytes of the encoded message.
        limit: Bytes that were allowed.
    """

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(f"message of {size} bytes is over the limit of {limit} bytes")
        self.size = size
        self.limit = limit

    def __reduce__(self) -> tuple[type[MessageTooLarge], tuple[int, int]]:
        return type(self), (self.size, self.limit)


class ProtocolError(TransportError):
    """Somebody broke a protocol. Abstract: one of the two subclasses is raised.

    Attributes:
        code: JSON-RPC error code that tells the peer, if it can be told.
        status: HTTP status that tells the peer, if the conversation is HTTP.
        close_code: Status code of the Close frame that tells the peer, if the conversation
            is WebSocket (RFC 6455, section 7.4.1).
    """

    def __init__(
        self, message: str, *, code: int = -32600, status: int = 400, close_code: int = 1002
    ) -> None:
        if type(self) is ProtocolError:
            raise TypeError("ProtocolError is abstract: raise Local or Remote")
        super().__init__(message)
        self.code = code
        self.status = status
        self.close_code = close_code


class LocalProtocolError(ProtocolError):
    """This program asked a machine for something that its state does not allow."""


class RemoteProtocolError(ProtocolError):
    """The peer sent bytes after which the stream cannot be trusted any more."""


class RpcError(TransportError):
    """A JSON-RPC error: raised by `Peer.request`, or by a handler to send one.

    Attributes:
        code: Integer error code (JSON-RPC 2.0, section 5.1; MCP basic, Error Codes).
        message: Short human-readable text.
        data: Any further JSON value, or None when there is none.
    """

    def __init__(self, code: int, message: str, data: object = None) -> None:
        if not isinstance(code, int) or not isinstance(message, str):
            raise TypeError(f"RpcError needs an integer and a text, not {code!r} and {message!r}")
        super().__init__(code, message, data)
        self.code = code
        self.message = message
        self.data = data

    def __str__(self) -> str:
        return f"{self.message} ({self.code})"


class MethodNotFound(RpcError):
    """No handler is registered for the method, as opposed to one that says so itself.

    Over HTTP that is the difference between status 404 and 200.
    """

    def __init__(self, method: str) -> None:
        super().__init__(-32601, f"Method not found: {method[:100]}")

    def __reduce__(self) -> tuple[type[MethodNotFound], tuple[str]]:
        return type(self), (self.message.removeprefix("Method not found: "),)


class RequestTimeout(TransportError, TimeoutError):
    """No answer came within the request's timeout; the peer was told to stop."""


class RequestIdInUse(TransportError, ValueError):
    """The id belongs to a request that has not been answered yet."""


# -- HTTP, seen by a client ----------------------------------------------------------

_HttpError = TypeVar("_HttpError", bound="HttpError")


class Challenge(msgspec.Struct, frozen=True):
    """What one challenge of `WWW-Authenticate` asks for (RFC 9110, section 11.6.1).

    Nothing that it names is fetched or opened: whoever reads it decides what to trust.

    Attributes:
        scheme: In lower case, such as ``bearer``.
        parameters: By name in lower case; ``resource_metadata`` is one of MCP's.
        token: What stands in place of parameters, for schemes that have that.
    """

    scheme: str
    parameters: dict[str, str] = {}
    token: str | None = None


class HttpError(TransportError):
    """An HTTP server answered, and the answer is no message of MCP.

    A request that fails so raises it out of `Peer.request`; on a channel it is the `cause`
    of the `ErrorResponse` that ends the request.

    Attributes:
        status: The HTTP status.
        text: How the body begins, for a person; not part of `str`, as nobody knows what a
            server puts there. Empty if there is none.
    """

    def __init__(self, message: str, *, status: int, text: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.text = text

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.args, self.__dict__)

    def again(self) -> Self:
        """A fresh exception with the same facts, chained to this one, to raise."""
        fresh = _rebuild(type(self), self.args, self.__dict__)
        fresh.__cause__ = self
        return fresh


def _rebuild(kind: type[_HttpError], args: tuple[str, ...], facts: dict[str, object]) -> _HttpError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(facts)
    return error


class AuthenticationRequired(HttpError):
    """The server wants to know who asks (401).

    Attributes:
        challenges: What `WWW-Authenticate` says, in order.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 401,
        text: str = "",
        challenges: tuple[Challenge, ...] = (),
    ) -> None:
        super().__init__(message, status=status, text=text)
        self.challenges = challenges


class Forbidden(HttpError):
    """The server knows who asks and refuses, or refuses everyone (403).

    Attributes:
        challenges: What `WWW-Authenticate` says, such as which scope would do.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 403,
        text: str = "",
        challenges: tuple[Challenge, ...] = (),
    ) -> None:
        super().__init__(message, status=status, text=text)
        self.challenges = challenges


class EndpointNotFound(HttpError):
    """There is no MCP endpoint at this URL (404)."""


class SessionExpired(HttpError):
    """The server does not know the session any more (404); it may have been restarted.

    The request was not run if it is the one that was told so; one that was in flight
    beside it may have been, and is never sent again by itself.
    """


class ServerBusy(HttpError):
    """The server has too much to do (503), or too much of this client (429).

    Attributes:
        retry_after: Seconds to wait before the next try, where the server says it.
    """

    def __init__(
        self, message: str, *, status: int, text: str = "", retry_after: float | None = None
    ) -> None:
        super().__init__(message, status=status, text=text)
        self.retry_after = retry_after


class HttpStatusError(HttpError):
    """Any other status that tells of a failure."""


class UnexpectedRedirect(HttpError):
    """A redirect that leads to another origin, or that would change the request.

    Nothing was sent there.

    Attributes:
        location: Where it leads, as the server wrote it.
    """

    def __init__(self, message: str, *, status: int, text: str = "", location: str = "") -> None:
        super().__init__(message, status=status, text=text)
        self.location = location


class InvalidHttpResponse(HttpError):
    """The status tells of success, and the rest is nothing that MCP allows there."""
