"""The log on stderr, written by a thread of its own.

Whoever reads stderr may stop reading it. A write then waits for as long as they like, and
must never be the one that the event loop waits for: what strangers make a server log would
stop it. So the loop only puts lines into a bounded queue, and what finds no room is counted.

The thread writes to the file descriptor itself: `sys.stderr` has a lock, which the end of
the interpreter would wait for.
"""

from __future__ import annotations

import logging
import os
import select
import threading
from collections import deque
from typing import TextIO

__all__ = ["LogWriter"]

#: Lines that wait for stderr; some 100 kB as a rule.
MAX_QUEUED_LINES = 1000
#: How long the end of the program waits for what has not been written yet.
FLUSH_SECONDS = 0.5


class LogWriter(logging.Handler):
    """Writes records to a stream that has a file descriptor, and never waits for it.

    The thread starts with the first record. It is a daemon, so that it holds nothing up.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._fd = stream.fileno()
        self._lines: deque[str] = deque()
        self._dropped = 0
        self._writing = False
        self._closed = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Queue one record, or count it when there is no room."""
        line = self.format(record)
        with self._changed:
            if len(self._lines) >= MAX_QUEUED_LINES:
                self._dropped += 1
                return
            self._lines.append(line)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="log", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def flush(self) -> None:
        """Wait until everything is written, though no longer than `FLUSH_SECONDS`."""
        with self._changed:
            self._changed.wait_for(
                lambda: not (self._lines or self._dropped or self._writing), FLUSH_SECONDS
            )

    def close(self) -> None:
        """End the thread, unless it still waits for somebody to read."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            idle = not (self._lines or self._dropped or self._writing)
        if idle and self._thread is not None:
            self._thread.join()
        super().close()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._writing = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._lines or self._dropped or self._closed)
                if not (self._lines or self._dropped):
                    return
                lines = list(self._lines)
                self._lines.clear()
                if self._dropped:
                    # They came when the queue was full: behind what was in it.
                    lines.append(f"trio-mcp: {self._dropped} log lines dropped")
                    self._dropped = 0
                self._writing = True
            for line in lines:
                self._write(line)

    def _write(self, line: str) -> None:
        data = f"{line}\n".encode(errors="backslashreplace")
        while data:
            try:
                data = data[os.write(self._fd, data) :]
            except BlockingIOError:  # somebody made the descriptor that all share non-blocking
                select.select([], [self._fd], [])
            except OSError:
                return  # nobody reads it, and nothing can be done about that
