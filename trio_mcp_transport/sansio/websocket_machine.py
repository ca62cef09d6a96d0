"""One WebSocket connection, after its handshake: bytes to messages and back (RFC 6455).

Driven by WebSocket channels, and by anybody else's event loop. It answers pings and the
peer's Close by itself, and says why it fails a connection; everything it wants to say comes
out of `bytes_to_send`. When to ping, and how long to wait for a pong or a Close, is for the
adapter, as nothing here knows the time.

Theory of operation. Each direction has a state of its own, `Side`, and the closing handshake
is what moves them:

==================  =============================  ==================================
what happens        receiving                      sending
==================  =============================  ==================================
a Close is sent     stays: messages still come     OPEN to DONE
a Close comes       OPEN to DONE                   OPEN to DONE: it is answered
a fault             OPEN to ERROR                  OPEN to DONE: a Close that says why
the end, no Close   OPEN to ERROR                  OPEN to ERROR: nobody is left to tell
sending failed      stays                          to ERROR
==================  =============================  ==================================

Once both are DONE the handshake is complete: the server closes the connection, and the client
waits for that (RFC 6455, section 7.1.1). What comes after the peer's Close is thrown away.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from typing import Final, Literal

from ..errors import ConfigurationError, LocalProtocolError, RemoteProtocolError
from .machine import NEED_DATA, EndOfData, NeedData, Side
from .websocket_deflate import Deflater, DeflateSettings, Inflater
from .websocket_events import (
    BinaryMessage,
    Close,
    CloseCode,
    CloseReceived,
    Ping,
    Pong,
    TextMessage,
    WebSocketEvent,
    WebSocketItem,
    WebSocketLimits,
)
from .websocket_frames import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    TEXT,
    FrameWriter,
    MessageReader,
    close_payload,
    is_utf8,
    parse_close_untrusted,
)

__all__ = ["WebSocketMachine"]


class _Trigger(enum.Enum):
    CLOSE_SENT = "a Close is sent"
    CLOSE_RECEIVED = "a Close comes"
    FAULT = "a fault"
    EOF = "the end, no Close"
    SEND_FAILED = "sending failed"


# Looking up a member of an enum costs, before Python 3.12.
_OPEN, _DONE, _ERROR = Side

#: Where a direction goes. What is not listed changes nothing.
_RECEIVING: Final = {
    (_OPEN, _Trigger.CLOSE_RECEIVED): _DONE,
    (_OPEN, _Trigger.FAULT): _ERROR,
    (_OPEN, _Trigger.EOF): _ERROR,
}
_SENDING: Final = {
    (_OPEN, _Trigger.CLOSE_SENT): _DONE,
    (_OPEN, _Trigger.CLOSE_RECEIVED): _DONE,
    (_OPEN, _Trigger.FAULT): _DONE,
    (_OPEN, _Trigger.EOF): _ERROR,
    (_OPEN, _Trigger.SEND_FAILED): _ERROR,
    (_DONE, _Trigger.SEND_FAILED): _ERROR,
}


class WebSocketMachine:
    """One side of a WebSocket.

    `next_event` gives messages, whole ones, `Ping` and `Pong`, then `CloseReceived`, and
    `EndOfData` when the connection ended after that. `bytes_to_send` is to be called after
    every `next_event`, also when that raised, and when something can be written.

    Args:
        role: Which side this is.
        limits: What the peer may send.
        deflate: What the handshake agreed on (`WebSocketAgreement.deflate`); None without
            compression.
        mask_key: Gives 4 unpredictable bytes for each frame (RFC 6455, section 5.3, tells
            why they must be). A client's; a server has no use for it.

    Attributes:
        is_client: Which side this is.

    Raises:
        ConfigurationError: A client without `mask_key`, or a server with it.
    """

    __slots__ = (
        "_closing_words",
        "_eof",
        "_fault",
        "_pong",
        "_reader",
        "_receiving",
        "_sending",
        "_writer",
        "is_client",
    )

    def __init__(
        self,
        role: Literal["client", "server"],
        *,
        limits: WebSocketLimits | None = None,
        deflate: DeflateSettings | None = None,
        mask_key: Callable[[], bytes] | None = None,
    ) -> None:
        if role not in {"client", "server"}:
            raise ConfigurationError(f"role must be client or server, not {role!r}")
        self.is_client = is_client = role == "client"
        if is_client is (mask_key is None):
            raise ConfigurationError(
                "a client needs a mask_key" if is_client else "a server has no mask_key"
            )
        limits = WebSocketLimits() if limits is None else limits
        self._reader = MessageReader(
            limits,
            is_client=is_client,
            inflater=None if deflate is None else Inflater(deflate),
        )
        self._writer = FrameWriter(
            is_client=is_client,
            mask_key=mask_key,
            max_frame_bytes=limits.max_frame_bytes,
            deflater=None if deflate is None else Deflater(deflate),
        )
        self._receiving = _OPEN
        self._sending = _OPEN
        self._eof = False
        self._fault: RemoteProtocolError | None = None
        # What the machine says by itself. Only the newest ping is to be answered: RFC 6455,
        # section 5.5.3: "If an endpoint receives a Ping frame and has not yet sent Pong
        # frame(s) in response to previous Ping frame(s), the endpoint MAY elect to send a Pong
        # frame for only the most recently processed Ping frame."
        self._pong: bytes | None = None
        self._closing_words = b""

    @property
    def receiving(self) -> Side:
        """OPEN, DONE after the peer's Close, or ERROR after a fault."""
        return self._receiving

    @property
    def sending(self) -> Side:
        """OPEN, DONE after this side's Close, or ERROR where nothing can be sent any more."""
        return self._sending

    def _happened(self, trigger: _Trigger) -> None:
        receiving, sending = self._receiving, self._sending
        self._receiving = _RECEIVING.get((receiving, trigger), receiving)
        if self._receiving is not _OPEN or self._sending is _ERROR:
            self._pong = None
        if self._receiving is not _OPEN:
            self._reader.discard()
        self._sending = _SENDING.get((sending, trigger), sending)

    def receive_data(self, data: bytes) -> None:
        """Take bytes in. Faults come out of `next_event`, in order.

        Raises:
            LocalProtocolError: After `receive_eof`.
        """
        if self._eof:
            raise LocalProtocolError("receive_data() after receive_eof()")
        if self._receiving is _OPEN:
            self._reader.receive_data(data)

    def receive_eof(self) -> None:
        """Tell that the peer will send no more. Idempotent."""
        self._eof = True

    @property
    def needs_data(self) -> bool:
        """Whether `next_event` would return `NEED_DATA`: a quick look before it is asked.

        Not always: where it is False, `next_event` knows.
        """
        return self._receiving is _OPEN and not self._eof and self._reader.is_between_messages

    def next_event(self) -> WebSocketEvent | EndOfData | NeedData:
        """The next event, or `NEED_DATA`.

        Raises:
            RemoteProtocolError: The peer broke the protocol or a limit, or the connection
                ended without a Close. Final; `close_code` is what the machine's Close says,
                1006 where there is nobody left to hear it.
        """
        if self._receiving is _OPEN:
            try:
                return self._next_untrusted()
            except RemoteProtocolError as error:
                self._fail(error)
        if self._receiving is _ERROR:
            assert self._fault is not None
            raise RemoteProtocolError(str(self._fault), close_code=self._fault.close_code)
        return EndOfData() if self._eof else NEED_DATA

    def next_texts(self, max_bytes: int) -> list[bytes]:
        """The data of the next messages, as far as they are plain text that is all here.

        A quicker way to what `next_event` would give as `TextMessage` one by one; never
        raises. Whatever comes next, if anything is here, comes out of `next_event`.

        Args:
            max_bytes: When they hold so many, no further one is taken.
        """
        return self._reader.plain_texts(max_bytes)

    def _next_untrusted(self) -> WebSocketEvent | NeedData:
        found = self._reader.read_untrusted()
        if found is None:
            if self._eof:
                where = "between" if self._reader.is_between_messages else "in the middle of"
                raise RemoteProtocolError(
                    f"the connection ended without a Close, {where} messages",
                    close_code=CloseCode.ABNORMAL.value,
                )
            return NEED_DATA
        opcode, data = found
        if opcode == TEXT:
            return TextMessage(data)
        if opcode == BINARY:
            return BinaryMessage(data)
        if opcode == PING:
            # Also after our own Close: RFC 6455, section 5.5.2: "an endpoint MUST send a Pong
            # frame in response, unless it already received a Close frame".
            if self._sending is not _ERROR:
                self._pong = data
            return Ping(data)
        if opcode == PONG:
            return Pong(data)
        code, reason = parse_close_untrusted(data)
        if self._sending is _OPEN:
            # RFC 6455, section 5.5.1: "When sending a Close frame in response, the endpoint
            # typically echos the status code it received."
            self._say_close(None if code == CloseCode.NO_STATUS else code)
        self._happened(_Trigger.CLOSE_RECEIVED)
        return CloseReceived(code, reason)

    def _fail(self, error: RemoteProtocolError) -> None:
        # Without its traceback, whose frames would hold all that was stored.
        self._fault = RemoteProtocolError(str(error), close_code=error.close_code)
        if error.close_code == CloseCode.ABNORMAL:
            self._happened(_Trigger.EOF)
            return
        if self._sending is _OPEN:
            self._say_close(error.close_code, str(error))
        self._happened(_Trigger.FAULT)

    def _say_close(self, code: int | None, reason: str = "") -> None:
        self._closing_words = self._writer.message(CLOSE, close_payload(code, reason))

    def send(self, item: WebSocketItem) -> bytes:
        """The bytes of a message or control frame.

        Bytes of one call must not be torn apart; those of several may be written in any
        order, or dropped.

        Nothing follows a `Close`, but for pongs until the peer's Close has come.

        Raises:
            LocalProtocolError: This side has closed, or cannot send any more; or a text is
                not UTF-8. Nothing was made.
        """
        self._check_may_send()
        if isinstance(item, TextMessage):
            _check_utf8(item.data)
            return self._writer.message(TEXT, item.data)
        if isinstance(item, BinaryMessage):
            return self._writer.message(BINARY, item.data)
        if isinstance(item, Ping):
            return self._writer.message(PING, item.payload)
        if isinstance(item, Pong):
            return self._writer.message(PONG, item.payload)
        if isinstance(item, Close):
            data = self._writer.message(CLOSE, close_payload(item.code, item.reason))
            self._happened(_Trigger.CLOSE_SENT)
            return data
        raise LocalProtocolError(f"{type(item).__name__} is nothing that can be sent")

    def send_texts(self, texts: Sequence[bytes]) -> bytes:
        """The bytes of several text messages: what `send` gives for each, joined.

        Raises:
            LocalProtocolError: As `send`, for all or none.
        """
        self._check_may_send()
        for text in texts:
            if not text.isascii():
                _check_utf8(text)
        return self._writer.texts(texts)

    def _check_may_send(self) -> None:
        if self._sending is not _OPEN:
            raise LocalProtocolError(
                "nothing can be sent after a Close"
                if self._sending is _DONE
                else "nothing can be sent any more"
            )

    def send_failed(self) -> None:
        """Tell that what was made was not written, or not all of it: nothing can be sent."""
        self._closing_words = b""
        self._happened(_Trigger.SEND_FAILED)

    @property
    def has_own_words(self) -> bool:
        """Whether `bytes_to_send` would return something."""
        return bool(self._closing_words) or self._pong is not None

    def bytes_to_send(self) -> bytes:
        """What the machine has to say: a pong, or its Close. Empty most of the time.

        Taken only when it can be written, a flood of pings costs one pong.
        """
        words = self._closing_words
        if words:
            self._closing_words = b""
        elif self._pong is not None:
            words = self._writer.message(PONG, self._pong)
            self._pong = None
        return words


def _check_utf8(text: bytes) -> None:
    if not is_utf8(text):
        raise LocalProtocolError("a text message must be UTF-8")
