"""WebSocket frames made by hand, so that wrong ones can be made too."""

from __future__ import annotations

from typing import Literal, NamedTuple

from trio_mcp_transport.sansio.websocket import (
    DeflateSettings,
    WebSocketLimits,
    WebSocketMachine,
)

__all__ = [
    "BINARY",
    "CLOSE",
    "CONTINUATION",
    "MASK",
    "PING",
    "PONG",
    "TEXT",
    "Frame",
    "Role",
    "close_code",
    "close_frame",
    "machine",
    "other",
    "to",
]

Role = Literal["client", "server"]
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
MASK = b"\x8a\x13\xfe\x07"


class Frame(NamedTuple):
    """A frame, legal or not.

    Attributes:
        opcode: 0 to 15.
        payload: As it is before masking.
        fin: Whether it is the last of its message.
        rsv: The three reserved bits, 0 to 7; 4 is the one that means "compressed".
        length_bytes: How the length is written: in 0, 2 or 8 further bytes; the least by
            default.
        claim: The length that the header tells, if it is a lie.
    """

    opcode: int
    payload: bytes = b""
    fin: bool = True
    rsv: int = 0
    length_bytes: int | None = None
    claim: int | None = None

    def wire(self, mask: bytes | None) -> bytes:
        """The bytes, masked or not."""
        size = len(self.payload) if self.claim is None else self.claim
        length_bytes = self.length_bytes
        if length_bytes is None:
            length_bytes = 0 if size < 126 else 2 if size < 65536 else 8
        short = {0: size, 2: 126, 8: 127}[length_bytes]
        head = bytes([self.fin << 7 | self.rsv << 4 | self.opcode, (mask is not None) << 7 | short])
        head += size.to_bytes(length_bytes, "big") if length_bytes else b""
        if mask is None:
            return head + self.payload
        masked = bytes(byte ^ mask[i % 4] for i, byte in enumerate(self.payload))
        return head + mask + masked


def close_frame(code: int | None, reason: bytes = b"") -> Frame:
    """A Close frame."""
    return Frame(CLOSE, b"" if code is None else code.to_bytes(2, "big") + reason)


def other(role: Role) -> Role:
    """The other side."""
    return "server" if role == "client" else "client"


def to(role: Role, *frames: Frame) -> bytes:
    """Frames as the peer of `role` writes them."""
    mask = MASK if role == "server" else None
    return b"".join(frame.wire(mask) for frame in frames)


def machine(
    role: Role,
    *,
    limits: WebSocketLimits | None = None,
    deflate: DeflateSettings | None = None,
) -> WebSocketMachine:
    """A machine whose masks are always the same."""
    mask_key = (lambda: MASK) if role == "client" else None
    return WebSocketMachine(role, limits=limits, deflate=deflate, mask_key=mask_key)


def close_code(role: Role, wire: bytes) -> int | None:
    """The code of the one Close frame that `role` wrote."""
    masked = role == "client"
    assert wire[0] == 0x80 | CLOSE, wire
    start = 6 if masked else 2
    payload = wire[start:]
    assert wire[1] == len(payload) | (0x80 if masked else 0)
    if masked:
        payload = bytes(byte ^ MASK[i % 4] for i, byte in enumerate(payload))
    payload[2:].decode()
    return int.from_bytes(payload[:2], "big") if payload else None
