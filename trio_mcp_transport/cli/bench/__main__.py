"""The benchmarks alone: ``python -m trio_mcp_transport.cli.bench``."""

from __future__ import annotations

import sys

from ..arguments import main

if __name__ == "__main__":
    sys.exit(main(["bench", *sys.argv[1:]]))
