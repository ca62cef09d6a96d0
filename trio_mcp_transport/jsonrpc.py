"""JSON-RPC 2.0 messages as MCP uses them, and the guarded way from bytes to messages.

The envelope is decoded; `params` and `result` stay raw JSON (`msgspec.Raw`) until
somebody asks for them, so a router or bridge never pays for payloads. `decode_message`
adds to msgspec what msgspec leaves out: UTF-8 is checked also where it is skipped,
nesting has a limit, duplicate envelope keys are refused, and the kind of a message is
decided by its top-level keys alone.

Left out on purpose: a message's `priority` and time to live, which some implementations
have and nothing on the wire carries.
"""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Iterable, Sequence
from typing import Literal, NoReturn, Self, TypeAlias, TypeVar

import msgspec
from msgspec import UNSET, Raw, UnsetType

from .errors import RpcError, TransportError
from .limits import MAX_BATCH_MESSAGES, MAX_ENVELOPE_MEMBERS, MAX_NESTING_DEPTH

__all__ = [
    "Batch",
    "ErrorCode",
    "ErrorObject",
    "ErrorResponse",
    "InvalidMessage",
    "Message",
    "Notification",
    "Request",
    "RequestId",
    "Response",
    "compact",
    "decode_batch",
    "decode_message",
    "encode_batch",
    "encode_message",
    "invalid_message_answer",
    "relate",
]

T = TypeVar("T")
RequestId: TypeAlias = int | str


class ErrorCode(enum.IntEnum):
    """Error codes of JSON-RPC 2.0 (section 5.1) and of MCP (basic, Error Codes)."""

    PARSE_ERROR = -32700
    INVALID_REQUEST = -32600
    METHOD_NOT_FOUND = -32601
    INVALID_PARAMS = -32602
    INTERNAL_ERROR = -32603
    #: A header contradicts the body (2026-07-28).
    HEADER_MISMATCH = -32020
    #: The client did not declare a capability that the request needs (2026-07-28).
    MISSING_CLIENT_CAPABILITY = -32021
    #: The protocol version is not served (2026-07-28).
    UNSUPPORTED_PROTOCOL_VERSION = -32022
    #: Resource not found, revisions up to 2025-11-25. Accepted, never sent to a modern peer.
    RESOURCE_NOT_FOUND = -32002


