"""``python -m trio_mcp_transport`` is the command `trio-mcp`."""

from __future__ import annotations

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
