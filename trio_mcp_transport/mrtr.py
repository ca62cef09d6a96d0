"""Input that a server needs from its client while it works on a request.

`Context.ask` and `InputRequired` are the handler's side of it. Legacy servers send
requests; modern ones end the request with `input_required`, keep nothing, and are sent the
request again (MCP patterns/mrtr). What must survive in between travels through the client
in `requestState`, sealed: signed, not encrypted.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import TypeVar

import msgspec
import trio
from msgspec import UNSET, Raw, UnsetType

from .errors import RpcError
from .jsonrpc import ErrorCode
from .limits import MAX_INPUT_ROUNDS, MAX_REQUEST_STATE_BYTES, REQUEST_STATE_SECONDS
from .sansio.metadata import as_raw

__all__ = [
    "INPUT_METHODS",
    "InputRequest",
    "InputRequired",
    "InputResponses",
    "Round",
    "StateSealer",
    "gather",
    "missing_capability",
    "require_capabilities",
]

T = TypeVar("T")

#: MCP patterns/mrtr: "Servers MUST NOT send InputRequiredResult responses on any other
#: client requests."
INPUT_METHODS = frozenset({"tools/call", "prompts/get", "resources/read"})


class InputRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the client is asked for.

    Attributes:
        method: ``elicitation/create``, ``sampling/createMessage`` or ``roots/list``.
        params: The method's params; UNSET for none.
    """

    method: str
    params: object = UNSET


class InputRequired(Exception):
    """Raised by a handler that cannot go on without the client's input.

    It is no failure and therefore no `TransportError`: a handler that is ready for those,
    around `Context.ask` for instance, lets it pass.

    The handler is run again, with the client's answers in `Context.input_responses` and
    with `state` in `Context.request_state`. That is a new request on modern connections,
    so anything else the handler knew is gone.

    Args:
        inputs: What to ask, by names of the handler's own.
        state: Any JSON value. The client can read it but not change it.
    """

    def __init__(self, inputs: Mapping[str, InputRequest], state: object = UNSET) -> None:
        # "Servers MUST include at least one of inputRequests or requestState".
        if not inputs and state is UNSET:
            raise ValueError("an InputRequired needs inputs or a state")
        super().__init__(f"input required: {', '.join(inputs) or 'none, only a retry'}")
        self.inputs = dict(inputs)
        self.state = state


class InputResponses(Mapping[str, Raw]):
    """The client's answers, by the names they were asked under, as raw JSON."""

    def __init__(self, responses: Mapping[str, Raw] | None = None) -> None:
        self._responses = dict(responses or {})

    def __getitem__(self, name: str) -> Raw:
        return self._responses[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._responses)

    def __len__(self) -> int:
        return len(self._responses)

    def __repr__(self) -> str:
        return f"<InputResponses {', '.join(self._responses)}>"

    def decode(self, name: str, type_: type[T]) -> T:
        """Decode one answer.

        Raises:
            KeyError: There is none of this name.
            RpcError: It is not of that type (-32602): the client's fault.
        """
        try:
            return msgspec.json.decode(self._responses[name], type=type_)
        except msgspec.DecodeError as error:
            raise RpcError(ErrorCode.INVALID_PARAMS, f"input response {name!r}: {error}") from error


# -- capabilities -------------------------------------------------------------------


class _InputParams(msgspec.Struct):
    mode: str = "form"
    tools: object = None