class InvalidMessage(TransportError):
    """A sound frame that holds no valid message. The conversation can go on.

    Attributes:
        code: PARSE_ERROR when it is no JSON, INVALID_REQUEST when it is no JSON-RPC.
        request_id: The id to answer to, where one could be read, else None.
        answerable: Whether JSON-RPC wants an answer: not for a broken response or
            notification, which must never be answered.
    """

    def __init__(
        self,
        message: str,
        *,
        code: ErrorCode = ErrorCode.INVALID_REQUEST,
        request_id: RequestId | None = None,
        answerable: bool = True,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.request_id = request_id
        self.answerable = answerable


def _typed(value: object, type_: type[T]) -> T:
    if value is UNSET:
        value = Raw(b"{}")
    if isinstance(value, Raw):
        return msgspec.json.decode(value, type=type_)
    return msgspec.convert(value, type_)


class _Message(msgspec.Struct, frozen=True, dict=True, tag_field="jsonrpc", tag="2.0"):
    """What is known of a message beside its fields: never encoded, no part of equality."""

    @property
    def related_to(self) -> RequestId | None:
        """The id of the request that this message belongs to, where the transport knows.

        Over HTTP each message comes on the stream of a request, or on one of none; what
        is sent may say likewise where it is to go. See `relate`.
        """
        return getattr(self, "_related_to", None)


class Request(_Message, frozen=True, omit_defaults=True):
    """A call that wants an answer.

    Attributes:
        id: Integer or string; 1 is not "1". Never null in MCP.
        method: The method's name.
        params: `msgspec.Raw` when received; anything msgspec can encode when sent; UNSET
            when the message has none.
    """

    id: RequestId
    method: str
    params: object = UNSET

    def params_as(self, type_: type[T]) -> T:
        """Decode `params` (an absent one as an empty object).

        Raises:
            msgspec.ValidationError: They are not of that type.
        """
        return _typed(self.params, type_)


class Notification(_Message, frozen=True, omit_defaults=True):
    """A message that must not be answered. `params` as in `Request`."""

    method: str
    params: object = UNSET

    def params_as(self, type_: type[T]) -> T:
        """Decode `params` (an absent one as an empty object).

        Raises:
            msgspec.ValidationError: They are not of that type.
        """
        return _typed(self.params, type_)


class Response(_Message, frozen=True):
    """The result of a request: the same id, and a result that is raw when received."""

    id: RequestId
    result: object

    def result_as(self, type_: type[T]) -> T:
        """Decode `result`.

        Raises:
            msgspec.ValidationError: It is not of that type.
        """
        return _typed(self.result, type_)


class ErrorObject(msgspec.Struct, frozen=True, omit_defaults=True):
    """Code, message and optional data of an error answer; `data` is raw when received."""

    code: int
    message: str
    data: object = UNSET

    def data_as(self, type_: type[T]) -> T:
        """Decode `data`.

        Raises:
            msgspec.ValidationError: It is not of that type.
        """
        return _typed(self.data, type_)


class ErrorResponse(_Message, frozen=True):
    """A failed request. `id` is None when the request's id could not be read."""

    id: RequestId | None
    error: ErrorObject

    @property
    def cause(self) -> BaseException | None:
        """What really happened, where this answer was made on this side and stands for it.

        A channel whose request failed without an answer from the peer gives the reason
        here; a router says here that it has no such method. Never encoded.
        """
        return getattr(self, "_cause", None)

    def with_cause(self, cause: BaseException | None) -> Self:
        """Note the cause; returns the same object."""
        self.__dict__["_cause"] = cause
        return self

    def as_exception(self) -> RpcError:
        """The `RpcError` for this answer, raised from the `cause` if there is one.

        `Peer.request` raises a cause that is a `TransportError` in place of it. Its `data`
        stays raw where Python cannot express it, such as a number of 5,000 digits.
        """
        error = self.error
        data: object = None
        if error.data is not UNSET:
            try:
                data = error.data_as(object)
            except (msgspec.DecodeError, ValueError, RecursionError):
                data = error.data
        exception = RpcError(error.code, error.message, data)
        exception.__cause__ = self.cause
        return exception


Message: TypeAlias = Request | Notification | Response | ErrorResponse
# Their struct tags put `"jsonrpc": "2.0"` in front, so each encodes as it goes out.
_MESSAGE_TYPES = frozenset({Request, Notification, Response, ErrorResponse})
M = TypeVar("M", bound=Message)


def relate(message: M, request_id: RequestId | None) -> M:
    """Note which request a message belongs to; returns the same object.

    Args:
        message: Gets a new `related_to`; the rest of it stays as it is.
        request_id: The request, or None for none.
    """
    message.__dict__["_related_to"] = request_id
    return message


class Batch(msgspec.Struct, frozen=True):
    """A JSON array of messages (revision 2025-03-26), the broken ones among them."""

    items: tuple[Message | InvalidMessage, ...]


class _Envelope(msgspec.Struct, omit_defaults=True, gc=False):
    jsonrpc: Literal["2.0"]
    id: int | str | UnsetType | None = UNSET
    method: str | UnsetType = UNSET
    params: Raw | UnsetType = UNSET
    result: Raw | UnsetType = UNSET
    error: Raw | UnsetType = UNSET


class _RawError(msgspec.Struct, frozen=True):
    code: int
    message: str
    data: Raw | UnsetType = UNSET


_decode_envelope = msgspec.json.Decoder(_Envelope).decode
_decode_error = msgspec.json.Decoder(_RawError).decode
_decode_raw = msgspec.json.Decoder(Raw).decode
_decode_items = msgspec.json.Decoder(list[Raw]).decode
_decode_fields = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_id = msgspec.json.Decoder(int | str | None).decode
_encode = msgspec.json.Encoder().encode
_encode_lines = msgspec.json.Encoder().encode_lines
#: From here on copying a message, or looking at each of its bytes, costs more than the
#: calls that avoid it.
_LARGE_BYTES = 32 * 1024
_STAND_IN = Raw(b"0")

# RecursionError and UnicodeDecodeError are no msgspec errors, and an integer of more than
# 4,300 digits is a plain ValueError.
_DECODE_FAULTS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError)


