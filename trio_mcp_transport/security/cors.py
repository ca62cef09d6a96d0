"""CORS: what a browser is told about pages of other origins (Fetch standard).

Called by `admission`. It tells browsers; it keeps nobody out: that is `admission`.
"""

from __future__ import annotations

import msgspec

__all__ = ["CorsPolicy"]


class CorsPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """What browsers are told; the origins are those of the `AdmissionPolicy`."""

    enabled: bool = True