def missing_capability(
    request: InputRequest, capabilities: Mapping[str, object]
) -> dict[str, object] | None:
    """The capability that a client would need for this request and did not declare.

    Raises:
        ValueError: No client can ever be asked for this.
    """
    if request.method == "roots/list":
        return None if "roots" in capabilities else {"roots": {}}
    if request.method not in {"elicitation/create", "sampling/createMessage"}:
        # "values are request objects that MUST be one of ElicitRequest,
        # CreateMessageRequest, or ListRootsRequest"
        raise ValueError(f"clients cannot be asked for {request.method!r}")
    params = _InputParams()
    if request.params is not UNSET and request.params is not None:
        params = msgspec.json.decode(as_raw(request.params), type=_InputParams)
    if request.method == "sampling/createMessage":
        sampling = capabilities.get("sampling")
        if params.tools is not None and not (isinstance(sampling, dict) and "tools" in sampling):
            return {"sampling": {"tools": {}}}
        return {"sampling": {}} if sampling is None else None
    elicitation = capabilities.get("elicitation")
    # Client/elicitation: "an empty capabilities object is equivalent to declaring support
    # for form mode only".
    modes = elicitation if isinstance(elicitation, dict) and elicitation else {"form": {}}
    if elicitation is None or params.mode not in modes:
        return {"elicitation": {params.mode: {}}}
    return None


def require_capabilities(
    inputs: Mapping[str, InputRequest], capabilities: Mapping[str, object]
) -> None:
    """Check that a client declared what it is about to be asked for.

    Raises:
        RpcError: It did not (-32021).
        ValueError: No client can ever be asked for this.
    """
    missing: dict[str, object] = {}
    for request in inputs.values():
        for name, detail in (missing_capability(request, capabilities) or {}).items():
            known = missing.setdefault(name, {})
            assert isinstance(known, dict)
            assert isinstance(detail, dict)
            known.update(detail)
    if missing:
        # "Servers MUST NOT send an inputRequests that the client has not declared support
        # for in its capabilities."
        raise RpcError(
            ErrorCode.MISSING_CLIENT_CAPABILITY,
            f"the client did not declare {', '.join(missing)}",
            {"requiredCapabilities": missing},
        )


# -- rounds and their state ---------------------------------------------------------


class _RetryParams(msgspec.Struct):
    inputResponses: dict[str, Raw] | UnsetType = UNSET  # ruff: ignore[mixed-case-variable-in-class-scope] (the wire's name)
    requestState: str | UnsetType = UNSET  # ruff: ignore[mixed-case-variable-in-class-scope] (the wire's name)


class _Sealed(msgspec.Struct):
    expires: int
    principal: str | None
    method: str
    digest: str
    round: int
    asked: list[str]
    answers: dict[str, Raw]
    state: Raw | UnsetType = UNSET


class Round:
    """Where a request stands: which time it came, and what the client answered so far.

    Attributes:
        number: 0 when the request is new.
        responses: Answers of this and of all earlier rounds.
        state: What the handler kept in `InputRequired.state`, raw, or UNSET.
    """

    __slots__ = ("number", "responses", "state")

    def __init__(
        self, number: int = 0, responses: Mapping[str, Raw] | None = None, state: object = UNSET
    ) -> None:
        self.number = number
        self.responses = InputResponses(responses)
        self.state = state

    def check_limit(self) -> None:
        """Check that there may be one more round.

        Raises:
            RpcError: There were `MAX_INPUT_ROUNDS` (-32603).
        """
        if self.number >= MAX_INPUT_ROUNDS:
            raise RpcError(
                ErrorCode.INTERNAL_ERROR, f"input was asked for {self.number} times, to no end"
            )


