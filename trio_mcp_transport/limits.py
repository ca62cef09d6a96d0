"""Every bound in one place: named, finite by default, with where its number comes from.

Pure data. `ChannelOptions` is what one channel is built with; endpoint strings set its
fields by the same names. Durations are seconds; `math.inf` means "no limit" in Python,
and `0` does in endpoint strings and environment variables (the parser turns it to inf).
"""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from .errors import ConfigurationError

__all__ = [
    "CHILD_STDERR_TAIL_BYTES",
    "CONTROL_LANE_BYTES",
    "DEFAULT_DRAIN_SECONDS",
    "DEFAULT_INBOX_BYTES",
    "DEFAULT_MAX_CONNECTIONS",
    "DEFAULT_MAX_EXCHANGES",
    "DEFAULT_MAX_FRAGMENTS",
    "DEFAULT_MAX_HANDLERS",
    "DEFAULT_MAX_HELD_BYTES",
    "DEFAULT_MAX_MESSAGE_BYTES",
    "DEFAULT_MAX_QUEUED_REQUESTS",
    "DEFAULT_MAX_REQUEST_TIMEOUT",
    "DEFAULT_MAX_SESSIONS",
    "DEFAULT_MAX_UNSENT_BYTES",
    "DEFAULT_OUTBOX_BYTES",
    "DEFAULT_SHARED_CONNECTIONS",
    "DEFAULT_SHARED_MESSAGES",
    "DEFAULT_SHARED_MESSAGE_BYTES",
    "DISCOVER_PROBE_TIMEOUT",
    "EVENT_STORE_TIMEOUT",
    "EXCHANGE_GRACE_TIMEOUT",
    "HTTP_BODY_TIMEOUT",
    "HTTP_CLIENT_IDLE_TIMEOUT",
    "HTTP_HEAD_TIMEOUT",
    "HTTP_IDLE_TIMEOUT",
    "HTTP_RETRY_AFTER",
    "LISTEN_HEAD_SECONDS",
    "MAX_ABANDONED_IDS",
    "MAX_BATCH_MESSAGES",
    "MAX_CANCELLED_CLOSE_SECONDS",
    "MAX_ENVELOPE_MEMBERS",
    "MAX_HANDED_OVER",
    "MAX_HEADER_BYTES",
    "MAX_INPUT_ROUNDS",
    "MAX_NESTING_DEPTH",
    "MAX_PEM_BYTES",
    "MAX_QUEUED_NOTIFICATIONS",
    "MAX_RECONNECTS",
    "MAX_REQUEST_STATE_BYTES",
    "MAX_RING_BYTES",
    "MAX_SUBSCRIBED_URIS",
    "MAX_SUBSCRIPTIONS",
    "MAX_TASKS",
    "MAX_TLS_SESSIONS",
    "OCSP_CLOCK_SKEW",
    "PROGRESS_BURST",
    "PROGRESS_PER_SECOND",
    "READ_CHUNK_BYTES",
    "REQUEST_STATE_SECONDS",
    "SESSION_IDLE_TIMEOUT",
    "SHARED_OPEN_TIMEOUT",
    "SSE_KEEP_ALIVE_INTERVAL",
    "SSE_MAX_BACKOFF",
    "SSE_QUIET_INTERVAL",
    "SSE_RETRY_INTERVAL",
    "TLS_CLOSE_TIMEOUT",
    "TLS_EXPIRY_REPEAT",
    "TLS_EXPIRY_WARNING",
    "TLS_HANDSHAKE_TIMEOUT",
    "TLS_RELOAD_INTERVAL",
    "WEBSOCKET_PING_INTERVAL",
    "WEBSOCKET_PONG_TIMEOUT",
    "WRITE_SLICE_BYTES",
    "ChannelOptions",
    "Framing",
    "WhenFull",
]

Framing = Literal["newline", "content-length", "length-prefix", "detect"]
WhenFull = Literal["block", "close"]

