"""WebSocket: the events, the close codes and the limits.

Shared by the machine and by what reads and writes frames for it. Pure data.
"""

from __future__ import annotations

import enum
from typing import TypeAlias

import msgspec

from ..errors import ConfigurationError, LocalProtocolError
from ..limits import DEFAULT_MAX_FRAGMENTS, DEFAULT_MAX_MESSAGE_BYTES

__all__ = [
    "BinaryMessage",
    "Close",
    "CloseCode",
    "CloseReceived",
    "Ping",
    "Pong",
    "TextMessage",
    "WebSocketEvent",
    "WebSocketItem",
    "WebSocketLimits",
]

#: Bytes of a control frame's payload. RFC 6455, section 5.5: "All control frames MUST have a
#: payload length of 125 bytes or less".
_MAX_CONTROL_BYTES = 125
# Codes that a Close frame may carry (RFC 6455, section 7.4, and IANA's registry): 1004 is
# reserved, 1005, 1006 and 1015 "MUST NOT be set as a status code in a Close control frame".
_REGISTERED = frozenset({1000, 1001, 1002, 1003, *range(1007, 1015)})


class CloseCode(enum.IntEnum):
    """Why a conversation ends (RFC 6455, section 7.4.1, and IANA's registry)."""

    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    #: Never on the wire: the Close frame that came has no code.
    NO_STATUS = 1005
    #: Never on the wire: the connection ended without a Close frame.
    ABNORMAL = 1006
    INVALID_DATA = 1007
    POLICY_VIOLATION = 1008
    MESSAGE_TOO_BIG = 1009
    INTERNAL_ERROR = 1011
    SERVICE_RESTART = 1012
    TRY_AGAIN_LATER = 1013


def is_sendable_code(code: int) -> bool:
    """Whether a Close frame may carry this code."""
    return code in _REGISTERED or 3000 <= code <= 4999


class WebSocketLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What a peer may send. Held to from the header of a frame on, before its payload comes.

    Attributes:
        max_message_bytes: Bytes of one message, all its fragments together, inflated if
            they were compressed.
        max_frame_bytes: Bytes of one frame's payload as it is on the wire. Messages that are
            sent are cut into frames of this size too.
        max_fragments: Frames of one message: each costs the same however little it holds.
    """

    max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES
    max_frame_bytes: int = DEFAULT_MAX_MESSAGE_BYTES
    max_fragments: int = DEFAULT_MAX_FRAGMENTS

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ConfigurationError(f"{name} must be at least 1, not {value!r}")
        if self.max_frame_bytes < _MAX_CONTROL_BYTES:
            raise ConfigurationError(
                f"max_frame_bytes must be at least {_MAX_CONTROL_BYTES}, the size of a control "
                f"frame, not {self.max_frame_bytes}"
            )


class TextMessage(msgspec.Struct, frozen=True):
    """A whole text message, however many frames it came in.

    Attributes:
        data: UTF-8, checked.
    """

    data: bytes


class BinaryMessage(msgspec.Struct, frozen=True):
    """A whole binary message, however many frames it came in.

    Attributes:
        data: The bytes.
    """

    data: bytes


class Ping(msgspec.Struct, frozen=True):
    """A ping. The machine answers those that it receives by itself.

    Attributes:
        payload: Up to 125 bytes that come back in the pong.
    """

    payload: bytes = b""

    def __post_init__(self) -> None:
        _check_control_payload(self.payload)


class Pong(msgspec.Struct, frozen=True):
    """The answer to a ping, or an unsolicited one.

    Attributes:
        payload: The payload of the ping it answers.
    """

    payload: bytes = b""

    def __post_init__(self) -> None:
        _check_control_payload(self.payload)


class Close(msgspec.Struct, frozen=True):
    """The last word of this side.

    Attributes:
        code: Why: one that may be on the wire, or None to give none.
        reason: Up to 123 bytes of UTF-8 for whoever debugs; longer ones are cut.
    """

    code: int | None = CloseCode.NORMAL
    reason: str = ""

    def __post_init__(self) -> None:
        if self.code is None:
            if self.reason:
                raise LocalProtocolError("a Close frame with a reason needs a code")
        elif not is_sendable_code(self.code):
            raise LocalProtocolError(f"{self.code!r:.100} is no code of a Close frame")


class CloseReceived(msgspec.Struct, frozen=True):
    """The last word of the peer. The machine answers it by itself, if this side has not closed.

    Attributes:
        code: Why; 1005 where the peer gives no code.
        reason: For whoever debugs; the peer's own words.
    """

    code: int
    reason: str = ""


def _check_control_payload(payload: bytes) -> None:
    if len(payload) > _MAX_CONTROL_BYTES:
        raise LocalProtocolError(
            f"{len(payload)} bytes in a control frame, which holds {_MAX_CONTROL_BYTES}"
        )


#: What `WebSocketMachine.next_event` gives beside `EndOfData` and `NEED_DATA`.
WebSocketEvent: TypeAlias = TextMessage | BinaryMessage | Ping | Pong | CloseReceived
#: What `WebSocketMachine.send` takes.
WebSocketItem: TypeAlias = TextMessage | BinaryMessage | Ping | Pong | Close
