"""What this installation and this machine can do, without trying it out.

Called by programs and by the command line before they choose; opens, imports and starts
nothing.
"""

from __future__ import annotations

import importlib.util
import os
import socket
import sys
from collections.abc import Mapping
from types import MappingProxyType

import msgspec

__all__ = ["Features", "features"]

#: Each extra of this distribution, with the modules that its presence is told by.
_EXTRAS = {
    "cli": ("rich",),
    "compression": ("brotli", "lz4", "zstandard"),
    "httpx": ("httpx",),
    "mcp": ("mcp",),
    "speedups": ("httptools", "websockets"),
    "tls": ("OpenSSL", "service_identity"),
}


class Features(msgspec.Struct, frozen=True, kw_only=True):
    """What works here. Get it from `features`.

    Attributes:
        extras: Each extra of the distribution, and whether what it needs is installed.
        transports: Each built-in transport, and whether this machine has it; ``tls`` is
            that of every scheme with TLS.
        abstract_sockets: Whether Unix sockets may have names outside the file system
            (``unix:@NAME``; Linux).
        peer_credentials: Whether a Unix listener can tell who connected (Linux's
            SO_PEERCRED).
        private_stdio: Whether pipes and terminals given as stdin and stdout can be
            reopened, so that this program's non-blocking mode is not shared with the
            processes they came from (Linux's ``/proc/self/fd``). Without it they are read
            and written in threads.
        supervision: Whether a child's process group can be killed with this process,
            even by SIGKILL (``supervise=true``; POSIX, with a shell).
    """

    extras: Mapping[str, bool]
    transports: Mapping[str, bool]
    abstract_sockets: bool
    peer_credentials: bool
    private_stdio: bool
    supervision: bool


def features() -> Features:
    """Say which extras are installed and which transports this machine has."""
    linux = sys.platform == "linux"
    extras = {
        extra: all(importlib.util.find_spec(module) is not None for module in modules)
        for extra, modules in _EXTRAS.items()
    }
    return Features(
        extras=MappingProxyType(extras),
        transports=MappingProxyType({
            "stdio": True,
            "process": True,
            "memory": True,
            "tcp": True,
            "tls": extras["tls"],
            "http": True,
            "websocket": True,
            "unix": hasattr(socket, "AF_UNIX"),
            "shm": hasattr(os, "memfd_create") and hasattr(socket, "SO_PEERCRED"),
        }),
        abstract_sockets=linux,
        peer_credentials=hasattr(socket, "SO_PEERCRED"),
        private_stdio=linux and os.path.isdir("/proc/self/fd"),
        supervision=os.name == "posix" and os.path.exists("/bin/sh"),
    )
