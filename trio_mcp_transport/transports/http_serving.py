"""What a server that listens over HTTP needs beside its endpoint: what is no plain data.

Made by `serve`, handed through the accept loop to `HttpService`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

import msgspec

from .. import security
from ..sansio.mcp_http.mirrored import HeaderSchema
from ..stores.events import EventStore

__all__ = ["HttpMode", "HttpServing", "SchemaLookup"]

HttpMode: TypeAlias = Literal["exchange", "session"]
SchemaLookup: TypeAlias = Callable[[str], HeaderSchema | None]


class HttpServing(msgspec.Struct, frozen=True, kw_only=True):
    """How requests become channels, and who else has a say in it.

    Attributes:
        mode: ``exchange``: each POST of requests is a channel. ``session``: a legacy
            session is one channel, whose messages say which request they belong to
            (`related_to`); what has no session is a channel for each exchange still.
        authenticate: Asked about each request; see `security.admission`. None leaves it
            to the endpoint.
        event_store: Keeps the events of streams, which can then be resumed. Without one,
            an endpoint that is `resumable` has a `MemoryEventStore` of its own.
        header_schema: Gives what ``Mcp-Param-*`` headers a tool has, by its name.
        revisions: What the dispatcher serves; narrows the endpoint's own.
        told_revisions: See `HttpServerOptions`.
    """

    mode: HttpMode = "exchange"
    authenticate: security.Authenticator | None = None
    event_store: EventStore | None = None
    header_schema: SchemaLookup | None = None
    revisions: tuple[str, ...] | None = None
    told_revisions: tuple[str, ...] = ()
