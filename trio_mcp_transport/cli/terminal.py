"""What the commands write: results on stdout, everything else on stderr.

With `rich` installed a terminal gets colours; pipes and files always get plain text. A
reader that went away (``| head``) is `StdoutClosed`, which ends the command quietly.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import sys
from collections.abc import Sequence
from typing import TextIO

import msgspec

__all__ = [
    "StdoutClosed",
    "abandon",
    "note",
    "print_json",
    "print_table",
    "print_text",
    "printable",
    "tell",
    "wants_colour",
    "write_utf8",
]


class StdoutClosed(Exception):
    """Nobody reads stdout any more."""


def tell(message: str) -> None:
    """Say one thing to the person at the terminal, on stderr."""
    stream = sys.stderr
    if stream is None:  # started with fd 2 closed; print() would fall back to stdout
        return
    # Nobody reads it: nothing can be done about that, and the work goes on.
    with contextlib.suppress(OSError, ValueError):
        stream.write(f"trio-mcp: {printable(message)}\n")
        stream.flush()


def note(message: str) -> None:
    """Show on a terminal what is being done; each note replaces the one before."""
    stream = sys.stderr
    if stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb":
        with contextlib.suppress(OSError, ValueError):
            stream.write(f"\r\x1b[K{printable(message)}")
            stream.flush()


def wants_colour(stream: TextIO | None) -> bool:
    """Whether coloured text may be written there, and can be."""
    return (
        stream is not None
        and stream.isatty()
        and not os.environ.get("NO_COLOR")
        and os.environ.get("TERM") != "dumb"
        and importlib.util.find_spec("rich") is not None
    )


def write_utf8() -> None:
    """Make stdout UTF-8, as JSON is (RFC 8259 section 8.1), whatever the locale says."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")


def print_text(text: str) -> None:
    """Write a line to stdout.

    Raises:
        StdoutClosed: Nobody reads it.
    """
    stream = sys.stdout
    if stream is None:
        raise StdoutClosed
    try:
        stream.write(text + "\n")
        stream.flush()
    except BrokenPipeError as error:
        abandon(stream)
        raise StdoutClosed from error


def abandon(stream: TextIO) -> None:
    """Forget what could not be written: it would be tried again, and complain, at exit."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


def printable(text: str) -> str:
    """The text without anything that a terminal would obey; a tab or newline is escaped."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )


def print_json(document: bytes) -> None:
    """Write a JSON document to stdout: one line, or indented on a terminal.

    Raises:
        StdoutClosed: Nobody reads it.
    """
    if sys.stdout is not None and sys.stdout.isatty():
        text = msgspec.json.format(document, indent=2).decode()
        if wants_colour(sys.stdout):
            from rich.console import Console
            from rich.json import JSON

            Console().print(JSON(text))
            return
    else:
        text = msgspec.json.format(document, indent=-1).decode()
    print_text(text)


def print_table(title: str, headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Write a table to stdout; the first column is text, the others are set to the right.

    Raises:
        StdoutClosed: Nobody reads it.
    """
    if wants_colour(sys.stdout):
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(title=title, title_justify="left")
        for index, header in enumerate(headers):
            table.add_column(header, justify="right" if index else "left")
        for row in rows:
            table.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in row))
        Console().print(table)
        return
    widths = [max(map(len, column)) for column in zip(headers, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.rjust(width) if index else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return "  ".join(padded).rstrip()

    rule = "  ".join("-" * width for width in widths)
    print_text("\n".join([title, "", line(headers), rule, *map(line, rows)]))


_STYLES = {"ok": "green", "failed": "bold red"}