class StateSealer:
    """Seals what a server gives to a client to keep, and opens it again.

    The signature covers the principal, an expiry, the method and a digest of the params,
    as MCP patterns/mrtr recommends: the state is of no use to somebody else, later, or on
    another request. It can be used more than once within its time.

    Args:
        key: Secret of at least 32 bytes; servers that share it can open each other's.
        clock: Seconds since the epoch.
        lifetime: Seconds that a state is good for.
    """

    def __init__(
        self, key: bytes, clock: Callable[[], float], lifetime: float = REQUEST_STATE_SECONDS
    ) -> None:
        if len(key) < 32:
            raise ValueError("the key must have at least 32 bytes")
        self._key = key
        self._clock = clock
        self._lifetime = lifetime

    def read_round(self, method: str, params: Raw, principal: str | None) -> Round:
        """Read the retry fields of a request's params.

        Raises:
            RpcError: They are malformed, or the state is not good here (-32602).
        """
        try:
            retry = msgspec.json.decode(params, type=_RetryParams)
        except msgspec.DecodeError as error:
            raise RpcError(ErrorCode.INVALID_PARAMS, f"Invalid params: {error}") from error
        responses = {} if retry.inputResponses is UNSET else retry.inputResponses
        if retry.requestState is UNSET:
            return Round(0, responses)
        sealed = self._open(retry.requestState)
        # "servers [...] MUST reject state that fails verification". One text for all
        # reasons: an attacker need not know which it was.
        if (
            sealed is None
            or sealed.expires < self._clock()
            or sealed.principal != principal
            or sealed.method != method
            or sealed.digest != _digest(params)
        ):
            raise RpcError(ErrorCode.INVALID_PARAMS, "requestState is not valid for this request")
        # "If additional, unexpected parameters are provided in the InputResponses object,
        # the server SHOULD ignore" them.
        known = {name: responses[name] for name in sealed.asked if name in responses}
        return Round(sealed.round, {**sealed.answers, **known}, sealed.state)

    def result(
        self,
        needed: InputRequired,
        round_: Round,
        *,
        method: str,
        params: Raw,
        principal: str | None,
    ) -> dict[str, object]:
        """The `input_required` result for a handler that needs input.

        Raises:
            RpcError: The state is too large (-32603).
        """
        round_.check_limit()
        sealed = _Sealed(
            expires=int(self._clock() + self._lifetime),
            principal=principal,
            method=method,
            digest=_digest(params),
            round=round_.number + 1,
            asked=list(needed.inputs),
            answers=dict(round_.responses),
            state=UNSET if needed.state is UNSET else as_raw(needed.state),
        )
        state = self._seal(sealed)
        if len(state) > MAX_REQUEST_STATE_BYTES:
            raise RpcError(
                ErrorCode.INTERNAL_ERROR,
                f"requestState of {len(state)} bytes is over the limit of"
                f" {MAX_REQUEST_STATE_BYTES} bytes",
            )
        result: dict[str, object] = {"resultType": "input_required", "requestState": state}
        if needed.inputs:
            result["inputRequests"] = needed.inputs
        return result

    def _seal(self, sealed: _Sealed) -> str:
        payload = msgspec.json.encode(sealed)
        return base64.urlsafe_b64encode(self._sign(payload) + payload).decode()

    def _open(self, token: str) -> _Sealed | None:
        if len(token) > MAX_REQUEST_STATE_BYTES:
            return None
        try:
            raw = base64.b64decode(token.encode("ascii"), altchars=b"-_", validate=True)
        except (UnicodeEncodeError, binascii.Error):
            return None
        signature, payload = raw[:32], raw[32:]
        if not hmac.compare_digest(signature, self._sign(payload)):
            return None
        return msgspec.json.decode(payload, type=_Sealed)

    def _sign(self, payload: bytes) -> bytes:
        return hmac.digest(self._key, payload, "sha256")


def _digest(params: Raw) -> str:
    """A digest of what was asked for, whatever the order of keys; not of retry fields."""
    fields = msgspec.json.decode(params, type=dict[str, object])
    for key in ("_meta", "inputResponses", "requestState"):
        fields.pop(key, None)
    return hashlib.sha256(msgspec.json.encode(fields, order="sorted")).hexdigest()


# -- doing several things at once ---------------------------------------------------


async def gather(calls: Mapping[str, Callable[[], Awaitable[Raw]]]) -> dict[str, Raw]:
    """Await all of them at the same time.

    Raises:
        Exception: What the first that failed raised, as it is; the others are cancelled.
    """
    results: dict[str, Raw] = {}
    failures: list[Exception] = []
    async with trio.open_nursery() as nursery:

        async def one(name: str, call: Callable[[], Awaitable[Raw]]) -> None:
            try:
                results[name] = await call()
            except Exception as error:
                failures.append(error)
                nursery.cancel_scope.cancel()

        for name, call in calls.items():
            nursery.start_soon(one, name, call)
    if failures:
        raise failures[0]
    return {name: results[name] for name in calls}
