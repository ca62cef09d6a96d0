"""TLS as a machine: ciphertext in, plaintext out, and the other way round, without I/O.

`transports/tls_stream.py` drives it; any other program may, with an OpenSSL connection of
its own. It stands on pyOpenSSL's memory BIOs. Which certificates are good and which versions
are spoken is decided by the `OpenSSL.SSL.Context` that the connection was made from; this
module never looks at a certificate and knows no key.

Theory of operation:

* Received bytes are given to OpenSSL one record at a time (RFC 8446, section 5.1: type,
  version, length, fragment). So OpenSSL is asked only when there is something for it, what
  follows a close_notify is still in our hands, and its buffers stay as small as a record.
  What does not look like TLS is given to it as it comes, so that it finds the words for it.
* OpenSSL writes into a buffer of its own. `send_data` and `send_close` return what it wrote;
  what it writes while it reads (handshake, alerts) waits for `bytes_to_send`.
* A TLS 1.3 server writes its session tickets when the handshake is complete. A client that
  only sends would never read them and might never get to close, so they are held back until
  the server has something else to say.
* The two directions have states of their own:

  ==========  ===================================  =======================================
  receiving   what comes from `next_event`         leaves by
  ==========  ===================================  =======================================
  HANDSHAKE   `TlsHandshakeCompleted`              handshake complete: OPEN; fault: ERROR
  OPEN        `TlsData`                            close_notify: ENDED; fault: ERROR
  ENDED       `EndOfData`, again and again         never
  ERROR       raises, again and again              never
  ==========  ===================================  =======================================

  ==========  ===================================  =======================================
  sending     what is legal                        leaves by
  ==========  ===================================  =======================================
  HANDSHAKE   nothing                              handshake complete: OPEN; fault: ERROR
  OPEN        `send_data`, `send_close`            `send_close`: ENDED; fault: ERROR
  ENDED       nothing                              fault: ERROR
  ERROR       nothing                              never
  ==========  ===================================  =======================================

  A fault closes both, with one exception: where only the end is missing (the peer left
  without close_notify), this side may still say goodbye.
"""

from __future__ import annotations

import copy
import enum
import re
from typing import TYPE_CHECKING, Final, NoReturn, TypeAlias

import msgspec

from ..errors import LocalProtocolError, RemoteProtocolError, TlsHandshakeFailed, TransportError
from .machine import NEED_DATA, EndOfData, NeedData

if TYPE_CHECKING:
    from OpenSSL import SSL

__all__ = ["TlsData", "TlsEvent", "TlsHandshakeCompleted", "TlsMachine"]

_HEADER = 5
#: RFC 8446, section 5.1: change_cipher_spec, alert, handshake, application_data.
_CONTENT_TYPES = frozenset({20, 21, 22, 23})
#: RFC 5246, section 6.2.3: the most that any record of TLS may hold. OpenSSL knows the
#: smaller limit of each version; beyond this one there is no use in waiting for the rest.
_MAX_FRAGMENT = 2**14 + 2048
#: RFC 8446, section 5.1: the most plaintext in one record.
_MAX_PLAINTEXT = 2**14
#: More than one record in ciphertext.
_OUTPUT_BYTES = 17 * 1024
#: How a request or a response of HTTP begins.
_HTTP = re.compile(rb"(?:GET|POST|PUT|HEAD|OPTIONS|DELETE|PATCH|CONNECT|TRACE|PRI) |HTTP/")
_SHOWN_BYTES = 8
#: How OpenSSL names an alert that came, such as "tlsv13 alert certificate required", or "tlsv1
#: bad certificate status response".
_ALERT = re.compile(r"(?:^tlsv1 (?:alert )?|\balert )(.+)")
#: What some alerts, and some of OpenSSL's reasons, mean for whoever reads the error.
_HINTS = {
    "bad_certificate": "it does not accept this side's certificate",
    "bad_certificate_status_response": "it does not accept what this side staples, or does not",
    "certificate_required": "it asks for a client certificate, and none was given",
    "certificate_unknown": "it does not accept this side's certificate",
    "handshake_failure": "no cipher in common, or it asks for a client certificate",
    "internal_error": "it may have refused this side's certificate",
    "no_application_protocol": "no protocol of ALPN in common",
    "protocol_version": "no version of TLS in common",
    "unknown_ca": "it does not trust the authority that signed this side's certificate",
    "unrecognized_name": "it has no certificate for that server name",
    "no shared cipher": "no cipher in common",
    "peer did not return a certificate": "a client certificate is required",
    "unsupported protocol": "no version of TLS in common",
}