# -- decoding -----------------------------------------------------------------------


def decode_message(data: bytes, max_depth: int = MAX_NESTING_DEPTH) -> Message:
    """Decode one message.

    Args:
        data: One JSON document in UTF-8. Raw parts of the result alias it, so it must be
            `bytes`, which nobody can change.
        max_depth: Deepest nesting of arrays and objects that is accepted.

    Raises:
        InvalidMessage: It is no valid message; says why and how to answer.
    """
    try:
        if not data.isascii():
            data.decode()
        envelope = _decode_envelope(data)
    except _DECODE_FAULTS as error:
        _explain(data, error)
    size = len(data)
    if (
        size > 2 * max_depth
        # Without arrays a level takes five bytes: {"":}
        and (size > 5 * max_depth or 0x5B in data)
        and _has_more_brackets(data, max_depth)
        and _deeper_than(data, max_depth)
    ):
        raise InvalidMessage(
            f"nesting is over the limit of {max_depth} levels",
            request_id=_readable_id(envelope),
            answerable=envelope.method is not UNSET,
        )
    # Every byte of a compact message without duplicates or unknown keys comes back, so
    # an equal length proves that there are none; anything else is looked at closely.
    encoded_size = len(_encode(envelope)) if size < _LARGE_BYTES else _large_size(envelope)
    if encoded_size != size and encoded_size != len(data.rstrip()):
        _refuse_duplicate_keys(data, envelope)
        if encoded_size < size // 2:
            # White space or unknown members: not to be held on to for the sake of the rest.
            envelope = _decode_envelope(_encode(envelope))
    # The kind is decided by the top-level keys alone. The three sound shapes come first;
    # what is left over is told apart only to say what is wrong with it.
    id_, method, result = envelope.id, envelope.method, envelope.result
    if method is not UNSET:
        params = envelope.params
        if (
            result is UNSET
            and envelope.error is UNSET
            and (
                params is UNSET
                # Quicker than a look into `params`: where all members are known, no other
                # one is a container, so a container at the end is this one.
                or (encoded_size == size and data[-2] in b"}]")
                or memoryview(params)[0] in b"{["
            )
        ):
            if id_ is UNSET:
                return Notification(method, params)
            if id_ is not None:
                return Request(id_, method, params)
    elif (
        method is UNSET
        and envelope.error is UNSET
        and result is not UNSET
        and id_ is not UNSET
        and id_ is not None
    ):
        return Response(id_, result)
    return _classify_unusual(envelope)


def decode_batch(
    data: bytes,
    *,
    max_messages: int = MAX_BATCH_MESSAGES,
    max_depth: int = MAX_NESTING_DEPTH,
) -> Batch:
    """Decode a JSON array of messages; a broken item does not spoil the others.

    Raises:
        InvalidMessage: It is no array of 1 to `max_messages` items.
    """
    try:
        data.decode()
        items = _decode_items(data)
    except _DECODE_FAULTS as error:
        _explain(data, error)
    # JSON-RPC 2.0, section 6: "If the batch rpc call itself fails to be recognized as [...]
    # an Array with at least one value, the response from the Server MUST be a single
    # Response object."
    if not items:
        raise InvalidMessage("a batch must hold at least one message")
    if len(items) > max_messages:
        raise InvalidMessage(
            f"a batch of {len(items)} messages is over the limit of {max_messages}"
        )
    decoded: list[Message | InvalidMessage] = []
    for item in items:
        try:
            message = decode_message(bytes(item), max_depth=max_depth)
        except InvalidMessage as error:
            decoded.append(error)
            continue
        # Revision 2025-03-26, lifecycle: "The initialize request MUST NOT be part of a
        # JSON-RPC batch".
        if isinstance(message, Request) and message.method == "initialize":
            decoded.append(
                InvalidMessage("initialize must not be in a batch", request_id=message.id)
            )
            continue
        decoded.append(message)
    return Batch(items=tuple(decoded))


