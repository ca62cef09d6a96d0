"""What a handler gets to know about the request it works on, and what it can do for it."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeVar

import trio
from msgspec import UNSET, Raw

from .conversation import ClosesStreams
from .errors import LocalProtocolError, RpcError
from .jsonrpc import ErrorCode, Notification, Request
from .limits import PROGRESS_BURST, PROGRESS_PER_SECOND, REQUEST_STATE_SECONDS
from .mrtr import InputRequest, InputRequired, InputResponses, Round, gather, require_capabilities
from .sansio.eras import Era
from .sansio.headers import Headers
from .sansio.metadata import LOG_LEVELS, LogLevel, RequestMeta

if TYPE_CHECKING:
    from .hub import LegacySubscriber
    from .peer import Peer

__all__ = ["Context", "Session"]

T = TypeVar("T")

_NO_ROUND = Round()


class Session(dict[str, object]):
    """The state that a legacy client has from `initialize` on.

    A dictionary for the application's own use. It lives as long as the connection; over HTTP
    as long as the session, whose requests all have the same one.

    Attributes:
        revision: What `initialize` agreed on.
        client_info: Name and version as the client gives them; for display only.
        client_capabilities: What the client can do.
        log_level: Least severe log message that the client wants.
        initialized: Whether the client has sent `notifications/initialized`.
    """

    def __init__(
        self,
        revision: str,
        client_info: Mapping[str, object],
        client_capabilities: Mapping[str, object],
    ) -> None:
        super().__init__()
        self.revision = revision
        self.client_info = client_info
        self.client_capabilities = client_capabilities
        # 2025-11-25, logging: without logging/setLevel "the server MAY decide which
        # messages to send automatically".
        self.log_level: LogLevel = "info"
        self.initialized = False
        # The router's business: who tells this client what the hub has to say, and where.
        self.subscriber: LegacySubscriber | None = None
        self.own_peer: Peer | None = None


class Context:
    """One request or notification that is being handled.

    Attributes:
        peer: The conversation that it came in.
        message: The message itself; its params are raw.
        era: ``modern``, ``legacy``, or None outside of MCP and before any handshake.
        revision: The protocol revision, or None as for `era`.
        client_info: Name and version as the client gives them; for display only.
        client_capabilities: What the client can do, of this request (modern) or session.
        session: The legacy connection's or session's state; None where there is none: for
            modern clients, and over HTTP without sessions.
    """

    __slots__ = (
        "_allowance",
        "_held",
        "_last_progress",
        "_last_time",
        "_log_level",
        "_round",
        "_token",
        "client_capabilities",
        "client_info",
        "era",
        "message",
        "peer",
        "revision",
        "session",
    )

    def __init__(
        self,
        peer: Peer,
        message: Request | Notification,
        *,
        era: Era | None = None,
        revision: str | None = None,
        meta: RequestMeta | None = None,
        session: Session | None = None,
        log: bool = True,
    ) -> None:
        self.peer = peer
        self.message = message
        self.era = era
        self.revision = revision
        self.session = session
        self._round = _NO_ROUND
        self._token = UNSET if meta is None else meta.progress_token
        self._last_progress: float | None = None
        self._held: dict[str, object] | None = None
        self._allowance: float = PROGRESS_BURST
        self._last_time = 0.0
        self.client_info: Mapping[str, object] = {}
        self.client_capabilities: Mapping[str, object] = {}
        self._log_level: LogLevel | None = None
        if era == "modern" and meta is not None:
            if meta.client_info is not UNSET:
                self.client_info = meta.client_info
            if meta.client_capabilities is not UNSET:
                self.client_capabilities = meta.client_capabilities
            # Server/utilities/logging: "The server MUST NOT emit notifications/message for
            # a request that does not include this field."
            if meta.log_level is not UNSET and log:
                self._log_level = meta.log_level
        elif session is not None:
            self.client_info = session.client_info
            self.client_capabilities = session.client_capabilities
            self._log_level = session.log_level if log else None
        elif log and era != "modern":
            self._log_level = "info"

    @property
    def request(self) -> Request:
        """The request.

        Raises:
            LocalProtocolError: This is a notification.
        """
        if not isinstance(self.message, Request):
            raise LocalProtocolError("a notification is no request")
        return self.message

    @property
    def _is_exchange(self) -> bool:
        return self.peer.channel.context.exchange

    @property
    def principal(self) -> str | None:
        """Who is at the other end, where the transport authenticated somebody."""
        return self.peer.channel.context.principal

    @property
    def headers(self) -> Headers | None:
        """The head of the HTTP request that brought the message; None elsewhere.

        Of a notification to a session: that of the request that began the session.
        """
        return self.peer.channel.context.headers

    @property
    def wants_progress(self) -> bool:
        """Whether the client asked for progress."""
        return self._token is not UNSET

    def params_as(self, type_: type[T]) -> T:
        """Decode the params; absent ones count as an empty object.

        Raises:
            msgspec.ValidationError: They are not of that type. Out of a handler it is
                answered as -32602.
        """
        return self.message.params_as(type_)

    # -- progress and log -----------------------------------------------------------

    async def progress(
        self, progress: float, total: float | None = None, message: str | None = None
    ) -> None:
        """Tell the client how far the work is, if it asked for that.

        What does not rise is left out. After a burst of 20 at most 20 a second go out:
        in between, the newest waits for the next call or for the end of the request, so
        the last one is never lost. May wait for room in the channel.

        Raises:
            ChannelBroken: The channel failed.
            trio.ClosedResourceError: The channel is closed.
        """
        if self._token is UNSET:
            await trio.lowlevel.checkpoint()
            return
        # MCP patterns/progress: "The progress value MUST increase with each notification,
        # even if the total is unknown."
        if self._last_progress is not None and not progress > self._last_progress:
            await trio.lowlevel.checkpoint()
            return
        self._last_progress = progress
        params: dict[str, object] = {"progressToken": self._token, "progress": progress}
        if total is not None:
            params["total"] = total
        if message is not None:
            params["message"] = message
        now = trio.current_time()
        self._allowance = min(
            PROGRESS_BURST, self._allowance + (now - self._last_time) * PROGRESS_PER_SECOND
        )
        self._last_time = now
        if self._allowance < 1:
            self._held = params
            await trio.lowlevel.checkpoint()
            return
        self._allowance -= 1
        self._held = None
        await self.peer.channel.send(Notification("notifications/progress", params))

    async def finish(self) -> None:
        """Send what is held back; called before the result is sent."""
        # "Progress notifications MUST stop after completion."
        held, self._held, self._token = self._held, None, UNSET
        if held is not None:
            await self.peer.channel.send(Notification("notifications/progress", held))

    async def log(self, level: LogLevel, data: object, logger: str | None = None) -> None:
        """Send a log message to the client, if it wants those of this level.

        Modern clients say so in each request, legacy ones by `logging/setLevel` (until
        then: ``info``). Without the server capability ``logging`` nothing is sent.

        Args:
            level: How severe it is, from ``debug`` to ``emergency``.
            data: Any JSON value. No secrets.
            logger: Which part of the program it comes from.

        Raises:
            ValueError: There is no such level.
            ChannelBroken: The channel failed.
            trio.ClosedResourceError: The channel is closed.
        """
        severity = LOG_LEVELS.index(level)
        if self._log_level is None or severity < LOG_LEVELS.index(self._log_level):
            await trio.lowlevel.checkpoint()
            return
        params: dict[str, object] = {"level": level, "data": data}
        if logger is not None:
            params["logger"] = logger
        await self.peer.channel.send(Notification("notifications/message", params))

    async def close_stream(self, *, retry: float | None = None) -> bool:
        """Let the client come back later for what this request will yet bring.

        Over HTTP with resumable streams the connection of this request ends, and the
        client's next GET goes on with the stream: nothing is lost, and a long wait holds no
        connection. Everywhere else nothing happens.

        Args:
            retry: Seconds that the client is told to wait; the endpoint's own by default.

        Returns:
            Whether the connection was ended.
        """
        channel = self.peer.channel
        closed = False
        if isinstance(channel, ClosesStreams):
            try:
                channel.close_stream(retry)
                closed = True
            except LocalProtocolError:
                pass  # not resumable
        await trio.lowlevel.checkpoint()
        return closed

    # -- the client's input ---------------------------------------------------------

    @property
    def input_responses(self) -> InputResponses:
        """What the client answered so far, in all rounds of this request."""
        return self._round.responses

    @property
    def request_state(self) -> Raw | None:
        """What `InputRequired.state` held, or None when the request is new."""
        state = self._round.state
        return state if isinstance(state, Raw) else None

    @property
    def input_round(self) -> Round:
        """Where the request stands; set by the router."""
        return self._round

    @input_round.setter
    def input_round(self, value: Round) -> None:
        self._round = value

    def require_capability(self, name: str) -> None:
        """Make sure that the client declared a capability, such as ``sampling``.

        A dotted name asks for a part of it: ``elicitation.url``.

        Raises:
            RpcError: It did not (-32021); the answer names it.
        """
        found: object = self.client_capabilities
        for part in name.split("."):
            if not isinstance(found, Mapping) or part not in found:
                break
            found = found[part]
        else:
            return
        missing: dict[str, object] = {}
        for part in reversed(name.split(".")):
            missing = {part: missing}
        # Basic, Per-request protocol fields: "the server MUST return a
        # MissingRequiredClientCapabilityError (-32021) whose data.requiredCapabilities
        # lists the missing capabilities".
        raise RpcError(
            ErrorCode.MISSING_CLIENT_CAPABILITY,
            f"the client did not declare {name}",
            {"requiredCapabilities": missing},
        )

    async def ask(
        self,
        inputs: Mapping[str, InputRequest],
        *,
        timeout: float = REQUEST_STATE_SECONDS,  # ruff: ignore[async-function-with-timeout] (of each request)
    ) -> InputResponses:
        """Ask the client for input and wait for it.

        On a legacy connection the requests are sent at once, all together. A modern
        server sends no requests: there this raises, the request ends, and when the client
        sends it again with the answers, the handler runs again *from its beginning* and
        this returns them. So do nothing before it that must not be done twice.

        Args:
            inputs: What to ask, by names that are unique in this request.
            timeout: Seconds that a legacy client has for each.

        Returns:
            The answers to these and to all that was asked earlier, by name.

        Raises:
            RpcError: The client did not declare the capability (-32021), or answered
                with an error.
            LocalProtocolError: A legacy client cannot be asked, as there is no session.
            RequestTimeout: A legacy client did not answer in time.
            ChannelBroken: The channel failed.
        """
        missing = {
            name: request for name, request in inputs.items() if name not in self._round.responses
        }
        if missing and self.era == "legacy" and self.session is None and self._is_exchange:
            raise LocalProtocolError("a client without a session cannot be asked")
        if self.era is not None:
            require_capabilities(missing, self.client_capabilities)
        if not missing:
            await trio.lowlevel.checkpoint()
            return self._round.responses
        if self.era == "modern":
            # What the handler kept by raising InputRequired itself stays kept.
            raise InputRequired(missing, self._round.state)
        answers = await gather({
            name: functools.partial(
                self.peer.request,
                request.method,
                None if request.params is UNSET else request.params,
                timeout=timeout,
            )
            for name, request in missing.items()
        })
        self._round = Round(
            self._round.number, {**self._round.responses, **answers}, self._round.state
        )
        return self._round.responses
