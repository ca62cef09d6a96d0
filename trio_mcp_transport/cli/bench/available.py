"""What of the benchmarks this machine and this installation can run.

Asked by `plan` and by the run before anything is started; it opens and starts nothing. A
worker asks for its descriptors here.
"""

from __future__ import annotations

import importlib.util
import os
import sys

from ...installation import features
from ...sansio.http1_engine import ENGINES, choose_engine
from .cases import ENCRYPTED, Contestant, Transport

__all__ = ["TooFewDescriptors", "allow_descriptors", "http_engine", "is_available", "takes_part"]

#: Whose module must be there for a contestant to take part.
_MODULES: dict[Contestant, str] = {
    "sdk": "mcp",
    "trio-websocket": "trio_websocket",
    "websockets.trio": "websockets.trio",
}
#: What a transport of the bench is to `Features.transports`, where that has another name.
_UNDER: dict[Transport, str] = {
    "tls": "tcp",
    "ws": "websocket",
    "wss": "websocket",
    "https": "http",
    "sse+http": "http",
}
#: What a process has open beside its connections.
_OTHER_DESCRIPTORS = 64


class TooFewDescriptors(Exception):
    """The system does not let a process have so many files open; the text says how many."""


def takes_part(contestant: Contestant) -> bool:
    """Whether what a contestant needs is installed, and makes it differ from the others."""
    if contestant == "own h11":
        return http_engine() != "h11"
    module = _MODULES.get(contestant)
    if module is None:
        return True
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # not even the package that it is part of
        return False


def is_available(transport: Transport) -> bool:
    """Whether this machine has a transport."""
    here = features()
    if transport in ENCRYPTED and not here.extras["tls"]:
        return False
    return here.transports[_UNDER.get(transport, transport)]


def http_engine() -> str:
    """Which engine takes HTTP apart in processes that are started from this one."""
    chosen = choose_engine(os.environ.get("TRIO_MCP_HTTP1_ENGINE", ""))
    return next(name for name, engine in ENGINES.items() if engine is chosen)


def allow_descriptors(transport: Transport, connections: int) -> None:
    """Let this process open what so many connections need.

    Raises the soft limit, as far as the hard one allows, and only if it is too low.

    Raises:
        TooFewDescriptors: The hard limit is too low.
    """
    if sys.platform == "win32":
        return  # it counts handles, and has plenty
    import resource

    # By shared memory a connection has a socket and the file of a ring for each direction.
    needed = _OTHER_DESCRIPTORS + connections * (4 if transport == "shm" else 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise TooFewDescriptors(
            f"{connections:,} connections need {needed:,} open files, and this system allows a"
            f" process {hard:,} (ulimit -Hn)"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