def _classify_unusual(envelope: _Envelope) -> Message:
    """An error answer, or say what is wrong with a message of no sound shape."""
    method, result, error = envelope.method, envelope.result, envelope.error
    if method is not UNSET:
        answerable = envelope.id is not UNSET
        request_id = _readable_id(envelope)
        if result is not UNSET or error is not UNSET:
            reason = "a message has both a method and a result or error"
        elif envelope.id is None:
            # MCP basic: "Unlike base JSON-RPC, the ID MUST NOT be null."
            reason = "a request's id must not be null"
        else:
            reason = "params must be an object or an array"  # JSON-RPC 2.0, section 4.2
        raise InvalidMessage(reason, request_id=request_id, answerable=answerable)
    if error is not UNSET:
        if result is not UNSET:
            raise InvalidMessage(
                "an answer has both a result and an error",
                request_id=_readable_id(envelope),
                answerable=False,
            )
        return ErrorResponse(_readable_id(envelope), _error_object(envelope, error))
    if result is not UNSET:
        raise InvalidMessage("a result has no id", answerable=False)
    raise InvalidMessage(
        "a message has neither a method nor a result nor an error",
        request_id=_readable_id(envelope),
    )


def _error_object(envelope: _Envelope, raw: Raw) -> ErrorObject:
    try:
        error = _decode_error(raw)
    except _DECODE_FAULTS as fault:
        raise InvalidMessage(
            f"the error object is malformed: {fault}",
            request_id=_readable_id(envelope),
            answerable=False,
        ) from fault
    return ErrorObject(code=error.code, message=error.message, data=error.data)


def _readable_id(envelope: _Envelope) -> RequestId | None:
    return None if envelope.id is UNSET else envelope.id


def _explain(data: bytes, fault: Exception) -> NoReturn:
    """Say why a document is no message: no JSON at all, or JSON of the wrong shape."""
    try:
        data.decode()
    except UnicodeDecodeError as error:
        raise InvalidMessage(
            f"not UTF-8 at byte {error.start}", code=ErrorCode.PARSE_ERROR
        ) from fault
    try:
        _decode_raw(data)
    except RecursionError:
        raise InvalidMessage("nesting is too deep to be parsed") from fault
    except _DECODE_FAULTS as error:
        raise InvalidMessage(f"not JSON: {error}", code=ErrorCode.PARSE_ERROR) from fault
    try:
        fields = _decode_fields(data)
    except msgspec.ValidationError:
        kind = "an array" if data.lstrip()[:1] == b"[" else "no object"
        raise InvalidMessage(f"a message must be an object; this is {kind}") from fault
    request_id: RequestId | None = None
    if "id" in fields:
        with contextlib.suppress(*_DECODE_FAULTS):
            request_id = _decode_id(fields["id"])
    # Only what looks like a request is answered; a broken answer never is.
    answerable = "method" in fields or not ({"result", "error"} & fields.keys())
    if "jsonrpc" not in fields or bytes(fields["jsonrpc"]) != b'"2.0"':
        reason = 'the member "jsonrpc" must be "2.0"'
    else:
        reason = str(fault)
    if "method" in fields and "id" not in fields:
        answerable = False
    raise InvalidMessage(reason, request_id=request_id, answerable=answerable) from fault


def _large_size(envelope: _Envelope) -> int:
    """The size that the envelope encodes to, without a copy of what is raw in it."""
    raws = (envelope.params, envelope.result, envelope.error)
    stand_ins = (raw if raw is UNSET else _STAND_IN for raw in raws)
    bare = _Envelope(envelope.jsonrpc, envelope.id, envelope.method, *stand_ins)
    return len(_encode(bare)) + sum(memoryview(raw).nbytes - 1 for raw in raws if raw is not UNSET)