#: Largest message by default, both directions. 1 MiB is common elsewhere, but tool results
#: carry Base64 images.
DEFAULT_MAX_MESSAGE_BYTES = 16 * 1024 * 1024
#: Header block of one Content-Length frame. Real ones are under 100 bytes; 8 KiB is what
#: nginx and Apache allow for a whole HTTP head.
MAX_HEADER_BYTES = 8 * 1024
#: Nesting of arrays and objects in one message. msgspec itself gives up at 997 levels on
#: CPython 3.11 (and shares that budget with the Python stack), so stay well below.
MAX_NESTING_DEPTH = 128
#: Members of a message's envelope. JSON-RPC knows six; more than a few others are an attempt
#: to make looking them over expensive.
MAX_ENVELOPE_MEMBERS = 64
#: Messages in one batch (revision 2025-03-26 only); the TypeScript SDK's cap.
MAX_BATCH_MESSAGES = 100
#: Bytes that may wait for the wire; older configurations call it write_queue_max_bytes.
DEFAULT_OUTBOX_BYTES = 2 * 1024 * 1024
#: Bytes of messages that a channel which reads by itself holds for its application; a
#: larger message is taken when nothing else waits.
DEFAULT_INBOX_BYTES = 2 * 1024 * 1024
#: Error answers and cancels that pass a full outbox; some 1,000 of them.
CONTROL_LANE_BYTES = 256 * 1024
#: One write. A slice that was taken is progress, so this also sets how slow a peer may be
#: before it counts as stalled: 64 KiB in `write_timeout` seconds.
WRITE_SLICE_BYTES = 64 * 1024
#: One read: Linux pipes hold 64 KiB.
READ_CHUNK_BYTES = 64 * 1024
#: The whole of what closing may hold a cancelled task up for.
MAX_CANCELLED_CLOSE_SECONDS = 2.0
#: How much of a child's stderr is kept to explain its death.
CHILD_STDERR_TAIL_BYTES = 8 * 1024
#: Connections of one listener at a time; each may hold one message and one outbox.
DEFAULT_MAX_CONNECTIONS = 1000
#: Handlers of one peer at a time; more than this from one client waits in a queue.
DEFAULT_MAX_HANDLERS = 100
#: Requests of one peer that wait for a handler; beyond it they are refused with an error.
#: What they hold has a bound of its own, as one may be as large as a message.
DEFAULT_MAX_QUEUED_REQUESTS = 1000
#: Bytes of params that one peer's requests and notifications hold while they are handled
#: or wait for it: four of the largest messages, or 64 KB for each of 1,000 in the queue.
DEFAULT_MAX_HELD_BYTES = 64 * 1024 * 1024
#: Notifications of one peer that wait for their handlers, which run one after another.
MAX_QUEUED_NOTIFICATIONS = 1000
#: Seconds that running handlers get to finish after the peer's EOF.
DEFAULT_DRAIN_SECONDS = 10.0
#: Progress may stretch a request's timeout up to this. MCP patterns/cancellation asks
#: that a maximum be enforced regardless of progress.
DEFAULT_MAX_REQUEST_TIMEOUT = 600.0
#: Ids of requests that were given up and may still be answered, remembered so that a late
#: answer is told from a stray one and is never taken for that of a new request.
MAX_ABANDONED_IDS = 1000
#: Tasks (2025-11-25) of one peer's requests whose progress is listened to at a time.
MAX_TASKS = 1000
#: Seconds without an answer to `server/discover` after which a server counts as legacy.
#: A child process may still be loading its interpreter.
DISCOVER_PROBE_TIMEOUT = 10.0
#: Times one request may come back with `input_required`, on either side.
MAX_INPUT_ROUNDS = 8
#: Sealed `requestState`: it travels twice per round and holds the earlier answers.
MAX_REQUEST_STATE_BYTES = 64 * 1024
#: Seconds a `requestState` is good for: a person has to fill in a form meanwhile.
REQUEST_STATE_SECONDS = 600.0
#: `subscriptions/listen` requests of one connection at a time; each occupies a handler.
MAX_SUBSCRIPTIONS = 32
#: Resource URIs in one subscription, or subscribed to by one legacy connection.
MAX_SUBSCRIBED_URIS = 1000
#: Progress notifications of one request: so many at once, then so many a second. What
#: comes faster is merged into the newest.
PROGRESS_BURST = 20
PROGRESS_PER_SECOND = 20.0

