"""The client of 2026-07-28: what goes into the headers, and what `tools/list` teaches.

Pure. One for each channel; it knows no exchange. All of it is 2026-07-28, Streamable HTTP,
Request Metadata.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from msgspec import UNSET, Raw, UnsetType

from ...jsonrpc import Notification, Request, RequestId
from ..headers import Headers
from ..metadata import (
    CLIENT_CAPABILITIES_KEY,
    CLIENT_INFO_KEY,
    PROTOCOL_VERSION_KEY,
    as_raw,
)
from .mirrored import (
    NAME_SOURCES,
    HeaderSchema,
    InvalidHeaderSchema,
    mirrored_headers,
    read_header_schema,
)

__all__ = ["MAX_LIST_PAGES", "ModernClient", "RejectedTool"]

#: Pages of `tools/list` that are read to learn the headers of one tool.
MAX_LIST_PAGES = 20
#: Tools with annotations that are remembered, and headers that are kept ready.
_MAX_TOOLS = 10_000
_MAX_READY = 256

_FIXED = Headers([
    ("Content-Type", "application/json"),
    # "The client MUST include an Accept header listing both application/json and
    # text/event-stream as supported content types."
    ("Accept", "application/json, text/event-stream"),
])
_PROTOCOL_KEYS = (PROTOCOL_VERSION_KEY, CLIENT_INFO_KEY, CLIENT_CAPABILITIES_KEY)


class RejectedTool(msgspec.Struct, frozen=True):
    """A tool that was taken out of a list.

    Attributes:
        name: Its name, cut to 100 characters.
        reason: What is wrong with its annotations.
    """

    name: str
    reason: str


class _Tool(msgspec.Struct):
    name: str
    inputSchema: Raw | UnsetType = UNSET  # ruff: ignore[mixed-case-variable-in-class-scope] (the wire's names)


class _ToolList(msgspec.Struct):
    tools: list[Raw]
    nextCursor: str | None = None  # ruff: ignore[mixed-case-variable-in-class-scope]


_decode_list = msgspec.json.Decoder(_ToolList).decode
_decode_tool = msgspec.json.Decoder(_Tool).decode
_decode_fields = msgspec.json.Decoder(dict[str, Raw]).decode


class ModernClient:
    """What is known of one modern server.

    Args:
        headers: Fields of every request.
        name_sources: Where the value of `Mcp-Name` comes from, by method.
    """

    def __init__(self, headers: Headers, *, name_sources: Mapping[str, str] = NAME_SOURCES) -> None:
        self._base = headers.merged(_FIXED)
        self._name_sources = name_sources
        self._schemas: dict[str, HeaderSchema] = {}
        # Headers are the same for most calls; once made they need not be encoded again.
        self._ready: dict[tuple[str, tuple[tuple[str, str], ...]], Headers] = {}
        self._quick: dict[tuple[str, str, str], Headers] = {}

    def headers(self, message: Request | Notification, revision: str) -> Headers:
        """The header fields of a POST.

        Args:
            message: Its body.
            revision: The version in the body's `_meta`.

        Raises:
            ValueError: The params cannot be read (also msgspec's errors).
        """
        params, source = message.params, self._name_sources.get(message.method)
        name = params.get(source) if source is not None and type(params) is dict else None
        quick = None
        if type(message) is Request and type(name) is str and name not in self._schemas:
            # The name is all that is mirrored, and mostly that of a few.
            quick = revision, message.method, name
            ready = self._quick.get(quick)
            if ready is not None:
                return ready
        mirrored = mirrored_headers(message, self._schemas.get, name_sources=self._name_sources)
        key = (revision, tuple(mirrored))
        ready = self._ready.get(key)
        if ready is None:
            # "Every POST request to the MCP endpoint MUST include an MCP-Protocol-Version
            # header"; its value "MUST match" the version in the body.
            ready = self._base.merged(Headers([("MCP-Protocol-Version", revision), *mirrored]))
            if len(self._ready) >= _MAX_READY:
                self._ready.clear()
            self._ready[key] = ready
        if quick is not None:
            if len(self._quick) >= _MAX_READY:
                self._quick.clear()
            self._quick[quick] = ready
        return ready

    def learn(self, result: object) -> tuple[object, list[RejectedTool]]:
        """Read a result of `tools/list`, whoever asked for it.

        Returns:
            The result without its invalid tools (the same object where there are none),
            and which ones they were.
        """
        raw = as_raw(result)
        data = bytes(raw)
        # An annotation cannot hide but behind an escape of its characters.
        if not self._schemas and b"x-mcp-header" not in data and b"\\u00" not in data:
            return result, []
        try:
            tools = _decode_list(raw).tools
        except msgspec.DecodeError:
            return result, []  # whoever asked will see
        kept: list[Raw] = []
        rejected: list[RejectedTool] = []
        for item in tools:
            try:
                tool = _decode_tool(item)
            except msgspec.DecodeError:
                kept.append(item)
                continue
            self._schemas.pop(tool.name, None)
            try:
                schema = read_header_schema(tool.inputSchema)
            except InvalidHeaderSchema as error:
                # "the client MUST exclude the invalid tool from the result of tools/list."
                rejected.append(RejectedTool(tool.name[:100], str(error)))
                continue
            kept.append(item)
            if schema.parameters:
                if len(self._schemas) >= _MAX_TOOLS:
                    del self._schemas[next(iter(self._schemas))]
                self._schemas[tool.name] = schema
        if not rejected:
            return result, []
        fields: dict[str, object] = dict(_decode_fields(raw))
        fields["tools"] = kept
        return as_raw(fields), rejected

    def list_request(self, call: Request, request_id: RequestId, cursor: str | None) -> Request:
        """The `tools/list` that asks anew what the headers of a refused call are to be.

        "If the server rejects a request with a HeaderMismatch error [...], the client SHOULD
        call tools/list to check for changes to the tool's inputSchema, then retry".

        Args:
            call: The call, whose protocol fields it takes over.
            request_id: Its own id.
            cursor: Of the page.
        """
        fields = _decode_fields(as_raw(call.params))
        meta = _decode_fields(fields["_meta"])
        params: dict[str, object] = {
            "_meta": {key: meta[key] for key in _PROTOCOL_KEYS if key in meta}
        }
        if cursor is not None:
            params["cursor"] = cursor
        return Request(request_id, "tools/list", params)

    def next_cursor(self, result: object) -> str | None:
        """Where the list goes on, if it does."""
        try:
            return _decode_list(as_raw(result)).nextCursor
        except msgspec.DecodeError:
            return None