def _refuse_duplicate_keys(data: bytes, envelope: _Envelope) -> None:
    """Refuse a second `method`, `id`...: two readers of one message might differ.

    The top level is compared with what one reading of it keeps; compacting first takes
    white space out of the comparison. An escape in a name makes the same difference as a
    second member: nobody writes one but to hide from a reader, so both are refused.
    """
    request_id, answerable = _readable_id(envelope), envelope.method is not UNSET
    fields = _decode_fields(data)
    if len(fields) > MAX_ENVELOPE_MEMBERS:
        raise InvalidMessage(
            f"a message has over {MAX_ENVELOPE_MEMBERS} members",
            request_id=request_id,
            answerable=answerable,
        )
    kept = _encode({name: Raw(compact(bytes(raw))) for name, raw in fields.items()})
    if len(kept) != len(compact(data)):
        raise InvalidMessage(
            "a member occurs twice, or its name is written with an escape",
            request_id=request_id,
            answerable=answerable,
        )


_NO_BRACKETS = bytes(set(range(256)) - set(b'[]{}"'))
_ONE_KIND = bytes.maketrans(b"{}", b"[]")
_DEPTH_CHUNK = 64


def _has_more_brackets(data: bytes, limit: int) -> bool:
    """Whether there are more opening brackets than `limit`, those in strings included."""
    if len(data) < _LARGE_BYTES:
        return data.count(b"{") + data.count(b"[") > limit
    # A search skips what lies between some 30 times as fast as counting goes over it, and
    # ends at the limit.
    found = 0
    for bracket in b"{[":
        at = data.find(bracket)
        while at >= 0:
            found += 1
            if found > limit:
                return True
            at = data.find(bracket, at + 1)
    return False


def _deeper_than(data: bytes, limit: int) -> bool:
    """Whether well-formed JSON nests deeper than `limit`.

    Strings are cut out and everything but brackets is deleted, both at C speed; then
    brackets are counted in chunks, and only a chunk that might reach past the limit is
    looked at one by one. Some 3 ms/MB for real messages; at worst, for a document of
    brackets just below the limit, some 60 ms/MB.
    """
    if b"\\" in data:
        data = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    bare = data.translate(_ONE_KIND, _NO_BRACKETS)
    bare = b"".join(bare.split(b'"')[::2])
    depth = 0
    for start in range(0, len(bare), _DEPTH_CHUNK):
        chunk = bare[start : start + _DEPTH_CHUNK]
        opened = chunk.count(b"[")
        if depth + opened > limit:
            inside = depth
            for bracket in chunk:
                inside += 1 if bracket == 0x5B else -1
                if inside > limit:
                    return True
        depth += 2 * opened - len(chunk)
    return False


# -- encoding -----------------------------------------------------------------------


def encode_message(message: Message) -> bytes:
    """Encode one message as compact JSON; raw parts go out as they came.

    An error answer without an id carries ``"id": null``, as JSON-RPC 2.0 section 5
    asks and every revision up to 2025-06-18 expects.

    Raises:
        TypeError: It is no message, or holds what JSON cannot express.
    """
    if type(message) not in _MESSAGE_TYPES:
        raise TypeError(f"not a message: {type(message).__name__}")
    return _encode(message)


def encode_lines(messages: Sequence[Message]) -> bytes:
    """Encode messages with a line feed behind each, quicker than one by one.

    Raw parts go out as they came, which may have line feeds, too. Raises as `encode_message`.
    """
    for message in messages:
        if type(message) not in _MESSAGE_TYPES:
            raise TypeError(f"not a message: {type(message).__name__}")
    return _encode_lines(list(messages))  # msgspec 0.22 never frees a tuple


def encode_batch(messages: Iterable[Message]) -> bytes:
    """Encode messages as one JSON array."""
    return b"[" + b",".join(encode_message(message) for message in messages) + b"]"


def compact(data: bytes) -> bytes:
    """Take the white space out between JSON tokens: for newline-framed streams."""
    return msgspec.json.format(data, indent=-1)


def invalid_message_answer(error: InvalidMessage) -> ErrorResponse:
    """The error answer that tells the peer about its broken message."""
    return ErrorResponse(
        id=error.request_id, error=ErrorObject(code=int(error.code), message=str(error))
    )
