"""The security headers that every answer of a server carries, errors among them."""

from __future__ import annotations

import msgspec

__all__ = ["ResponseHeaderPolicy"]


class ResponseHeaderPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Which security headers are sent; none by default."""