class TlsHandshakeCompleted(msgspec.Struct, frozen=True):
    """The handshake is complete; data may be sent from now on.

    Attributes:
        version: ``"TLSv1.3"`` or ``"TLSv1.2"``.
        cipher: OpenSSL's name of the cipher suite.
        alpn: The application protocol that was agreed on, if one was (RFC 7301).
    """

    version: str
    cipher: str
    alpn: str | None


class TlsData(msgspec.Struct, frozen=True, gc=False):
    """Application data: the whole of one record, at most 16 KiB, never empty."""

    data: bytes


TlsEvent: TypeAlias = TlsHandshakeCompleted | TlsData | EndOfData


class _State(enum.Enum):
    HANDSHAKE = "handshake"
    OPEN = "open"
    ENDED = "ended"
    ERROR = "broken"


_HANDSHAKE, _OPEN, _ENDED, _ERROR = _State
_END = EndOfData()


class TlsMachine:
    """One TLS connection, seen from one of its sides.

    Args:
        connection: Made from the context, without a socket. It belongs to the machine from
            now on, which sets its role and refuses renegotiation. A client's server name, ALPN
            and session are set before.
        is_server: Whether this side accepted the connection.

    Attributes:
        connection: To look at.
        is_server: See above.
        was_cut_off: Whether the connection ended without close_notify after the handshake. It
            may be an attack, or a peer with bad manners; `next_event` raises in both cases.
    """

    __slots__ = (
        "_at",
        "_beginning",
        "_chunk",
        "_eof",
        "_fault",
        "_handshake_begun",
        "_held",
        "_is_garbage",
        "_is_mute",
        "_may_have_output",
        "_output",
        "_receiving",
        "_sending",
        "_ssl",
        "connection",
        "is_server",
        "was_cut_off",
    )

    def __init__(self, connection: SSL.Connection, *, is_server: bool) -> None:
        from OpenSSL import SSL  # an extra; there is one if there is a connection

        self._ssl: Final = SSL
        self.connection = connection
        self.is_server = is_server
        self.was_cut_off = False
        connection.set_options(SSL.OP_NO_RENEGOTIATION)
        if is_server:
            connection.set_accept_state()
        else:
            connection.set_connect_state()
        self._receiving = _HANDSHAKE
        self._sending = _HANDSHAKE
        self._fault: Exception | None = None
        self._eof = False
        # What was received and not given to OpenSSL yet: `_chunk` from `_at` on.
        self._chunk: bytes | bytearray = b""
        self._at = 0
        self._beginning = b""  # of all that was received, for error texts
        self._is_garbage = False  # no records: OpenSSL gets everything at once
        self._handshake_begun = False
        self._output: list[bytes] = []
        self._may_have_output = False  # OpenSSL may have written something
        self._held = b""  # session tickets
        self._is_mute = False  # a write failed: nothing may follow

    def __repr__(self) -> str:
        side = "server" if self.is_server else "client"
        return (
            f"<TlsMachine {side}, receiving: {self._receiving.value},"
            f" sending: {self._sending.value}>"
        )

    @property
    def can_half_close(self) -> bool:
        """Whether `send_close` leaves the other direction open.

        RFC 8446, section 6.1, makes each direction end by itself. Before TLS 1.3, whoever
        gets a close_notify must close at once (RFC 5246, section 7.2.1).
        """
        return self.connection.get_protocol_version() >= self._ssl.TLS1_3_VERSION

    @property
    def can_send(self) -> bool:
        """Whether `send_data` and `send_close` are legal."""
        return self._sending is _OPEN

    @property
    def may_have_event(self) -> bool:
        """Whether `next_event` is worth asking; if not it would say `NEED_DATA`."""
        return self._at < len(self._chunk) or self._eof or self._receiving is not _OPEN

    @property
    def trailing_data(self) -> tuple[bytes, bool]:
        """Received bytes that belong to no returned event, and whether EOF followed.

        After `EndOfData`, that is what the peer sent behind its close_notify.
        """
        return bytes(self._chunk[self._at :]), self._eof

    # -- receiving ----------------------------------------------------------------------

    def receive_data(self, data: bytes) -> None:
        """Take ciphertext in. Faults come out of `next_event`, in order.

        Raises:
            LocalProtocolError: After `receive_eof`.
        """
        if self._eof:
            raise LocalProtocolError("receive_data() after receive_eof()")
        if self._receiving is _ERROR:
            return
        if len(self._beginning) < _SHOWN_BYTES:
            self._beginning += bytes(data[: _SHOWN_BYTES - len(self._beginning)])
        if self._at == len(self._chunk):
            self._chunk, self._at = data, 0
            return
        if isinstance(self._chunk, bytes):
            self._chunk = bytearray(self._chunk)
        del self._chunk[: self._at]
        self._at = 0
        self._chunk += data

    def receive_eof(self) -> None:
        """Tell that the peer will send no more. Idempotent."""
        self._eof = True

    def next_event(self) -> TlsEvent | NeedData:
        """The next event, or `NEED_DATA`. Drain `bytes_to_send` afterwards, always.

        Raises:
            TlsHandshakeFailed: The handshake failed. Final.
            RemoteProtocolError: The peer broke TLS, ended the connection by an alert, or cut
                it off without close_notify. Final.
            Exception: What a callback of the context raised. Final.
        """
        receiving = self._receiving
        try:
            if receiving is _OPEN:
                return self._next_of_open()
            if receiving is _HANDSHAKE:
                return self._next_of_handshake()
        except BaseException as error:
            # Also KeyboardInterrupt: nobody knows how far OpenSSL came.
            self._fail(error)
            raise
        if receiving is _ENDED:
            return _END
        raise self._fault_again()

    def _next_of_open(self) -> TlsEvent | NeedData:
        connection = self.connection
        while self._feed_record():
            try:
                return TlsData(connection.recv(_MAX_PLAINTEXT))
            except self._ssl.WantReadError:  # a record without data: a ticket, a new key
                self._may_have_output = True
            except self._ssl.ZeroReturnError:
                self._receiving = _ENDED
                return _END
            except self._ssl.Error as error:
                self._raise_fault(error)
        if self._eof:
            self.was_cut_off = True
            raise RemoteProtocolError(
                "the connection was cut off: it ended without close_notify, so what came may be"
                " only a part"
            )
        return NEED_DATA

    def _next_of_handshake(self) -> TlsEvent | NeedData:
        connection = self.connection
        while True:
            if self._handshake_begun and not self._feed_record():
                if self._eof:
                    raise TlsHandshakeFailed(
                        "the peer ended the connection during the TLS handshake"
                    )
                return NEED_DATA
            self._handshake_begun = True
            self._may_have_output = True
            try:
                connection.do_handshake()
            except self._ssl.WantReadError:
                continue
            except self._ssl.Error as error:
                self._raise_fault(error)
            return self._complete()

    def _complete(self) -> TlsHandshakeCompleted:
        connection = self.connection
        if self.is_server and connection.get_protocol_version() >= self._ssl.TLS1_3_VERSION:
            self._held = self._read_output()
        self._receiving = self._sending = _OPEN
        return TlsHandshakeCompleted(
            version=connection.get_protocol_version_name(),
            cipher=connection.get_cipher_name() or "",
            alpn=connection.get_alpn_proto_negotiated().decode("latin-1") or None,
        )

    def _feed_record(self) -> bool:
        """Give OpenSSL the next whole record, or all where there are none; if there is one."""
        chunk, at = self._chunk, self._at
        left = len(chunk) - at
        if not left:
            return False
        if left >= _HEADER:
            size = chunk[at + 3] << 8 | chunk[at + 4]
            end = at + _HEADER + size
            if size > _MAX_FRAGMENT:
                self._is_garbage = True
        else:
            end = at + _HEADER
        if self._is_garbage or chunk[at] not in _CONTENT_TYPES:
            self._is_garbage = True
            end = at + left
        elif end > at + left:
            return False
        if at == 0 and end == left:
            self.connection.bio_write(chunk)
            self._chunk = b""
        else:
            with memoryview(chunk) as view, view[at:end] as record:
                self.connection.bio_write(record)
            self._at = end
        return True

    # -- sending ------------------------------------------------------------------------

    def send_data(self, data: bytes | bytearray | memoryview) -> bytes:
        """Encrypt; return what to write, also what waited for that.

        The whole of it is held in ciphertext until it is written, so whoever has much to
        send gives it in pieces: 16 to 64 KiB cost least.

        Raises:
            LocalProtocolError: Not after the handshake and before `send_close`.
        """
        self._check_can_send("send_data()")
        if not data:
            return b""
        parts = self._take_waiting()
        connection = self.connection
        try:
            if isinstance(data, bytes) and len(data) <= _MAX_PLAINTEXT:
                connection.send(data)  # one record, of which nothing is left
                parts.append(connection.bio_read(_OUTPUT_BYTES))
            else:
                with memoryview(data) as view, view.cast("B") as octets:
                    for at in range(0, len(octets), _MAX_PLAINTEXT):
                        with octets[at : at + _MAX_PLAINTEXT] as piece:
                            connection.send(piece)
                        parts.append(connection.bio_read(_OUTPUT_BYTES))
        except BaseException as error:
            self._fail(error)
            raise
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def send_close(self) -> bytes:
        """Say that this side sends no more (close_notify); return what to write.

        Raises:
            LocalProtocolError: Not after the handshake and before `send_close`.
        """
        self._check_can_send("send_close()")
        parts = self._take_waiting()
        try:
            self.connection.shutdown()
            parts.append(self._read_output())
        except BaseException as error:
            self._fail(error)
            raise
        self._sending = _ENDED
        return b"".join(parts)

    def send_failed(self) -> None:
        """Tell that bytes of this machine were not written: nothing may follow them."""
        self._sending = _ERROR
        self._is_mute = True
        self._held = b""
        self._output.clear()

    def bytes_to_send(self) -> bytes:
        """What the machine must write by itself: handshake and alerts, also fatal ones."""
        if self._may_have_output:
            self._collect_output()
        if not self._output:
            return b""
        return b"".join(self._take_waiting())

    def _check_can_send(self, what: str) -> None:
        if self._sending is not _OPEN:
            raise LocalProtocolError(f"{what} is not possible: sending is {self._sending.value}")

    def _take_waiting(self) -> list[bytes]:
        """All that must be written before anything that OpenSSL writes from now on."""
        if self._may_have_output:
            self._collect_output()
        waiting, self._output = self._output, []
        if self._held:
            waiting.insert(0, self._held)
            self._held = b""
        return waiting

    def _collect_output(self) -> None:
        self._may_have_output = False
        output = self._read_output()
        if output and not self._is_mute:
            self._output.append(output)

    def _read_output(self) -> bytes:
        parts: list[bytes] = []
        while True:
            try:
                part = self.connection.bio_read(_OUTPUT_BYTES)
            except self._ssl.WantReadError:  # there is none
                return b"".join(parts)
            parts.append(part)
            if len(part) < _OUTPUT_BYTES:
                return b"".join(parts)

    # -- faults -------------------------------------------------------------------------

    def _raise_fault(self, error: SSL.Error) -> NoReturn:
        """Raise what OpenSSL's error means."""
        if isinstance(error, self._ssl.SysCallError):  # an EOF that this module did not see
            raise RemoteProtocolError("the peer ended the connection within a record") from None
        reasons = [entry[2] for entry in (error.args[0] if error.args else ())]
        reason = reasons[0] if reasons else "unknown error"
        alert = _ALERT.search(reason)
        name = alert[1].replace(" ", "_") if alert is not None else None
        if self._receiving is _HANDSHAKE:
            raise TlsHandshakeFailed(self._why_not(reason, name), alert=name) from None
        if name is not None:
            text = f"the peer ended the connection by the alert {_explain(name)}"
            raise RemoteProtocolError(text) from None
        raise RemoteProtocolError(f"the peer broke TLS: {reason}") from None

    def _why_not(self, reason: str, alert: str | None) -> str:
        if alert is not None:
            return f"the peer refused the TLS handshake: {_explain(alert)}"
        if self._is_garbage:
            if _HTTP.match(self._beginning):
                return "the peer speaks plain HTTP, not TLS"
            return f"the peer does not speak TLS: it began with {self._beginning!r}"
        return f"the TLS handshake failed: {_explain(reason)}"

    def _fail(self, error: BaseException) -> None:
        """Close both directions for good; what OpenSSL has to say can still be had."""
        self._receiving = _ERROR
        if not self.was_cut_off:
            self._sending = _ERROR
        self._may_have_output = True
        if isinstance(error, TransportError):
            # Without its traceback, which knows this and all that calls it.
            self._fault = copy.copy(error)
        elif isinstance(error, Exception):
            self._fault = error

    def _fault_again(self) -> Exception:
        """A fresh exception that tells of the first fault."""
        fault = self._fault
        if isinstance(fault, TransportError):
            return copy.copy(fault)
        again = LocalProtocolError(f"a callback failed before: {fault!r}")
        again.__cause__ = fault
        return again


def _explain(reason: str) -> str:
    hint = _HINTS.get(reason)
    return f"{reason} ({hint})" if hint else reason
