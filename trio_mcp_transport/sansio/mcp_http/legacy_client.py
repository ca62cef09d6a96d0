"""The client of the revisions with `initialize`: its session, and what its headers say.

Pure. One for each channel. It replays `initialize` once when the server has lost the
session, and it never sends a call again that may have been run.
"""

from __future__ import annotations

import re

import msgspec

from ...errors import InvalidHttpResponse
from ...jsonrpc import Request, Response
from ..headers import Headers

__all__ = ["LegacyClient"]

# 2025-11-25: "The session ID MUST only contain visible ASCII characters (ranging from 0x21
# to 0x7E)."
_SESSION_ID = re.compile(r"[\x21-\x7e]+")
_MAX_SESSION_ID = 1024

_POST = Headers([
    ("Content-Type", "application/json"),
    ("Accept", "application/json, text/event-stream"),
])
_GET = Headers([("Accept", "text/event-stream")])


class _InitializeResult(msgspec.Struct):
    protocolVersion: str  # ruff: ignore[mixed-case-variable-in-class-scope] (the wire's name)


class LegacyClient:
    """The session of one channel.

    Args:
        headers: Fields of every request.

    Attributes:
        revision: What `initialize` agreed on; None before.
        session_id: The session's, or None where the server has none.
        generation: Counts the sessions: a request remembers in which one it was sent.
        initialize: The request that began it, to be replayed; None before.
    """

    def __init__(self, headers: Headers) -> None:
        self._base_post = headers.merged(_POST)
        self._base_get = headers.merged(_GET)
        self._base = headers
        self.revision: str | None = None
        self.session_id: str | None = None
        self.generation = 0
        self.initialize: Request | None = None
        self._worked = False
        self._build()

    def _build(self) -> None:
        """Make the headers ready that stay the same until the next `initialize`."""
        fields: list[tuple[str, str]] = []
        if self.session_id is not None:
            # "clients using the Streamable HTTP transport MUST include it in the
            # MCP-Session-Id header on all of their subsequent HTTP requests."
            fields.append(("Mcp-Session-Id", self.session_id))
        if self.revision is not None:
            # "the client MUST include the MCP-Protocol-Version HTTP header on all
            # subsequent requests to the MCP server".
            fields.append(("MCP-Protocol-Version", self.revision))
        own = Headers(fields)
        self.post_headers = self._base_post.merged(own)
        self.delete_headers = self._base.merged(own)
        self._get_headers = self._base_get.merged(own)

    @property
    def initialize_headers(self) -> Headers:
        """Those of `initialize`, which belongs to no session."""
        return self._base_post

    def get_headers(self, last_event_id: str | None) -> Headers:
        """Those of a GET, which opens the standalone stream or takes up any other one.

        Raises:
            LocalProtocolError: No header can carry the id of the event.
        """
        if last_event_id is None:
            return self._get_headers
        # As the WHATWG standard has it, the id is sent in UTF-8.
        return self._get_headers.with_("Last-Event-ID", last_event_id.encode())

    def adopt(self, request: Request, headers: Headers, answer: Response) -> None:
        """`initialize` was answered: the session begins.

        Args:
            request: The `initialize`.
            headers: Those of the response that brought the answer.
            answer: The answer.

        Raises:
            InvalidHttpResponse: The id of the session is none.
        """
        session_id = headers.get("mcp-session-id")
        if session_id is not None and (
            len(session_id) > _MAX_SESSION_ID or not _SESSION_ID.fullmatch(session_id)
        ):
            raise InvalidHttpResponse("the server gave a session id that is none", status=200)
        try:
            revision = answer.result_as(_InitializeResult).protocolVersion
        except msgspec.DecodeError as error:
            raise InvalidHttpResponse(f"the result of initialize: {error}", status=200) from error
        if not _SESSION_ID.fullmatch(revision):
            raise InvalidHttpResponse("the server chose a revision that is none", status=200)
        self.initialize = request
        self.session_id, self.revision = session_id, revision
        self.generation += 1
        self._worked = False
        self._build()

    @property
    def present(self) -> tuple[str | None, str | None, int, bool]:
        """The session as it is now, for `go_back`."""
        return self.session_id, self.revision, self.generation, self._worked

    def go_back(self, session: tuple[str | None, str | None, int, bool]) -> None:
        """The session that was adopted since did not come about."""
        self.session_id, self.revision, self.generation, self._worked = session
        self._build()

    def worked(self) -> None:
        """The server took something in the present session, `initialized` aside."""
        self._worked = True

    def may_renew(self) -> bool:
        """Whether a lost session is to be begun anew: once, not if that one is lost at once.

        "When a client receives HTTP 404 in response to a request containing an
        MCP-Session-Id, it MUST start a new session by sending a new InitializeRequest
        without a session ID attached."
        """
        return self.initialize is not None and (self._worked or self.generation == 1)

    def forget(self) -> None:
        """The session is over, and none follows."""
        self.session_id = None
        self._build()