#: Largest message through shared memory, and how many of them one direction's memory holds:
#: 16 MiB for a connection with both directions full, which fits any container.
DEFAULT_SHARED_MESSAGE_BYTES = 1024 * 1024
DEFAULT_SHARED_MESSAGES = 8
#: Memory of one direction at most: the bound of what a peer can make this side map.
MAX_RING_BYTES = 1 << 30
#: Connections through shared memory at one listener: 1 GiB if all of them are full.
DEFAULT_SHARED_CONNECTIONS = 64
#: Seconds that a client waits for the process that creates the memory: the two are often
#: started at the same time.
SHARED_OPEN_TIMEOUT = 5.0

#: HTTP requests in flight at a time: of one client to one endpoint, or at one listener.
DEFAULT_MAX_EXCHANGES = 1000
#: Legacy sessions of one server at a time; each may hold tables and a standalone stream.
DEFAULT_MAX_SESSIONS = 1000
#: Seconds that an event store may take for one call; then the exchange that waits for it
#: fails, and nothing is held up by a store that never answers.
EVENT_STORE_TIMEOUT = 30.0
#: Requests of legacy sessions that one worker of ``serve --workers`` answers on behalf of the
#: others at a time: those of four others that have all of their own. More wait in the backlog.
MAX_HANDED_OVER = 4096
#: Bytes that all responses of one HTTP server hold for clients that do not take them: 16
#: of the largest messages, or 256 KiB for each of 1,000 connections.
DEFAULT_MAX_UNSENT_BYTES = 256 * 1024 * 1024
#: Seconds after which a session that nobody uses ends.
SESSION_IDLE_TIMEOUT = 1800.0
#: Seconds between comments on a silent stream: below the 60 s after which proxies such as
#: nginx (proxy_read_timeout) give a connection up.
SSE_KEEP_ALIVE_INTERVAL = 15.0
#: Seconds of silence after which an answer that could be JSON becomes a stream.
SSE_QUIET_INTERVAL = 5.0
#: Seconds in which the whole head of an HTTP request must have come, and then its body:
#: 16 MiB at 280 kB/s.
HTTP_HEAD_TIMEOUT = 15.0
HTTP_BODY_TIMEOUT = 60.0
#: Seconds that a server keeps a connection without a request; nginx keeps 75 s.
HTTP_IDLE_TIMEOUT = 60.0
#: Seconds that a client keeps one. Node.js and uvicorn close theirs after 5, and a request
#: that meets the closing fails although nobody did anything wrong.
HTTP_CLIENT_IDLE_TIMEOUT = 4.0
#: Seconds a legacy request goes on after its connection was lost, where nobody can resume
#: it: long enough for a client that comes back, short enough to be no way to pile them up.
EXCHANGE_GRACE_TIMEOUT = 60.0
#: Seconds that a client waits before it resumes a stream that the server closed.
SSE_RETRY_INTERVAL = 1.0
#: Times that a client takes up a stream again without anything new on it, before it gives
#: up; without word from the server it waits twice as long each time, at most this long.
MAX_RECONNECTS = 5
SSE_MAX_BACKOFF = 30.0
#: Seconds that the first requests of a session wait for the head of its standalone stream,
#: which some servers send only with the first event.
LISTEN_HEAD_SECONDS = 1.0
#: Seconds that a client waits when there are too many of it (Retry-After).
HTTP_RETRY_AFTER = 5

