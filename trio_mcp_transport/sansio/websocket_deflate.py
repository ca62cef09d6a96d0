"""Compression of WebSocket messages: permessage-deflate (RFC 7692).

Settings, their negotiation in the handshake's header fields, and the two directions. Off
unless somebody gives `DeflateSettings`. Called by `websocket_handshake` (negotiation), the
machine (`Deflater`) and its reader (`Inflater`).

A few bytes can inflate to a thousand times as many, so the inflater is told before each step
how much room is left, and never makes more than a byte beyond it.

What is sent is compressed message by message, without a context that goes on from one to the
next: so messages may overtake each other or be dropped before they are written, and an idle
connection holds no compressor.
"""

from __future__ import annotations

import re
import zlib
from typing import Final

import msgspec

from ..errors import ConfigurationError, RemoteProtocolError
from .websocket_events import CloseCode

__all__ = ["DeflateSettings", "Deflater", "Inflater", "accept_offer", "offer", "read_accepted"]

_NAME: Final = "permessage-deflate"
# RFC 7692, section 7.2.1: an endpoint "removes 4 octets (that are 0x00 0x00 0xff 0xff) from
# the tail end", and section 7.2.2: it appends them before it decompresses.
_TAIL: Final = b"\x00\x00\xff\xff"
#: Bytes inflated in one step: deflate makes at most 1032 of one, so a step makes 8 MB.
_STEP_BYTES: Final = 8 * 1024
#: Final blocks of one message (RFC 7692, section 7.2.3.4, allows them): each costs a new
#: inflater, and two bytes are enough for one. Those who use them need one in a message.
_MAX_FINAL_BLOCKS: Final = 8
#: What zlib cannot compress with although the RFC knows it: "8 bits" means none is sent.
_SMALLEST_WINDOW: Final = 9

_TOKEN = r"[-!#$%&'*+.^_`|~0-9A-Za-z]+"
_EXTENSION = re.compile(
    rf'[ \t]*({_TOKEN})((?:[ \t]*;[ \t]*{_TOKEN}(?:[ \t]*=[ \t]*(?:{_TOKEN}|"{_TOKEN}"))?)*)[ \t]*'
)
_PARAMETER = re.compile(rf';[ \t]*({_TOKEN})(?:[ \t]*=[ \t]*"?({_TOKEN})"?)?')
_BITS = re.compile(r"[89]|1[0-5]")
_FLAGS = frozenset({"server_no_context_takeover", "client_no_context_takeover"})
_WINDOWS = frozenset({"server_max_window_bits", "client_max_window_bits"})


class DeflateSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How messages are compressed: what this side wishes, and then what both agreed on.

    The defaults are made for many short messages of JSON: a compressor takes 24 KiB for as
    long as it takes to compress one, an inflater 16 KiB for as long as the connection.

    Attributes:
        max_window_bits: Two to the power of it is how far the compression of what this side
            sends looks back, in bytes: 9 to 15; 8 to send nothing compressed.
        peer_max_window_bits: The same for what the peer sends.
        peer_no_context_takeover: Whether the peer has to compress each message by itself,
            so that no memory is held between messages; this side always does.
        level: zlib's, 1 (fast) to 9 (small).
        memory_level: zlib's, 1 to 9.
        min_bytes: Shorter messages are sent as they are.
    """

    max_window_bits: int = 12
    peer_max_window_bits: int = 12
    peer_no_context_takeover: bool = False
    level: int = 6
    memory_level: int = 5
    min_bytes: int = 128

    def __post_init__(self) -> None:
        for name, least, most in (
            ("max_window_bits", 8, 15),
            ("peer_max_window_bits", 8, 15),
            ("level", 1, 9),
            ("memory_level", 1, 9),
            ("min_bytes", 1, 2**63),
        ):
            value = getattr(self, name)
            if type(value) is not int or not least <= value <= most:
                raise ConfigurationError(f"{name} must be {least} to {most}, not {value!r}")


class Deflater:
    """Compresses what this side sends.

    Args:
        settings: What both agreed on.
    """

    __slots__ = ("_settings",)

    def __init__(self, settings: DeflateSettings) -> None:
        self._settings = settings

    def compresses(self, size: int) -> bool:
        """Whether a message of `size` bytes is worth it."""
        settings = self._settings
        return size >= settings.min_bytes and settings.max_window_bits >= _SMALLEST_WINDOW

    def deflate(self, data: bytes) -> bytes:
        """Compress a whole message."""
        settings = self._settings
        compressor = zlib.compressobj(
            settings.level, zlib.DEFLATED, -settings.max_window_bits, settings.memory_level
        )
        made = compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH)
        return made[: -len(_TAIL)]


class Inflater:
    """Decompresses what the peer sent, within bounds.

    Args:
        settings: What both agreed on.
    """

    __slots__ = ("_bits", "_decompressor", "_final_blocks", "_forgets")

    def __init__(self, settings: DeflateSettings) -> None:
        # Compressors that were asked for 8 bits are known to use 9.
        self._bits = max(settings.peer_max_window_bits, _SMALLEST_WINDOW)
        self._forgets = settings.peer_no_context_takeover
        self._decompressor: zlib._Decompress | None = None
        self._final_blocks = 0

    def inflate_untrusted(self, data: bytes, out: bytearray, limit: int) -> None:
        """Decompress some bytes of a message.

        Args:
            data: The bytes.
            out: What there is of the message; the new bytes are put behind it.
            limit: Bytes that `out` may hold.

        Raises:
            RemoteProtocolError: They inflate to more (close code 1009), or are not what they
                should be (1007).
        """
        for start in range(0, len(data), _STEP_BYTES):
            piece = data[start : start + _STEP_BYTES]
            while piece:
                piece = self._step_untrusted(piece, out, limit)

    def end_message_untrusted(self, out: bytearray, limit: int) -> None:
        """Decompress the end of a message, which is not on the wire.

        Raises:
            RemoteProtocolError: As `inflate_untrusted`.
        """
        self.inflate_untrusted(_TAIL, out, limit)
        self._final_blocks = 0
        if self._forgets:
            self._decompressor = None

    def _step_untrusted(self, piece: bytes, out: bytearray, limit: int) -> bytes:
        decompressor = self._decompressor
        if decompressor is None:
            decompressor = self._decompressor = zlib.decompressobj(-self._bits)
        try:
            out += decompressor.decompress(piece, limit - len(out) + 1)
        except zlib.error as error:
            raise RemoteProtocolError(
                "a compressed message cannot be inflated", close_code=CloseCode.INVALID_DATA
            ) from error
        if len(out) > limit:
            raise RemoteProtocolError(
                f"a message inflates to more than {limit} bytes",
                close_code=CloseCode.MESSAGE_TOO_BIG,
            )
        if not decompressor.eof:
            return b""
        self._final_blocks += 1
        if self._final_blocks > _MAX_FINAL_BLOCKS:
            raise RemoteProtocolError(
                f"a compressed message has more than {_MAX_FINAL_BLOCKS} final blocks",
                close_code=CloseCode.POLICY_VIOLATION,
            )
        self._decompressor = None
        return decompressor.unused_data


# -- negotiation --------------------------------------------------------------------


def offer(settings: DeflateSettings) -> str:
    """What a client says in `Sec-WebSocket-Extensions`."""
    parts = [_NAME, "client_no_context_takeover"]
    if settings.peer_no_context_takeover:
        parts.append("server_no_context_takeover")
    if settings.peer_max_window_bits < 15:
        parts.append(f"server_max_window_bits={settings.peer_max_window_bits}")
    # Without it the server may not limit the client's window at all.
    own = settings.max_window_bits
    parts.append("client_max_window_bits" + (f"={own}" if own < 15 else ""))
    return "; ".join(parts)


def accept_offer(offers: str, settings: DeflateSettings) -> tuple[str, DeflateSettings] | None:
    """What a server makes of a client's `Sec-WebSocket-Extensions`.

    Args:
        offers: The value of the header field, all of them joined.
        settings: What the server wishes.

    Returns:
        The value that accepts the first offer that can be, and what is agreed on by it; None
        where none can be.

    Raises:
        RemoteProtocolError: The value is malformed.
    """
    for name, parameters in _parse_untrusted(offers):
        wishes = _read_untrusted(parameters) if name == _NAME else None
        if wishes is not None:
            return _accept(wishes, settings)
    return None


def _accept(
    wishes: dict[str, int | None], settings: DeflateSettings
) -> tuple[str, DeflateSettings]:
    parts = [_NAME, "server_no_context_takeover"]
    client_forgets = settings.peer_no_context_takeover or "client_no_context_takeover" in wishes
    if client_forgets:
        parts.append("client_no_context_takeover")
    server_bits = min(settings.max_window_bits, wishes.get("server_max_window_bits") or 15)
    if server_bits < 15 or "server_max_window_bits" in wishes:
        parts.append(f"server_max_window_bits={server_bits}")
    client_bits = 15
    # RFC 7692, section 7.1.2.2: "If a received extension negotiation offer doesn't have the
    # "client_max_window_bits" extension parameter, the corresponding extension negotiation
    # response to the offer MUST NOT include the "client_max_window_bits" extension parameter."
    if "client_max_window_bits" in wishes:
        client_bits = min(settings.peer_max_window_bits, wishes["client_max_window_bits"] or 15)
        if client_bits < 15:
            parts.append(f"client_max_window_bits={client_bits}")
    agreed = msgspec.structs.replace(
        settings,
        max_window_bits=server_bits,
        peer_max_window_bits=client_bits,
        peer_no_context_takeover=client_forgets,
    )
    return "; ".join(parts), agreed


def read_accepted(accepted: str, settings: DeflateSettings) -> DeflateSettings:
    """What a client makes of a server's `Sec-WebSocket-Extensions`.

    Args:
        accepted: The value of the header field.
        settings: What the client offered.

    Returns:
        What is agreed on.

    Raises:
        RemoteProtocolError: It accepts what was not offered.
    """
    extensions = _parse_untrusted(accepted)
    if len(extensions) != 1 or extensions[0][0] != _NAME:
        raise RemoteProtocolError("the server accepts an extension that was not offered")
    found = _read_untrusted(extensions[0][1])
    # RFC 7692, section 7.1: a client fails the connection if the response has parameters that
    # are unknown, malformed, or do not correspond to its offer.
    if found is None or ("client_max_window_bits", None) in found.items():
        raise RemoteProtocolError(f"the server accepts {_NAME} with invalid parameters")
    server_bits = found.get("server_max_window_bits") or 15
    if server_bits > settings.peer_max_window_bits:
        raise RemoteProtocolError("the server's window is larger than it was asked to be")
    server_forgets = "server_no_context_takeover" in found
    if settings.peer_no_context_takeover and not server_forgets:
        raise RemoteProtocolError("the server does not agree to server_no_context_takeover")
    client_bits = min(settings.max_window_bits, found.get("client_max_window_bits") or 15)
    return msgspec.structs.replace(
        settings,
        max_window_bits=client_bits,
        peer_max_window_bits=server_bits,
        peer_no_context_takeover=server_forgets,
    )


def _parse_untrusted(value: str) -> list[tuple[str, list[tuple[str, str]]]]:
    """Extensions, each with its parameters; a parameter without a value has an empty one."""
    found = []
    for part in value.split(","):
        if not part.strip(" \t"):
            continue  # RFC 9110, section 5.6.1.2: empty elements of a list are ignored
        match = _EXTENSION.fullmatch(part)
        if match is None:
            raise RemoteProtocolError("a malformed Sec-WebSocket-Extensions header field")
        found.append((match[1].lower(), _PARAMETER.findall(match[2])))
    return found


def _read_untrusted(parameters: list[tuple[str, str]]) -> dict[str, int | None] | None:
    """Parameters of permessage-deflate; None where they are not valid."""
    found: dict[str, int | None] = {}
    for name, value in parameters:
        if name in found:
            return None
        if name in _FLAGS and not value:
            found[name] = None
        elif name in _WINDOWS and _BITS.fullmatch(value):
            found[name] = int(value)
        elif name == "client_max_window_bits" and not value:
            found[name] = None
        else:
            return None
    return found
