"""How far a run is, on a terminal: a bar where `rich` is installed, else a line in place.

Goes to stderr, and nowhere when that is no terminal.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import TracebackType
from typing import Self

from ..terminal import wants_colour

__all__ = ["Progress"]


class Progress:
    """Shows the progress of one run inside of its ``with`` block."""

    def __init__(self) -> None:
        self._show: Callable[[int, int, str], object] | None = None
        self._end: Callable[[], object] | None = None

    def __enter__(self) -> Self:
        """Begin."""
        stream = sys.stderr
        if wants_colour(stream):
            self._use_rich()
        elif stream is not None and stream.isatty():
            self._show = self._write_line
            self._end = lambda: stream.write("\r\x1b[K")
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Take the bar away."""
        if self._end is not None:
            self._end()

    def update(self, done: int, total: int, what: str) -> None:
        """Show how many steps are done, of how many, and what the next one is."""
        if self._show is not None:
            self._show(done, total, what)

    def _write_line(self, done: int, total: int, what: str) -> None:
        sys.stderr.write(f"\r\x1b[K{done}/{total} {what}")
        sys.stderr.flush()

    def _use_rich(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        bar = Bar(
            MofNCompleteColumn(),
            BarColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
            console=Console(stderr=True),
            transient=True,
        )
        step = bar.add_task("", total=None)
        bar.start()
        self._show = lambda done, total, what: bar.update(
            step, completed=done, total=total, description=what
        )
        self._end = bar.stop
