"""The command `trio-mcp`. Nothing of the package imports it."""

from __future__ import annotations

from .arguments import main

__all__ = ["main"]
