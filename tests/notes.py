"""Numbered notifications, for tests of what arrives and in which order."""

from __future__ import annotations

from trio_mcp_transport.abc import MessageChannel
from trio_mcp_transport.jsonrpc import Message, Notification


def note(number: int) -> Notification:
    """One of them."""
    return Notification(f"note/{number}")


def notes(count: int, start: int = 0) -> list[Message]:
    """So many of them in a row."""
    return [note(number) for number in range(start, start + count)]


async def drain(channel: MessageChannel) -> list[Message]:
    """All that comes until the end."""
    return [message async for message in channel]