#: Seconds in which a TLS handshake must be complete: one or two round trips and a few
#: milliseconds of arithmetic. 30 is what anyio has, 60 nginx.
TLS_HANDSHAKE_TIMEOUT = 30.0
#: Seconds that the last record (close_notify or a fatal alert) waits for a peer that does
#: not read. It is 24 bytes, so the rest of the connection is stuck as well.
TLS_CLOSE_TIMEOUT = 1.0
#: Seconds between looks at certificate files: a renewed certificate has days to spare.
TLS_RELOAD_INTERVAL = 60.0
#: Seconds before its end at which the expiry of an own certificate is reported, and how
#: often: ACME clients renew 30 days before.
TLS_EXPIRY_WARNING = 30 * 86_400.0
TLS_EXPIRY_REPEAT = 86_400.0
#: Servers of one TLS client whose last session is kept for resumption, a few KB each.
MAX_TLS_SESSIONS = 256
#: Bytes of one certificate, key or list of authorities read from a file: the bundle of all
#: public authorities has 230 KB.
MAX_PEM_BYTES = 4 * 1024 * 1024
#: Seconds that the clocks of an OCSP responder and of a client may differ; OpenSSL's own
#: programs allow 300 as well.
OCSP_CLOCK_SKEW = 300.0

#: Frames of one message over a WebSocket: each costs the same however little it holds. 16 MiB
#: in fragments of 16 KiB, as some proxies cut them.
DEFAULT_MAX_FRAGMENTS = 1024
#: Seconds between the pings of a WebSocket: below the 60 s after which proxies such as nginx
#: (proxy_read_timeout) give a silent connection up.
WEBSOCKET_PING_INTERVAL = 30.0
#: Seconds in which each must be answered; `websockets` has 20 as well.
WEBSOCKET_PONG_TIMEOUT = 20.0


class ChannelOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The limits and timeouts of one channel.

    Attributes:
        framing: How messages are told apart on a byte stream: ``newline`` (MCP's
            stdio framing), ``content-length``, ``length-prefix`` (4 bytes, big-endian) or
            ``detect`` (newline or Content-Length, by the first bytes).
        max_message_bytes: Largest message, sent or received, in bytes.
        outbox_bytes: Bytes that may wait to be written.
        inbox_bytes: Bytes of received messages that may wait for the application, on
            channels that read by themselves (HTTP).
        when_full: What a full outbox does: ``block`` the sender or ``close`` the channel.
        connect_timeout: Seconds until the channel is ready, name lookup included.
        handshake_timeout: Seconds that an accepted connection has for its first message,
            however its bytes trickle in; own streams and children have no such limit.
        idle_read_timeout: Seconds without a byte while a receive waits. Off by default:
            an MCP conversation may be silent for hours.
        inbox_stall_timeout: Seconds that such an inbox may be full before the channel is
            given up because nobody reads it.
        write_timeout: Seconds in which a slice must leave: 64 KiB, or 1 MiB through shared
            memory.
        close_timeout: Seconds that `aclose` may spend on flushing.
        request_timeout: Seconds a `Peer` waits for an answer.
    """

    framing: Framing = "newline"
    max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES
    outbox_bytes: int = DEFAULT_OUTBOX_BYTES
    inbox_bytes: int = DEFAULT_INBOX_BYTES
    when_full: WhenFull = "block"
    connect_timeout: float = 30.0
    handshake_timeout: float = 60.0
    idle_read_timeout: float = math.inf
    inbox_stall_timeout: float = 60.0
    write_timeout: float = 30.0
    close_timeout: float = 5.0
    request_timeout: float = 30.0

    def __post_init__(self) -> None:
        for name, allowed in (
            ("framing", Framing.__args__),  # type: ignore[attr-defined]
            ("when_full", WhenFull.__args__),  # type: ignore[attr-defined]
        ):
            if getattr(self, name) not in allowed:
                raise ConfigurationError(
                    f"{name} must be one of {', '.join(allowed)}, not {getattr(self, name)!r}"
                )
        for name in ("max_message_bytes", "outbox_bytes", "inbox_bytes"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ConfigurationError(f"{name} must be at least 1 byte, not {value!r}")
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if name.endswith("_timeout") and not (type(value) in {int, float} and value > 0):
                raise ConfigurationError(
                    f"{name} must be positive seconds (math.inf for no limit), not {value!r}"
                )
