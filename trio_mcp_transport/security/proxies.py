"""The real client behind trusted proxies: Forwarded (RFC 7239) and X-Forwarded-For."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .facts import ConnectionFacts

if TYPE_CHECKING:
    from ..sansio.headers import Headers

__all__ = ["facts_behind_proxies"]


def facts_behind_proxies(
    headers: Headers, facts: ConnectionFacts, trusted: tuple[str, ...]
) -> ConnectionFacts:
    """The facts with the real client's address and scheme; `Doorkeeper` calls it itself."""
    raise NotImplementedError
