"""When a broken stream is taken up again: a machine without a clock.

One for each stream of a legacy server, whether a POST or a GET began it. The channel tells
it what happens and sleeps as long as it says; it opens no connection.
"""

from __future__ import annotations

from ...limits import MAX_RECONNECTS, SSE_MAX_BACKOFF, SSE_RETRY_INTERVAL

__all__ = ["Reconnect"]


class Reconnect:
    """Decides about one stream.

    A server that named a time with `retry` is waited for exactly so long, each time; one
    that did not, longer and longer. The count of attempts begins anew with a new event and
    with nothing else: neither a connection nor a comment shows that a stream goes on.

    Args:
        needs_id: Whether there is nothing to take up before an event had an id, as for the
            answer to a POST. A standalone stream can just be opened anew.
        max_attempts: Attempts without a new event after which it is given up.
        first_delay: Seconds before the first attempt; each further one waits twice as long.
        max_delay: Seconds that it waits at most.

    Attributes:
        last_event_id: What the next GET carries as `Last-Event-ID`, or None.
        attempts: Attempts since the last new event.
    """

    __slots__ = (
        "_first_delay",
        "_max_attempts",
        "_max_delay",
        "_needs_id",
        "_retry",
        "attempts",
        "last_event_id",
    )

    def __init__(
        self,
        *,
        needs_id: bool,
        max_attempts: int = MAX_RECONNECTS,
        first_delay: float = SSE_RETRY_INTERVAL,
        max_delay: float = SSE_MAX_BACKOFF,
    ) -> None:
        self._needs_id = needs_id
        self._max_attempts = max_attempts
        self._first_delay = first_delay
        self._max_delay = max_delay
        self._retry: float | None = None
        self.last_event_id: str | None = None
        self.attempts = 0

    def event(self, event_id: str | None, retry: int | None, *, is_new: bool) -> None:
        """An event came, with data or without.

        Args:
            event_id: The last event id of its connection, as of this event; None where
                that connection has said none yet.
            retry: Its `retry`, in milliseconds.
            is_new: Whether it brought data.
        """
        # 2025-11-25: "The client MUST respect the retry field, waiting the given number of
        # milliseconds before attempting to reconnect."
        if retry is not None:
            self._retry = retry / 1000
        if event_id is not None and event_id != self.last_event_id:
            self.last_event_id = event_id or None  # WHATWG: an empty id takes it back
            self.attempts = 0
        elif is_new and self.last_event_id is None:
            self.attempts = 0

    def lost(self) -> float | None:
        """The connection has ended, or could not be made.

        Returns:
            Seconds to wait before the next attempt, or None: it is given up.
        """
        if self._needs_id and self.last_event_id is None:
            return None
        if self.attempts >= self._max_attempts:
            return None
        self.attempts += 1
        if self._retry is not None:
            return self._retry
        return float(min(self._first_delay * 2.0 ** (self.attempts - 1), self._max_delay))
