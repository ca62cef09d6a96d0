"""The exceptions that every layer shares.

Pure: this module knows nothing of Trio. The exceptions that end a channel are also
Trio's own (`trio.BrokenResourceError`) and therefore live in `abc.py`.

    TransportError
     +-- ConfigurationError      an endpoint, option or environment variable is wrong
     +-- FeatureUnavailable      an extra is not installed, or the platform cannot do it
     +-- ConnectFailed           no channel came into being
     |    +-- ConnectTimeout
     +-- MessageTooLarge         one message is over the limit; nothing was sent
     +-- ProtocolError
     |    +-- LocalProtocolError   this program misused a machine
     |    +-- RemoteProtocolError  the peer broke the protocol
     +-- RpcError                an error answer, received or to be sent
     |    +-- MethodNotFound     this router has no such method
     +-- RequestTimeout          no answer in time; the peer was told
     +-- RequestIdInUse          the id belongs to a request in flight
"""

from __future__ import annotations

__all__ = [
    "ConfigurationError",
    "ConnectFailed",
    "ConnectTimeout",
    "FeatureUnavailable",
    "LocalProtocolError",
    "MessageTooLarge",
    "MethodNotFound",
    "ProtocolError",
    "RemoteProtocolError",
    "RequestIdInUse",
    "RequestTimeout",
    "RpcError",
    "TransportError",
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
    """

    def __init__(self, message: str, *, code: int = -32600, status: int = 400) -> None:
        if type(self) is ProtocolError:
            raise TypeError("ProtocolError is abstract: raise Local or Remote")
        super().__init__(message)
        self.code = code
        self.status = status


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
