"""`trio-mcp bench`: how fast the transports are, against a floor and against the SDK.

Every value comes from a fresh process, client and server apart; all contestants do the
same work in the same run, in interleaved rounds; reported are medians and their ratios,
as the ratio is what carries over to another machine.
"""

from __future__ import annotations

from .command import add_arguments, run

__all__ = ["add_arguments", "run"]
